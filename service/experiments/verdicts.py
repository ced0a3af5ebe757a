"""The look at running experiments: units whose time is over are closed, the verdict is drawn, and harm ends it.

One replica looks at a time. Everything is done in a thread on connections of its own, so neither the event loop nor
the writer waits for it. What is shown is what stops: the report that anybody may ask for.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from bandit import experiments as plan
from service.errors import Conflict, StorageUnavailable
from service.experiments.holdout import Headline, headline, look_at_holdout
from service.experiments.lifecycle import Asked, Begun, Experiment, current, take
from service.experiments.looks import Look, claim, is_news, keep_look, last_looks, look_of
from service.experiments.measuring import close_due, closed_units, counts
from service.settings import Settings
from service.setup import database_url
from service.storage.database import Database, is_conflict

if TYPE_CHECKING:  # only for types: the parts join what is made here
    from service.parts import Parts

log = logging.getLogger("armwise")

T = TypeVar("T")

WHO = "armwise"  # in the audit log, where nobody else did it
_TRIES = 4  # of a transaction that meets another process at the same row
_LIVE = ("running", "paused", "stopped")


class News(NamedTuple):
    """What is to be told of one experiment after a look."""

    experiment: str
    look: Look
    changed: bool  # another verdict than before, or stopped


class Seen(NamedTuple):
    """What is known of all experiments that are not over."""

    last: dict[str, Look]
    worth: Headline | None  # of routing, against the holdout
    news: list[News]
    damaged: int  # rows that cannot be read, and faults of single experiments


async def apart(url: str, work: Callable[[Database], Coroutine[Any, Any, T]]) -> T:
    """Do `work` in a thread with an event loop and connections of its own: on Postgres, too, rows are read there.

    Raises:
        StorageUnavailable: the database cannot be reached.
    """

    async def run() -> T:
        database = Database(url, 1)
        try:
            return await work(database)
        finally:
            await database.close()

    return await asyncio.to_thread(lambda: asyncio.run(run()))


async def look_at_all(database: Database, settings: Settings, now: float) -> Seen:
    """Look at every experiment that is not over and at the holdout, unless another replica just did.

    Returns what was last seen of each experiment, also by others.

    Raises:
        StorageUnavailable: the database cannot be reached; the next look goes on where this one ended.
    """
    experiments = await database.read(current)
    live = [one for one in experiments.values() if one.state in _LIVE and one.started_at is not None]
    names, held_out = [one.name for one in live], settings.holdout.share > 0.0
    mine = partial(claim, now=now, every_s=settings.experiments.look_every_s)
    news: list[News] = []
    damaged = 0
    if (live or held_out) and await _written(database, mine):
        last = await database.read(last_looks, names)
        for one in live:
            with _counting(one.name) as faults:
                found, unreadable = await look_at(database, one, last.get(one.name), now)
                damaged += unreadable
                news += [found] if found else []
            damaged += len(faults)
        if held_out:
            with _counting("the holdout") as faults:
                await look_at_holdout(database, settings, now)
            damaged += len(faults)
    return Seen(await database.read(last_looks, names), await database.read(headline), news, damaged)


@contextmanager
def _counting(what: str) -> Generator[list[Exception], None, None]:
    """Log a fault and go on: others are looked at all the same. A database that is away is away for all."""
    faults: list[Exception] = []
    try:
        yield faults
    except StorageUnavailable:
        raise
    except Exception as error:
        log.exception("the look at %s failed", what)
        faults.append(error)


async def look_at(database: Database, one: Experiment, last: Look | None, now: float) -> tuple[News | None, int]:
    """Close what is due, look, keep what was seen, stop what must end.

    Returns what is to be told, None when nothing has changed since the last look, and how many rows are damaged.

    Raises:
        StorageUnavailable: the database cannot be reached.
    """
    await close_due(database, one, now)
    closed, _ = await database.read(counts, one.name)
    if last is not None and last.units == closed and not _turns(one, last.at, now):
        return None, 0
    report, damaged = await report_on(database, one, now)
    why = reason_to_stop(report, one) if one.standing else ""
    look = look_of(report, now, closed, why)
    if not is_news(look, last):
        return None, damaged

    def write(connection: Connection) -> None:
        keep_look(connection, one.name, look)
        if why:
            asked = Asked(action="stop", note=f"{why} {report.sentence}"[:1_000])
            take(connection, one.name, asked, Begun(), WHO, now)

    try:
        await _written(database, write)
    except Conflict:  # the owner stopped it meanwhile
        why, look = "", msgspec.structs.replace(look, stopped="")
        await _written(database, partial(keep_look, experiment=one.name, look=look))
    before = "keep_going" if last is None else last.verdict
    return News(one.name, look, changed=bool(why) or look.verdict != before), damaged


async def _written(database: Database, work: Callable[[Connection], T]) -> T:
    """Write, once more where another process wrote at the same moment."""
    for _ in range(_TRIES):
        try:
            return await database.write(work)
        except DBAPIError as error:
            if not is_conflict(error):
                raise
    return await database.write(work)


def _turns(one: Experiment, before: float, now: float) -> bool:
    """Whether time alone may have changed the verdict since the last look."""
    design, ran_s = one.design, one.ran_s(now)
    return one.standing and (one.ran_s(before) < design.minimum_s <= ran_s or design.maximum_s <= ran_s)


async def report_on(database: Database, one: Experiment, now: float) -> tuple[plan.Report, int]:
    """What the closed units say, and how many rows could not be read.

    Raises:
        StorageUnavailable: the database cannot be reached.
    """
    found = await closed_units(database, one)
    return plan.report(one.design.plan(), found.units, one.ran_s(now)), found.damaged


def reason_to_stop(report: plan.Report, one: Experiment) -> str:
    """Why an experiment ends by itself, in words; empty: it goes on."""
    if report.sample_ratio_evidence > plan.SAMPLE_RATIO_ALARM:
        return "Stopped: units are not assigned as planned."
    if report.verdict == "kill":
        told = next(each for each in report.comparisons if each.variant == report.variant)  # by the sentence
        if any(guarded.state == "breached" for guarded in told.guardrails):
            return "Stopped: a guardrail is breached."
        return "Stopped: a variant is worse than the control."
    if report.elapsed_s >= one.design.maximum_s:
        return "Stopped: the longest time it may last is over."
    return ""


async def watch_experiments(parts: "Parts") -> None:
    """Look every `experiments.look_every_s` seconds, for ever."""
    while True:
        await asyncio.sleep(parts.setup.settings.experiments.look_every_s)
        settings = parts.setup.settings
        try:
            work = partial(look_at_all, settings=settings, now=time.time())
            seen = await apart(database_url(settings.database, os.environ), work)
        except StorageUnavailable as error:
            log.warning("nobody looks at experiments: %s", error)
            parts.metrics.learner_error("experiments")
        except Exception:  # the next look tries again; serving goes on
            log.exception("the look at experiments failed")
            parts.metrics.learner_error("experiments")
        else:
            _tell(parts, seen)


def _tell(parts: "Parts", seen: Seen) -> None:
    for _ in range(seen.damaged):
        parts.metrics.learner_error("experiments")
    parts.metrics.experiments(seen.last)
    parts.metrics.worth(seen.worth)
    variable = parts.setup.settings.drift.webhook_url_env
    for experiment, look, changed in seen.news:
        if not changed:
            continue
        text = f"experiment {experiment}: {look.stopped} {look.sentence}".replace(":  ", ": ")
        log.warning("%s", text)
        if look.stopped:
            parts.metrics.experiment_stopped()
        if variable:
            parts.watching.webhook.tell(
                variable, f"experiment {experiment}", {"text": text, "experiment": experiment, "look": look}
            )
