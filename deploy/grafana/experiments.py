"""Experiments: what is seen of them, who takes part, and whether the shares are those that were planned."""

from deploy.grafana.panels import board, graph, number, rate

_KNOWN = "max by (experiment) (armwise_experiment_sample_ratio_evalue)"  # not a number once it is decided
_OF_ALL = 'sum(rate(armwise_decisions_total{method="holdout"}[1h])) / sum(rate(armwise_decisions_total[1h]))'

EXPERIMENTS = board(
    "armwise-experiments",
    "Armwise: experiments",
    "What is seen of experiments. GET /v1/experiments/NAME/report has the verdict in a sentence.",
    (
        "Now",
        (
            number(
                "Experiments looked at", "Started and not decided yet.",
                ("experiments", f"count({_KNOWN} >= 0) or vector(0)"), width=6,
            ),
            number(
                "Stopped by what was seen", "For a breached guardrail, a worse variant, wrong shares, or their time.",
                ("stopped", "sum(armwise_experiments_stopped_total)"), width=6,
            ),
            number(
                "Evidence of wrong shares", "From 1000 on units are not assigned as planned: the result means nothing.",
                ("{{experiment}}", _KNOWN), warn=100, alarm=1000, width=6,
            ),
            number(
                "Held out", "Share of decisions in the permanent holdout, which one model always serves.",
                ("held out", f"({_OF_ALL}) or vector(0)"), unit="percentunit", width=6,
            ),
        ),
    ),
    (
        "Result",
        (
            graph(
                "Difference to the control", "In the primary metric, with an interval that holds at every look.",
                ("{{experiment}} {{variant}}", "max by (experiment, variant) (armwise_experiment_estimate)"),
                ("{{experiment}} {{variant}} at least", "max by (experiment, variant) (armwise_experiment_low)"),
                ("{{experiment}} {{variant}} at most", "max by (experiment, variant) (armwise_experiment_high)"),
                unit="short", width=12, least=None,
            ),
            graph(
                "Closed units", "Of a variant and the control together: what the interval is drawn from.",
                ("{{experiment}} {{variant}}", "max by (experiment, variant) (armwise_experiment_units)"),
                unit="short", width=12,
            ),
        ),
    ),
    (
        "What routing is worth",
        (
            graph(
                "Routed less held out", "Mean rating of routed users less that of the permanent holdout.",
                ("{{what}}", "max by (what) (armwise_holdout_difference)"), unit="short", least=None, width=24,
            ),
        ),
    ),
    (
        "Who takes part",
        (
            graph(
                "Requests by variant", "Of all experiments.",
                ("{{experiment}} {{variant}}", rate("armwise_experiment_requests_total", "experiment", "variant")),
                stacked="sum",
            ),
            graph(
                "Left out", "Requests of the population that take no part, and why.",
                ("{{experiment}}: {{why}}", rate("armwise_experiment_left_out_total", "experiment", "why")),
            ),
            graph(
                "Evidence of wrong shares, over time", "It may move below 1000 as it likes.",
                ("{{experiment}}", _KNOWN), unit="short",
            ),
        ),
    ),
)  # fmt: skip
