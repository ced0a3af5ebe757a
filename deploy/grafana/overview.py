"""Overview: is it well, what does it cost, does it learn?"""

from deploy.grafana.panels import CHATS, board, graph, number, quantile, rate

OVERVIEW = board(
    "armwise",
    "Armwise",
    "Whether all is well. The other dashboards say why not.",
    (
        "Now",
        (
            number(
                "Alerts", "Alerts that fire now; docs/monitoring.md says what to do.",
                ("firing", 'count(ALERTS{alertname=~"Armwise.*", alertstate="firing"}) or vector(0)'), alarm=1, width=3,
            ),
            number(
                "Chats per second", "Answered chat completions.",
                ("chats", rate("armwise_requests_total", where=CHATS)), unit="reqps", width=3,
            ),
            number(
                "Failed chats", "Share of chats answered with a 5xx status, over five minutes.",
                ("failed", "armwise:chat_errors:ratio_rate5m"), unit="percentunit", warn=0.005, alarm=0.05, width=3,
            ),
            number(
                "We add (p99)", "Our own time in a chat: all of it but waiting for providers.",
                ("p99", quantile(0.99, "armwise_overhead_seconds")), unit="s", warn=0.02, alarm=0.05, width=3,
            ),
            number(
                "Cost per hour", "At the configured prices.",
                ("USD", "sum(armwise:cost_usd:rate1h) * 3600"), unit="currencyUSD", width=3,
            ),
            number(
                "Decisions with feedback", "Ratings received for each decision, over a day.",
                ("rated", "armwise:feedback:increase1d / armwise:decisions:increase1d"), unit="percentunit", width=3,
            ),
            number(
                "Snapshot age", "How old the knowledge is that decisions are taken on; the oldest of all workers.",
                ("age", "max(armwise:snapshot_age_seconds:max)"), unit="s", warn=10, alarm=30, width=3,
            ),
            number(
                "Storage", "1: some worker cannot write, so nothing is learned.",
                ("degraded", "max(armwise_degraded)"), alarm=1, width=3,
            ),
        ),
    ),
    (
        "Traffic",
        (
            graph(
                "Share of replies by model", "Who really answered, fallbacks included.",
                ("{{model}}", rate("armwise_served_total", "model")), width=12, stacked="share",
            ),
            graph(
                "Requests by endpoint and status", "499, in 4xx, is a client that went away first.",
                ("{{endpoint}} {{status}}", rate("armwise_requests_total", "endpoint", "status")), width=12,
            ),
            graph(
                "Errors told to clients", "By what they were told.",
                ("{{endpoint}} {{kind}}", rate("armwise_errors_total", "endpoint", "kind")),
            ),
            graph(
                "Chat, whole", "From the request's head to the last byte of the answer, streams to their end.",
                *(
                    (f"p{share * 100:g}", quantile(share, "armwise_request_seconds", where=CHATS))
                    for share in (0.5, 0.95, 0.99)
                ),
                unit="s",
            ),
            graph(
                "Feedback", "Ratings by their result; what is not recorded was refused, or said before.",
                ("{{result}}", rate("armwise_feedback_total", "result")),
            ),
        ),
    ),
    (
        "This installation",
        (
            number(
                "Versions", "Instances by version.",
                ("{{version}} on Python {{python}}", "count by (version, python) (armwise_build_info)"), width=8,
            ),
            number(
                "Switched by the owner", "`kill_switch` 1: learned decisions are off. `held`: posteriors.",
                ("{{what}}", "max by (what) (armwise_controls)"), width=8,
            ),
            number(
                "Scrapes", "Instances that Prometheus reaches, and does not.",
                ("up", 'count(up{job="armwise"} == 1) or vector(0)'),
                ("down", 'count(up{job="armwise"} == 0) or vector(0)'), width=8,
            ),
        ),
    ),
)  # fmt: skip
