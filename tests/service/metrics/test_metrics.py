"""Metrics: what is counted, under which names and labels, by one process and by several."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families

from bandit.vocabulary import Choice, Classification, DimensionScores, Limits, PromptProfile
from service import errors
from service.classifiers.classifying import Classified, Trace
from service.classifiers.models import Answered
from service.complete import Attempt
from service.decide import Caller, Decision
from service.metrics.catalogue import PLACES, RESULTS, SOURCES, STATUS_CLASSES, TOKENS, Metrics
from service.metrics.words import ENDPOINTS, ERROR_KINDS
from service.money.budgets import Standing
from service.wire import PromptTokensDetails, Usage

ROOT = Path(__file__).parents[3]


def decision(method="auto", arm="small"):
    choice = Choice(
        arm=arm, propensity=1.0, arms=(arm,), probabilities=(1.0,), policy="thompson", beliefs_version="", seed=0
    )
    profile = PromptProfile(task_type="Open QA", tier="simple")
    return Decision(
        id="1", created_at=0.0, method=method, caller=Caller(), profile=profile, limits=Limits(), choice=choice,
        excluded={}, plan=(arm,), classify_s=0.0002, decide_s=0.0001,
    )  # fmt: skip


def attempt(**changes):
    given = {"step": 0, "arm": "small", "started_at": 0.0, "streamed": True, "latency_s": 2.0, "first_token_s": 0.3}
    return Attempt(**given | changes)


USAGE = Usage(prompt_tokens=100, completion_tokens=20, prompt_tokens_details=PromptTokensDetails(cached_tokens=40))
CELL = {"task_type": "Open QA", "model": "small", "mean": 0.7, "n": 12.0, "n_heuristic": 3.5}


FOUND = Classification(
    task_type="Open QA", task_probabilities=(0.3, 0.7), scores=DimensionScores(), complexity=0.2,
    classifier="nvidia/0a1b2c3d/int8",
)  # fmt: skip
CLASSIFIED = Classified(FOUND, Trace(classifier=FOUND.classifier, tiers=(0.2, 0.4), queue_s=0.004, inference_s=0.012))
FALLEN_BACK = Classified(
    replace(FOUND, task_type="Unknown", classifier="embedded/1"),
    Trace(classifier="embedded/1", tiers=(0.2, 0.4), fallback="deadline"),
)


def fill(metrics):
    """Use every method at least once."""
    metrics.request_done("/v1/chat/completions", 200, streamed=True, seconds=2.0)
    metrics.request_failed("/v1/chat/completions", errors.NotFound("no such model"))
    metrics.decided(decision())
    metrics.classified(CLASSIFIED)
    metrics.classified(FALLEN_BACK)
    for found in ("cached", "shared", "nothing"):
        metrics.classifier_looked_up(found)
    metrics.classifier_queue(3)
    metrics.classifier_read(0.012, Answered(CLASSIFIED.classification, 40, truncated=True))
    metrics.classifier_serves("embedded/1", "loading")
    metrics.classifier_serves("nvidia/0a1b2c3d/int8", "serving")
    metrics.stored(0.001)
    metrics.degraded()
    metrics.overhead(0.0005)
    metrics.attempt_done(attempt(), USAGE, 0.002)
    metrics.attempt_done(attempt(outcome="timeout", first_token_s=None), Usage(), 0.0)
    metrics.fell_back(attempt(outcome="timeout"))
    metrics.feedback("quality", "recorded", "user", 30.0)
    metrics.outlier_rated(found=True)
    metrics.heuristic_fired("empty")
    metrics.repeated()
    metrics.learner_error("refresh")
    metrics.drift_alarm("small", "down", "label")
    metrics.suspected({"small": True})
    metrics.webhook("sent")
    metrics.canary("small", "wrong", 0.001)
    metrics.verdict("marked", 0.002)
    metrics.budgets([Standing("p", "money", 2.0, 1.5, 5.0, 40.0), Standing("p", "late", 3.0, 4.0, -20.0, 0.1)])
    metrics.models(["small"])
    metrics.committed(0.002)
    metrics.loop_late(0.001)
    metrics.worker_state(1.5, 3, degraded=False)
    metrics.posteriors([CELL])
    return metrics


def samples(metrics):
    """{(name, labels): value} of everything a scrape would see."""
    text = metrics.exposition()[0].decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(metrics, name, **labels):
    return samples(metrics).get((name, tuple(sorted(labels.items()))))


def families(metrics):
    """Our own metrics by the name that stands in queries."""
    text = metrics.exposition()[0].decode()
    return {
        f"{family.name}_total" if family.type == "counter" else family.name: family
        for family in text_string_to_metric_families(text)
        if family.name.startswith("armwise_")
    }


def test_a_request_is_counted_by_endpoint_status_and_streaming():
    metrics = Metrics()
    metrics.request_done("/v1/chat/completions", 200, streamed=True, seconds=2.0)
    metrics.request_done("/v1/models/small", 404, streamed=False, seconds=0.001)
    assert value(metrics, "armwise_requests_total", endpoint="/v1/chat/completions", status="2xx", streamed="true") == 1
    assert value(metrics, "armwise_requests_total", endpoint="/v1/models", status="4xx", streamed="false") == 1
    assert value(metrics, "armwise_request_seconds_sum", endpoint="/v1/chat/completions") == 2.0


def test_a_call_is_metered_by_model():
    metrics = Metrics()
    metrics.attempt_done(attempt(), USAGE, 0.002)
    metrics.attempt_done(attempt(), USAGE, 0.003)
    assert value(metrics, "armwise_served_total", model="small") == 2
    assert value(metrics, "armwise_tokens_total", model="small", kind="prompt") == 200
    assert value(metrics, "armwise_tokens_total", model="small", kind="completion") == 40
    assert value(metrics, "armwise_tokens_total", model="small", kind="cached") == 80
    assert value(metrics, "armwise_cost_usd_total", model="small") == pytest.approx(0.005)
    assert value(metrics, "armwise_first_token_seconds_count", model="small") == 2


def test_a_failed_call_serves_nothing_and_counts_its_kind():
    metrics = Metrics()
    failed = attempt(outcome="rate_limited", first_token_s=None)
    metrics.attempt_done(failed, Usage(), 0.0)
    metrics.fell_back(failed)
    assert value(metrics, "armwise_served_total", model="small") is None
    assert value(metrics, "armwise_upstream_errors_total", model="small", kind="rate_limited") == 1
    assert value(metrics, "armwise_fallbacks_total", model="small", reason="rate_limited") == 1
    assert value(metrics, "armwise_upstream_seconds_count", model="small") == 1
    assert value(metrics, "armwise_first_token_seconds_count", model="small") is None


def test_what_may_happen_to_a_model_begins_at_zero():
    metrics = Metrics()
    metrics.attempt_done(attempt(outcome="credentials", first_token_s=None), Usage(), 0.0)
    metrics.models(["small", "large"])
    assert value(metrics, "armwise_upstream_errors_total", model="small", kind="credentials") == 1
    assert value(metrics, "armwise_upstream_errors_total", model="large", kind="credentials") == 0
    assert value(metrics, "armwise_drift_alarms_total", model="large", direction="down", stream="canary") == 0


def test_a_budget_that_is_no_longer_kept_reads_zero():
    metrics = Metrics()
    metrics.budgets([Standing("p", "money", 2.0, 1.5, 5.0, 40.0), Standing("p", "late", 3.0, 4.0, -20.0, 0.1)])
    assert value(metrics, "armwise_budget_spent_usd", policy="p") == 2.0
    assert value(metrics, "armwise_budget_granted_usd", policy="p") == 1.5
    assert value(metrics, "armwise_budget_debt_requests", policy="p", budget="late") == -20.0
    assert value(metrics, "armwise_budget_price", policy="p", budget="money") == 40.0
    metrics.budgets([Standing("q", "late", 3.0, 4.0, -20.0, 0.1)])
    assert value(metrics, "armwise_budget_spent_usd", policy="p") == 0
    assert value(metrics, "armwise_budget_debt_requests", policy="p", budget="money") == 0
    assert value(metrics, "armwise_budget_debt_requests", policy="q", budget="late") == -20.0
    assert value(metrics, "armwise_budget_spent_usd", policy="q") is None


def test_a_policy_that_failed_is_a_learner_error():
    metrics = Metrics()
    metrics.decided(decision())
    assert value(metrics, "armwise_learner_errors_total", place="policy") == 0
    metrics.decided(decision(method="static_fallback"))
    assert value(metrics, "armwise_learner_errors_total", place="policy") == 1


def test_a_classification_is_counted_by_whose_it_is_and_what_it_says():
    metrics = Metrics()
    assert value(metrics, "armwise_classifier_fallbacks_total", reason="deadline") == 0
    metrics.classified(CLASSIFIED)
    metrics.classified(FALLEN_BACK)
    assert value(metrics, "armwise_classifications_total", classifier="nvidia", task_type="Open QA") == 1
    assert value(metrics, "armwise_classifications_total", classifier="embedded", task_type="Unknown") == 1
    assert value(metrics, "armwise_classifier_confidence_bucket", classifier="nvidia", le="0.6") == 0
    assert value(metrics, "armwise_classifier_confidence_bucket", classifier="nvidia", le="0.7") == 1
    assert value(metrics, "armwise_classifier_fallbacks_total", reason="deadline") == 1
    assert value(metrics, "armwise_classifier_queue_seconds_count") == 1


def test_only_the_classifier_that_serves_now_is_told():
    metrics = Metrics()
    metrics.classifier_serves("embedded/1", "loading")
    metrics.classifier_serves("nvidia/0a1b2c3d/int8", "serving")
    assert value(metrics, "armwise_classifier_info", classifier="embedded/1", state="loading") == 0
    assert value(metrics, "armwise_classifier_info", classifier="nvidia/0a1b2c3d/int8", state="serving") == 1


def test_the_last_word_on_a_posterior_stands():
    metrics = Metrics()
    metrics.posteriors([CELL])
    metrics.posteriors([{**CELL, "mean": 0.4, "n": 13.0}])
    where = {"task_type": "Open QA", "model": "small"}
    assert value(metrics, "armwise_posterior_mean", **where) == 0.4
    assert value(metrics, "armwise_posterior_evidence", **where, kind="explicit") == 13.0
    assert value(metrics, "armwise_posterior_evidence", **where, kind="heuristic") == 3.5


def test_every_error_of_the_tree_has_a_kind():
    metrics = Metrics()
    seen = set()
    for error in errors.RequestError.__subclasses__():
        made = error({}) if error is errors.NoEligibleModel else error("wrong")
        metrics.request_failed("/feedback", made)
    for error in (
        errors.StorageUnavailable("gone"),
        errors.UpstreamFailure("timeout", "late"),
        ZeroDivisionError(),
    ):
        metrics.request_failed("/feedback", error)
    seen = {dict(labels)["kind"] for name, labels in samples(metrics) if name == "armwise_errors_total"}
    assert len(seen) == len(errors.RequestError.__subclasses__()) + 3
    assert seen <= set(ERROR_KINDS)
    assert "internal" in seen


def test_what_strangers_send_makes_no_new_label():
    metrics = Metrics()
    for stranger in ("/wp-login.php", "/v1/models/../../etc", "/feedback\n", "", "/V1/CHAT/COMPLETIONS"):
        metrics.request_done(stranger, 404, streamed=False, seconds=0.0)
        metrics.request_failed(stranger, errors.NotFound("no"))
        metrics.feedback("quality", "recorded", stranger)
        metrics.feedback("quality", stranger, "user")
        metrics.learner_error(stranger)
        metrics.attempt_done(attempt(outcome=stranger or "x"), Usage(), 0.0)
    closed = {
        "endpoint": set(ENDPOINTS),
        "status": set(STATUS_CLASSES),
        "streamed": {"true", "false"},
        "source": set(SOURCES),
        "result": set(RESULTS),
        "place": set(PLACES),
    }
    for name, labels in samples(metrics):
        for label, word in labels:
            if label in closed:
                assert word in closed[label], (name, label, word)
            if label == "kind":
                assert word in {*ERROR_KINDS, *TOKENS}, (name, word)


def test_no_metric_has_a_label_for_people():
    labels = {label for family in families(fill(Metrics())).values() for s in family.samples for label in s.labels}
    assert labels <= {
        "endpoint", "status", "streamed", "kind", "task_type", "model", "policy", "method", "reason", "metric",
        "result", "source", "heuristic", "place", "version", "python", "le", "classifier", "found", "state",
        "direction", "stream", "outcome", "budget", "what",
    }  # fmt: skip


def test_names_tell_what_they_are():
    for name, family in families(fill(Metrics())).items():
        assert name.endswith("_total") == (family.type == "counter"), name
        if family.type == "histogram":
            assert name.endswith(("_seconds", "_tokens", "_confidence")), name
        assert family.documentation.endswith("."), name
        assert not re.search(r"_(ms|millis|minutes|percent|created)(_|$)", name), name


def test_every_metric_is_documented_and_every_documented_one_exists():
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    tables = set(re.findall(r"^\| `(armwise_\w+)` \|", page, re.MULTILINE))
    assert tables == set(families(fill(Metrics())))


def test_applications_in_one_process_count_apart():
    first, second = Metrics(), Metrics()
    first.repeated()
    assert value(first, "armwise_repeats_total") == 1
    assert value(second, "armwise_repeats_total") == 0


def test_one_process_tells_of_itself():
    names = {name for name, _ in samples(Metrics())}
    assert {"process_resident_memory_bytes", "python_info"} <= names


@pytest.mark.peers
def test_promtool_finds_nothing_wrong():
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian package prometheus)")
    # Without what prometheus_client itself adds about Python and the process.
    text = fill(Metrics()).exposition()[0].decode()
    ours = "".join(line for line in text.splitlines(keepends=True) if re.match(r"(# \w+ )?armwise_", line))
    checked = subprocess.run([promtool, "check", "metrics"], input=ours, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert checked.stderr == ""


_WORKER = """
import sys
from service.metrics.catalogue import Metrics
from service.wire import Usage
from service.complete import Attempt

age, queue, degraded = float(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "degraded"
metrics = Metrics()
for _ in range(int(sys.argv[4])):
    metrics.repeated()
    metrics.overhead(0.25)
metrics.worker_state(age, queue, degraded=degraded)
metrics.posteriors([{"task_type": "Other", "model": "m", "mean": queue / 10, "n": 1.0, "n_heuristic": 0.0}])
print("ready", flush=True)
if sys.stdin.readline().strip() == "tell":
    sys.stdout.buffer.write(metrics.exposition()[0])
"""


class Worker:
    """A process that counts into the common folder."""

    def __init__(self, folder, *arguments):
        self.process = subprocess.Popen(
            [sys.executable, "-c", _WORKER, *map(str, arguments)],
            env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)},
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout.readline() == "ready\n"

    def tell(self):
        """End it, and give what it exposed."""
        text = self.process.communicate("tell\n", timeout=60)[0]
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def kill(self):
        self.process.kill()
        self.process.communicate(timeout=60)


def test_two_processes_tell_their_sums(tmp_path):
    first = Worker(tmp_path, 5, 2, "fine", 3)
    second = Worker(tmp_path, 60, 4, "degraded", 4)
    told = first.tell()
    second.kill()
    assert told["armwise_repeats_total", ()] == 7
    assert told["armwise_overhead_seconds_count", ()] == 7
    assert told["armwise_overhead_seconds_sum", ()] == pytest.approx(1.75)
    assert told["armwise_overhead_seconds_bucket", (("le", "0.1"),)] == 0
    assert told["armwise_overhead_seconds_bucket", (("le", "0.25"),)] == 7
    assert told["armwise_storage_queue_length", ()] == 6
    assert told["armwise_degraded", ()] == 1
    assert told["armwise_posterior_mean", (("model", "m"), ("task_type", "Other"))] == 0.4  # the later word
    assert not any(label == "pid" for _, labels in told for label, _ in labels)


def test_the_oldest_snapshot_of_all_workers_is_told(tmp_path):
    fresh = Worker(tmp_path, 0, 0, "fine", 0)
    old = Worker(tmp_path, 1000, 0, "fine", 0)
    told = fresh.tell()["armwise_snapshot_timestamp_seconds", ()]
    alone = old.tell()["armwise_snapshot_timestamp_seconds", ()]  # the other one has ended
    assert told == alone


def test_a_dead_worker_leaves_its_counts_but_not_its_state(tmp_path):
    living = Worker(tmp_path, 0, 1, "fine", 1)
    dead = Worker(tmp_path, 1000, 5, "degraded", 2)
    dead.kill()
    told = living.tell()
    assert told["armwise_repeats_total", ()] == 3
    assert told["armwise_storage_queue_length", ()] == 1
    assert told["armwise_degraded", ()] == 0


def test_a_start_begins_from_zero_and_leaves_other_files_alone(tmp_path):
    Worker(tmp_path, 0, 0, "fine", 5).kill()
    (tmp_path / "note.txt").write_text("mine")
    prepare = (
        "import sys, os; from pathlib import Path; from service.metrics.multiprocess import prepare_multiprocess;"
        "prepare_multiprocess(Path(sys.argv[1])); assert os.environ['PROMETHEUS_MULTIPROC_DIR'] == sys.argv[1];"
        "assert 'prometheus_client' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", prepare, str(tmp_path)], check=True, cwd=ROOT)
    assert Worker(tmp_path, 0, 0, "fine", 1).tell()["armwise_repeats_total", ()] == 1
    assert (tmp_path / "note.txt").read_text() == "mine"
