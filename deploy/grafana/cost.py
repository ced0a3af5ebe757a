"""Cost: where money goes, how budgets are kept, and what our own calls cost."""

from deploy.grafana.panels import board, graph, number, rate

_PER_HOUR = "* 3600"
_REPLIES = "sum by (model) (rate(armwise_served_total[5m]))"

COST = board(
    "armwise-cost",
    "Armwise: cost",
    "Where money goes, how budgets are kept, and what our own calls cost. All at the configured prices.",
    (
        "Now",
        (
            number(
                "Cost per hour", "Of all models, over the last hour.",
                ("USD", f"sum(armwise:cost_usd:rate1h) {_PER_HOUR}"), unit="currencyUSD", width=6,
            ),
            number(
                "Cost today", "What was spent in the last 24 hours.",
                ("USD", "sum(increase(armwise_cost_usd_total[1d]))"), unit="currencyUSD", width=6,
            ),
            number(
                "Cost of a thousand chats", "Over the last hour.",
                ("USD", "sum(armwise:cost_usd:rate1h) * 1000 / (armwise:chats:increase1h / 3600)"), unit="currencyUSD",
                width=6,
            ),
            number(
                "Requests ahead of budgets", "Of the policy that is furthest ahead; negative: all have saved.",
                ("ahead", "max(armwise_budget_debt_requests)"), warn=20, alarm=50, width=6,
            ),
        ),
    ),
    (
        "Models",
        (
            graph(
                "Cost by model", "US dollars an hour.",
                ("{{model}}", f"sum by (model) (rate(armwise_cost_usd_total[5m])) {_PER_HOUR}"), unit="currencyUSD",
                width=12, stacked="sum",
            ),
            graph(
                "Cost of a reply by model", "Mean over five minutes.",
                (
                    "{{model}}",
                    f"sum by (model) (rate(armwise_cost_usd_total[5m])) / {_REPLIES}",
                ),
                unit="currencyUSD", width=12,
            ),
            graph(
                "Tokens by model", "Tokens a second. Cached ones are also among the prompt's.",
                ("{{model}} {{kind}}", rate("armwise_tokens_total", "model", "kind")), unit="short", width=12,
            ),
            graph(
                "Tokens of a reply by model", "Mean length over five minutes: a model that grows wordy grows dear.",
                (
                    "{{model}}",
                    f'sum by (model) (rate(armwise_tokens_total{{kind="completion"}}[5m])) / {_REPLIES}',
                ),
                unit="short", width=12,
            ),
        ),
    ),
    (
        "Budgets",
        (
            graph(
                "Spent and granted", "By policy; of a budget per day, today (UTC).",
                ("{{policy}} spent", "max by (policy) (armwise_budget_spent_usd)"),
                ("{{policy}} granted", "max by (policy) (armwise_budget_granted_usd)"), unit="currencyUSD",
            ),
            graph(
                "Requests' worth spent ahead", "Negative: saved. A burst of 20 is allowed, 1000 may be saved.",
                ("{{policy}} {{budget}}", "max by (policy, budget) (armwise_budget_debt_requests)"), unit="short",
                least=None,
            ),
            graph(
                "Price of a dollar, and of a late reply", "Quality points it costs a model: higher is more thrifty.",
                ("{{policy}} {{budget}}", "max by (policy, budget) (armwise_budget_price)"), unit="short",
            ),
            graph(
                "Refused, for a key's day is spent", "Callers that were told 429 until midnight UTC.",
                ("refused", rate("armwise_errors_total", where='kind="budget_spent"') + " or vector(0)"), width=12,
            ),
            graph(
                "Calls of our own", "US dollars an hour for canaries and the judge; no part of the models' cost.",
                ("canaries", f"sum(rate(armwise_canary_cost_usd_total[1h])) {_PER_HOUR}"),
                ("judge", f"sum(rate(armwise_judge_cost_usd_total[1h])) {_PER_HOUR}"), unit="currencyUSD", width=12,
            ),
        ),
    ),
)  # fmt: skip
