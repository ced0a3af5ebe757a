"""What follows a reply: meter it, examine it, learn from what the heuristics say. Never before the reply has left."""

import asyncio
import logging
import time
from dataclasses import dataclass

import msgspec

from bandit.costs import call_cost
from bandit.vocabulary import Reward
from service.complete import Attempt
from service.decide import Decision
from service.errors import StorageUnavailable
from service.learn import Measurement
from service.learning.calibrations import HEURISTICS_SOURCE, READING_METRIC
from service.parts import Parts
from service.profiles import estimated_tokens
from service.quality import Exchange, Finding
from service.quality.examine import examine, reward_of
from service.replies import Said, exchange_of, said_in_stream
from service.setup import Setup
from service.wire import ChatRequest, Usage

log = logging.getLogger("armwise")

QUALITY_METRIC = "quality"
_LARGE_STREAM = 100_000  # bytes of events from which a stream's copy is read in a thread: about 0.4 ms of work
_LARGE_EXCHANGE = 8_000  # characters from which the heuristics read prompt and reply in a thread: likewise
_SAY_NOTHING_OF_QUALITY = frozenset({"cancelled", "rejected", "credentials", "unknown_model", "unsupported"})


def usage_of(said: Said, decision: Decision) -> Usage:
    """The tokens the provider counted, else an estimate."""
    if said.usage is not None:
        return said.usage
    return Usage(prompt_tokens=decision.profile.prompt_tokens, completion_tokens=estimated_tokens(said.text))


def attempt_row(attempt: Attempt, decision: Decision, usage: Usage, cost_usd: float) -> dict[str, object]:
    """An attempt as its database row."""
    return {
        "decision_id": decision.id,
        "step": attempt.step,
        "arm": attempt.arm,
        "outcome": attempt.outcome,
        "status": attempt.status,
        "streamed": attempt.streamed,
        "started_at": attempt.started_at,
        "latency_s": attempt.latency_s,
        "first_token_s": attempt.first_token_s,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "cached_tokens": usage.cached_tokens,
        "cost_usd": cost_usd,
        "error": attempt.error,
    }


def cost_of(setup: Setup, arm: str, usage: Usage) -> float:
    """USD of a call at the prices of `setup`."""
    model = setup.models[arm].arm()
    return call_cost(model, usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)


@dataclass(frozen=True, slots=True)
class Ended:
    """A request that is over: its reply has left, or it never got one."""

    setup: Setup
    request: ChatRequest
    decision: Decision
    attempts: list[Attempt]  # none, when the client went away before the first
    stored: bool  # whether the decision was committed


async def settle(parts: Parts, ended: Ended, said: Said | bytes) -> None:
    """Store the attempts, examine the reply and learn from it. `said` is the reply, or the copy of a stream."""
    if not ended.attempts:
        parts.budgets.settled(ended.decision.id, 0.0, 0.0)
        return
    try:
        await _settle(parts, ended, said)
    except StorageUnavailable:
        log.warning("what followed decision %s was not stored: the database takes no writes", ended.decision.id)
        parts.metrics.learner_error("store")
    except Exception:  # learning may never break serving; what failed is counted and shown
        log.exception("what followed decision %s failed", ended.decision.id)
        parts.metrics.learner_error("settle")


async def _settle(parts: Parts, ended: Ended, said: Said | bytes) -> None:
    if isinstance(said, bytes):
        said = await asyncio.to_thread(said_in_stream, said) if len(said) > _LARGE_STREAM else said_in_stream(said)
    decision, last = ended.decision, ended.attempts[-1]
    rows, spent = [], 0.0
    for attempt in ended.attempts:
        usage = usage_of(said, decision) if attempt is last and (attempt.outcome == "ok" or said.text) else Usage()
        cost = cost_of(ended.setup, attempt.arm, usage)
        rows.append(attempt_row(attempt, decision, usage, cost))
        spent += cost
        parts.metrics.attempt_done(attempt, usage, cost)
        if attempt is not last:
            parts.metrics.fell_back(attempt)
    waited_s = sum(attempt.latency_s for attempt in ended.attempts[:-1]) + (last.first_token_s or last.latency_s)
    parts.budgets.settled(decision.id, spent, waited_s)
    if not ended.stored:
        return
    measurements: list[Measurement] = []
    if ended.setup.settings.quality.enabled:
        measurements = await measured(parts, ended, said)
        if last.outcome == "ok":  # a client that tries again after a failure says nothing of the earlier reply
            measurements += repeated(parts, ended)
    parts.judging.consider(ended, said, parts.watching.suspected)
    await parts.writer.add_later(rows, measurements)


async def measured(parts: Parts, ended: Ended, said: Said) -> list[Measurement]:
    """What the heuristics say of each attempt: of a failed one that it failed, of the last one what its reply shows."""
    quality = ended.setup.settings.quality
    measurements = []
    for attempt in ended.attempts:
        failure = "" if attempt.outcome == "ok" else attempt.outcome
        if failure in _SAY_NOTHING_OF_QUALITY:
            continue
        is_last = attempt is ended.attempts[-1]
        exchange = exchange_of(ended.request, said if is_last else Said(), failure)
        large = _characters(exchange) > _LARGE_EXCHANGE
        findings = await asyncio.to_thread(examine, exchange, quality) if large else examine(exchange, quality)
        if failure and not any(finding.hard for finding in findings):
            continue  # the heuristic for failures is switched off
        for finding in findings:
            parts.metrics.heuristic_fired(finding.heuristic)
        reward = reward_of(findings, quality)
        user = "" if is_last else f"step {attempt.step}"
        measurements.append(measurement_of(ended.decision, reward, findings, arm=attempt.arm, user=user))
        if is_last and not any(finding.hard for finding in findings):
            measurements.append(reading_of(parts, ended, findings, arm=attempt.arm))
    return measurements


def _characters(exchange: Exchange) -> int:
    return sum(map(len, (exchange.prompt, exchange.system, exchange.reply))) + sum(
        len(call.arguments) for call in exchange.tool_calls
    )


def reading_of(parts: Parts, ended: Ended, findings: list[Finding], *, arm: str) -> Measurement:
    """The heuristics' reading of the reply, with the weights in force; a hard failure has none, it is a label."""
    value, detail = parts.reader.read(findings, ended.setup.settings.quality)
    return Measurement(
        decision_id=ended.decision.id,
        metric=READING_METRIC,
        source=HEURISTICS_SOURCE,
        value=value,
        channel="reading",
        detail=detail,
        arm=arm,
        at=time.time(),
    )


def measurement_of(
    decision: Decision, reward: Reward, findings: list[Finding], *, arm: str | None = None, user: str = ""
) -> Measurement:
    """A reward of the heuristics, for the arm that gave the reply."""
    return Measurement(
        decision_id=decision.id,
        metric=QUALITY_METRIC,
        source=HEURISTICS_SOURCE,
        user=user,
        value=reward.value,
        weight=reward.weight,
        channel=reward.channel,
        detail=msgspec.json.encode({finding.heuristic: finding.detail for finding in findings}).decode(),
        arm=arm,
        at=time.time(),
    )


def repeated(parts: Parts, ended: Ended) -> list[Measurement]:
    """The same user asking the same again counts against the earlier reply."""
    decision, quality = ended.decision, ended.setup.settings.quality
    principal = decision.caller.session or decision.caller.user
    if not principal:
        return []  # one key serves many people; without a name the same question is no signal
    principal = f"{decision.caller.key_id}/{principal}"
    repeat = parts.repeats.seen(principal, ended.request.last_user_text, decision.id, decision.created_at)
    if repeat is None:
        return []
    parts.metrics.repeated()
    parts.metrics.heuristic_fired(repeat.signal)
    setting = quality.heuristics.get(repeat.signal)
    if setting is not None and not setting.enabled:
        return []
    weight = repeat.weight if setting is None or setting.weight is None else setting.weight
    if weight <= 0:
        return []
    return [
        Measurement(
            decision_id=repeat.decision_id,
            metric=QUALITY_METRIC,
            source=HEURISTICS_SOURCE,
            user="repeat",
            value=0.0,
            weight=weight,
            channel="heuristic",
            detail=msgspec.json.encode({repeat.signal: "the same question came again"}).decode(),
            at=decision.created_at,
        )
    ]
