"""What this process knows of the posteriors, and the immutable snapshots that decisions are taken on.

The database is the authority; this is a copy of its sums. Own commits are added as they happen, other processes' are
read each second. Counts are integers and both ways pass the writer's queue, so nothing is lost or counted twice.
"""

import time
from collections.abc import Callable, Mapping

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray
from sqlalchemy import Connection

from bandit.history import Cell
from bandit.policies import Policy
from bandit.posteriors import MICRO, Beliefs, CellKey, Counts, Estimate, Regression, evidence_from
from bandit.vocabulary import PROMPT_TIERS, TASK_TYPES, Channel, PromptProfile, PromptTier, TaskType
from service.experiments.seeds import Base, Sums
from service.learning.beliefs import Contents, decode, encode, encode_estimates, encode_regressions
from service.learning.controls import InForce
from service.learning.ledger import Ledger, cells_by_week
from service.storage import store
from service.storage.store import SumKey
from service.storage.writer import Writer

_SWAP_EVERY_S = 0.5  # decisions within this time are taken on the same snapshot: few versions to store
_LOOK_BACK_S = 30.0  # how far clocks and long transactions of other processes may put a change into the past
_WEEK_S = 7 * 86_400.0
_MARGIN_H = 24  # by which clocks may differ, and hours be open when they are said to close
_PATIENCE = 30.0  # times the time of a write: to read everything may take long, and there is no serving without it
_TASKS, _TIERS = frozenset(TASK_TYPES), frozenset(PROMPT_TIERS)


class Knowledge:
    """Sums of rewards by namespace, task type, arm, tier and channel, and their snapshots.

    Changed only on the event loop. Other threads may call what only reads: `latest`, `fit`, `cells` and `age`.
    """

    def __init__(self, clock: Callable[[], float] = time.time, *, window_s: float = _WEEK_S) -> None:
        """`window_s` is how old a decision may be that is rated: the cells of older hours are known as sums only."""
        self._clock = clock
        self._sums: dict[tuple[str, str], Sums] = {}  # by namespace and task type
        # Cells that may still change are known one by one, to see by how much another process changed them. Older
        # hours are only in the sums.
        self._cells: dict[CellKey, Counts] = {}
        self._span_h = int(window_s // 3600) + _MARGIN_H
        self._horizon = 0  # the first hour known cell by cell
        self.ledger = Ledger()
        self._since: float | None = None  # the last change seen; None: everything must be read
        self._refreshed_at: float | None = None
        self._stale: set[tuple[str, str]] = set()
        self._snapshots: dict[tuple[str, str], Beliefs] = {}
        self._swapped_at: dict[tuple[str, str], float] = {}
        self._contents = Contents()
        self._fits: dict[tuple[str, str], dict[Cell, Beliefs]] = {}  # namespace, policy
        self._fitted: dict[tuple[str, str], Mapping[Cell, str]] = {}  # likewise, without what the owner holds
        self._bases: dict[str, dict[str, Sums]] = {}  # by namespace and task type: what it began with
        self._held: dict[tuple[str, str], str] = {}  # namespace, task: content that stays as it is
        self._heard: tuple[str, ...] = ()  # namespaces that the common one listens to
        self.controls = InForce()
        self.typical: Mapping[TaskType, NDArray[np.float64]] = {}  # features of prompts, as linear policies see them

    def beliefs(self, namespace: str, task_type: str, now: float) -> Beliefs:
        """The snapshot to decide on; at most 0.5 s older than the last commit."""
        key = (namespace, task_type)
        snapshot = self._snapshots.get(key)
        due = now - self._swapped_at.get(key, float("-inf")) >= _SWAP_EVERY_S
        if snapshot is None or (due and key in self._stale):
            self._stale.discard(key)
            snapshot = self._contents.keep(self._evidence(key))
            self._snapshots[key] = snapshot
            self._swapped_at[key] = now
        return snapshot

    def latest(self, namespace: str, task_type: str) -> Beliefs:
        """All that is known of a task type now, to be shown or kept; nothing is decided on it."""
        return decode(self._evidence((namespace, task_type)))

    def content(self, version: str) -> str:
        """The content of a version in use, or of one of the last 4,096 given out, to be stored.

        Raises:
            KeyError: neither.
        """
        content = self._contents.get(version)
        if content is not None:
            return content
        for snapshot in self._snapshots.values():  # in use for long, while thousands of others came and went
            if snapshot.version == version:
                return encode(snapshot.evidence)
        for fit in self._fits.values():
            for beliefs in fit.values():
                if beliefs.version == version:
                    linear = beliefs.regressions
                    return encode_regressions(linear) if linear else encode_estimates(beliefs.estimates)
        raise KeyError(version)

    def believed(self, policy: Policy, namespace: str, profile: PromptProfile, now: float) -> Beliefs:
        """What `policy` decides on: its last fit if it has fits, else the snapshot of the task type."""
        fit = self._fits.get((namespace, policy.name)) if policy.fits else None
        if fit is not None and (beliefs := fit.get((profile.task_type, profile.tier))) is not None:
            return beliefs
        return self.beliefs(namespace, profile.task_type, now)

    def fit(self, namespace: str, policy: str) -> Mapping[Cell, Beliefs]:
        """The last fit of a policy; empty before the first."""
        return self._fits.get((namespace, policy), {})

    def take_fit(self, namespace: str, policy: str, contents: Mapping[Cell, str]) -> None:
        """Decide on this fit from now on: cell to the content of its beliefs. What the owner holds stays as it is."""
        self._fitted[namespace, policy] = contents
        held = self.controls.held_cells(policy) if namespace == "" else set()
        fit = {cell: self._contents.keep(content) for cell, content in contents.items() if cell not in held}
        made: list[tuple[str | None, Mapping[str, Regression], Beliefs]] = []
        for cell in held:
            content, weights = contents.get(cell), self.controls.regressions.get((policy, cell[0]), {})
            known = next((b for c, held_ones, b in made if weights and c is content and held_ones == weights), None)
            fit[cell] = known or self._with_held(content, self.controls.held_in(policy, cell), weights)
            made.append((content, weights, fit[cell]))
        self._fits[namespace, policy] = fit

    def begin(self, namespace: str, base: Base) -> None:
        """From now on a namespace stands on `base`, beside what it learns itself."""
        self._bases[namespace] = base.sums
        self.ledger.begin(namespace, base.table)
        self._stale.update((namespace, task) for task in TASK_TYPES)

    def hold(self, namespace: str, evidence: Mapping[str, str], fits: Mapping[str, Mapping[Cell, str]]) -> None:
        """From now on a namespace believes these contents, by task type and by policy and cell, and learns nothing."""
        self._held |= {(namespace, task): content for task, content in evidence.items()}
        for policy, contents in fits.items():
            self.take_fit(namespace, policy, contents)
        self._stale.update((namespace, task) for task in TASK_TYPES)

    def end(self, namespace: str) -> None:
        """Nobody decides on a namespace any more: only what it learned itself is kept."""
        self._bases.pop(namespace, None)
        self.ledger.begin(namespace, None)
        for known in (self._held, self._fits, self._fitted, self._snapshots):
            for key in [key for key in known if key[0] == namespace]:
                del known[key]

    def listen(self, namespaces: tuple[str, ...]) -> None:
        """Count what these namespaces learned in the common one, too."""
        if namespaces != self._heard:
            self._heard = namespaces
            self.ledger.listen(namespaces)
            self._stale.update(("", task) for task in TASK_TYPES)

    def control(self, controls: InForce) -> None:
        """Do as the owner switched, at once, and on the last fits."""
        if controls is self.controls:
            return
        self.controls = controls
        self._stale.update(self._sums, self._snapshots)
        policies = {("", policy) for policy, _ in [*controls.estimates, *controls.regressions]}
        for namespace, policy in {*self._fitted, *policies}:
            self.take_fit(namespace, policy, self._fitted.get((namespace, policy), {}))

    def nothing(self) -> Beliefs:
        """A snapshot that knows nothing, for decisions that cannot be taken on what is known."""
        return self._contents.keep(encode({}))

    def cells(self) -> dict[SumKey, Counts]:
        """All sums, by namespace, arm, task type, tier and channel."""
        return {
            (namespace, arm, task_type, tier, channel): counts
            for (namespace, task_type), sums in list(self._sums.items())
            for (arm, tier, channel), counts in list(sums.items())
        }

    def measured_by_tier(self, namespace: str, task_type: str) -> dict[PromptTier, float]:
        """How much was measured of all models on each tier of prompts: labels and readings, by their weights."""
        sums = list(self._sums.get((namespace, task_type), {}).items())
        return {
            tier: max(sum(counts.n for (_, counted, _), counts in sums if counted == tier), 0) / MICRO
            for tier in PROMPT_TIERS
        }

    def age(self, now: float) -> float:
        """Seconds since the database was last read; infinite before."""
        return now - self._refreshed_at if self._refreshed_at is not None else float("inf")

    def load(self, older: Mapping[CellKey, Counts], cells: Mapping[CellKey, Counts] | None = None) -> None:
        """Forget everything and start from sums over weeks of `older` hours and single newer cells."""
        self._stale.update(self._sums)
        self._sums.clear()
        self._cells.clear()
        self.ledger.clear()
        for cell, counts in _usable(older).items():
            self._add(cell, counts)
        self.fold(cells or {})

    def fold(self, deltas: Mapping[CellKey, Counts]) -> None:
        """Add what a commit of our own added."""
        for cell, delta in _usable(deltas).items():
            self._add(cell, delta)
            if cell.hour >= self._horizon:
                self._cells[cell] = self._cells.get(cell, Counts()).plus(delta)

    def replace(self, cells: Mapping[CellKey, Counts]) -> None:
        """Take over cells as they stand in the database. Must be called in the writer's order, like `fold`."""
        cells = _usable(cells)
        unknown = [cell.hour for cell in cells if cell.hour < self._horizon]
        if unknown:  # an hour changed that was taken for closed: read everything, and keep such hours apart
            self._span_h = 2 * (self._horizon + self._span_h - min(unknown))
            self._since = None
            return
        changes = {cell: counts.minus(self._cells.get(cell, Counts())) for cell, counts in cells.items()}
        self.fold({cell: change for cell, change in changes.items() if change != Counts()})

    async def refresh(self, writer: Writer) -> None:
        """Read what other processes learned since the last time; at first, and when asked to forget, everything.

        Raises:
            StorageUnavailable: the database could not be read.
        """
        if self._since is None:
            await writer.call(self._read_all, self._take_all, patience=_PATIENCE)
        else:
            await writer.call(self._read_changes, self._take_changes)
        if self._since is None:
            await writer.call(self._read_all, self._take_all, patience=_PATIENCE)

    def _read_all(self, connection: Connection) -> tuple[int, float, dict[CellKey, Counts], dict[CellKey, Counts]]:
        now = self._clock()
        horizon = int(now // 3600) - self._span_h
        older = cells_by_week(connection, horizon)
        return horizon, now, older, store.cells_from_hour(connection, horizon)

    def _take_all(self, found: tuple[int, float, dict[CellKey, Counts], dict[CellKey, Counts]]) -> None:
        self._horizon, now, older, cells = found
        self.load(older, cells)
        self._since = self._refreshed_at = now

    def _read_changes(self, connection: Connection) -> tuple[dict[CellKey, Counts], float]:
        now = self._clock()
        cells, latest = store.cells_changed_since(connection, (self._since or 0.0) - _LOOK_BACK_S)
        return cells, min(latest, now)

    def _take_changes(self, found: tuple[dict[CellKey, Counts], float]) -> None:
        cells, latest = found
        self._refreshed_at = self._clock()
        self._since = max(self._since or 0.0, latest)
        self.replace(cells)
        self._forget_closed_hours()

    def _forget_closed_hours(self) -> None:
        horizon = int(self._clock() // 3600) - self._span_h
        if horizon >= self._horizon + 24:
            self._horizon = horizon
            self._cells = {cell: counts for cell, counts in self._cells.items() if cell.hour >= horizon}

    def _add(self, cell: CellKey, counts: Counts) -> None:
        key, part = (cell.namespace, cell.task_type), (cell.arm, cell.tier, cell.channel)
        sums = self._sums.setdefault(key, {})
        sums[part] = sums.get(part, Counts()).plus(counts)
        self._stale.add(key)
        if cell.namespace in self._heard:
            self._stale.add(("", cell.task_type))
        self.ledger.add(cell, counts)

    def _evidence(self, key: tuple[str, str]) -> str:
        """What is known of a namespace and task type, as content. Changes nothing: other threads call it, too."""
        if key in self._held:
            return self._held[key]
        namespace, task_type = key
        if namespace == "":
            heard = (self._sums.get((name, task_type), {}) for name in ("", *self._heard))
            return encode(self.controls.evidence_of(task_type, _by_arm(*heard)))
        base = self.controls.remembered(task_type, _by_arm(self._bases.get(namespace, {}).get(task_type, {})))
        found = _by_arm(self._sums.get(key, {}))
        for arm, channels in base.items():
            mine = found.setdefault(arm, {})
            for channel, counts in channels.items():
                mine[channel] = mine.get(channel, Counts()).plus(counts)
        return encode({arm: evidence_from(channels) for arm, channels in found.items()})

    def _with_held(
        self, content: str | None, held: Mapping[str, Estimate], weights: Mapping[str, Regression]
    ) -> Beliefs:
        """A cell's beliefs with held qualities, or weights, in them; of the rest nothing is held.

        When another kind of policy took the name, what is held for the former one does not concern it.
        """
        believed = decode(content) if content is not None else Beliefs()
        if believed.regressions or (content is None and weights):
            fresh = believed.regressions
            held_weights = {
                arm: replace(fresh.get(arm, one), mean=one.mean, factor=one.factor) for arm, one in weights.items()
            }
            return self._contents.keep_regressions({**fresh, **held_weights})
        known = believed.estimates
        found = {arm: replace(known.get(arm, one), mean=one.mean, sd=one.sd) for arm, one in held.items()}
        return self._contents.keep_estimates({**known, **found})


def _by_arm(*found: Sums) -> dict[str, dict[Channel, Counts]]:
    """Sums added up over tiers."""
    arms: dict[str, dict[Channel, Counts]] = {}
    for sums in found:
        for (arm, _tier, channel), counts in list(sums.items()):
            by_channel = arms.setdefault(arm, {})
            by_channel[channel] = by_channel.get(channel, Counts()).plus(counts)
    return arms


def _usable(cells: Mapping[CellKey, Counts]) -> Mapping[CellKey, Counts]:
    """The cells whose words and counts we know; others are a newer version's, or damage, of which `watching` tells."""
    return {
        cell: counts
        for cell, counts in cells.items()
        if cell.task_type in _TASKS and cell.tier in _TIERS and all(type(one) is int for one in (cell.hour, *counts))
    }
