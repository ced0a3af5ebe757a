"""Models in process: they answer as OpenAI's chat completions do, as well, as long and as slowly as real models.

Nothing is asked of anyone. How good a reply is, is drawn around the table of facts (`service.providers.facts`); the
draw is a function of the model's name and the bytes of the request, so the same request gets the same reply. A request
may carry a `simulate` object that says what shall happen (`Simulate`). Each reply carries `simulated`, its true
quality, so that a demo or a test can give honest feedback.
"""

import asyncio
import hashlib
import math
import struct
from collections.abc import AsyncGenerator
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from bandit.costs import call_cost
from bandit.vocabulary import TaskType
from service.errors import FailureKind, UpstreamFailure
from service.providers.conforming import conforming_value
from service.providers.facts import ModelFacts, facts_of, profiles
from service.providers.sentences import bad_text, good_text, is_chinese
from service.providers.simulated_reply import Failing, Reply, Words, completion, events_of
from service.settings import AnyModel, SimulatedModel
from service.wire import ChatRequest, FunctionSpec

CHARACTERS_A_TOKEN = 4
GUESSED_TASK_TYPE: TaskType = "Open QA"  # of a request that does not say
SPREAD = 0.25  # of graded quality; 0 would make every reply either perfect or worthless

_NO_ANSWER: dict[str, tuple[FailureKind, int, str]] = {
    "connection": ("connection", 502, "could not be reached"),
    "timeout": ("timeout", 504, "did not answer in time"),
    "rate_limited": ("rate_limited", 429, "takes no more requests now"),
    "server_error": ("server_error", 500, "failed on this request"),
    "cut": ("connection", 502, "hung up in the middle of its reply"),
}
_NOT_A_COMPLETION = b"<html><body>simulated gateway page</body></html>"


class Simulate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The optional `simulate` object of a request: what shall happen."""

    task_type: TaskType | None = None  # whose facts the draw is made around, for every model
    only: frozenset[str] = frozenset()  # the models that the fields below are meant for; empty: all
    quality: Annotated[float, Meta(ge=0, le=1)] | None = None  # instead of a draw; good from 0.5 on
    fail: Failing | None = None
    latency_s: Annotated[float, Meta(ge=0)] | None = None  # of a plain call; in a stream, until its first token
    chunks: Annotated[int, Meta(ge=1, le=100_000)] | None = None  # pieces of content in a stream
    reply: str | None = None  # the words of the reply


class NamedTool(msgspec.Struct, frozen=True):
    """A `tool_choice` that names the function to call."""

    function: FunctionSpec


class SimulatedRequest(ChatRequest, frozen=True):
    """A chat request, with what only a provider reads, and OpenAI's limit of alternatives."""

    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    simulate: Simulate | None = None
    stop: str | list[str] | None = None
    tool_choice: str | NamedTool | None = None


class Draws(msgspec.Struct, frozen=True):
    """What chance decides of one reply: five numbers in [0, 1), fixed by the model and the request."""

    good: float
    level: float
    look: float
    length: float
    fate: float

    @classmethod
    def of(cls, model: str, body: bytes) -> "Draws":
        """The draws for a model's name and a request's bytes."""
        hashed = hashlib.blake2b(model.encode() + b"\0", digest_size=20)
        hashed.update(body)
        return cls(*(number / 2**32 for number in struct.unpack("<5I", hashed.digest())))

    def quality(self, mean: float) -> float:
        """Quality in [0, 1] with that mean: 0.5 or more with probability `mean`, else less, each side graded."""
        if self.good < mean:
            return round(1 - 2 * SPREAD * (1 - mean) * self.level, 4)
        return round(2 * SPREAD * mean * self.level, 4)


_decoder = msgspec.json.Decoder(SimulatedRequest)


class Simulated:
    """The provider of simulated models."""

    async def complete(self, model: AnyModel, body: bytes) -> bytes:
        reply = prepare(model, body)
        await _wait(reply.plain_s, model)
        if reply.failing == "malformed":
            return _NOT_A_COMPLETION
        _raise_if_failing(reply)
        return completion(reply)

    async def stream(self, model: AnyModel, body: bytes) -> AsyncGenerator[bytes, None]:
        reply = prepare(model, body)
        await _wait(reply.first_token_s, model)
        if reply.failing == "malformed":
            yield b"data: " + _NOT_A_COMPLETION + b"\n\n"
            return
        if reply.failing != "cut":
            _raise_if_failing(reply)
        events = events_of(reply)
        if reply.failing == "cut":
            events = events[: len(events) // 2]
        gap_s = reply.reply_token_s * (reply.completion_tokens - reply.unseen_tokens) / len(events)
        for event in events:
            yield event
            await asyncio.sleep(0)  # as a network would, let others run between two chunks
            await _wait(gap_s, model)
        _raise_if_failing(reply)

    async def close(self) -> None:
        """There is nothing to close."""


def prepare(model: AnyModel, body: bytes) -> Reply:
    """Decide what `model` answers to a request: a function of its settings and of the bytes.

    Raises:
        UpstreamFailure: the request cannot be read, or the table of facts has no such profile.
    """
    if not isinstance(model, SimulatedModel):
        raise TypeError(f"The simulated provider serves simulated models only, not {type(model).__name__}.")
    request = _read(body)
    asked = request.simulate or Simulate()
    task_type = asked.task_type or GUESSED_TASK_TYPE
    if asked.only and not asked.only & {model.name, model.upstream_model}:
        asked = Simulate()
    facts = _facts(model)
    fact = facts.on(task_type)
    draws = Draws.of(model.name, body)
    failing = asked.fail or (model.error if draws.fate < model.error_rate else None)
    mean = model.quality.get(task_type, fact.quality)
    quality = draws.quality(mean) if asked.quality is None else asked.quality
    if failing == "empty":
        quality, words = 0.0, Words(text="")
    else:
        words = _limited(_words(request, asked, model.upstream_model, task_type, quality, draws.look), request)
    alternatives = request.n or 1
    prompt_tokens = 1 + sum(len(message.text) for message in request.messages) // CHARACTERS_A_TOKEN
    text_tokens = alternatives * math.ceil(len(words.text) / CHARACTERS_A_TOKEN)
    unseen_tokens = 0
    if asked.reply is None and asked.chunks is None and failing != "empty":
        unseen_tokens = max(round(fact.output_tokens * (0.5 + draws.length)) - text_tokens, 0)
        if request.max_output_tokens is not None:
            unseen_tokens = min(unseen_tokens, max(request.max_output_tokens * alternatives - text_tokens, 0))
    completion_tokens = text_tokens + unseen_tokens
    token_s = model.latency_scale / facts.tokens_per_s
    first_token_s = model.latency_scale * facts.first_token_s
    return Reply(
        id=f"chatcmpl-{int(draws.good * 2**32):08x}{int(draws.level * 2**32):08x}",
        model=model.upstream_model,
        words=words,
        alternatives=alternatives,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        unseen_tokens=unseen_tokens,
        quality=quality,
        task_type=task_type,
        cost_usd=round(call_cost(model.arm(), prompt_tokens, completion_tokens), 9),
        failing=failing,
        plain_s=first_token_s + completion_tokens * token_s if asked.latency_s is None else asked.latency_s,
        first_token_s=first_token_s + unseen_tokens * token_s if asked.latency_s is None else asked.latency_s,
        reply_token_s=token_s,
        chunks=asked.chunks,
        show_usage=request.stream_options is not None and request.stream_options.include_usage,
    )


def _read(body: bytes) -> SimulatedRequest:
    try:
        return _decoder.decode(body)
    except msgspec.DecodeError as error:
        message = f"The simulated model cannot read the request: {error}."
        raise UpstreamFailure("rejected", message, status=400, error_type="invalid_request_error") from error


def _facts(model: SimulatedModel) -> ModelFacts:
    profile = model.profile or model.tier
    try:
        return facts_of(profile)
    except KeyError as error:
        message = f"The table of facts has no profile `{profile}` for {model.name}. Known: {', '.join(profiles())}."
        raise UpstreamFailure("unknown_model", message, status=404) from error


def _words(
    request: SimulatedRequest, asked: Simulate, model: str, task_type: TaskType, quality: float, look: float
) -> Words:
    """What the reply says, before any limit: the words asked for, a tool call, JSON, or a sentence."""
    if asked.reply is not None:
        return Words(text=asked.reply)
    called = _called_tool(request)
    if called is not None:
        return Words(text=_as_json(conforming_value(called.parameters)), tool=called.name, finish_reason="tool_calls")
    chinese = is_chinese(request.last_user_text)
    if quality >= 0.5:
        text, broken = good_text(model, task_type, chinese=chinese), False
    else:
        text, broken = bad_text(model, task_type, look, chinese=chinese)
    wanted = request.response_format
    if wanted is not None and wanted.type == "json_schema" and wanted.json_schema is not None:
        return Words(text=_as_json(conforming_value(wanted.json_schema.schema)))
    if wanted is not None and wanted.type == "json_object":
        return Words(text=_as_json({"answer": text}))
    if asked.chunks is not None and len(text) < asked.chunks * CHARACTERS_A_TOKEN:
        text += " " + " ".join(str(number) for number in range(asked.chunks))
    return Words(text=text, finish_reason="length" if broken else "stop")


def _called_tool(request: SimulatedRequest) -> FunctionSpec | None:
    """The function that must be called; None when the model may answer in words."""
    offered = [tool.function for tool in request.tools or () if tool.function is not None]
    wanted = request.tool_choice
    if isinstance(wanted, NamedTool):
        for function in offered:
            if function.name == wanted.function.name:
                return function
        message = f"tool_choice names `{wanted.function.name}`, which is not among the tools."
        raise UpstreamFailure("rejected", message, status=400, error_type="invalid_request_error", param="tool_choice")
    return offered[0] if wanted == "required" and offered else None


def _limited(words: Words, request: SimulatedRequest) -> Words:
    """The words up to the first stop sequence and within the tokens that the request allows."""
    text, finish_reason = words.text, words.finish_reason
    stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
    for stop in stops if not words.tool else ():
        if stop and stop in text:
            text, finish_reason = text[: text.index(stop)], "stop"
    limit = request.max_output_tokens
    if limit is not None and len(text) > limit * CHARACTERS_A_TOKEN:
        text, finish_reason = text[: limit * CHARACTERS_A_TOKEN], "length"
    return Words(text=text, tool=words.tool, finish_reason=finish_reason)


async def _wait(seconds: float, model: AnyModel) -> None:
    """Let time pass, at most the model's `timeout_s`.

    Raises:
        UpstreamFailure: that was not enough.
    """
    if seconds > 0:
        await asyncio.sleep(min(seconds, model.timeout_s))
    if seconds > model.timeout_s:
        message = f"The simulated model {model.name} did not answer within {model.timeout_s:g} s."
        raise UpstreamFailure("timeout", message, status=504)


def _raise_if_failing(reply: Reply) -> None:
    if reply.failing in _NO_ANSWER:
        kind, status, what = _NO_ANSWER[reply.failing]
        retry_after = "1" if kind == "rate_limited" else None
        raise UpstreamFailure(
            kind, f"The simulated model {reply.model} {what}, as asked.", status=status, retry_after=retry_after
        )


def _as_json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
