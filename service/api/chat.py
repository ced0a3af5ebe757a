"""POST /v1/chat/completions: what every application calls."""

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
from litestar import Request, post
from litestar.background_tasks import BackgroundTask
from litestar.response import Stream
from litestar.response.base import ASGIResponse
from msgspec import Raw

from bandit.costs import expected_cost
from service.api.bodies import ChatOperation, decoded_chat
from service.complete import AllFailed, Attempt, Completed, OpenStream, complete, open_stream, relayed
from service.decide import Decision, decide
from service.errors import StorageUnavailable
from service.parts import Parts
from service.replies import Said, said_in_reply
from service.settle import attempt_row, cost_of, settle, usage_of
from service.setup import Setup
from service.wire import ChatRequest, Fields, Usage

Storing = asyncio.Future[None] | None
_WATCH_AFTER_S = 0.02  # a call that takes longer is cancelled when its client goes away


@post("/v1/chat/completions", status_code=200, operation_class=ChatOperation, tags=["chat"], summary="Chat completion")
async def chat_completions(request: Request[Any, Any, Any]) -> ASGIResponse | Stream:
    """Answer a chat with the model that the policy draws, or with the configured model that is named.

    The reply's `id` is the decision id: give it to `POST /feedback`.
    """
    exchange = Exchange(request)
    return await exchange.answer(await request.body())


class Exchange:
    """One chat request on its way through decide and complete."""

    def __init__(self, request: Request[Any, Any, Any]) -> None:
        self.started = time.perf_counter()
        self.request = request
        self.parts: Parts = request.app.state.parts
        self.setup: Setup = self.parts.setup
        self.attempts: list[Attempt] = []
        self.stored = False
        self.chat: ChatRequest
        self.decision: Decision

    async def answer(self, body: bytes) -> ASGIResponse | Stream:
        """The whole way."""
        key = self.parts.keyring.allow(self.request.headers, self.request.client, "chat")
        self.chat, fields = await decoded_chat(body)
        parts = self.parts
        decision = decide(
            self.setup, parts.knowledge, self.chat, now=time.time(), key_id=key.id, degraded=parts.degraded
        )
        self.decision = decision
        self.parts.metrics.decided(decision)
        storing = parts.begin_storing(decision, self.setup)
        watch = DisconnectWatch(self.request)
        try:
            if self.chat.stream:
                return await self._stream(decision, fields, storing, watch)
            return await self._plain(decision, fields, storing, watch)
        except AllFailed as failed:
            self.stored = await parts.stored(storing, decision)
            self._settle_later(Said())
            raise failed.failure from failed
        except asyncio.CancelledError:
            self.stored = await parts.stored(storing, decision)
            self._settle_later(Said())
            raise
        finally:
            watch.stop()

    async def _plain(
        self, decision: Decision, fields: Fields, storing: Storing, watch: "DisconnectWatch"
    ) -> ASGIResponse:
        completed: Completed = await complete(self.setup, self.parts.providers, decision, fields, self.attempts)
        watch.stop()
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
        return ASGIResponse(
            body=msgspec.json.encode(body),
            media_type="application/json",
            headers=headers,
            background=BackgroundTask(self._settle, said),
        )

    async def _stream(self, decision: Decision, fields: Fields, storing: Storing, watch: "DisconnectWatch") -> Stream:
        options = self.chat.stream_options
        stream = await open_stream(
            self.setup,
            self.parts.providers,
            decision,
            fields,
            self.attempts,
            show_usage=options is not None and options.include_usage,
        )
        watch.stop()
        try:
            self.stored = await self._committed(storing)
        except BaseException:
            await stream.upstream.aclose()
            raise
        expected = expected_cost(stream.model.arm(), decision.profile)
        headers = self._headers(expected, self._overhead_s())
        headers["cache-control"] = "no-cache"
        headers["x-accel-buffering"] = "no"
        return Stream(self._events(stream), media_type="text/event-stream", headers=headers)

    async def _events(self, stream: OpenStream) -> AsyncGenerator[bytes, None]:
        events = relayed(stream)
        try:
            async for piece in events:
                yield piece
        finally:
            await events.aclose()
            self._settle_later(stream.relay.copy)

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
            "x-armwise-propensity": repr(decision.choice.propensity),
            "x-armwise-cost-usd": f"{cost_usd:.9f}",
            "x-armwise-overhead-ms": f"{overhead_s * 1000:.3f}",
        }
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
        await settle(
            self.parts, self.setup, self.chat, self.decision, self.attempts, said, stored=self.stored
        )  # fmt: skip

    def _settle_later(self, said: Said | bytes) -> None:
        self.parts.after_reply(self._settle(said))


def routing_of(decision: Decision) -> dict[str, object]:
    """The `routing` object of a plain reply, and the answer of /v1/route."""
    profile, choice = decision.profile, decision.choice
    return {
        "decision_id": decision.id,
        "method": decision.method,
        "model": choice.arm,
        "policy": choice.policy,
        "tier": profile.tier,
        "task_type": profile.task_type,
        "complexity_score": profile.complexity,
        "domain_knowledge": profile.scores.domain_knowledge,
        "reasoning": profile.scores.reasoning,
        "creativity": profile.scores.creativity,
        "classifier": profile.classifier,
        "propensity": choice.propensity,
        "reason": choice.reason,
        "eligible": dict(zip(choice.arms, choice.probabilities, strict=True)),
        "excluded": decision.excluded,
        "plan": decision.plan,
        "routing_latency_ms": round((decision.classify_s + decision.decide_s) * 1000, 3),
    }


class DisconnectWatch:
    """Cancels the handler when the client goes away while a provider is still working.

    Starts to look only after a moment, so quick calls do not pay for it.
    """

    def __init__(self, request: Request[Any, Any, Any]) -> None:
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
                    self._handler.cancel("the client went away")
                return

    def stop(self) -> None:
        """Look no more."""
        self._timer.cancel()
        if self._looking is not None:
            self._looking.cancel()
