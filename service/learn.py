"""Learning: rewards into the log and into the posterior, in the one transaction that matters.

Explicit feedback, heuristics, their readings and hard failures all come this way, with another channel and another
weight. Calls that have both a label and a reading are counted in the same transaction
(`service.learning.calibrations`).
"""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from sqlalchemy import Connection

from bandit.posteriors import CellKey, Counts, counts_of
from bandit.raters import Standing
from bandit.vocabulary import EXPLICIT_CHANNELS, Channel, Reward
from service.learning import calibrations
from service.learning.raters import Raters
from service.storage import store
from service.traffic.sums import Rollup

Status = Literal["recorded", "unchanged", "replaced", "unknown_decision", "too_late", "other_key"]


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody, or a heuristic, says of one reply. Decision, metric, source and user together are its key."""

    decision_id: str
    metric: str
    source: str  # user, api, heuristics ...
    value: float  # [0, 1]
    at: float  # seconds since 1970-01-01 UTC
    user: str = ""
    weight: float = 1.0  # (0, 1]: how much of one label this is worth
    channel: Channel = "thumb"
    comment: str = ""
    detail: str = "{}"  # JSON
    arm: str | None = None  # whose reply is meant, when it is not the one that served: a failed first try
    key_id: str | None = None  # the API key it came with; None: ourselves or an admin, who may rate everything
    user_limit: float = 0.0  # labels that this user's word on one model weighs in all on a day; 0: as many as they give
    outlier_weight: float = 1.0  # by which it is multiplied while others' labels cannot explain this user's; 1: off

    @property
    def key(self) -> store.RewardKey:
        """What makes it the same measurement said again."""
        return self.decision_id, self.metric, self.source, self.user


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a measurement; what follows the status is empty when the decision is unknown."""

    decision_id: str
    metric: str
    status: Status
    arm: str = ""
    task_type: str = ""
    lag_s: float | None = None  # from the decision to the measurement
    outlier: bool = False  # of a user whose labels others' cannot explain
    found: Standing | None = None  # how the user stands, once: when it turns out


_SAID = ("value", "weight", "channel", "comment", "detail")


def record(
    connection: Connection,
    measurements: Sequence[Measurement],
    *,
    window_s: float,
    now: float,
    rollup: Rollup | None = None,
) -> tuple[list[Outcome], dict[CellKey, Counts]]:
    """Store measurements and add them to their cells; the same again changes nothing, a changed mind replaces.

    Returns an outcome for each measurement, in order, and what was added to which cell. Decisions older than
    `window_s` take no more rewards. What is over a user's limit is stored with weight 0. `now` is the time of the
    transaction: other processes look for what changed by it, so it must not be that of the measurement, which may have
    waited. Ratings are counted in `rollup`, which the caller writes; without one, here.

    Raises:
        IntegrityError: another process stored one of them at the same moment; the transaction must be repeated.
    """
    traffic = Rollup() if rollup is None else rollup
    found = traffic.decisions(connection, (m.decision_id for m in measurements))
    refusals = [_refusal(m, found.get(m.decision_id), window_s) for m in measurements]
    accepted = [m for m, refusal in zip(measurements, refusals, strict=True) if refusal is None]
    stored = _stored(connection, accepted)

    current = dict(stored)
    influence = calibrations.Influence(connection)
    raters = Raters(connection, (m.user for m in accepted if _is_of_a_user(m)))
    deltas: dict[CellKey, Counts] = {}
    outcomes = []
    for measurement, refusal in zip(measurements, refusals, strict=True):
        decision = found.get(measurement.decision_id)
        status = refusal or "unchanged"
        if refusal is None and decision is not None:
            old, new = current.get(measurement.key), _row(measurement, decision, now)
            if old is not None:
                new["created_at"] = old["created_at"]
            if _is_of_a_user(measurement):
                new["weight"] = _weight(measurement, old, new, influence, raters)
            if old is None or any(old[name] != new[name] for name in _SAID):
                status = "recorded" if old is None else "replaced"
                if old is not None:
                    _add(deltas, _cell(old), Counts().minus(_counts(old)))
                _add(deltas, _cell(new), _counts(new))
                traffic.rated(decision, old, new)
                current[measurement.key] = new
        outcomes.append(_outcome(measurement, status, decision, raters))

    deltas = {cell: counts for cell, counts in deltas.items() if counts != Counts()}
    _write(connection, stored, current)
    store.add_to_cells(connection, deltas, now)
    pairs = calibrations.difference(calibrations.pairs_in(current.values()), calibrations.pairs_in(stored.values()))
    calibrations.add(connection, pairs, now)
    raters.add(current.values(), stored.values(), now)
    if rollup is None:
        traffic.write(connection)
    return outcomes, deltas


def _stored(connection: Connection, accepted: Sequence[Measurement]) -> dict[store.RewardKey, store.RowDict]:
    """What is stored of these measurements, and what they make pairs with: readings of labels, labels of readings."""
    if not accepted:
        return {}
    labelled = {m.decision_id for m in accepted if m.channel in EXPLICIT_CHANNELS}
    read = {m.decision_id for m in accepted if m.channel == "reading"}
    calibrations.lock_users(connection, (m.user for m in accepted if _is_of_a_user(m)))
    if labelled or read:
        calibrations.lock_decisions(connection, sorted(labelled | read))
    keys = {m.key for m in accepted} | {calibrations.reading_key(decision_id) for decision_id in labelled}
    stored = store.rewards_by_key(connection, sorted(keys))
    return {**calibrations.labels_of(connection, sorted(read)), **stored} if read else stored


def _is_of_a_user(measurement: Measurement) -> bool:
    return bool(measurement.user) and measurement.channel in calibrations.PEOPLES


def _is_judged(measurement: Measurement) -> bool:
    return _is_of_a_user(measurement) and measurement.outlier_weight < 1.0


def _weight(
    measurement: Measurement,
    old: store.RowDict | None,
    new: store.RowDict,
    influence: calibrations.Influence,
    raters: Raters,
) -> float:
    """What a user's label weighs. Said again it weighs what it did, whatever became of the user."""
    judged = _is_judged(measurement)
    if judged and old is not None and all(old[name] == new[name] for name in ("value", "channel")):
        weight: Any = old["weight"]
        return float(weight)
    factor = measurement.outlier_weight if judged and raters.is_outlier(measurement.user) else 1.0
    if measurement.user_limit > 0.0:
        return influence.weight(new, measurement.user_limit, factor)
    return measurement.weight * factor


def _refusal(measurement: Measurement, decision: store.Rateable | None, window_s: float) -> Status | None:
    if decision is None:
        return "unknown_decision"
    if measurement.key_id is not None and measurement.key_id != decision.key_id:
        return "other_key"
    if measurement.at - decision.created_at > window_s:
        return "too_late"
    return None


def _write(
    connection: Connection,
    stored: dict[store.RewardKey, store.RowDict],
    current: dict[store.RewardKey, store.RowDict],
) -> None:
    new = [current[key] for key in sorted(current) if key not in stored]
    replaced = [current[key] for key in sorted(stored) if current[key] is not stored[key]]
    if new:
        store.insert_rewards(connection, new)
    if replaced:
        store.replace_rewards(connection, replaced)


def _row(measurement: Measurement, decision: store.Rateable, now: float) -> store.RowDict:
    return {
        "decision_id": measurement.decision_id,
        "metric": measurement.metric,
        "source": measurement.source,
        "user": measurement.user,
        "value": measurement.value,
        "weight": measurement.weight,
        "channel": measurement.channel,
        "namespace": decision.namespace,
        "arm": measurement.arm or decision.arm,
        "task_type": decision.task_type,
        "tier": decision.tier,
        "hour": int(decision.created_at // 3600),
        "comment": measurement.comment,
        "detail": measurement.detail,
        "created_at": measurement.at,
        "updated_at": now,
    }


def _cell(row: dict[str, Any]) -> CellKey:
    return CellKey(row["namespace"], row["arm"], row["task_type"], row["tier"], row["hour"], row["channel"])


def _counts(row: dict[str, Any]) -> Counts:
    return counts_of(Reward(value=row["value"], weight=row["weight"], channel=row["channel"]))


def _add(deltas: dict[CellKey, Counts], cell: CellKey, counts: Counts) -> None:
    deltas[cell] = deltas.get(cell, Counts()).plus(counts)


def _outcome(
    measurement: Measurement, status: Status, decision: store.Rateable | None, raters: Raters
) -> Outcome:  # fmt: skip
    if decision is None:
        return Outcome(decision_id=measurement.decision_id, metric=measurement.metric, status=status)
    lowered = status in ("recorded", "replaced") and _is_judged(measurement) and raters.is_outlier(measurement.user)
    return Outcome(
        decision_id=measurement.decision_id,
        metric=measurement.metric,
        status=status,
        arm=measurement.arm or decision.arm,
        task_type=decision.task_type,
        lag_s=measurement.at - decision.created_at,
        outlier=lowered,
        found=raters.newly_found(measurement.user) if lowered else None,
    )
