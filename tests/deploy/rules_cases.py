"""What each alert must ring for, and what it must be quiet about: series as promtool writes them, a value a minute."""

from collections.abc import Callable
from itertools import accumulate
from typing import Any, NamedTuple

CHATS = 'armwise_requests_total{instance="a", endpoint="/v1/chat/completions", streamed="false", status='
OVERHEAD = 'armwise_overhead_seconds_bucket{instance="a", le='
COUNTED = 'armwise_overhead_seconds_count{instance="a"}'
INFO = 'armwise_classifier_info{instance="a", classifier="embedded/1", state='
STANDS_IN = 'armwise_classifier_fallbacks_total{instance="a", reason='
CLASSIFIED = 'armwise_classifications_total{instance="a", classifier="embedded", task_type="Other"}'
BREAKER = 'armwise_breaker_state{model="m", instance='
CALLS = 'armwise_upstream_seconds_count{model="m"}'
FAILED = 'armwise_upstream_errors_total{model="m", kind='
CHANGED = 'armwise_drift_alarms_total{model="m", direction="down", stream="label"}'
LATE = 'armwise_event_loop_delay_seconds_bucket{instance="a", le='
DECISIONS = 'armwise_decisions_total{model="m"}'
RATED = 'armwise_feedback_total{result="recorded"}'
DEBT = 'armwise_budget_debt_requests{instance="a", policy="p", budget="money"}'
TELEMETRY = 'armwise_telemetry_failures_total{instance="a", what='
WEBHOOKS = 'armwise_webhooks_total{instance="a", outcome='
EVALUE = 'armwise_experiment_sample_ratio_evalue{instance="a", experiment="x"}'


class Case(NamedTuple):
    """Series and whether the alert fires on them, at a minute."""

    alert: str
    about: str
    fires: bool
    series: dict[str, str]
    minute: int = 40


Stretch = tuple[int, float]  # minutes, and the share of chats that were failed or slow in each


def counter(*stretches: Stretch, a_minute: float = 100.0) -> str:
    """A counter's values over stretches, one after the other; a share of 1 is `a_minute`."""
    steps = [a_minute * share for minutes, share in stretches for _ in range(minutes)]
    return " ".join(f"{value:.2f}" for value in accumulate(steps, initial=0.0))


def chats(*stretches: Stretch, before: Stretch = (0, 0.0), a_minute: float = 100.0) -> dict[str, str]:
    """Chats of which shares failed; `before`, all was well for so many minutes at so many times the traffic."""
    minutes, times = before
    good = [(minutes, times), *((count, 1.0 - share) for count, share in stretches)]
    return {
        CHATS + '"2xx"}': counter(*good, a_minute=a_minute),
        CHATS + '"5xx"}': counter((minutes, 0.0), *stretches, a_minute=a_minute),
    }


def slow(*stretches: Stretch, before: Stretch = (0, 0.0), a_minute: float = 100.0) -> dict[str, str]:
    """The same of chats to which we added too much."""
    minutes, times = before
    fast = [(minutes, times), *((count, 1.0 - share) for count, share in stretches)]
    all_of_them = counter((minutes, times), *((count, 1.0) for count, _ in stretches), a_minute=a_minute)
    return {
        OVERHEAD + '"0.05"}': counter(*fast, a_minute=a_minute),
        COUNTED: all_of_them,
        CHATS + '"2xx"}': all_of_them,
    }


def at_the_end(alert: str, series: Callable[..., dict[str, str]]) -> Callable[..., Case]:
    """Makes cases of an alert that is looked at in the last minute."""

    def case(about: str, fires: bool, *stretches: Stretch, **more: Any) -> Case:  # noqa: FBT001 - as in Case
        minutes = sum(minutes for minutes, _ in stretches) + more.get("before", (0, 0.0))[0]
        return Case(alert, about, fires, series(*stretches, **more), minutes)

    return case


def burns(alert: str, series: Callable[..., dict[str, str]], allowed: float) -> tuple[Case, ...]:
    """Each pair of windows fires alone, each of its windows keeps it quiet; `allowed` in half per cents."""
    case = at_the_end(alert, series)

    def out(minutes: int) -> Stretch:
        return (round(minutes * allowed), 1.0)

    a = allowed
    return (
        case("an outage that is not quite over", True, (400, 0), out(9), (6, 0.12 * a)),
        case("4 % for six hours", True, (400, 0.04 * a)),
        case("little traffic", True, (400, 0.04 * a), a_minute=3),
        case("hardly any traffic", False, (400, 0.04 * a), a_minute=1),
        case("a short outage", False, (400, 0), out(3)),
        case("an outage that is nearly over", False, (400, 0), out(8), (6, 0.05 * a)),
        case("better for an hour", False, (300, 0.06 * a), (60, 0.02 * a)),
        case("1 % for a day", False, (1500, 0.01 * a)),
    )


def slow_burns(alert: str, series: Callable[..., dict[str, str]], allowed: float) -> tuple[Case, ...]:
    """The same of the two pairs of long windows. Only busier days before can keep the longest one quiet."""
    case = at_the_end(alert, series)
    a, busy = allowed, (2880, 10.0)
    return (
        case("2 % on a day after busy ones", True, (1440, 0.02 * a), before=busy),
        case("1 % for three days", True, (4400, 0.01 * a)),
        case("little traffic", True, (4400, 0.01 * a), a_minute=3),
        case("hardly any traffic", False, (4400, 0.01 * a), a_minute=1),
        case("bad for two hours", False, (1320, 0.007 * a), (120, 0.02 * a), before=busy),
        case("better for two hours", False, (1320, 0.02 * a), (120, 0.01 * a), before=busy),
        case("bad for six hours", False, (4000, 0.003 * a), (400, 0.007 * a)),
        case("better for seven hours", False, (3900, 0.01 * a), (420, 0.003 * a)),
        case("true for two minutes", False, (4400, 0), (round(23 * a), 1.0)),
    )


CASES = (
    Case("ArmwiseDown", "a scrape fails", True, {'up{job="armwise", instance="a"}': "0x60"}),
    Case("ArmwiseAbsent", "nobody is scraped", True, {}),
    Case("ArmwiseAbsent", "another job is", True, {'up{job="node", instance="a"}': "1x60"}),
    Case("ArmwiseAbsent", "a scrape fails", False, {'up{job="armwise", instance="a"}': "0x60"}),
    Case("ArmwiseDown", "one scrape failed", False, {'up{job="armwise", instance="a"}': "1x39 0x5"}),
    Case("ArmwiseDown", "a scrape succeeds", False, {'up{job="armwise", instance="a"}': "1x60"}),
    Case("ArmwiseErrors", "a tenth fails", True, chats((60, 0.1))),
    Case("ArmwiseErrors", "4 % fail", False, chats((60, 0.04))),
    Case("ArmwiseErrors", "nothing was ever answered 5xx", False, {CHATS + '"2xx"}': "0+60x60"}),
    Case("ArmwiseErrors", "clients are at fault", False, {CHATS + '"2xx"}': "0+9x60", CHATS + '"4xx"}': "0+60x60"}),
    Case("ArmwiseErrors", "all fail for three minutes", False, chats((30, 0.0), (3, 1.0)), 33),
    *burns("ArmwiseErrorsBurn", chats, 1.0),
    *slow_burns("ArmwiseErrorsBurnSlowly", chats, 1.0),
    *burns("ArmwiseLatencyBurn", slow, 2.0),
    *slow_burns("ArmwiseLatencyBurnSlowly", slow, 2.0),
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
    Case("ArmwiseBreakerOpen", "it is open in one process", True, {BREAKER + '"a"}': "0x60", BREAKER + '"b"}': "2x60"}),
    Case("ArmwiseBreakerOpen", "it tries and tries", True, {BREAKER + '"a"}': "2 1 2 1 2 1 2 1 2"}, 8),
    Case("ArmwiseBreakerOpen", "it came back", False, {BREAKER + '"a"}': "2 2 2 2 0x40"}),
    Case("ArmwiseBreakerOpen", "for a moment now and then", False, {BREAKER + '"a"}': "2 2 0 2 2 0 2 2 0 2 2"}, 10),
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
        "ArmwiseOutliers",
        "three in a day, on two replicas",
        True,
        {
            'armwise_outliers_found_total{instance="a"}': "0x600 2x840",
            'armwise_outliers_found_total{instance="b"}': "0x900 1x540",
        },
        1440,
    ),
    Case("ArmwiseOutliers", "two", False, {'armwise_outliers_found_total{instance="a"}': "0x600 1x300 2x540"}, 1440),
    Case("ArmwiseOutliers", "many, days ago", False, {'armwise_outliers_found_total{instance="a"}': "9x3000"}, 2900),
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
    Case("ArmwiseTelemetryLost", "the collector is away", True, {TELEMETRY + '"traces"}': "0x10 0+1x50"}),
    Case(
        "ArmwiseTelemetryLost",
        "now and then, for little is sent",
        True,
        {TELEMETRY + '"traces"}': "0x5 1x8 2x8 3x40"},
        28,
    ),
    Case(
        "ArmwiseTelemetryLost",
        "the collector was started again",
        False,
        {TELEMETRY + '"traces"}': "0x20 0+1x3 3x40"},
        33,
    ),
    Case("ArmwiseTelemetryLost", "all arrives", False, {TELEMETRY + '"metrics"}': "0x60"}),
    Case("ArmwiseWebhook", "a failure", True, {WEBHOOKS + '"failed"}': "0x35 1x20"}),
    Case("ArmwiseWebhook", "sent", False, {WEBHOOKS + '"sent"}': "0x35 1x20"}),
    Case("ArmwiseSampleRatio", "sure", True, {EVALUE: "1x20 4000x40"}),
    Case("ArmwiseSampleRatio", "not sure", False, {EVALUE: "1x20 500x40"}),
)
