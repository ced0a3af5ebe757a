"""What each alert must ring for, and what it must be quiet about: series as promtool writes them, a value a minute."""

from typing import NamedTuple

CHATS = 'armwise_requests_total{instance="a", endpoint="/v1/chat/completions", streamed="false", status='
OVERHEAD = 'armwise_overhead_seconds_bucket{instance="a", le='
COUNTED = 'armwise_overhead_seconds_count{instance="a"}'
INFO = 'armwise_classifier_info{instance="a", classifier="embedded/1", state='
STANDS_IN = 'armwise_classifier_fallbacks_total{instance="a", reason='
CLASSIFIED = 'armwise_classifications_total{instance="a", classifier="embedded", task_type="Other"}'
CALLS = 'armwise_upstream_seconds_count{model="m"}'
FAILED = 'armwise_upstream_errors_total{model="m", kind='
CHANGED = 'armwise_drift_alarms_total{model="m", direction="down", stream="label"}'
LATE = 'armwise_event_loop_delay_seconds_bucket{instance="a", le='
DECISIONS = 'armwise_decisions_total{model="m"}'
RATED = 'armwise_feedback_total{result="recorded"}'
DEBT = 'armwise_budget_debt_requests{instance="a", policy="p", budget="money"}'
WEBHOOKS = 'armwise_webhooks_total{instance="a", outcome='
EVALUE = 'armwise_experiment_sample_ratio_evalue{instance="a", experiment="x"}'


class Case(NamedTuple):
    """Series and whether the alert fires on them, at a minute."""

    alert: str
    about: str
    fires: bool
    series: dict[str, str]
    minute: int = 40


def chats(good: str, failed: str) -> dict[str, str]:
    """Chats answered, and those that failed."""
    return {CHATS + '"2xx"}': good, CHATS + '"5xx"}': failed}


def slow(fast: str, all_of_them: str, chats_too: str = "0+60x2000") -> dict[str, str]:
    """Chats to which we added under 50 ms, and all."""
    return {OVERHEAD + '"0.05"}': fast, COUNTED: all_of_them, CHATS + '"2xx"}': chats_too}


CASES = (
    Case("ArmwiseDown", "a scrape fails", True, {'up{job="armwise", instance="a"}': "0x60"}),
    Case("ArmwiseAbsent", "nobody is scraped", True, {}),
    Case("ArmwiseAbsent", "another job is", True, {'up{job="node", instance="a"}': "1x60"}),
    Case("ArmwiseAbsent", "a scrape fails", False, {'up{job="armwise", instance="a"}': "0x60"}),
    Case("ArmwiseDown", "a scrape succeeds", False, {'up{job="armwise", instance="a"}': "1x60"}),
    Case("ArmwiseErrors", "a tenth fails", True, chats("0+60x60", "0+6x60")),
    Case("ArmwiseErrors", "4 % fail", False, chats("0+96x60", "0+4x60")),
    Case("ArmwiseErrors", "nothing was ever answered 5xx", False, {CHATS + '"2xx"}': "0+60x60"}),
    Case("ArmwiseErrors", "clients are at fault", False, {CHATS + '"2xx"}': "0+9x60", CHATS + '"4xx"}': "0+60x60"}),
    Case("ArmwiseErrorsBurn", "a tenth fails", True, chats("0+60x60", "0+6x60")),
    Case("ArmwiseErrorsBurn", "4 % for six hours", True, chats("0+96x400", "0+4x400"), 395),
    Case("ArmwiseErrorsBurn", "a spike of three minutes", False, chats("0+60x300", "0x290 0+12x3 36x10"), 294),
    Case("ArmwiseErrorsBurn", "it is over for half an hour", False, chats("0+60x120", "0+6x60 366x60"), 95),
    Case("ArmwiseErrorsBurn", "1 % fails", False, chats("0+99x400", "0+1x400"), 395),
    Case("ArmwiseErrorsBurn", "one of few fails", False, {CHATS + '"2xx"}': "0+1x60", CHATS + '"5xx"}': "0+1x60"}),
    Case("ArmwiseErrorsBurnSlowly", "1 % for a day", True, chats("0+99x1500", "0+1x1500"), 1490),
    Case("ArmwiseErrorsBurnSlowly", "2 % for two hours", True, chats("0+98x200", "0+2x200"), 190),
    Case("ArmwiseErrorsBurnSlowly", ".3 % for a day", False, chats("0+997x1500", "0+3x1500"), 1490),
    Case("ArmwiseErrorsBurnSlowly", "it is over for seven hours", False, chats("0+99x1500", "0+2x1000 2000x500"), 1440),
    Case("ArmwiseLatencyBurn", "a fifth is slow", True, slow("0+80x60", "0+100x60")),
    Case("ArmwiseLatencyBurn", "8 % for six hours", True, slow("0+92x400", "0+100x400"), 395),
    Case("ArmwiseLatencyBurn", "3 % are slow", False, slow("0+97x400", "0+100x400"), 395),
    Case(
        "ArmwiseLatencyBurn", "a spike of three minutes", False, slow("0+60x290 17400x3 17400+60x10", "0+60x306"), 294
    ),
    Case("ArmwiseLatencyBurn", "few chats", False, slow("0x60", "0+1x60", "0+1x60")),
    Case("ArmwiseLatencyBurnSlowly", "4 % for two hours", True, slow("0+96x200", "0+100x200"), 190),
    Case("ArmwiseLatencyBurnSlowly", "2 % for a day", True, slow("0+98x1500", "0+100x1500"), 1490),
    Case("ArmwiseLatencyBurnSlowly", ".5 % for a day", False, slow("0+995x1500", "0+1000x1500"), 1490),
    Case(
        "ArmwiseEventLoopLate",
        "a twentieth is very late",
        True,
        {
            LATE + '"0.1"}': "0+95x60",
            LATE + '"0.25"}': "0+100x60",
            LATE + '"+Inf"}': "0+100x60",
        },
    ),
    Case(
        "ArmwiseEventLoopLate",
        "all in time",
        False,
        {
            LATE + '"0.1"}': "0+100x60",
            LATE + '"0.25"}': "0+100x60",
            LATE + '"+Inf"}': "0+100x60",
        },
    ),
    Case("ArmwiseClassifierFailed", "it failed", True, {INFO + '"failed"}': "1x60"}),
    Case(
        "ArmwiseClassifierFailed", "it was repaired", False, {INFO + '"failed"}': "0x60", INFO + '"serving"}': "1x60"}
    ),
    Case("ArmwiseClassifierFailed", "it never failed", False, {INFO + '"serving"}': "1x60"}),
    Case(
        "ArmwiseClassifierFallback",
        "a quarter is late",
        True,
        {STANDS_IN + '"deadline"}': "0+15x60", CLASSIFIED: "0+60x60"},
    ),
    Case("ArmwiseClassifierFallback", "it loads", False, {STANDS_IN + '"loading"}': "0+60x60", CLASSIFIED: "0+60x60"}),
    Case("ArmwiseModelDown", "every call fails", True, {FAILED + '"timeout"}': "0+10x60", CALLS: "0+10x60"}),
    Case("ArmwiseModelDown", "half of them fail", False, {FAILED + '"timeout"}': "0+5x60", CALLS: "0+10x60"}),
    Case(
        "ArmwiseModelDown",
        "one call in five minutes",
        False,
        {FAILED + '"timeout"}': "0 0 0 0 1x40", CALLS: "0 0 0 0 1x40"},
    ),
    Case("ArmwiseModelFails", "half of them fail", True, {FAILED + '"timeout"}': "0+30x60", CALLS: "0+60x60"}),
    Case("ArmwiseModelFails", "clients go away", False, {FAILED + '"cancelled"}': "0+30x60", CALLS: "0+60x60"}),
    Case("ArmwiseModelFails", "a tenth fails", False, {FAILED + '"timeout"}': "0+6x60", CALLS: "0+60x60"}),
    Case(
        "ArmwiseFallbacks",
        "a fifth falls back",
        True,
        {
            'armwise_fallbacks_total{model="m", reason="timeout"}': "0+12x60",
            CHATS + '"2xx"}': "0+60x60",
        },
    ),
    Case(
        "ArmwiseFallbacks",
        "one in twenty does",
        False,
        {
            'armwise_fallbacks_total{model="m", reason="timeout"}': "0+3x60",
            CHATS + '"2xx"}': "0+60x60",
        },
    ),
    Case("ArmwiseFallbacks", "none ever did", False, {CHATS + '"2xx"}': "0+60x60"}),
    Case("ArmwiseCredentials", "a key is refused once", True, {FAILED + '"credentials"}': "0x35 1x30"}),
    Case("ArmwiseCredentials", "it was long ago", False, {FAILED + '"credentials"}': "0x5 1x60"}),
    Case("ArmwiseModelChanged", "a counter comes into being", True, {CHANGED: "_x1480 1x100"}, 1500),
    Case("ArmwiseModelChanged", "a counter grows", True, {CHANGED: "3x1480 4x100"}, 1500),
    Case("ArmwiseModelChanged", "a counter stands", False, {CHANGED: "4x2000"}, 1500),
    Case("ArmwiseBudgetOverspent", "far ahead", True, {DEBT: "60x60"}),
    Case("ArmwiseBudgetOverspent", "a burst", False, {DEBT: "20x60"}),
    Case("ArmwiseBudgetOverspent", "much was saved", False, {DEBT: "-900x60"}),
    Case("ArmwiseBudgetOverspent", "a moment only", False, {DEBT: "0x35 60x3 0x30"}),
    Case("ArmwiseDegraded", "no writes", True, {'armwise_degraded{instance="a"}': "1x60"}),
    Case("ArmwiseDegraded", "writes", False, {'armwise_degraded{instance="a"}': "0x60"}),
    Case("ArmwiseStorageQueue", "a long queue", True, {'armwise_storage_queue_length{instance="a"}': "5000x60"}),
    Case("ArmwiseStorageQueue", "a short one", False, {'armwise_storage_queue_length{instance="a"}': "300x60"}),
    Case("ArmwiseSnapshotOld", "nothing new", True, {'armwise_snapshot_timestamp_seconds{instance="a"}': "0x60"}),
    Case("ArmwiseSnapshotOld", "fresh", False, {'armwise_snapshot_timestamp_seconds{instance="a"}': "0+60x60"}),
    Case(
        "ArmwiseLearnerErrors",
        "again and again",
        True,
        {'armwise_learner_errors_total{instance="a", place="fit"}': "0+1x60"},
    ),
    Case(
        "ArmwiseLearnerErrors", "long ago", False, {'armwise_learner_errors_total{instance="a", place="fit"}': "5x60"}
    ),
    Case("ArmwiseKillSwitch", "off for two hours", True, {'armwise_controls{what="kill_switch"}': "1x130"}, 120),
    Case(
        "ArmwiseKillSwitch", "off for half an hour", False, {'armwise_controls{what="kill_switch"}': "0x90 1x130"}, 120
    ),
    Case("ArmwiseKillSwitch", "posteriors are held", False, {'armwise_controls{what="held"}': "9x130"}, 120),
    Case(
        "ArmwiseFeedbackStopped", "it came, and stopped", True, {DECISIONS: "0+10x1500", RATED: "0+1x900 900x600"}, 1400
    ),
    Case("ArmwiseFeedbackStopped", "it comes", False, {DECISIONS: "0+10x1500", RATED: "0+1x1500"}, 1400),
    Case(
        "ArmwiseFeedbackStopped",
        "nobody chats either",
        False,
        {DECISIONS: "0+10x900 9000x600", RATED: "0+1x900 900x600"},
        1400,
    ),
    Case("ArmwiseFeedbackStopped", "there never was any", False, {DECISIONS: "0+10x1500"}, 1400),
    Case("ArmwiseNoFeedback", "none for a day", True, {DECISIONS: "0+100x2000"}, 1500),
    Case("ArmwiseNoFeedback", "some", False, {DECISIONS: "0+100x2000", RATED: "0+1x2000"}, 1500),
    Case("ArmwiseNoFeedback", "hardly a chat", False, {DECISIONS: "0+.1x2000"}, 1500),
    Case("ArmwiseUnevenRatings", "uneven", True, {'armwise_label_rate_alarm{model="m"}': "1x2000"}, 1500),
    Case("ArmwiseUnevenRatings", "even", False, {'armwise_label_rate_alarm{model="m"}': "0x2000"}, 1500),
    Case("ArmwisePriorConflict", "strongly", True, {'armwise_prior_conflict{policy="p"}': "5x130"}, 120),
    Case("ArmwisePriorConflict", "a little", False, {'armwise_prior_conflict{policy="p"}': "3x130"}, 120),
    Case("ArmwiseWebhook", "a failure", True, {WEBHOOKS + '"failed"}': "0x35 1x20"}),
    Case("ArmwiseWebhook", "sent", False, {WEBHOOKS + '"sent"}': "0x35 1x20"}),
    Case("ArmwiseSampleRatio", "sure", True, {EVALUE: "1x20 4000x40"}),
    Case("ArmwiseSampleRatio", "not sure", False, {EVALUE: "1x20 500x40"}),
)
