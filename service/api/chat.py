"""POST /v1/chat/completions: what every application calls."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, cast

import msgspec
from litestar import Request, post
from litestar.types import ASGIApp, Receive, Scope, Send
from msgspec import Raw

from bandit.costs import expected_cost
from service.api.bodies import ChatOperation, decoded_chat
from service.complete import AllFailed, Attempt, Completed, OpenStream, complete, open_stream, relayed
from service.decide import Decision
from service.errors import StorageUnavailable, UpstreamFailure
from service.logs import decided
from service.parts import Parts
from service.replies import Said, said_in_reply
from service.settle import Ended, attempt_row, cost_of, settle, usage_of
from service.setup import Setup
from service.tracing.tracing import current
from service.wire import ChatRequest, Fields, Usage

Storing = asyncio.Future[None] | None
_WATCH_AFTER_S = 0.02  # a call that takes longer is cancelled when its client goes away


@post("/v1/chat/completions", status_code=200, operation_class=ChatOperation, tags=["chat"], summary="Chat completion")
async def chat_completions(request: Request[Any, Any, Any]) -> ASGIApp:
    """Answer a chat with the model that the policy draws, or with the configured model that is named.

    The reply's `id` is the decision id: give it to `POST /feedback`.
    """
    exchange = Exchange(request)
    answer: Any = await exchange.answer(await request.body())  # Litestar sends its responses and bare ASGI ones alike
    return cast("ASGIApp", answer)


class Exchange:
    """One chat request on its way through decide and complete."""

    def __init__(self, request: Request[Any, Any, Any]) -> None:
        self.started = time.perf_counter()
        self.request = request
        self.parts: Parts = request.app.state.parts
        self.setup: Setup = self.parts.setup
        self.attempts: list[Attempt] = []
        self.stored = False
        self.watch: DisconnectWatch
        self.chat: ChatRequest
        self.decision: Decision

    async def answer(self, body: bytes) -> "PlainReply | StreamedReply":
        """The whole way."""
        key = self.parts.keyring.allow(self.request.headers, self.request.client, "chat")
        self.parts.budgets.allow(key, self.setup, time.time())
        self.chat, fields = await decoded_chat(body)
        parts = self.parts
        self.watch = DisconnectWatch(self.request)
        decision = await self._decide(key.id)
        self.decision = decision
        parts.metrics.decided(decision)
        try:
            parts.budgets.drawn(self.setup, decision, decision.created_at)
            storing = parts.begin_storing(self.chat, decision, self.setup)
            decided(decision.id)
            if (trace := current.get()) is not None:
                trace.decided(self.chat, decision, storing)
            if self.chat.stream:
                return await self._stream(decision, fields, storing)
            answer = await self._plain(decision, fields, storing)
        except AllFailed as failed:
            self.watch.stop()
            self.stored = await parts.stored(storing, decision)
            self._settle_later(Said())
            raise failed.failure from failed
        except asyncio.CancelledError:
            self.watch.stop()
            self.stored = await parts.stored(storing, decision)
            self._settle_later(Said())
            self.watch.forgive()
            raise UpstreamFailure("cancelled", "The client went away.", status=499) from None
        except BaseException:
            self._give_up(decision)
            raise
        self.watch.stop()
        return answer

    def _give_up(self, decision: Decision) -> None:
        """A fault of ours: what the request did cost is not known, so what was expected stays counted."""
        self.watch.stop()
        self.parts.budgets.settled(decision.id, decision.expected_usd, 0.0)

    async def _decide(self, key_id: str) -> Decision:
        try:
            return await self.parts.decide(self.setup, self.chat, key_id)
        except asyncio.CancelledError:
            self.watch.stop()
            if not self.watch.gone:
                raise  # the server is stopped
            self.watch.forgive()
            raise UpstreamFailure("cancelled", "The client went away.", status=499) from None
        except BaseException:
            self.watch.stop()
            raise

    async def _plain(self, decision: Decision, fields: Fields, storing: Storing) -> "PlainReply":
        completed: Completed = await complete(
            self.setup, self.parts.providers, self.parts.breakers, decision, fields, self.attempts
        )
        self.stored = await self._committed(storing)
        said = said_in_reply(completed.reply)
        usage = usage_of(said, decision)
        cost = cost_of(self.setup, self.attempts[-1].arm, usage)
        overhead_s = self._overhead_s()
        headers = self._headers(cost, overhead_s)
        reply = msgspec.json.decode(completed.body, type=dict[str, Raw])
        body = {
            "id": decision.id,
            **{name: value for name, value in reply.items() if name not in {"id", "routing"}},
            "routing": self._routing(),
        }
        return PlainReply(msgspec.json.encode(body), headers, partial(self._settle, said))

    async def _stream(self, decision: Decision, fields: Fields, storing: Storing) -> "StreamedReply":
        options = self.chat.stream_options
        stream = await open_stream(
            self.setup,
            self.parts.providers,
            self.parts.breakers,
            decision,
            fields,
            self.attempts,
            show_usage=options is not None and options.include_usage,
        )
        try:
            self.stored = await self._committed(storing)
        except BaseException:
            await stream.upstream.aclose()
            raise
        expected = expected_cost(stream.model.arm(), decision.profile)
        headers = self._headers(expected, self._overhead_s())
        return StreamedReply(stream, headers, self.watch, self._settle)

    async def _committed(self, storing: Storing) -> bool:
        """Wait for the decision's commit and, after a fallback, for who served: feedback must find both."""
        stored = await self.parts.stored(storing, self.decision)
        if stored and len(self.attempts) > 1:
            served = (self.decision.id, self.attempts[-1].arm)
            rows = [attempt_row(attempt, self.decision, Usage(), 0.0) for attempt in self.attempts[:-1]]
            try:
                await self.parts.writer.add_attempts(rows, served)
            except StorageUnavailable:
                return False
        return stored

    def _overhead_s(self) -> float:
        """Our own time: all of it but the waiting for providers."""
        waited = sum(attempt.first_token_s or attempt.latency_s for attempt in self.attempts)
        return max(time.perf_counter() - self.started - waited, 0.0)

    def _headers(self, cost_usd: float, overhead_s: float) -> dict[str, str]:
        decision = self.decision
        headers = {
            "x-armwise-decision-id": decision.id,
            "x-armwise-model": self.attempts[-1].arm,
            "x-armwise-policy": decision.choice.policy,
            "x-armwise-task-type": decision.profile.task_type,
            "x-armwise-tier": decision.profile.tier,
            "x-armwise-classifier": decision.profile.classifier,
            "x-armwise-propensity": repr(decision.choice.propensity),
            "x-armwise-cost-usd": f"{cost_usd:.9f}",
            "x-armwise-overhead-ms": f"{overhead_s * 1000:.3f}",
        }
        if decision.classified is not None and decision.classified.fallback:
            headers["x-armwise-classifier-fallback"] = decision.classified.fallback
        if decision.ask_feedback and self.stored:
            headers["x-armwise-ask-feedback"] = "1"
        if not self.stored:
            headers["x-armwise-degraded"] = "database"
        self.parts.metrics.overhead(overhead_s)
        return headers

    def _routing(self) -> dict[str, object]:
        routing = routing_of(self.decision)
        routing["model"] = self.attempts[-1].arm
        if len(self.attempts) > 1:
            routing["failed"] = {attempt.arm: attempt.outcome for attempt in self.attempts[:-1]}
        return routing

    async def _settle(self, said: Said | bytes) -> None:
        await settle(self.parts, Ended(self.setup, self.chat, self.decision, self.attempts, self.stored), said)

    def _settle_later(self, said: Said | bytes) -> None:
        self.parts.after_reply(self._settle(said))


def routing_of(decision: Decision) -> dict[str, object]:
    """The `routing` object of a plain reply, and the answer of /v1/route."""
    profile, choice = decision.profile, decision.choice
    ignored = {"breakers_ignored": decision.breakers_ignored} if decision.breakers_ignored else {}
    return {
        "decision_id": decision.id,
        "method": decision.method,
        "model": choice.arm,
        "policy": choice.policy,
        "experiment": decision.assigned.experiment if decision.assigned is not None else None,
        "variant": decision.assigned.variant if decision.assigned is not None else None,
        "tier": profile.tier,
        "task_type": profile.task_type,
        "complexity_score": profile.complexity,
        "domain_knowledge": profile.scores.domain_knowledge,
        "reasoning": profile.scores.reasoning,
        "creativity": profile.scores.creativity,
        "classifier": profile.classifier,
        "classified": decision.classified,
        "propensity": choice.propensity,
        "reason": choice.reason,
        "eligible": dict(zip(choice.arms, choice.probabilities, strict=True)),
        "excluded": decision.excluded,
        "plan": decision.plan,
        **ignored,
        "routing_latency_ms": round((decision.classify_s + decision.decide_s) * 1000, 3),
    }


class PlainReply:
    """A JSON answer and what follows it. Litestar's own response costs half as much as our whole decision."""

    def __init__(self, body: bytes, headers: dict[str, str], then: Callable[[], Awaitable[None]]) -> None:
        self._body = body
        self._headers = [(name.encode(), value.encode()) for name, value in headers.items()]
        self._then = then

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, then do what follows."""
        fixed = [(b"content-type", b"application/json"), (b"content-length", str(len(self._body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": [*fixed, *self._headers]})
        await send({"type": "http.response.body", "body": self._body, "more_body": False})
        await self._then()


class StreamedReply:
    """Server-sent events, relayed as they arrive, and what follows them."""

    def __init__(
        self,
        stream: OpenStream,
        headers: dict[str, str],
        watch: "DisconnectWatch",
        then: Callable[[bytes], Awaitable[None]],
    ) -> None:
        self._stream = stream
        self._headers = [(name.encode(), value.encode()) for name, value in headers.items()]
        self._watch = watch
        self._then = then

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until the upstream ends, fails, or the client goes away; then do what follows."""
        events = relayed(self._stream)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": [*_EVENT_STREAM, *self._headers]})
            async for piece in events:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except asyncio.CancelledError:
            if not self._watch.gone:
                raise  # the server is stopped
            self._watch.forgive()
        finally:
            self._watch.stop()
            await events.aclose()
            await self._then(self._stream.relay.copy)


_EVENT_STREAM = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class DisconnectWatch:
    """Cancels the handler when the client goes away while a provider is still working.

    Starts to look only after a moment, so quick calls do not pay for it.
    """

    def __init__(self, request: Request[Any, Any, Any]) -> None:
        self.gone = False
        self._request = request
        self._handler = asyncio.current_task()
        self._looking: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(_WATCH_AFTER_S, self._look)

    def _look(self) -> None:
        self._looking = asyncio.create_task(self._until_gone())

    async def _until_gone(self) -> None:
        while True:
            message = await self._request.receive()
            if message["type"] == "http.disconnect":
                if self._handler is not None:
                    self.gone = True
                    self._handler.cancel("the client went away")
                return

    def forgive(self) -> None:
        """The handler has ended its work: it is no longer being cancelled."""
        if self._handler is not None:
            self._handler.uncancel()

    def stop(self) -> None:
        """Look no more."""
        self._timer.cancel()
        if self._looking is not None:
            self._looking.cancel()
