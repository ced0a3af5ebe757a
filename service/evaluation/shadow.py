"""What the log says of the policy in the shadow: how often it agrees with the one that served, and what it is worth."""

from collections import Counter
from typing import Any

from sqlalchemy import Connection

from bandit.offline import Method
from service.errors import UnusableData
from service.evaluation.decision_log import Collector, Entry, Tick, entries, explored
from service.evaluation.evaluating import Span, arms_of, evaluation
from service.settings import Settings

_NO_SHADOW = "without this policy in the shadow"


def shadowed(
    connection: Connection, settings: Settings, policy: str, span: Span, method: Method, tick: Tick = lambda _: None
) -> dict[str, Any]:
    """Agreement and estimated value of a policy over the decisions of a span that it stood beside.

    `agreement` is how often both drew the same model, `expected_agreement` the mean probability that they do. The value
    is that of the stored probabilities, so it hangs on no replay.

    Raises:
        UnusableData: it stood beside no decision that a policy drew.
    """
    collector, left_out = Collector(arms_of(settings)), Counter[str]()
    same, chance = 0, 0.0
    found = entries(connection, span.since, span.until, metric=span.metric, tick=tick, left_out=left_out)
    for entry in explored(found, left_out, span.logged_by):
        target = _target(entry, policy)
        if target is None:
            left_out[_NO_SHADOW] += 1
            continue
        collector.add(entry, {policy: target})
        choice, shadow = entry.decision.choice, entry.decision.shadow
        same += shadow is not None and shadow.arm == choice.arm
        chance += sum(p * target[arm] for arm, p in zip(choice.arms, choice.probabilities, strict=True))
    if not len(collector):
        raise UnusableData(
            f"The policy {policy} stood beside no decision of this time; expected `routing.shadow` to name it. Set it, "
            "serve some requests, or take a longer --since."
        )
    return {
        "policy": policy,
        "agreement": same / len(collector),
        "expected_agreement": chance / len(collector),
        "left_out": dict(left_out),
        **evaluation(collector.columns(), [policy], method),
    }


def _target(entry: Entry, policy: str) -> dict[str, float] | None:
    """The shadow's probabilities by model."""
    shadow, arms = entry.decision.shadow, entry.decision.choice.arms
    if shadow is None or shadow.policy != policy or len(shadow.probabilities) != len(arms):
        return None
    return dict(zip(arms, shadow.probabilities, strict=True))
