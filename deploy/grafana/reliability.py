"""Reliability: objectives and how fast they are used up, providers, our own time, storage, background work."""

from deploy.grafana.panels import board, graph, number, quantile, rate

_WINDOWS = ("5m", "1h", "6h", "1d")

RELIABILITY = board(
    "armwise-reliability",
    "Armwise: reliability",
    "Objectives and how fast they are used up, providers, our own time, storage, and learning in the background.",
    (
        "Objectives",
        (
            number(
                "Chats that succeed, 3 days", "At least 99.5 % are to.",
                ("good", "1 - armwise:chat_errors:ratio_rate3d"), unit="percentunit", width=6,
            ),
            number(
                "Chats to which we add under 50 ms, 3 days", "At least 99 % are to be.",
                ("good", "1 - armwise:chat_slow:ratio_rate3d"), unit="percentunit", width=6,
            ),
            number(
                "Allowed failures, used by the hour", "1: as many as may be. 14.4 for an hour is 2 % of a month's.",
                ("times", "armwise:chat_errors:ratio_rate1h / 0.005"), warn=1, alarm=14.4, width=6,
            ),
            number(
                "Allowed slow chats, used by the hour", "1: as many as may be.",
                ("times", "armwise:chat_slow:ratio_rate1h / 0.01"), warn=1, alarm=14.4, width=6,
            ),
            graph(
                "How fast allowed failures are used up", "Failures over those allowed, by window.",
                *((window, f"armwise:chat_errors:ratio_rate{window} / 0.005") for window in _WINDOWS), unit="short",
                width=12,
            ),
            graph(
                "How fast allowed slow chats are used up", "Slow chats over those allowed, by window.",
                *((window, f"armwise:chat_slow:ratio_rate{window} / 0.01") for window in _WINDOWS), unit="short",
                width=12,
            ),
        ),
    ),
    (
        "Providers",
        (
            graph(
                "Calls that fail, by model", "Share of calls; those that a client ended or got wrong are left out.",
                ("{{model}}", "armwise:upstream_errors:ratio_rate5m"), unit="percentunit", most=1,
            ),
            graph(
                "Errors of providers", "By model and kind.",
                ("{{model}}: {{kind}}", rate("armwise_upstream_errors_total", "model", "kind") + " > 0"),
            ),
            graph(
                "Fallbacks", "Which model failed, and why another was tried.",
                ("{{model}}: {{reason}}", rate("armwise_fallbacks_total", "model", "reason")),
            ),
            graph(
                "Breakers", "2: open, the model gets no calls; 1: a trial may be made; 0: it serves.",
                ("{{model}}", "max by (model) (armwise_breaker_state)"), unit="short", most=2,
            ),
            graph(
                "Requests kept off by a breaker", "Others answered them without waiting for the failing model.",
                ("{{model}}", rate("armwise_breaker_skipped_total", "model")),
            ),
            graph(
                "Breakers that opened", "In the last hour, by model, in all processes.",
                ("{{model}}", "sum by (model) (increase(armwise_breaker_opened_total[1h]))"), unit="short",
            ),
            graph(
                "Call by model", "Median and 95 %, to the last byte.",
                ("{{model}} p50", quantile(0.5, "armwise_upstream_seconds", "model")),
                ("{{model}} p95", quantile(0.95, "armwise_upstream_seconds", "model")), unit="s", width=12,
            ),
            graph(
                "First token by model", "Median and 95 % of streams.",
                ("{{model}} p50", quantile(0.5, "armwise_first_token_seconds", "model")),
                ("{{model}} p95", quantile(0.95, "armwise_first_token_seconds", "model")), unit="s", width=12,
            ),
        ),
    ),
    (
        "Our own time",
        (
            graph(
                "What we add", "All of a chat but waiting for providers.",
                *((f"p{share * 100:g}", quantile(share, "armwise_overhead_seconds")) for share in (0.5, 0.95, 0.99)),
                unit="s",
            ),
            graph(
                "Where it goes (p99)", "The commit is waited for while the provider works.",
                ("classify", quantile(0.99, "armwise_classify_seconds")),
                ("decide", quantile(0.99, "armwise_decide_seconds")),
                ("wait for commit", quantile(0.99, "armwise_store_seconds")), unit="s",
            ),
            graph(
                "Event loop late (p99)", "What every request waits for when something holds the loop up.",
                ("{{instance}}", quantile(0.99, "armwise_event_loop_delay_seconds", "instance")), unit="s",
            ),
        ),
    ),
    (
        "Storage",
        (
            graph(
                "One commit", "Of the storage writer.",
                ("p50", quantile(0.5, "armwise_commit_seconds")), ("p99", quantile(0.99, "armwise_commit_seconds")),
                unit="s",
            ),
            graph(
                "Writes waiting for a commit", "From 10,000 on chats are served without learning.",
                ("{{instance}}", "sum by (instance) (armwise_storage_queue_length)"), unit="short",
            ),
            graph(
                "Decisions not stored", "Served, but nothing can be learned from them.",
                ("not stored", rate("armwise_degraded_decisions_total")),
                ("{{instance}} cannot write", "max by (instance) (armwise_degraded)"),
            ),
        ),
    ),
    (
        "In the background",
        (
            graph(
                "Learner errors", "Serving goes on; the log has the reason.",
                ("{{place}}", "sum by (place) (increase(armwise_learner_errors_total[10m]))"), unit="short",
            ),
            graph(
                "Snapshot age", "How old the knowledge is that decisions are taken on.",
                ("{{instance}}", "armwise:snapshot_age_seconds:max"), unit="s",
            ),
            graph(
                "Webhook", "Changes that were told, could not be told, or had no room.",
                ("{{outcome}}", "sum by (outcome) (increase(armwise_webhooks_total[1h]))"), unit="short",
            ),
            graph(
                "Traces lost", "In the last hour: what the collector did not take. Requests do not notice.",
                ("{{what}}", "sum by (what) (increase(armwise_telemetry_failures_total[1h]))"), unit="short",
            ),
            graph(
                "Memory", "Of the process. Not told where an instance has several workers.",
                ("{{instance}}", 'process_resident_memory_bytes{job="armwise"}'), unit="bytes",
            ),
            graph(
                "Processor", "Cores in use. Not told where an instance has several workers.",
                ("{{instance}}", 'rate(process_cpu_seconds_total{job="armwise"}[$__rate_interval])'), unit="short",
            ),
        ),
    ),
)  # fmt: skip
