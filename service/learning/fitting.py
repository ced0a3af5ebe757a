"""The background work of policies whose cells inform each other: all that was measured, turned into estimates.

A fit takes tens of milliseconds, so it runs in a thread, when 200 labels came or five seconds after the last; decisions
meanwhile are taken on the fit before. A fit that fails leaves the last one in place.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from bandit.channels import Calibration
from bandit.fitted import late_limit
from bandit.history import ArmRestart, Cell, History, Memory, faded
from bandit.linear import Array, Labelled, LinearThompson, counted, typical
from bandit.policies import Policy
from bandit.pooled import PooledThompson
from bandit.posteriors import Beliefs
from bandit.vocabulary import PROMPT_TIERS, TASK_TYPES, Arm, PromptProfile
from service.errors import StorageUnavailable
from service.learning.beliefs import decode, encode_estimates, encode_regressions
from service.learning.contexts import Contexts
from service.learning.knowledge import Knowledge
from service.learning.usage import ByModel, late_share, output_tokens
from service.metrics.catalogue import Metrics
from service.setup import Setup
from service.storage.database import Database

log = logging.getLogger("armwise")

_HOUR_S = 3600.0
_QUESTION_EVERY_S = 60.0
_STRONG_CONFLICT = 4.0
_AT_LEAST_EVERY_S = 600.0  # old labels fade though nothing new comes


class Learner(NamedTuple):
    """A policy that is fitted, and where it learns."""

    namespace: str
    policy: str
    contexts: Contexts | None = None  # what it learns from if it is linear


class Fitting:
    """Works out estimates, and hands them to `knowledge`. Belongs to the event loop."""

    def __init__(self, knowledge: Knowledge, metrics: Metrics) -> None:
        self._knowledge = knowledge
        self._metrics = metrics
        self._restarts: tuple[ArmRestart, ...] = ()
        self._calibration = Calibration()
        self._tokens: ByModel = {}
        self._late: dict[float, ByModel] = {}  # by the seconds after which a reply is late
        self.contexts: Contexts | None = None  # what linear policies learn from; None: there is no database
        self.conflicts: dict[str, float] = {}  # by policy: how much the labels speak against its prior
        self.variants: tuple[Learner, ...] = ()  # of experiments, with posteriors of their own
        self._questioned: dict[str, float] = {}  # when that was worked out
        self._setup: Setup | None = None
        self._at = float("-inf")
        self._labels = 0.0
        self._changes = -1
        self._fitting = asyncio.Lock()  # one after the other, so that no older fit takes the place of a newer one

    def told(self, restarts: Sequence[ArmRestart], calibration: Calibration) -> None:
        """What is known of changed models and of the heuristics; a change of either calls for a new fit."""
        if (tuple(restarts), calibration) != (self._restarts, self._calibration):
            if tuple(restarts) != self._restarts:
                self._at = float("-inf")  # at once: what is no longer true is decided on
            self._restarts, self._calibration = tuple(restarts), calibration
            self._changes = -1

    async def measure(self, database: Database, setup: Setup) -> None:
        """Read how long the models' replies are now, and how often they come late."""
        limits = {late_limit(policy) for policy in setup.policies.values()} - {0.0}
        tokens = await database.read(output_tokens)
        late = {after_s: await database.read(late_share, after_s) for after_s in sorted(limits)}
        if (tokens, late) != (self._tokens, self._late):
            self._tokens, self._late = tokens, late
            self._changes = -1

    async def take_over(self, variants: tuple[Learner, ...], contexts: Contexts | None, setup: Setup) -> None:
        """Fit for these variants, too, and learn in common from these labels, beginning at once."""
        async with self._fitting:
            self.variants, self.contexts = variants, contexts
            await self._fit(setup, time.time())

    async def fresh(self, setup: Setup) -> None:
        """Fit now, if anything was learned since the last time; a fit that is under way is waited for."""
        async with self._fitting:
            if self._knowledge.ledger.changes != self._changes:
                await self._fit(setup, time.time())

    def due(self, setup: Setup, now: float) -> bool:
        """Whether enough has changed since the last fit; never while one is under way."""
        if self._fitting.locked():
            return False
        ledger, since = self._knowledge.ledger, now - self._at
        if setup is not self._setup or since >= _AT_LEAST_EVERY_S:
            return True
        if ledger.labels - self._labels >= setup.settings.learning.fit_labels:
            return True
        return ledger.changes != self._changes and since >= setup.settings.learning.fit_every_s

    async def refresh(self, setup: Setup, now: float | None = None) -> None:
        """Fit every policy of `setup` that has estimates. Never raises: a failure is logged and counted."""
        async with self._fitting:
            await self._fit(setup, time.time() if now is None else now)

    async def _fit(self, setup: Setup, now: float) -> None:
        ledger = self._knowledge.ledger
        self._setup, self._at, self._labels, self._changes = setup, now, ledger.labels, ledger.changes
        for gone in self.conflicts.keys() - setup.policies.keys():
            del self.conflicts[gone]
            self._metrics.prior_conflict(gone, 0.0)
        policies = [policy for policy in setup.policies.values() if policy.fits]
        if not policies:
            return
        names, memory = [arm.name for arm in setup.arms], setup.settings.learning.memory
        learners = [Learner("", policy.name, self.contexts) for policy in policies]
        for namespace, name, contexts in (*learners, *self.variants):
            policy = setup.policies.get(name)
            if policy is None or not policy.fits:
                continue  # a variant whose policy has nothing to fit, or is gone
            started = time.perf_counter()
            table = ledger.table(namespace)
            look_back = partial(faded, table, names, now / _HOUR_S, memory, self._restarts, self._calibration)
            try:
                late = self._late.get(late_limit(policy), {})
                history = (await asyncio.to_thread(look_back))._replace(output_tokens=self._tokens, late=late)
                if isinstance(policy, LinearThompson):
                    contents = await self._regressed(policy, contexts, setup.arms, history, memory, now)
                else:
                    contents = await asyncio.to_thread(fitted, policy, setup.arms, history)
                self._knowledge.take_fit(namespace, policy.name, contents)
                if (
                    isinstance(policy, PooledThompson)
                    and namespace == ""
                    and now - self._questioned.get(policy.name, 0.0) >= _QUESTION_EVERY_S
                ):
                    self._questioned[policy.name] = now
                    conflict = await asyncio.to_thread(policy.prior_conflict, setup.arms, history)
                    self._tell_conflict(policy.name, conflict)
            except Exception:  # learning may never break serving, whatever is in a cell
                log.exception("policy %s could not be fitted; it decides on its last fit", policy.name)
                self._metrics.learner_error("fit")
                continue
            self._metrics.fitted(time.perf_counter() - started)

    def _tell_conflict(self, policy: str, conflict: float) -> None:
        if conflict >= _STRONG_CONFLICT > self.conflicts.get(policy, 0.0):
            log.warning(
                "the labels speak against the prior of policy %s (log likelihood ratio %.1f): models differ from it "
                "more than its spread says. The labels are believed; look at its prior_means or prior_file",
                policy,
                conflict,
            )
        self.conflicts[policy] = conflict
        self._metrics.prior_conflict(policy, conflict)

    async def _regressed(
        self, policy: LinearThompson, contexts: Contexts | None, arms: Sequence[Arm], history: History,
        memory: Memory, now: float,
    ) -> dict[Cell, str]:  # fmt: skip
        if contexts is None:
            return {}
        try:
            labelled = await contexts.labelled(now, memory.label_half_life_days)
        except StorageUnavailable:
            self._changes = -1  # look again soon, though nothing new is learned
            raise
        if contexts is self.contexts:
            self._knowledge.typical = await asyncio.to_thread(typical, labelled)
        weigh = partial(counted, labelled, [arm.name for arm in arms], now / _HOUR_S, memory, self._restarts)
        return await asyncio.to_thread(regressed, policy, arms, labelled, weigh, history)


def fitted(policy: Policy, arms: Sequence[Arm], history: History) -> dict[Cell, str]:
    """The content of each cell's beliefs; makes their probabilities known beforehand, so that a decision looks up."""
    contents = {}
    for cell, estimates in policy.estimates(arms, history).items():
        contents[cell] = encode_estimates(estimates)
        policy.probabilities(PromptProfile(task_type=cell[0], tier=cell[1]), arms, Beliefs("", {}, estimates))
    return contents


def regressed(
    policy: LinearThompson, arms: Sequence[Arm], labelled: Labelled, weigh: Callable[[], Array], history: History
) -> dict[Cell, str]:
    """The content of the regressions, the same for every cell; reads it beforehand, so that a decision multiplies."""
    content = encode_regressions(policy.regressions(arms, labelled, weigh(), history))
    policy.probabilities(PromptProfile(task_type="Other", tier="medium"), arms, decode(content))
    return {(task, tier): content for task in TASK_TYPES for tier in PROMPT_TIERS}
