"""What a process makes of the experiments in the database: posteriors, fits and budgets stand before anybody is in."""

import asyncio
import logging
from collections.abc import Mapping, Sequence

from bandit.history import Cell
from bandit.vocabulary import PROMPT_TIERS, TASK_TYPES
from service.errors import StorageUnavailable
from service.experiments.assigning import Standing, standing
from service.experiments.design import namespace_of, snapshot_of
from service.experiments.lifecycle import Begun, Experiment, fold, merged, newer
from service.experiments.seeds import base_of
from service.learning.beliefs import decode, encode, encode_estimates, encode_regressions
from service.learning.contexts import COMMON, FOREVER, Contexts, Heard
from service.learning.fitting import Fitting, Learner
from service.learning.knowledge import Knowledge
from service.money.budgets import Budgets, Funded
from service.setup import Setup
from service.storage.database import Database

log = logging.getLogger("armwise")


class Following:
    """Reads the steps of experiments, and makes ready what their variants decide on. Belongs to the event loop."""

    def __init__(self, database: Database, knowledge: Knowledge, fitting: Fitting, budgets: Budgets) -> None:
        self.standing = Standing()
        self._database = database
        self._knowledge = knowledge
        self._fitting = fitting
        self._budgets = budgets
        self._contexts: dict[Heard, Contexts] = {}
        self._begun: set[str] = set()  # namespaces that stand
        self._reading = asyncio.Lock()

    async def refresh(self, setup: Setup) -> bool:
        """Do as the experiments stand now; says whether something of them could not be read.

        Raises:
            StorageUnavailable: the database could not be read; what stood before stays.
        """
        async with self._reading:
            steps = await self._database.read(newer, self.standing.mark)
            if steps is None:
                return self._damaged
            found, unreadable = await asyncio.to_thread(fold, steps)
            broken = frozenset([one.name for one in found.values() if one.standing and not await self._stands(one)])
            mark = max((step.id for step in steps), default=0)
            await self._take_over(standing(found, mark, unreadable, broken), setup)
            return self._damaged

    @property
    def _damaged(self) -> bool:
        return self.standing.unreadable > 0 or bool(self.standing.broken)

    async def _stands(self, one: Experiment) -> bool:
        """Make ready what an experiment's variants are decided on; False when what it began with is damaged."""
        if self._begun.issuperset(_namespaces(one)):
            return True
        try:
            if one.design.mode == "own":
                base = await base_of(self._database, one.name)
                for namespace in _namespaces(one):
                    self._knowledge.begin(namespace, base)
            elif one.design.mode == "frozen":
                self._knowledge.hold(snapshot_of(one.design), *await asyncio.to_thread(_held, one.begun))
        except StorageUnavailable:
            raise
        except Exception:  # its requests are served as outside of it
            log.exception("what the experiment %s began with cannot be read; nobody takes part. Stop it", one.name)
            return False
        return True

    async def _take_over(self, now: Standing, setup: Setup) -> None:
        """Fits and budgets first, then assignments, and last of all the end of what is over."""
        wanted = {namespace for one in now.kept for namespace in _namespaces(one)}
        heard = merged(now.experiments)
        self._knowledge.listen(heard)
        self._budgets.variants = _funded(now.kept)
        learners, common = self._learners(now, heard)
        if learners != self._fitting.variants or common is not self._fitting.contexts:
            await self._fitting.take_over(learners, common, setup)
        self.standing = now
        for namespace in self._begun - wanted:
            self._knowledge.end(namespace)
        self._begun = wanted

    def _learners(self, now: Standing, heard: Sequence[str]) -> tuple[tuple[Learner, ...], Contexts]:
        """Who is fitted beside the policies of the settings, and what is learned from in common."""
        common: Heard = (*COMMON, *((namespace, FOREVER) for namespace in heard))
        wanted: dict[Heard, Contexts] = {common: self._contexts_of(common)}
        learners = []
        for one in now.kept:
            if one.design.mode != "own":
                continue
            started_at = one.started_at or 0.0
            began = tuple((namespace, started_at) for namespace in ("", *merged(now.experiments, before=started_at)))
            for variant in one.design.variants:
                namespace = namespace_of(one.design, variant)
                of_variant: Heard = (*began, (namespace, FOREVER))
                wanted[of_variant] = self._contexts_of(of_variant)
                learners.append(Learner(namespace, variant.policy, wanted[of_variant]))
        self._contexts = wanted
        return tuple(learners), wanted[common]

    def _contexts_of(self, heard: Heard) -> Contexts:
        return self._contexts.get(heard) or Contexts(self._database, heard)


def _namespaces(one: Experiment) -> tuple[str, ...]:
    """What the variants of an experiment are decided on, beside the common posterior."""
    match one.design.mode:
        case "own":
            return tuple(namespace_of(one.design, variant) for variant in one.design.variants)
        case "frozen":
            return (snapshot_of(one.design),)
        case "shared":
            return ()


def _funded(kept: Sequence[Experiment]) -> dict[str, Funded]:
    found: dict[str, Funded] = {}
    for one in kept:
        for variant in one.design.variants if one.design.mode != "shared" else ():
            own = namespace_of(one.design, variant)
            reads = own if one.design.mode == "own" else snapshot_of(one.design)
            found[own] = Funded(variant.policy, reads, variant.share)
    return found


def believed_at_start(one: Experiment, knowledge: Knowledge) -> Begun:
    """What the policies of an experiment's variants believe at this moment, when it is to stay so."""
    if one.design.mode != "frozen" or one.started_at is not None:
        return Begun()
    contents: dict[str, str] = {}

    def kept(content: str) -> str:
        version = decode(content).version
        contents[version] = content
        return version

    fits: dict[str, dict[str, str]] = {}
    for policy in {variant.policy for variant in one.design.variants}:
        for (task, tier), beliefs in knowledge.fit("", policy).items():
            linear = beliefs.regressions
            content = encode_regressions(linear) if linear else encode_estimates(beliefs.estimates)
            fits.setdefault(policy, {})[f"{task}|{tier}"] = kept(content)
    evidence: dict[str, str] = {task: kept(encode(knowledge.latest("", task).evidence)) for task in TASK_TYPES}
    return Begun(contents=contents, fits=fits, evidence=evidence)


def _held(begun: Begun) -> tuple[Mapping[str, str], Mapping[str, Mapping[Cell, str]]]:
    """What was believed at the start: evidence by task type, and the content of each policy's cells."""
    cells: dict[str, Cell] = {f"{task}|{tier}": (task, tier) for task in TASK_TYPES for tier in PROMPT_TIERS}
    evidence = {task: begun.contents[version] for task, version in begun.evidence.items()}
    fits = {
        policy: {cells[name]: begun.contents[version] for name, version in of_policy.items() if name in cells}
        for policy, of_policy in begun.fits.items()
    }
    return evidence, fits
