"""Canary probes: questions with known answers, asked of every model now and then, so that idle ones are watched too.

A probe is no decision and teaches no posterior. Its answers are rows of their own, which one detector reads. A call
that fails is no wrong answer.
"""

import asyncio
import logging
import re
import time
from collections.abc import Sequence
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from sqlalchemy import Connection, and_, bindparam, delete, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from bandit.costs import call_cost
from service.complete import decode_reply
from service.errors import StorageUnavailable, UpstreamFailure
from service.profiles import estimated_tokens
from service.providers import Providers
from service.replies import said_in_reply
from service.settings import AnyModel, Canary
from service.setup import Setup
from service.storage.tables import canaries, canary_leases
from service.wire import Usage

if TYPE_CHECKING:  # only for types: the parts hold the detectors, which read what is stored here
    from service.parts import Parts

log = logging.getLogger("armwise")

_LOOK_S = 1.0
_LONGEST_S = 60.0  # of one call, whatever the model's own limit: the other models wait for it
_MOST_CHARACTERS = 4_000  # of an answer that are looked at
_MOST_UNSEEN = 1_000
_STALE_S = 86_400.0  # an answer that no detector saw for as long is no news


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one probe."""

    name: str  # of the canary
    arm: str
    at: float  # when it was asked: seconds since 1970-01-01 UTC
    version: str  # of the canary: see `version_of`
    right: bool | None  # None: the call failed
    error: str = ""  # a FailureKind; empty when the call did not fail
    latency_s: float = 0.0
    cost_usd: float = 0.0

    @property
    def outcome(self) -> str:
        """In one word: right, wrong or failed."""
        return "failed" if self.right is None else "right" if self.right else "wrong"


class Probe(NamedTuple):
    """An answer as the detectors read it."""

    name: str
    arm: str
    at: float
    version: str
    right: bool


def version_of(canary: Canary) -> str:
    """Names what is asked and expected: answers to another question say nothing of a change."""
    content = msgspec.json.encode([canary.name, canary.prompt, canary.expects, canary.max_tokens])
    return blake2b(content, digest_size=8).hexdigest()


# In the database


def last_asked(connection: Connection) -> dict[tuple[str, str], float]:
    """When each canary was last asked of each model, by (canary, model)."""
    found = connection.execute(select(canary_leases.c.name, canary_leases.c.arm, canary_leases.c.asked_at))
    return {(name, arm): asked_at for name, arm, asked_at in found}


def claim(connection: Connection, *, name: str, arm: str, every_s: float, now: float) -> bool:
    """Take the right to ask now; False when somebody else asked in the last `every_s` seconds."""
    insert = _insert(connection, canary_leases).values(name=name, arm=arm, asked_at=now)
    before = canary_leases.c.asked_at
    statement = insert.on_conflict_do_update(
        index_elements=["name", "arm"],
        set_={"asked_at": insert.excluded.asked_at},
        where=or_(before <= now - every_s, before > now + every_s),  # that far ahead: a clock that was wrong
    )
    return connection.execute(statement).rowcount > 0


def store_answer(connection: Connection, answered: Answered) -> None:
    """Keep an answer; one that is kept already is left as it is."""
    # A call that failed says nothing of quality: there is nothing to see in it.
    row = {**msgspec.structs.asdict(answered), "seen": answered.right is None}
    connection.execute(_insert(connection, canaries).values(row).on_conflict_do_nothing())


def unseen(connection: Connection, now: float) -> list[Probe]:
    """Answers that no detector has seen, oldest first."""
    wanted = (
        select(canaries.c.name, canaries.c.arm, canaries.c.at, canaries.c.version, canaries.c.right)
        .where(canaries.c.at >= now - _STALE_S, canaries.c.seen.is_(False))
        .order_by(canaries.c.at)
        .limit(_MOST_UNSEEN)
    )
    return [Probe(*row) for row in connection.execute(wanted)]


def mark_seen(connection: Connection, probes: Sequence[Probe]) -> None:
    """Note that the detectors have seen these."""
    if probes:
        mine = [canaries.c[name] == bindparam(f"its_{name}") for name in ("name", "arm", "at")]
        rows = [{"its_name": probe.name, "its_arm": probe.arm, "its_at": probe.at} for probe in probes]
        connection.execute(update(canaries).where(*mine).values(seen=True), rows)


def newest(connection: Connection) -> list[Answered]:
    """The newest answer of each model to each canary."""
    latest = (
        select(canaries.c.name, canaries.c.arm, func.max(canaries.c.at).label("at"))
        .group_by(canaries.c.name, canaries.c.arm)
        .subquery()
    )
    same = and_(*(canaries.c[name] == latest.c[name] for name in ("name", "arm", "at")))
    wanted = select(canaries).join(latest, same).order_by(canaries.c.arm, canaries.c.name)
    found = connection.execute(wanted).mappings()
    return [msgspec.convert({str(name): value for name, value in row.items()}, Answered) for row in found]


def prune_answers(connection: Connection, before: float) -> int:
    """Drop answers that are older; returns how many."""
    return connection.execute(delete(canaries).where(canaries.c.at < before)).rowcount


def public(answered: Answered) -> dict[str, Any]:
    """An answer as the owner reads it."""
    return {
        "canary": answered.name,
        "model": answered.arm,
        "at": answered.at,
        "outcome": answered.outcome,
        "error": answered.error,
        "latency_s": answered.latency_s,
        "cost_usd": answered.cost_usd,
    }


def _insert(connection: Connection, table: Any) -> sqlite.Insert | postgresql.Insert:
    return sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)


# Asking


async def ask(providers: Providers, model: AnyModel, canary: Canary, at: float) -> Answered:
    """Ask a model, and mark its answer."""
    started = time.perf_counter()
    right, error, usage = None, "", Usage()
    try:
        async with asyncio.timeout(min(model.timeout_s, _LONGEST_S)):
            raw = await providers.of(model).complete(model, _body(model, canary))
        said = said_in_reply(decode_reply(raw))
    except TimeoutError:
        error = "timeout"
    except UpstreamFailure as failure:
        error = failure.kind
    else:
        right = await asyncio.to_thread(is_right, canary, said.text)
        usage = said.usage or Usage(estimated_tokens(canary.prompt), estimated_tokens(said.text))
    return Answered(
        name=canary.name,
        arm=model.name,
        at=at,
        version=version_of(canary),
        right=right,
        error=error,
        latency_s=time.perf_counter() - started,
        cost_usd=call_cost(model.arm(), usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens),
    )


def is_right(canary: Canary, answer: str) -> bool:
    """Whether the answer is what the canary expects."""
    return re.search(canary.expects, answer[:_MOST_CHARACTERS]) is not None


def _body(model: AnyModel, canary: Canary) -> bytes:
    body = {"model": model.upstream_model, "messages": [{"role": "user", "content": canary.prompt}]}
    return msgspec.json.encode({**body, "max_tokens": canary.max_tokens} if canary.max_tokens else body)


async def ask_due(parts: "Parts", setup: Setup) -> None:
    """Ask, one after the other, what nobody asked in its time.

    Raises:
        StorageUnavailable: nobody can tell what is due, or an answer was not stored.
    """
    asked = await parts.database.read(last_asked)
    for canary in setup.settings.drift.canaries:
        for model in setup.models.values():
            now = time.time()
            before = asked.get((canary.name, model.name))
            if before is not None and abs(now - before) < canary.every_s:
                continue
            mine = partial(claim, name=canary.name, arm=model.name, every_s=canary.every_s, now=now)
            if await parts.writer.call(mine):
                answered = await ask(parts.providers, model, canary, now)
                parts.metrics.canary(answered.arm, answered.outcome, answered.cost_usd)
                await parts.writer.call(partial(store_answer, answered=answered))


async def ask_canaries(parts: "Parts") -> None:
    """Ask every model every canary in its time, for ever."""
    while True:
        setup = parts.setup
        drift = setup.settings.drift
        await asyncio.sleep(min([_LOOK_S, *(canary.every_s for canary in drift.canaries)]))
        if not drift.enabled or not drift.canaries or parts.degraded:
            continue
        try:
            await ask_due(parts, setup)
        except StorageUnavailable as error:
            log.warning("canaries were not asked, or their answers not stored: %s", error)
            parts.metrics.learner_error("canary")
        except Exception:  # the next look goes on with what is due then; serving goes on
            log.exception("asking the canaries failed")
            parts.metrics.learner_error("canary")
