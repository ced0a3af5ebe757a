"""The decision log as evaluation reads it: decisions in the order they were made, with their labels and their tokens.

Read in pages, so that a long log needs little memory until it stands in columns.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Connection, and_, func, select, tuple_

from bandit.costs import call_cost, expected_cost
from bandit.offline import Logged, predicted_before
from bandit.vocabulary import EXPLICIT_CHANNELS, TASK_TYPES, Arm, PromptProfile
from service.decide import Decision
from service.storage.tables import attempts, decisions, rewards

Tick = Callable[[int], object]
Vector = NDArray[np.float64]
Sparse = tuple[tuple[int, float], ...]  # index of a model and its probability, those of 0 left out

_PAGE = 500  # decisions read by one query
_LABELS = sorted(EXPLICIT_CHANNELS)
_BLOCK = 200  # decisions between two looks at what is predicted of a reward
_NO_EXPLORATION = "no exploration allowed"
OTHER_POLICY = "another policy"
UNREADABLE = "this version cannot read it"

_decode = msgspec.json.Decoder(Decision).decode


class Entry(NamedTuple):
    """One decision of the log with what came of it."""

    decision: Decision
    value: float | None  # mean of what people said of the reply of the drawn model, 0 for a failure; None: nothing
    failed: bool  # a definite failure: seen without anybody's rating
    tokens: tuple[int, int, int] | None  # of the reply: prompt, completion, of the prompt cached; None: no reply
    paid_usd: float  # as it was metered, over all attempts
    answered_by: str  # the model whose reply it was; empty without one
    waited_s: float = 0.0  # for the reply, or for a stream's first token


class Columns(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Decisions in the order they were made, in columns of equal length n, with what policies would have drawn."""

    arms: tuple[str, ...]
    logged: Logged
    task: NDArray[np.int64]  # (n,), index in TASK_TYPES
    cost_usd: Vector  # (n, n_arms): of the same tokens on each model, at the prices given
    paid_usd: float  # in all
    people: int  # decisions with a label that is not a failure
    targets: Mapping[str, Vector]  # by policy: (n, n_arms)


def count_decisions(connection: Connection, since: float, until: float) -> int:
    """How many decisions were made between two times."""
    return connection.scalar(select(func.count()).select_from(decisions).where(_between(since, until))) or 0


def entries(
    connection: Connection,
    since: float,
    until: float,
    *,
    metric: str = "",
    tick: Tick = lambda _: None,
    left_out: Counter[str] | None = None,
) -> Iterator[Entry]:
    """The decisions made between two times (seconds since 1970 UTC), oldest first; labels of one metric.

    Labels are those of the model that was drawn: of another, which stood in for it, nothing is said here. Decisions
    that this version cannot read are counted in `left_out`.
    """
    left_out = Counter() if left_out is None else left_out
    key = tuple_(decisions.c.created_at, decisions.c.id)
    statement = select(decisions.c.created_at, decisions.c.id, decisions.c.detail)
    statement = statement.where(_between(since, until)).order_by(decisions.c.created_at, decisions.c.id).limit(_PAGE)
    page: Any = connection.execute(statement).all()
    while page:
        ids = [row.id for row in page]
        labels, calls = _labels_of(connection, ids, metric), _calls_of(connection, ids)
        for row in page:
            try:
                decision = _decode(row.detail)
            except msgspec.ValidationError:
                left_out[UNREADABLE] += 1
            else:
                yield _entry(decision, labels[row.id], calls[row.id])
        tick(len(page))
        last_at, last_id, _ = page[-1]
        page = connection.execute(statement.where(decisions.c.created_at >= last_at, key > (last_at, last_id))).all()


def _between(since: float, until: float) -> ColumnElement[bool]:
    return and_(decisions.c.created_at >= since, decisions.c.created_at < until)


def _labels_of(connection: Connection, ids: Sequence[str], metric: str) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = defaultdict(list)
    if not metric:
        return found
    wanted = select(
        rewards.c.decision_id, rewards.c.arm, rewards.c.value, rewards.c.weight, rewards.c.channel
    ).where(
        rewards.c.decision_id.in_(ids), rewards.c.metric == metric, rewards.c.weight > 0, rewards.c.channel.in_(_LABELS)
    )  # fmt: skip
    for row in connection.execute(wanted.order_by(rewards.c.decision_id, rewards.c.source, rewards.c.user)):
        found[row.decision_id].append(row)
    return found


def _calls_of(connection: Connection, ids: Sequence[str]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = defaultdict(list)
    wanted = select(
        attempts.c.decision_id, attempts.c.arm, attempts.c.outcome, attempts.c.prompt_tokens,
        attempts.c.completion_tokens, attempts.c.cached_tokens, attempts.c.cost_usd, attempts.c.latency_s,
        attempts.c.first_token_s,
    ).where(attempts.c.decision_id.in_(ids))  # fmt: skip
    for row in connection.execute(wanted.order_by(attempts.c.decision_id, attempts.c.step)):
        found[row.decision_id].append(row)
    return found


def _entry(decision: Decision, labels: Sequence[Any], calls: Sequence[Any]) -> Entry:
    own = [label for label in labels if label.arm == decision.choice.arm]
    weight = sum(label.weight for label in own)
    answered = next((call for call in reversed(calls) if call.outcome == "ok"), None)
    return Entry(
        decision=decision,
        value=sum(label.weight * label.value for label in own) / weight if own else None,
        failed=any(label.channel == "failure" for label in own),
        tokens=(answered.prompt_tokens, answered.completion_tokens, answered.cached_tokens) if answered else None,
        paid_usd=sum(call.cost_usd for call in calls),
        answered_by=answered.arm if answered else "",
        waited_s=_waited_s(answered) if answered else 0.0,
    )


def _waited_s(call: Any) -> float:
    return float(call.latency_s if call.first_token_s is None else call.first_token_s)


def explored(
    found: Iterable[Entry], left_out: Counter[str], logged_by: frozenset[str] = frozenset()
) -> Iterator[Entry]:
    """Decisions that were drawn by a policy for a caller who allows exploration; the others are counted, by reason."""
    for entry in found:
        decision = entry.decision
        if decision.method != "auto":
            left_out[decision.method] += 1
        elif not decision.limits.explore:
            left_out[_NO_EXPLORATION] += 1
        elif logged_by and decision.choice.policy not in logged_by:
            left_out[OTHER_POLICY] += 1
        else:
            yield entry


class Collector:
    """Gathers decisions and what policies would have drawn, and gives them out in columns.

    `arms` are the configured models, with the prices that bills are made with. Models that only the log knows are taken
    in as they are met: no policy of today can draw them, and they cost nothing.
    """

    def __init__(self, arms: Mapping[str, Arm]) -> None:
        self._arms = arms
        self._index = {name: index for index, name in enumerate(arms)}
        self._chosen: list[int] = []
        self._probabilities: list[Sparse] = []
        self._targets: dict[str, list[Sparse]] = defaultdict(list)
        self._rows: dict[Sparse, Sparse] = {}  # equal ones are kept once
        self._values: list[float] = []
        self._strata: list[int] = []
        self._tasks: list[int] = []
        self._users: list[int] = []
        self._user_index: dict[tuple[str, str, str], int] = {}
        self._bills: list[tuple[PromptProfile, tuple[int, int, int] | None]] = []
        self._paid = 0.0

    def __len__(self) -> int:
        return len(self._chosen)

    def add(self, entry: Entry, targets: Mapping[str, Mapping[str, float]]) -> None:
        """Take in a decision, and for each policy its probabilities by model."""
        decision = entry.decision
        choice, caller = decision.choice, decision.caller
        self._chosen.append(self._index.setdefault(choice.arm, len(self._index)))
        self._probabilities.append(self._row(zip(choice.arms, choice.probabilities, strict=True)))
        for name, target in targets.items():
            self._targets[name].append(self._row(target.items()))
        self._values.append(float("nan") if entry.value is None else entry.value)
        self._strata.append(2 if entry.failed else int(decision.ask_feedback))
        self._tasks.append(TASK_TYPES.index(decision.profile.task_type))
        who = ("user", caller.key_id, caller.user) if caller.user else ("session", caller.key_id, caller.session)
        if not who[2]:
            who = ("decision", "", decision.id)
        self._users.append(self._user_index.setdefault(who, len(self._user_index)))
        self._bills.append((decision.profile, entry.tokens))
        self._paid += entry.paid_usd

    def columns(self) -> Columns:
        """All that was gathered."""
        values, strata, task = np.array(self._values), np.array(self._strata), np.array(self._tasks, dtype=np.int64)
        n, users = len(values), np.array(self._users, dtype=np.int64)
        logged = Logged(
            arms=tuple(self._index),
            chosen=np.array(self._chosen, dtype=np.int64),
            probabilities=self._dense(self._probabilities),
            rewards=values,
            label_chance=label_chances(values, strata),
            clusters=users if len(self._user_index) < n else None,
        )
        predicted = predicted_before(logged, task, np.arange(n) // _BLOCK)
        return Columns(
            arms=logged.arms,
            logged=msgspec.structs.replace(logged, predicted=predicted),
            task=task,
            cost_usd=self._costs(),
            paid_usd=self._paid,
            people=int((~np.isnan(values) & (strata < 2)).sum()),
            targets={name: self._dense(rows) for name, rows in self._targets.items()},
        )

    def _row(self, chances: Iterable[tuple[str, float]]) -> Sparse:
        row = tuple([(self._index.setdefault(name, len(self._index)), chance) for name, chance in chances if chance])
        return self._rows.setdefault(row, row)

    def _dense(self, rows: Sequence[Sparse]) -> Vector:
        table = np.zeros((len(rows), len(self._index)))
        for number, row in enumerate(rows):
            for index, chance in row:
                table[number, index] = chance
        return table

    def _costs(self) -> Vector:
        table = np.zeros((len(self._bills), len(self._index)))
        priced = [(self._index[name], arm) for name, arm in self._arms.items()]
        for row, (profile, tokens) in enumerate(self._bills):
            for index, arm in priced:
                table[row, index] = expected_cost(arm, profile) if tokens is None else call_cost(arm, *tokens)
        return table


def label_chances(values: Vector, strata: NDArray[np.int64]) -> Vector:
    """How likely each decision was to get a label: shape (n,).

    A failure (stratum 2) is always seen. Of the others the share that was labelled counts, of those whose user was
    asked (1) and those who were not (0) apart, as long as some of each have a label.
    """
    known, chances = ~np.isnan(values), np.ones(len(values))
    open_, asked = strata < 2, strata == 1
    parts = [open_ & asked, open_ & ~asked]
    if any(part.any() and not known[part].any() for part in parts):
        parts = [open_]
    for part in parts:
        if known[part].any():
            chances[part] = known[part].mean()
    return chances
