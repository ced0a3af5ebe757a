"""What another policy would have drawn on the decisions of the log, each time knowing no more than was known then."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

from sqlalchemy import Connection, case, select

from bandit.channels import Calibration, Pairs, pairs_of
from bandit.history import ArmRestart, Memory, faded
from bandit.policies import Fixed, Policy, Random, Rules, StaticTier
from bandit.posteriors import Beliefs, CellKey, Counts, counts_of
from bandit.selection import choose
from bandit.vocabulary import EXPLICIT_CHANNELS, FREE, Arm, PromptProfile, Reward, TaskType
from service import store
from service.alarms import list_alarms, restart_of
from service.calibrations import calibration
from service.decide import Decision
from service.decision_log import Entry
from service.errors import UnusableData
from service.fitting import fitted
from service.knowledge import Knowledge
from service.tables import rewards

REFIT_S = 3600.0  # a learning policy is fitted after so much time of the log,
REFIT_LABELS = 200  # or after so many labels
OWN_CALLS = 10.0  # weight of the length of all of a model's replies in that of its replies on one task type

_HOUR_S, _DAY_S = 3600.0, 86_400.0
_NEVER_LEARN = (Fixed, Random, StaticTier, Rules)
_EVERY_ALARM = 1_000_000
NO_PRICES: Mapping[str, Mapping[str, float]] = MappingProxyType({})


# What was known when


class Arrival(NamedTuple):
    """A reward, and when it became known. One that was corrected is known from its correction on: the first is gone."""

    at: float
    cell: CellKey
    counts: Counts


class Past(NamedTuple):
    """All that was learned, with the time from which on it was known. Arrivals and restarts are in order of time."""

    cells: Mapping[CellKey, Counts]  # before the first arrival
    calibration: Calibration  # likewise
    arrivals: Sequence[Arrival]
    pairs: Sequence[tuple[float, str, Pairs]]  # time, task type
    restarts: Sequence[tuple[float, ArmRestart]]


NOTHING_KNOWN = Past({}, Calibration(), (), (), ())


def learns(policy: Policy) -> bool:
    """Whether what a policy draws depends on rewards."""
    return not isinstance(policy, _NEVER_LEARN)


def read_past(connection: Connection, since: float, window_s: float) -> Past:
    """What was known at `since`, and what came after; feedback was taken for `window_s` after a decision.

    The cells are sums of all rewards, so those before are the cells less what came after.
    """
    arrived = _arrived(rewards)
    # A correction comes within the window; by `created_at` there is an index. A day more than needed does no harm.
    recent = rewards.c.created_at >= since - window_s - _DAY_S
    columns = (
        arrived, rewards.c.namespace, rewards.c.arm, rewards.c.task_type, rewards.c.tier, rewards.c.hour,
        rewards.c.channel, rewards.c.value, rewards.c.weight,
    )  # fmt: skip
    wanted = select(*columns).where(recent, arrived >= since, rewards.c.namespace == "", rewards.c.weight > 0)
    known: dict[Any, Any] = {}  # equal cells and counts are kept once: most readings are like others
    arrivals = []
    for at, *names, value, weight in connection.execute(wanted.order_by(arrived, rewards.c.decision_id)):
        key, counts = CellKey(*names), counts_of(Reward(value=value, weight=weight))
        arrivals.append(Arrival(at, known.setdefault(key, key), known.setdefault(counts, counts)))
    cells = {cell: counts for cell, counts in store.cells_from_hour(connection, 0).items() if cell.namespace == ""}
    for _, cell, counts in arrivals:
        cells[cell] = cells.get(cell, Counts()).minus(counts)
    pairs = _pairs(connection, since, window_s)
    before = calibration(connection)
    for _, task, pair in pairs:
        before = Calibration({**before.pairs, task: before.pairs.get(task, Pairs()).minus(pair)})
    changes = sorted(list_alarms(connection, limit=_EVERY_ALARM), key=lambda row: (row.hour, row.at, row.id))
    return Past(
        cells={cell: counts for cell, counts in cells.items() if counts != Counts()},
        calibration=before,
        arrivals=arrivals,
        pairs=pairs,
        restarts=[(row.at, ArmRestart(row.arm, row.hour, restart_of(row))) for row in changes],
    )


def _arrived(table: Any) -> Any:
    return case((table.c.updated_at > table.c.created_at, table.c.updated_at), else_=table.c.created_at)


def _pairs(connection: Connection, since: float, window_s: float) -> list[tuple[float, str, Pairs]]:
    """Labels and readings of the same reply, of which one came after `since`; a label comes after its reply."""
    reading, label = rewards.alias("reading"), rewards.alias("label")
    wanted = (
        select(
            _arrived(reading), _arrived(label), reading.c.task_type, label.c.value, reading.c.value, label.c.weight
        )
        .join(label, (label.c.decision_id == reading.c.decision_id) & (label.c.arm == reading.c.arm))
        .where(
            label.c.created_at >= since - window_s - _DAY_S,
            reading.c.channel == "reading",
            reading.c.namespace == "",
            label.c.channel.in_(sorted(EXPLICIT_CHANNELS)),
        )
    )  # fmt: skip
    found = [
        (max(read_at, said_at), str(task), pairs_of(y, h, weight))
        for read_at, said_at, task, y, h, weight in connection.execute(wanted)
    ]
    return sorted(pair for pair in found if pair[0] >= since)


class Lengths:
    """How long replies were so far; as in `service.usage`, few on a task type lean on all of the model's."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, TaskType], tuple[int, int]] = {}  # model, task type: calls, completion tokens

    def add(self, arm: str, task: TaskType, tokens: int) -> None:
        """Take in a reply."""
        n, total = self._sums.get((arm, task), (0, 0))
        self._sums[arm, task] = n + 1, total + tokens

    def means(self) -> dict[tuple[str, TaskType], float]:
        """Mean completion tokens by model and task type."""
        whole: dict[str, tuple[int, int]] = {}
        for (arm, _), (n, total) in self._sums.items():
            calls, tokens = whole.get(arm, (0, 0))
            whole[arm] = calls + n, tokens + total
        own = {arm: tokens / calls for arm, (calls, tokens) in whole.items()}
        return {key: (total + OWN_CALLS * own[key[0]]) / (n + OWN_CALLS) for key, (n, total) in self._sums.items()}


class Hindsight:
    """Takes policies through a log: at each decision they know what had arrived before their last fit, never more."""

    def __init__(self, policies: Sequence[Policy], arms: Mapping[str, Arm], memory: Memory, past: Past) -> None:
        self._policies = policies
        self._arms = arms
        self._memory = memory
        self._past = past
        self._knowledge = Knowledge(clock=lambda: 0.0)
        self._knowledge.load(past.cells)
        self._calibration = past.calibration
        self._lengths = Lengths()
        self._fitted_at = float("-inf")
        self._taken = self._seen = self._paired = 0  # arrivals that are known, and that have come; pairs that are known
        self._labels = 0  # that have come and are not known
        self._of = lru_cache(maxsize=4096)(self._eligible)

    def draw(self, decision: Decision) -> dict[str, dict[str, float]]:
        """By policy, its probabilities by model for this decision; empty when none of its models is configured.

        Decisions must come in the order in which they were made.
        """
        arms = self._of(decision.choice.arms)
        if not arms:
            return {}
        self._advance(decision.created_at)
        found = {}
        for policy in self._policies:
            beliefs, terms = self._beliefs(policy, decision.profile), self._terms(policy, decision)
            choice = choose(policy, decision.profile, arms, beliefs, 0, terms=terms, max_explore=decision.max_explore)
            found[policy.name] = dict(zip(choice.arms, choice.probabilities, strict=True))
        return found

    def hear(self, entry: Entry) -> None:
        """What came of the decision that was drawn last, as far as policies weigh it beside rewards."""
        if entry.tokens is not None and entry.tokens[1] > 0:
            self._lengths.add(entry.answered_by, entry.decision.profile.task_type, entry.tokens[1])

    def _eligible(self, names: tuple[str, ...]) -> tuple[Arm, ...]:
        return tuple(self._arms[name] for name in names if name in self._arms)

    def _terms(self, policy: Policy, decision: Decision) -> Any:
        """The price of money that was in force, for a policy that keeps a budget; the others know none."""
        return decision.choice.terms if getattr(policy, "objective", "") == "budget" else FREE

    def _beliefs(self, policy: Policy, profile: PromptProfile) -> Beliefs:
        if not learns(policy):
            return Beliefs()
        return self._knowledge.believed(policy, "", profile, self._fitted_at)

    def _advance(self, at: float) -> None:
        """Fit again at `at`, when an hour or 200 labels have passed."""
        arrivals = self._past.arrivals
        while self._seen < len(arrivals) and arrivals[self._seen].at < at:
            self._labels += arrivals[self._seen].cell.channel in EXPLICIT_CHANNELS
            self._seen += 1
        if at - self._fitted_at < REFIT_S and self._labels < REFIT_LABELS:
            return
        for _, cell, counts in arrivals[self._taken : self._seen]:
            self._knowledge.fold({cell: counts})
        self._taken, self._labels, self._fitted_at = self._seen, 0, at
        pairs = self._past.pairs
        while self._paired < len(pairs) and pairs[self._paired][0] < at:
            _, task, pair = pairs[self._paired]
            self._calibration = self._calibration.plus(Calibration({task: pair}))
            self._paired += 1
        self._fit([policy for policy in self._policies if policy.fits], at)

    def _fit(self, policies: Sequence[Policy], at: float) -> None:
        if not policies:
            return
        restarts = [restart for since, restart in self._past.restarts if since < at]
        table = self._knowledge.ledger.table("")
        history = faded(table, list(self._arms), at / _HOUR_S, self._memory, restarts, self._calibration)
        history = history._replace(output_tokens=self._lengths.means())
        for policy in policies:
            contents = fitted(policy, tuple(self._arms.values()), history)
            if not contents:
                raise UnusableData(
                    f"The policy {policy.name} learns from more than the log's rewards, so it cannot be replayed. "
                    "Candidates may be pooled_thompson, thompson and policies that do not learn."
                )
            self._knowledge.take_fit("", policy.name, contents)
