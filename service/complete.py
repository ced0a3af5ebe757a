"""Complete: walk a decision's plan until a model answers, plain or streamed.

A model that fails before its first content token is answered by the next one of the plan, those with an open breaker
last; the propensity of the decision stays that of the drawn arm. After the first token a stream is committed: a failure
then reaches the client as an error event.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

import msgspec

from bandit.breakers import Call
from service.breakers import Breakers
from service.decide import Decision
from service.errors import FailureKind, UpstreamFailure
from service.providers import Providers
from service.relay import Relay
from service.settings import AnyModel, OpenAICompatibleModel
from service.setup import Setup
from service.tracing.tracing import current, passed_on, received
from service.wire import ChatReply, Fields, reply_decoder, upstream_body

if TYPE_CHECKING:  # only when traces are sent
    from service.tracing.spans import AttemptSpan

Result = TypeVar("Result")


class Attempt(msgspec.Struct, kw_only=True):
    """One call to a provider."""

    step: int  # 0 is the drawn arm
    arm: str
    started_at: float  # seconds since 1970 UTC
    streamed: bool
    outcome: FailureKind | str = "ok"
    status: int = 200
    latency_s: float = 0.0
    first_token_s: float | None = None
    error: str = ""
    span: "AttemptSpan | None" = None  # only when traces are sent

    def fail(self, failure: UpstreamFailure, latency_s: float) -> None:
        """Write down how it failed. Not in the provider's words: they may repeat the prompt, and are not stored."""
        self.outcome, self.status, self.error = failure.kind, failure.status, failure.code or failure.kind
        self.latency_s = latency_s


class AllFailed(Exception):
    """Every model of the plan failed; `failure` is what the client is told."""

    def __init__(self, failure: UpstreamFailure) -> None:
        super().__init__(str(failure))
        self.failure = failure


class Completed(msgspec.Struct, kw_only=True):
    """A plain reply, as it came."""

    body: bytes
    reply: ChatReply


async def complete(
    setup: Setup, providers: Providers, breakers: Breakers, decision: Decision, fields: Fields, attempts: list[Attempt]
) -> Completed:
    """Get a plain reply. Each call is written into `attempts`, also when this is cancelled.

    Raises:
        AllFailed: no model of the plan answered.
    """

    async def call(model: AnyModel, attempt: Attempt, begun: Call) -> Completed:
        body = upstream_body(fields, model.upstream_model, ask_usage=False)
        raw = await providers.of(model).complete(model, body)
        reply = decode_reply(raw)
        breakers.succeeded(model.name, begun)
        if attempt.span is not None:
            attempt.span.answered(raw)
        return Completed(body=raw, reply=reply)

    return await _walk(setup, breakers, decision, attempts, call, streamed=False)


def decode_reply(raw: bytes) -> ChatReply:
    """The reply as we read it.

    Raises:
        UpstreamFailure: not a chat completion.
    """
    try:
        reply = reply_decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = f"The provider's answer is not a chat completion: {error}."
        raise UpstreamFailure("malformed", message) from error
    if not reply.choices:
        raise UpstreamFailure("malformed", "The provider's answer holds no choices.")
    return reply


class OpenStream(msgspec.Struct, kw_only=True):
    """A stream whose first content has arrived: from here on it belongs to its arm."""

    model: AnyModel
    relay: Relay
    upstream: AsyncGenerator[bytes, None]
    first: bytes  # events up to and including the first content
    attempt: Attempt
    opened: float  # time.perf_counter() at the call
    breakers: Breakers
    begun: Call


async def open_stream(
    setup: Setup, providers: Providers, breakers: Breakers, decision: Decision, fields: Fields,
    attempts: list[Attempt], *, show_usage: bool,
) -> OpenStream:  # fmt: skip
    """Call models until one sends its first content.

    Raises:
        AllFailed: no model of the plan did.
    """

    async def call(model: AnyModel, attempt: Attempt, begun: Call) -> OpenStream:
        ask_usage = not isinstance(model, OpenAICompatibleModel) or model.stream_usage
        body = upstream_body(fields, model.upstream_model, ask_usage=ask_usage)
        opened = time.perf_counter()
        relay = Relay(decision.id, show_usage=show_usage)
        upstream = providers.of(model).stream(model, body)
        try:
            async with asyncio.timeout(model.first_token_timeout_s):
                first = await _until_content(upstream, relay)
        except TimeoutError as error:
            await upstream.aclose()
            message = f"The model sent no token within {model.first_token_timeout_s:g} s."
            raise UpstreamFailure("timeout", message, status=504) from error
        except BaseException:
            await upstream.aclose()
            raise
        attempt.first_token_s = time.perf_counter() - opened
        breakers.answered(model.name, begun)
        return OpenStream(
            model=model, relay=relay, upstream=upstream, first=first, attempt=attempt, opened=opened,
            breakers=breakers, begun=begun,
        )  # fmt: skip

    return await _walk(setup, breakers, decision, attempts, call, streamed=True)


async def _until_content(upstream: AsyncGenerator[bytes, None], relay: Relay) -> bytes:
    held = b""
    async for piece in upstream:
        held += relay.feed(piece)
        if relay.has_content:
            return held
    return held + relay.end()


async def relayed(stream: OpenStream) -> AsyncGenerator[bytes, None]:
    """The events to send. A failure on the way is written into the attempt and sent as an error event."""
    relay, attempt = stream.relay, stream.attempt
    try:
        yield stream.first
        if not relay.done:
            async for piece in stream.upstream:
                if events := relay.feed(piece):
                    yield events
            if closing := relay.end():
                yield closing
        stream.breakers.succeeded(attempt.arm, stream.begun)
    except UpstreamFailure as failure:
        stream.breakers.failed(attempt.arm, stream.begun, failure)
        attempt.fail(failure, 0.0)
        error = {"message": failure.message, "type": failure.error_type, "param": None, "code": failure.kind}
        yield b"data: " + msgspec.json.encode({"error": error}) + b"\n\n"
    except (asyncio.CancelledError, GeneratorExit):
        attempt.fail(UpstreamFailure("cancelled", "The client went away.", status=499), 0.0)
        raise
    finally:
        attempt.latency_s = time.perf_counter() - stream.opened
        if attempt.span is not None:
            attempt.span.streamed(relay.copy, attempt.outcome, attempt.first_token_s)
        await stream.upstream.aclose()


async def _walk(
    setup: Setup,
    breakers: Breakers,
    decision: Decision,
    attempts: list[Attempt],
    call: Callable[[AnyModel, Attempt, Call], Awaitable[Result]],
    *,
    streamed: bool,
) -> Result:
    """Call the models of the plan in turn until one does not fail."""
    last: UpstreamFailure | None = None
    trace = current.get()
    put_off: list[str] = []
    for name in _in_turn(decision.plan, breakers, put_off):
        attempt = Attempt(step=len(attempts), arm=name, started_at=time.time(), streamed=streamed)
        attempts.append(attempt)
        if trace is not None:
            attempt.span = trace.attempt(setup.models[name], attempt.step, streamed=streamed)
        along = passed_on.set(received.get() if attempt.span is None else attempt.span.headers)
        started = time.perf_counter()
        begun = breakers.begin(setup.models[name])
        try:
            result = await call(setup.models[name], attempt, begun)
        except UpstreamFailure as failure:
            breakers.failed(name, begun, failure)
            attempt.fail(failure, time.perf_counter() - started)
            last = failure
            if not failure.another_model_may_help:
                break
        except asyncio.CancelledError:
            gone = UpstreamFailure("cancelled", "The client went away.", status=499)
            attempt.fail(gone, time.perf_counter() - started)
            raise
        else:
            attempt.latency_s = time.perf_counter() - started
            breakers.skipped(put_off)
            return result
        finally:
            breakers.released(name, begun)
            passed_on.reset(along)
            if attempt.span is not None and attempt.outcome != "ok":
                attempt.span.ended(attempt.outcome, attempt.status)
    raise AllFailed(last or UpstreamFailure("connection", "No model of the plan is configured any more.", status=503))


def _in_turn(plan: tuple[str, ...], breakers: Breakers, put_off: list[str]) -> Iterator[str]:
    """The drawn arm, then the others; where a breaker is open by then, after all others: nobody is refused for it."""
    for step, name in enumerate(plan):
        if step == 0 or breakers.lets_through(name):
            yield name
        else:
            put_off.append(name)
    while put_off:
        yield put_off.pop(0)
