"""Noticing models that changed: what was learned since the last look is shown to a detector per model and stream."""

import asyncio
import logging
import time
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import Connection

from bandit.drift import ON_EVENT
from service.drift import watches
from service.drift.alarms import AlarmRow, insert_alarm, sentence, told
from service.drift.detecting import advanced, forgotten
from service.drift.watches import Memory, News
from service.drift.webhook import Webhook
from service.errors import StorageUnavailable, UnusableData
from service.metrics.catalogue import Metrics
from service.settings import Drift, Settings
from service.storage.database import Database
from service.storage.writer import Writer

if TYPE_CHECKING:  # only for types: the parts hold what is made here
    from service.parts import Parts

log = logging.getLogger("armwise")

Prices = dict[str, tuple[float, float, float | None]]  # model: USD per million tokens in, out, cached in

_SOON = 0.8  # of the time between two looks: if another replica looked within it, we need not
_CATCHING_UP_S = 0.05
_PRICE_NAMES = ("price_in", "price_out", "price_cached_in")


class Watching:
    """Looks for models that changed, tells of them, and knows which are suspected.

    `suspected` is replaced whole and may be read from any thread: models of which more feedback would help.
    """

    def __init__(self, database: Database, writer: Writer, metrics: Metrics) -> None:
        self.suspected: frozenset[str] = frozenset()
        self.webhook = Webhook(metrics.webhook)
        self._database = database
        self._writer = writer
        self._metrics = metrics
        self._priced: Settings | None = None  # whose prices were compared with those seen before

    async def look(self, settings: Settings, now: float) -> bool:
        """Take in what was learned since somebody last looked; True when there is more to take in at once.

        Raises:
            StorageUnavailable: the database cannot be read or written; the next look takes in what this one did not.
        """
        await self.compare(settings, now)
        news = await self._database.read(watches.read_news, now)
        self._tell_damage(news)
        if 0.0 <= now - news.memory.looked_at < _SOON * settings.drift.look_every_s and news.memory.caught_up:
            self._take(settings, news.memory)
            return False
        memory, alarms = await asyncio.to_thread(advanced, news, settings.drift, now)
        keep = partial(
            watches.keep,
            revision=news.revision, memory=memory, changes=news.changes, alarms=alarms, probes=news.probes,
        )  # fmt: skip
        if await self._writer.call(keep, lambda kept: self._announce(settings.drift, alarms if kept else ())):
            self._take(settings, memory)
        return not news.complete

    async def compare(self, settings: Settings, now: float) -> None:
        """Compare the configured models and their prices with those seen before, once for each settings.

        Raises:
            StorageUnavailable: nothing was stored; the next call compares again.
        """
        if self._priced is not settings:
            changed = partial(note_prices, prices=prices_of(settings), at=now)
            await self._writer.call(changed, partial(self._announce, settings.drift))
            self._priced = settings

    async def tell(self, settings: Settings, row: AlarmRow) -> None:
        """Store what the owner says of a model, and act on it.

        Raises:
            StorageUnavailable: nothing was stored.
        """
        await self._writer.call(partial(note_event, row=row), lambda _: self._announce(settings.drift, [row]))

    def rest(self) -> None:
        """Suspect nobody: detection is switched off."""
        self._metrics.suspected(dict.fromkeys(self.suspected, False))
        self.suspected = frozenset()

    def _take(self, settings: Settings, memory: Memory) -> None:
        flags = {model.name: model.name in memory.suspected for model in settings.models}
        before, self.suspected = self.suspected, frozenset(name for name, flag in flags.items() if flag)
        self._metrics.suspected(dict.fromkeys(before, False) | flags)  # one that was taken out of the settings, too

    def _announce(self, drift: Drift, rows: Iterable[AlarmRow]) -> None:
        for row in rows:
            log.warning("%s (%s)", sentence(row), row.id)
            if row.direction is not None and row.stream is not None:
                self._metrics.drift_alarm(row.arm, row.direction, row.stream)
            if drift.webhook_url_env:
                self.webhook.put(drift.webhook_url_env, row)

    def _tell_damage(self, news: News) -> None:
        if news.forgotten:
            log.error("what the detectors of change remembered cannot be read: they begin anew")
            self._metrics.learner_error("watch")
        if news.damaged:
            log.error("%d cells hold what Armwise never wrote: `armwise rebuild` makes them again", news.damaged)
            self._metrics.learner_error("watch")


async def watch(parts: "Parts") -> None:
    """Look every `drift.look_every_s` seconds, for ever."""
    more = False
    while True:
        await asyncio.sleep(_CATCHING_UP_S if more else parts.setup.settings.drift.look_every_s)
        settings, more = parts.setup.settings, False
        try:
            if not settings.drift.enabled:
                parts.watching.rest()
                await parts.watching.compare(settings, time.time())
                continue
            more = await parts.watching.look(settings, time.time())
        except StorageUnavailable as error:
            log.warning("nobody looks for models that changed: %s", error)
            parts.metrics.learner_error("watch")
        except Exception:  # the next look tries again; serving goes on
            log.exception("the look for models that changed failed")
            parts.metrics.learner_error("watch")


async def send_alarms(parts: "Parts") -> None:
    """Tell the webhook of changes, for ever."""
    await parts.watching.webhook.run()


def note_event(connection: Connection, row: AlarmRow) -> None:
    """Store an event; the detectors forget an arm that is another one now."""
    insert_alarm(connection, row)
    if row.event == "detected" or ON_EVENT[row.event].label_keep == 1.0:
        return
    try:
        revision, memory = watches.read_memory(connection, lock=True)
    except UnusableData:  # there is nothing to forget; the next look tells of it
        return
    if revision:
        content = msgspec.json.encode(forgotten(memory, row.arm, row.at)).decode()
        watches.replace_watch(connection, watches.DETECTORS, revision, content)


def prices_of(settings: Settings) -> Prices:
    """The prices of all models."""
    return {model.name: (model.price_in, model.price_out, model.price_cached_in) for model in settings.models}


def note_prices(connection: Connection, prices: Prices, at: float) -> list[AlarmRow]:
    """Remember models and prices, and store an event for each model that is new or had others before; these events.

    The first models of all are not new: there is nothing that they came later than.
    """
    watches.replace_watch(connection, watches.PRICES, 0, "{}")  # so that there is a row to lock
    revision, content = watches.read_watch(connection, watches.PRICES, lock=True)
    try:
        before = msgspec.json.decode(content, type=Prices)
    except msgspec.DecodeError:
        log.error("the prices seen before cannot be read: they are taken as unchanged")  # noqa: TRY400 - a sentence
        before = {}
    rows = [
        told(name, "price", at, _difference(before[name], price)) if name in before else told(name, "new", at)
        for name, price in prices.items()
        if before and before.get(name) != price
    ]
    for row in rows:
        note_event(connection, row)
    if before != {**before, **prices}:
        after = msgspec.json.encode({**before, **prices}).decode()
        watches.replace_watch(connection, watches.PRICES, revision, after)
    return rows


def _difference(before: Iterable[float | None], after: Iterable[float | None]) -> str:
    changes = zip(_PRICE_NAMES, before, after, strict=True)
    return ", ".join(f"{name} {_shown(old)} -> {_shown(new)}" for name, old, new in changes if old != new)


def _shown(price: float | None) -> str:
    return "none" if price is None else f"{price:g}"
