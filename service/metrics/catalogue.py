"""Every Prometheus metric, named in one place. docs/metrics.md says how to read them.

Labels take values from closed sets: names out of the settings, or words listed here and in `metric_words`. What a
client writes (a path, a source) is mapped onto such a word first, and no label ever names a user or a key.
"""

import platform
import time
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from itertools import product
from typing import TYPE_CHECKING, Any, Literal, get_args

from prometheus_client import Histogram

from bandit.drift import DIRECTIONS, Stream
from service.errors import FailureKind
from service.metrics.breakers import BreakerMetrics
from service.metrics.budgets import BudgetMetrics
from service.metrics.experiments import ExperimentMetrics
from service.metrics.probes import ProbeMetrics
from service.metrics.tracing import TracingMetrics
from service.metrics.words import endpoint_of, error_kind, failure_kind

if TYPE_CHECKING:  # only for types: these modules are joined with this one in service.parts
    from service.classifiers.classifying import Classified
    from service.classifiers.models import Answered
    from service.complete import Attempt
    from service.decide import Decision
    from service.wire import Usage

STATUS_CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx")
SOURCES = ("user", "api", "heuristics", "other")
RESULTS = ("recorded", "unchanged", "replaced", "dryrun", "unknown_decision", "too_late", "other_key", "other")
PLACES = (
    "store", "settle", "policy", "refresh", "fold", "fit", "budget", "recalibrate", "prune", "watch", "controls",
    "canary", "judge", "experiments", "other",
)  # fmt: skip
TOKENS = ("prompt", "completion", "cached")
WEBHOOK_OUTCOMES = ("sent", "failed", "dropped")
CLASSIFIER_FALLBACKS = ("loading", "queue full", "deadline", "failed")


# From the finest of our own work (a decision takes about 0.1 ms) to a stalled disk.
_WORK_BUCKETS = (5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
# From a simulated model that answers at once to the longest replies.
_CALL_BUCKETS = (1e-3, 5e-3, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)
# From a short prompt on a fast processor to a long one that waited in a full queue.
_READ_BUCKETS = (
    1e-3, 2.5e-3, 5e-3, 7.5e-3, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 5.0,
)  # fmt: skip
_LATE_BUCKETS = (5e-4, 1e-3, 2e-3, 3e-3, 4e-3, 5e-3, 7.5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
_SHARE_BUCKETS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
_PROMPT_BUCKETS = (8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)
_LAG_BUCKETS = (1.0, 10.0, 60.0, 600.0, 3_600.0, 21_600.0, 86_400.0, 259_200.0, 604_800.0, 2_592_000.0)


class Metrics(TracingMetrics, ProbeMetrics, BudgetMetrics, BreakerMetrics, ExperimentMetrics):
    """All metrics of one process. In tests every application has its own; with several workers, one each.

    Every method is safe from any thread and takes a few microseconds; `exposition` takes milliseconds.
    """

    def __init__(self) -> None:  # noqa: PLR0915 - one statement for each metric
        super().__init__()
        self._requests = self.counter(
            "armwise_requests", "Requests answered.", "endpoint", "status", "streamed"
        )  # fmt: skip
        self._request_seconds = self.histogram(
            "armwise_request_seconds", "From the request's head to the last byte of its answer.",
            _CALL_BUCKETS, "endpoint",
        )  # fmt: skip
        self._errors = self.counter("armwise_errors", "Requests answered with an error.", "endpoint", "kind")

        self._decisions = self.counter(
            "armwise_decisions", "Routing decisions, by the model drawn.", "task_type", "model", "policy", "method"
        )
        self._experiments = self.counter(
            "armwise_experiment_requests", "Requests in an experiment, by variant.", "experiment", "variant"
        )
        self._left_out = self.counter(
            "armwise_experiment_left_out", "Requests of an experiment's population that take no part.",
            "experiment", "why",
        )  # fmt: skip
        self._degraded = self.counter(
            "armwise_degraded_decisions", "Decisions that could not be stored, so that nothing is learned from them."
        )[()]
        self._classify_seconds = self._work("armwise_classify_seconds", "Reading the prompt and classifying it.")
        self._decide_seconds = self._work("armwise_decide_seconds", "Eligibility, probabilities and the draw.")
        self._store_seconds = self._work("armwise_store_seconds", "Waiting for the decision's commit.")
        self._overhead_seconds = self._work(
            "armwise_overhead_seconds", "What we added to a chat request: all of it but waiting for providers."
        )

        self._classifications = self.counter(
            "armwise_classifications", "Prompts classified, by what they were taken for.", "classifier", "task_type"
        )
        self._confidence = self.histogram(
            "armwise_classifier_confidence", "Probability of the likeliest task type.", _SHARE_BUCKETS, "classifier"
        )
        self._classifier_fallbacks = self.counter(
            "armwise_classifier_fallbacks", "Prompts that the small classifier took in the model's place.", "reason"
        )
        for reason in CLASSIFIER_FALLBACKS:
            self._classifier_fallbacks[reason].inc(0)
        self._lookups = self.counter(
            "armwise_classifier_lookups", "What was known of a prompt when the model was asked.", "found"
        )
        self._classifier_queue = self.gauge(
            "armwise_classifier_queue_length", "Prompts that wait for the model, all workers.", "livesum"
        )[()]
        self._classifier_queue_seconds = self.histogram(
            "armwise_classifier_queue_seconds", "Waiting until the model began to read the prompt.", _READ_BUCKETS
        )[()]
        self._inference_seconds = self.histogram(
            "armwise_classifier_inference_seconds", "One reading of the model.", _READ_BUCKETS
        )[()]
        self._prompt_tokens = self.histogram(
            "armwise_classifier_tokens", "Tokens of one reading of the model.", _PROMPT_BUCKETS
        )[()]
        self._truncated = self.counter("armwise_classifier_truncated", "Prompts longer than the model reads.")[()]
        self._classifier_info = self.gauge(
            "armwise_classifier_info", "Workers that classify by this classifier.", "livesum", "classifier", "state"
        )
        self._classifier_told: tuple[str, str] | None = None

        self._served = self.counter("armwise_served", "Replies given, by the model that gave them.", "model")
        self._upstream_seconds = self.histogram(
            "armwise_upstream_seconds", "A call to a provider, from start to last byte.", _CALL_BUCKETS, "model"
        )
        self._first_token_seconds = self.histogram(
            "armwise_first_token_seconds", "From the call to the first token of a stream.", _CALL_BUCKETS, "model"
        )
        self._upstream_errors = self.counter(
            "armwise_upstream_errors", "Calls to a provider that failed.", "model", "kind"
        )
        self._fallbacks = self.counter(
            "armwise_fallbacks", "Times another model was tried because this one failed.", "model", "reason"
        )
        self._tokens = self.counter(
            "armwise_tokens", "Tokens used; cached ones are also among the prompt's.", "model", "kind"
        )
        self._cost = self.counter("armwise_cost_usd", "Money spent at the configured prices.", "model")

        self._feedback = self.counter("armwise_feedback", "Feedback received.", "metric", "result", "source")
        self._feedback_lag = self.histogram(
            "armwise_feedback_lag_seconds", "From a decision to its feedback.", _LAG_BUCKETS
        )[()]
        self._outliers = self.counter(
            "armwise_outliers_found", "Users found to rate so unlike others that their labels count in part."
        )[()]
        self._outlier_labels = self.counter(
            "armwise_outlier_labels", "Labels stored of users who rate so unlike others that they count in part."
        )[()]
        self._heuristics = self.counter(
            "armwise_heuristics_fired", "Quality heuristics that had something against a reply.", "heuristic"
        )
        self._repeats = self.counter("armwise_repeats", "Users who asked the same again soon after a reply.")[()]
        self._posterior_mean = self.gauge(
            "armwise_posterior_mean", "Expected quality.", "livemostrecent", "task_type", "model"
        )
        self._posterior_evidence = self.gauge(
            "armwise_posterior_evidence", "Labels behind the expected quality; not a whole number when forgetting.",
            "livemostrecent", "task_type", "model", "kind",
        )  # fmt: skip
        self._learner_errors = self.counter("armwise_learner_errors", "Failures of learning. Serving went on.", "place")
        for place in PLACES:
            self._learner_errors[place].inc(0)  # so that an alert sees the first one as an increase

        self._fit_seconds = self._work(
            "armwise_fit_seconds", "Working out the estimates of one policy, in the background."
        )

        self._label_rate_alarm = self.gauge(
            "armwise_label_rate_alarm",
            "1 while people rate the model's replies surely more than 20 % more often or more rarely than the others'.",
            "livemostrecent", "model",
        )  # fmt: skip
        self._prior_conflict = self.gauge(
            "armwise_prior_conflict", "Logarithm of how much likelier the labels are under a weaker prior.",
            "livemostrecent", "policy",
        )  # fmt: skip
        self._drift_alarms = self.counter(
            "armwise_drift_alarms", "Models that were found to have changed.", "model", "direction", "stream"
        )
        self._suspected = self.gauge(
            "armwise_model_suspected", "1 while a model may have changed, else 0.", "livemostrecent", "model"
        )
        self._webhooks = self.counter("armwise_webhooks", "Changes of models that a webhook was told.", "outcome")
        for outcome in WEBHOOK_OUTCOMES:
            self._webhooks[outcome].inc(0)

        self._snapshot = self.gauge(
            "armwise_snapshot_timestamp_seconds",
            "When the snapshot of what was learned was last known to be fresh (since 1970); the oldest of all workers.",
            "livemin",
        )[()]
        self._queue = self.gauge(
            "armwise_storage_queue_length", "Writes that wait for a commit, all workers.", "livesum"
        )[()]
        self._controls = self.gauge(
            "armwise_controls", "What the owner switched: learning off, posteriors held, models out.", "livemax", "what"
        )
        self._degraded_now = self.gauge(
            "armwise_degraded", "1 while some worker cannot write to the database, else 0.", "livemax"
        )[()]
        self._commit_seconds = self._work("armwise_commit_seconds", "One commit of the storage writer.")
        self._loop_delay = self.histogram(
            "armwise_event_loop_delay_seconds", "How late the event loop is, twenty times a second.", _LATE_BUCKETS
        )[()]
        self._snapshot.set(time.time())  # 0 would read as 50 years old until the first refresh

        self.gauge("armwise_build_info", "Always 1.", "livemax", "version", "python")[
            version("armwise"), platform.python_version()
        ].set(1)

    def request_done(self, path: str, status: int, *, streamed: bool, seconds: float) -> None:
        """Count an answered request; `path` may be any."""
        endpoint = endpoint_of(path)
        self._requests[endpoint, f"{status // 100}xx", "true" if streamed else "false"].inc()
        self._request_seconds[endpoint].observe(seconds)

    def request_failed(self, path: str, error: BaseException) -> None:
        """Count an error that a client was told."""
        self._errors[endpoint_of(path), error_kind(error)].inc()

    def decided(self, decision: "Decision") -> None:
        """Count a routing decision and the time it took."""
        choice = decision.choice
        self._decisions[decision.profile.task_type, choice.arm, choice.policy, decision.method].inc()
        self._classify_seconds.observe(decision.classify_s)
        self._decide_seconds.observe(decision.decide_s)
        self.breakers_kept_out(decision)
        if decision.method == "static_fallback" or (decision.shadow is not None and not decision.shadow.arm):
            self.learner_error("policy")
        if decision.assigned is not None:
            self._experiments[decision.assigned.experiment, decision.assigned.variant].inc()
        if decision.left_out is not None:
            self._left_out[decision.left_out.experiment, decision.left_out.why].inc()

    def classified(self, classified: "Classified") -> None:
        """Count a classification: what the prompt was taken for, how surely, and by whom."""
        found, trace = classified.classification, classified.trace
        kind = found.classifier.partition("/")[0]
        self._classifications[kind, found.task_type].inc()
        self._confidence[kind].observe(max(found.task_probabilities))
        if trace.fallback:
            self._classifier_fallbacks[trace.fallback].inc()
        elif trace.queue_s:
            self._classifier_queue_seconds.observe(trace.queue_s)

    def classifier_looked_up(self, found: Literal["cached", "shared", "nothing"]) -> None:
        """Count a prompt for the model: answered before, being read for somebody else, or new."""
        self._lookups[found].inc()

    def classifier_queue(self, length: int) -> None:
        """How many prompts wait for the model."""
        self._classifier_queue.set(length)

    def classifier_read(self, seconds: float, answered: "Answered") -> None:
        """Count a reading of the model."""
        self._inference_seconds.observe(seconds)
        self._prompt_tokens.observe(answered.tokens)
        if answered.truncated:
            self._truncated.inc()

    def classifier_serves(self, name: str, state: str) -> None:
        """Which classifier serves now, and whether it is the one that the settings name."""
        if self._classifier_told is not None:
            self._classifier_info[self._classifier_told].set(0)
        self._classifier_told = (name, state)
        self._classifier_info[name, state].set(1)

    def stored(self, seconds: float) -> None:
        """How long a request waited for its decision's commit."""
        self._store_seconds.observe(seconds)

    def degraded(self) -> None:
        """Count a decision that was not stored."""
        self._degraded.inc()

    def overhead(self, seconds: float) -> None:
        """What we added to a chat request."""
        self._overhead_seconds.observe(seconds)

    def attempt_done(self, attempt: "Attempt", usage: "Usage", cost_usd: float) -> None:
        """Count a call to a provider: how it ended, its time, tokens and cost."""
        model = attempt.arm
        if attempt.outcome == "ok":
            self._served[model].inc()
        else:
            self._upstream_errors[model, failure_kind(attempt.outcome)].inc()
        self._upstream_seconds[model].observe(attempt.latency_s)
        if attempt.first_token_s is not None:
            self._first_token_seconds[model].observe(attempt.first_token_s)
        if usage.prompt_tokens:
            self._tokens[model, "prompt"].inc(usage.prompt_tokens)
        if usage.completion_tokens:
            self._tokens[model, "completion"].inc(usage.completion_tokens)
        if usage.cached_tokens:
            self._tokens[model, "cached"].inc(usage.cached_tokens)
        if cost_usd:
            self._cost[model].inc(cost_usd)

    def models(self, names: Iterable[str]) -> None:
        """Which models there are: what may befall them begins at 0, so that an alert sees the first as an increase."""
        for name in names:
            for kind in get_args(FailureKind):
                self._upstream_errors[name, kind].inc(0)
            for direction, stream in product(DIRECTIONS, get_args(Stream)):
                self._drift_alarms[name, direction, stream].inc(0)

    def fell_back(self, failed: "Attempt") -> None:
        """Count that another model was tried after `failed`."""
        self._fallbacks[failed.arm, failure_kind(failed.outcome)].inc()

    def feedback(self, metric: str, result: str, source: str, lag_s: float | None = None) -> None:
        """Count a feedback. `metric` must be a configured name; `source` may be any; `lag_s` is since the decision."""
        self._feedback[
            metric, result if result in RESULTS else "other", source if source in SOURCES else "other"
        ].inc()  # fmt: skip
        if lag_s is not None:
            self._feedback_lag.observe(max(lag_s, 0.0))

    def outlier_rated(self, *, found: bool) -> None:
        """Count a label of a user who rates unlike others, and the user when that was just found."""
        self._outlier_labels.inc()
        if found:
            self._outliers.inc()

    def heuristic_fired(self, name: str) -> None:
        """Count a heuristic that fired, by its name in `service.quality`."""
        self._heuristics[name].inc()

    def repeated(self) -> None:
        """Count a question that came again."""
        self._repeats.inc()

    def fitted(self, seconds: float) -> None:
        """Note how long a fit took."""
        self._fit_seconds.observe(seconds)

    def label_rates(self, alarms: Mapping[str, bool]) -> None:
        """Whether people rate a model's replies too often or too rarely to compare it, for each model."""
        for model, alarm in alarms.items():
            self._label_rate_alarm[model].set(int(alarm))

    def prior_conflict(self, policy: str, conflict: float) -> None:
        """Note how much the labels speak against a policy's prior."""
        self._prior_conflict[policy].set(conflict)

    def learner_error(self, place: str) -> None:
        """Count a failure of learning; `place` is one of `PLACES`."""
        self._learner_errors[place if place in PLACES else "other"].inc()

    def drift_alarm(self, model: str, direction: str, stream: str) -> None:
        """Count a model that was found to have changed."""
        self._drift_alarms[model, direction, stream].inc()

    def suspected(self, models: Mapping[str, bool]) -> None:
        """Which models may have changed, and which not."""
        for model, flag in models.items():
            self._suspected[model].set(int(flag))

    def webhook(self, outcome: str) -> None:
        """Count a change that a webhook was told, or should have been; `outcome` is one of `WEBHOOK_OUTCOMES`."""
        self._webhooks[outcome].inc()

    def controlled(self, *, off: bool, held: int, disabled: int) -> None:
        """What the owner switched: the kill switch, how many posteriors stay as they are, models out of service."""
        self._controls["kill_switch"].set(int(off))
        self._controls["held"].set(held)
        self._controls["disabled"].set(disabled)

    def committed(self, seconds: float) -> None:
        """How long one commit of the storage writer took."""
        self._commit_seconds.observe(seconds)

    def loop_late(self, seconds: float) -> None:
        """How late the event loop did what was due."""
        self._loop_delay.observe(seconds)

    def worker_state(self, snapshot_age_s: float, queue_length: int, *, degraded: bool) -> None:
        """How this worker is. With several workers call it each second, so that a scrape of one tells of all."""
        self._snapshot.set(time.time() - snapshot_age_s)
        self._queue.set(queue_length)
        self._degraded_now.set(int(degraded))

    def posteriors(self, cells: Iterable[dict[str, Any]]) -> None:
        """What was learned: each cell as `service.learning.posteriors.posterior_cells` gives it."""
        for cell in cells:
            where = (cell["task_type"], cell["model"])
            self._posterior_mean[where].set(float("nan") if cell["mean"] is None else cell["mean"])
            self._posterior_evidence[*where, "explicit"].set(cell["n"])
            self._posterior_evidence[*where, "heuristic"].set(cell["n_heuristic"])

    def _work(self, name: str, meaning: str) -> Histogram:
        return self.histogram(name, meaning, _WORK_BUCKETS)[()]
