"""Routing and learning: who is drawn for what, what is believed of whom, and on which evidence."""

from deploy.grafana.panels import bars, board, graph, number, quantile, rate

ROUTING = board(
    "armwise-routing",
    "Armwise: routing and learning",
    "Who is drawn for what, what is believed of whom, and on which evidence.",
    (
        "Routing",
        (
            graph(
                "Draws by model", "What the policies drew, as shares.",
                ("{{model}}", rate("armwise_decisions_total", "model")), width=12, stacked="share",
            ),
            graph(
                "Draws by task type and model", "What the policies drew for what.",
                ("{{task_type}}: {{model}}", rate("armwise_decisions_total", "task_type", "model")), width=12,
                stacked="sum",
            ),
            graph(
                "Decisions by policy and method", "`static_fallback`: the policy failed; `degraded`: no database.",
                ("{{policy}} {{method}}", rate("armwise_decisions_total", "policy", "method")), width=12,
            ),
            graph(
                "Prompts by task type", "What prompts were taken for. Shares that move with alike traffic are drift.",
                ("{{task_type}}", rate("armwise_classifications_total", "task_type")), width=12, stacked="share",
            ),
        ),
    ),
    (
        "What is believed",
        (
            bars(
                "Expected quality", "Posterior mean of each model, by task type.",
                ("{{task_type}}: {{model}}", "avg by (task_type, model) (armwise_posterior_mean)"),
                unit="percentunit", most=1,
            ),
            bars(
                "Evidence", "Labels behind it; `explicit` is feedback and hard failures, `heuristic` is weak evidence.",
                ("{{task_type}}: {{model}} {{kind}}", "avg by (task_type, model, kind) (armwise_posterior_evidence)"),
            ),
        ),
    ),
    (
        "Feedback",
        (
            graph(
                "Feedback by source", "Ratings by metric, result and source.",
                ("{{metric}} {{result}} {{source}}", rate("armwise_feedback_total", "metric", "result", "source")),
            ),
            graph(
                "Feedback comes after", "From a decision to its feedback.",
                ("p50", quantile(0.5, "armwise_feedback_lag_seconds")),
                ("p95", quantile(0.95, "armwise_feedback_lag_seconds")), unit="s",
            ),
            graph(
                "Rated more or less often than others",
                "1: people rate this model's replies more often or more rarely, so ratings may not speak for all.",
                ("{{model}}", "max by (model) (armwise_label_rate_alarm)"), unit="short",
            ),
            graph(
                "Heuristics fired, questions repeated", "What replies themselves, and their users, tell.",
                ("{{heuristic}}", rate("armwise_heuristics_fired_total", "heuristic")),
                ("repeats", rate("armwise_repeats_total")),
            ),
            graph(
                "Labels of users unlike all others", "They count in part. GET /v1/heuristics names them.",
                ("labels", rate("armwise_outlier_labels_total")),
                ("users found in the hour", "sum(increase(armwise_outliers_found_total[1h]))"), unit="short",
            ),
            graph(
                "Canaries and the judge", "Questions of our own, by model and outcome; replies judged.",
                ("canary {{model}} {{outcome}}", "sum by (model, outcome) (increase(armwise_canaries_total[1h]))"),
                ("judge {{outcome}}", "sum by (outcome) (increase(armwise_judge_verdicts_total[1h]))"), unit="short",
            ),
        ),
    ),
    (
        "Learning",
        (
            graph(
                "Models that changed",
                "Changes found since the start; 1 while a model is suspected. GET /v1/alarms has what was measured.",
                ("{{model}} {{direction}}", "sum by (model, direction) (armwise_drift_alarms_total)"),
                ("{{model}} suspected", "max by (model) (armwise_model_suspected)"), unit="short",
            ),
            graph(
                "Labels against the prior", "A log likelihood ratio; from 4 on the prior is wrong, and is outvoted.",
                ("{{policy}}", "max by (policy) (armwise_prior_conflict)"), unit="short", least=None,
            ),
            graph(
                "Working out estimates", "In the background. Decisions meanwhile are taken on the fit before.",
                ("p50", quantile(0.5, "armwise_fit_seconds")), ("p99", quantile(0.99, "armwise_fit_seconds")), unit="s",
            ),
        ),
    ),
    (
        "Classifier",
        (
            number(
                "Classifier that serves", "Workers by classifier and state.",
                ("{{classifier}} {{state}}", "sum by (classifier, state) (armwise_classifier_info) > 0"), width=24,
            ),
            graph(
                "Confidence", "Probability of the likeliest task type: the median, and what nine of ten exceed.",
                ("{{classifier}} median", quantile(0.5, "armwise_classifier_confidence", "classifier")),
                ("{{classifier}} lowest tenth", quantile(0.1, "armwise_classifier_confidence", "classifier")),
                unit="percentunit", most=1,
            ),
            graph(
                "Prompts by classifier", "Who named their task type.",
                ("{{classifier}}", rate("armwise_classifications_total", "classifier")),
            ),
            graph(
                "Taken by the small classifier instead", "Prompts that the model should have read, and why it did not.",
                ("{{reason}}", rate("armwise_classifier_fallbacks_total", "reason")),
            ),
            graph(
                "Waiting for the model, and reading (p99)", "Only where a model classifies.",
                ("wait", quantile(0.99, "armwise_classifier_queue_seconds")),
                ("one reading", quantile(0.99, "armwise_classifier_inference_seconds")), unit="s",
            ),
            graph(
                "What was known of a prompt", "Cached ones were read before, shared ones are being read right now.",
                ("{{found}}", rate("armwise_classifier_lookups_total", "found")),
            ),
            graph(
                "Prompts waiting, and tokens of one", "How many wait for the model now, and how long they are.",
                ("waiting", "sum(armwise_classifier_queue_length)"),
                ("tokens p95", quantile(0.95, "armwise_classifier_tokens")),
                ("too long", rate("armwise_classifier_truncated_total")), unit="short",
            ),
        ),
    ),
)  # fmt: skip
