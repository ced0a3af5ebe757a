"""The parts of a running service, joined in `service.app`, and what more than one handler does with them."""

import asyncio
import logging
import os
import time
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from service.auth import Keyring
from service.breakers import Breakers
from service.classifiers.classifying import Classifying
from service.classifiers.models import plan_of
from service.configuration import difference, read_settings
from service.decide import Circumstances, Decision, decide, wanted_policy
from service.drift.watching import Watching
from service.errors import StorageUnavailable
from service.experiments.exposures import columns_of
from service.experiments.following import Following
from service.learning.controls import fold, newer
from service.learning.fitting import Fitting
from service.learning.knowledge import Knowledge
from service.metrics.catalogue import Metrics
from service.money.budgets import Budgets
from service.probes.judging import Judging
from service.profiles import text_to_classify
from service.providers import Providers
from service.quality.newest import Newest
from service.quality.readings import Reader
from service.quality.repeats import Repeats
from service.setup import Setup, create_setup
from service.storage.database import Database
from service.storage.prompts import prompt_row
from service.storage.writer import Writer
from service.wire import ChatRequest, Wishes

log = logging.getLogger("armwise")

_DAY_S = 86_400.0


class Parts:
    """Everything a handler may use. `setup` and `keyring` are replaced whole; a request keeps the one it began with."""

    def __init__(
        self, setup: Setup, database: Database, knowledge: Knowledge, metrics: Metrics, config: Path | None
    ) -> None:
        self.setup = setup
        self.database = database
        self.knowledge = knowledge
        self.metrics = metrics
        self.config = config  # the settings file; None: defaults
        window_s = setup.settings.rewards.window_days * _DAY_S
        self.writer = Writer(
            database, setup.settings.database, knowledge.fold, window_s=window_s, took=metrics.committed
        )
        self.budgets = Budgets()
        self.breakers = Breakers(setup, metrics)
        self.fitting = Fitting(knowledge, metrics)
        self.experiments = Following(database, knowledge, self.fitting, self.budgets)
        self.watching = Watching(database, self.writer, metrics)
        self.classifying = Classifying(metrics)
        self.providers = Providers()
        self.judging = Judging(self.providers, self.writer, metrics)
        self.keyring = Keyring(())
        self.repeats = Repeats(setup.settings.quality.repeat_window_s)
        self.reader = Reader()
        self.newest = Newest(database, metrics, self.after_reply)
        self.started_at = time.time()
        self._stored_configs: set[str] = set()
        self._reloading = asyncio.Lock()
        self._afterwards: set[asyncio.Task[None]] = set()

    @property
    def degraded(self) -> bool:
        """True while the database takes no writes: we serve by the safe policy and learn nothing."""
        return not self.writer.healthy

    async def decide(self, setup: Setup, chat: ChatRequest, key_id: str) -> Decision:
        """Classify `chat`, and decide which model answers it.

        Raises:
            NotFound: the model or policy asked for does not exist.
            NoEligibleModel: every model is excluded; carries the reasons.
        """
        wanted_policy(setup, chat.model, chat.router or Wishes())  # a wrong name is refused before any work
        settings = setup.settings.classifier
        classified = await self.classifying.classify(text_to_classify(chat, settings), settings)
        now = time.time()
        circumstances = Circumstances(
            now=now,
            key_id=key_id,
            key_name=self.keyring.name_of(key_id),
            degraded=self.degraded,
            off=self.knowledge.controls.off is not None,
            open_breakers=self.breakers.shut,
            terms_of=lambda policy, account: self.budgets.terms(policy, now, account),
            standing=self.experiments.standing,
        )
        return decide(setup, self.knowledge, chat, classified, circumstances)

    async def reload_controls(self) -> None:
        """Do as the owner switched, here or on another replica.

        Raises:
            StorageUnavailable: the database could not be read.
        """
        rows = await self.database.read(newer, self.knowledge.controls.mark)
        if rows is not None:
            found = await asyncio.to_thread(fold, *rows)
            if found.mark > self.knowledge.controls.mark:  # else somebody who read later was faster
                self.knowledge.control(found)
                if found.unreadable:
                    self.metrics.learner_error("controls")
        in_force = self.knowledge.controls
        self.breakers.obey(in_force.breakers_closed)
        self.metrics.controlled(off=in_force.off is not None, held=len(in_force.since), disabled=len(in_force.disabled))

    async def reload_experiments(self) -> None:
        """Do as the experiments stand, here or on another replica.

        Raises:
            StorageUnavailable: the database could not be read.
        """
        before = self.experiments.standing
        unreadable = await self.experiments.refresh(self.setup)
        if unreadable and self.experiments.standing is not before:
            self.metrics.learner_error("experiments")

    def begin_storing(self, chat: ChatRequest, decision: Decision, setup: Setup) -> "asyncio.Future[None] | None":
        """Start to commit a decision, and its prompt when that is kept; None when the database takes no writes now."""
        if decision.method == "degraded":
            return None
        if setup.version not in self._stored_configs:
            storing = self.writer.add_config(setup.version, setup.content)
            storing.add_done_callback(partial(self._config_stored, setup.version))
        version = decision.choice.beliefs_version
        beliefs = (version, self.knowledge.content(version))
        return self.writer.add_decision(decision_row(decision), beliefs, prompt_row(chat, decision, setup.settings))

    def _config_stored(self, version: str, storing: "asyncio.Future[None]") -> None:
        if not storing.cancelled() and storing.exception() is None:
            self._stored_configs.add(version)

    async def stored(self, storing: "asyncio.Future[None] | None", decision: Decision) -> bool:
        """Wait for a decision's commit; False when the database did not take it, which never stops its reply."""
        started = time.perf_counter()
        try:
            if storing is not None:
                await asyncio.shield(storing)
                self.metrics.stored(time.perf_counter() - started)
                return True
        except StorageUnavailable:
            log.warning("decision %s was not stored: the database takes no writes", decision.id)
        self.metrics.degraded()
        return False

    async def reload(self) -> list[str]:
        """Read the settings file again and take it over; sentences saying what changed.

        Requests in flight end with the setup they began with. What was learned stays: it is kept by model name.

        Raises:
            ConfigurationError: the file has mistakes; nothing changes.
        """
        async with self._reloading:
            settings = await asyncio.to_thread(read_settings, self.config, os.environ)
            setup = await asyncio.to_thread(create_setup, settings)
            plan = await asyncio.to_thread(plan_of, settings.classifier)
            await self.providers.prepare(setup.models.values())
            await self.fitting.refresh(setup)
            changes = difference(self.setup.settings, settings)
            self.setup = setup
            self.breakers.take_over(setup)
            self.classifying.take_over(plan)
            self.writer.window_s = settings.rewards.window_days * _DAY_S
            self.repeats.window_s = settings.quality.repeat_window_s
        return changes

    def after_reply(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work` when the reply has left; shutdown waits for it."""
        task = asyncio.create_task(work)
        self._afterwards.add(task)
        task.add_done_callback(self._afterwards.discard)

    async def settled(self) -> None:
        """Wait until all work after replies is done."""
        while self._afterwards:
            await asyncio.gather(*self._afterwards, return_exceptions=True)


def decision_row(decision: Decision) -> dict[str, object]:
    """A decision as its database row: what is searched for as columns, all of it as `detail`."""
    choice = decision.choice
    return {
        "id": decision.id,
        "created_at": decision.created_at,
        "key_id": decision.caller.key_id,
        "method": decision.method,
        "policy": choice.policy,
        "namespace": decision.namespace,
        "task_type": decision.profile.task_type,
        "tier": decision.profile.tier,
        "arm": choice.arm,
        "served_arm": None,
        "propensity": choice.propensity,
        "explored": choice.propensity < max(choice.probabilities),
        "routing_s": decision.classify_s + decision.decide_s,
        "beliefs_version": choice.beliefs_version,
        "config_version": decision.config_version,
        "session": decision.caller.session,
        "user": decision.caller.user,
        "detail": msgspec.json.encode(decision).decode(),
        **columns_of(decision.assigned),
    }
