"""A simulated reply, and how it is written as OpenAI's chat completion or as the chunks of a stream."""

import math
import time
from typing import Any, Literal

import msgspec

from bandit.vocabulary import TaskType

PIECE_CHARACTERS = 16  # of one chunk, when the request does not say how many chunks

_DONE = b"data: [DONE]\n\n"

Failing = Literal["connection", "timeout", "rate_limited", "server_error", "malformed", "cut", "empty"]


class Words(msgspec.Struct, frozen=True, kw_only=True):
    """What one reply says."""

    text: str  # the content; of a tool call, its arguments
    tool: str = ""  # name of the function that is called; empty: none
    finish_reason: str = "stop"


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """One reply, ready to be sent."""

    id: str
    model: str
    words: Words
    alternatives: int  # OpenAI's `n`; all say the same
    prompt_tokens: int
    completion_tokens: int
    unseen_tokens: int  # of these: what the real model would have written beyond the text; thinking, to a client
    quality: float
    task_type: TaskType
    cost_usd: float
    failing: Failing | None
    plain_s: float  # until a plain reply is there
    first_token_s: float  # until the first token of a stream
    reply_token_s: float  # for each token after that
    chunks: int | None
    show_usage: bool  # in a stream

    @property
    def usage(self) -> dict[str, Any]:
        """OpenAI's usage object."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": self.unseen_tokens},
        }

    @property
    def simulated(self) -> dict[str, Any]:
        """What no real provider tells."""
        return {"quality": self.quality, "task_type": self.task_type, "cost_usd": self.cost_usd}

    @property
    def pieces(self) -> list[str]:
        """The text as the chunks of a stream; joined they are the text again."""
        text = self.words.text
        wanted = self.chunks or math.ceil(len(text) / PIECE_CHARACTERS)
        count = min(wanted, len(text))
        return [text[i * len(text) // count : (i + 1) * len(text) // count] for i in range(count)]


def _head(reply: Reply, kind: str) -> dict[str, Any]:
    """What a completion and each of its chunks begin with."""
    return {
        "id": reply.id,
        "object": kind,
        "created": int(time.time()),
        "model": reply.model,
        "system_fingerprint": "simulated",
    }


def _tool_call(reply: Reply, arguments: str) -> dict[str, Any]:
    function = {"name": reply.words.tool, "arguments": arguments}
    return {"id": f"call_{reply.id[-12:]}", "type": "function", "function": function}


def completion(reply: Reply) -> bytes:
    """The JSON of a plain reply."""
    message: dict[str, Any] = {"role": "assistant", "content": reply.words.text, "refusal": None}
    if reply.words.tool:
        message |= {"content": None, "tool_calls": [_tool_call(reply, reply.words.text)]}
    ending = {"logprobs": None, "finish_reason": reply.words.finish_reason}
    choices = [{"index": index, "message": message, **ending} for index in range(reply.alternatives)]
    head = _head(reply, "chat.completion")
    return msgspec.json.encode({**head, "choices": choices, "usage": reply.usage, "simulated": reply.simulated})


def events_of(reply: Reply) -> list[bytes]:
    """The events of a streamed reply: each alternative from its role to its end, then usage, then [DONE]."""
    head = msgspec.json.encode(_head(reply, "chat.completion.chunk"))[:-1] + b',"choices":['
    no_usage = b',"usage":null}' if reply.show_usage else b"}"

    def event(index: int, delta: dict[str, Any], finish_reason: str | None = None, extra: bytes = b"") -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return b"data: " + head + msgspec.json.encode(choice) + b"]" + extra + no_usage + b"\n\n"

    simulated = b',"simulated":' + msgspec.json.encode(reply.simulated)
    events: list[bytes] = []
    pieces: list[dict[str, object]]
    for index in range(reply.alternatives):
        if reply.words.tool:
            call = {"index": 0, **_tool_call(reply, "")}
            events.append(event(index, {"role": "assistant", "content": None, "tool_calls": [call]}))
            pieces = [{"tool_calls": [{"index": 0, "function": {"arguments": piece}}]} for piece in reply.pieces]
        else:
            events.append(event(index, {"role": "assistant", "content": "", "refusal": None}))
            pieces = [{"content": piece} for piece in reply.pieces]
        events.extend(event(index, piece) for piece in pieces)
        events.append(event(index, {}, reply.words.finish_reason, simulated))
    if reply.show_usage:
        events.append(b"data: " + head + b'],"usage":' + msgspec.json.encode(reply.usage) + b"}\n\n")
    events.append(_DONE)
    return events
