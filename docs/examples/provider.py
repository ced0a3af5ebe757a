"""A provider of your own: models that answer from a table of frequent questions, in this process.

Run it: .venv/bin/python docs/examples/provider.py
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import msgspec

from service.errors import UpstreamFailure
from service.settings import AnyModel, ModelSection
from service.wire import ChatRequest, chunk_decoder, reply_decoder


class CannedModel(ModelSection, frozen=True, kw_only=True, tag="canned"):
    """A model whose answers stand in the settings."""

    answers: Mapping[str, str]  # question to answer, without regard to case and to spaces around it


class Canned:
    """The provider of such models: it answers or raises, and does not decide, retry, count or store."""

    async def complete(self, model: AnyModel, body: bytes) -> bytes:
        """Return the reply's JSON, as OpenAI would send it."""
        text = _answer(model, body)
        message = {"role": "assistant", "content": text}
        return _json(model, "chat.completion", {"index": 0, "message": message, "finish_reason": "stop"}, text)

    async def stream(self, model: AnyModel, body: bytes) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of the server-sent events."""
        text = _answer(model, body)
        for delta, reason in (({"role": "assistant", "content": text}, None), ({}, "stop")):
            choice = {"index": 0, "delta": delta, "finish_reason": reason}
            yield b"data: " + _json(model, "chat.completion.chunk", choice, text if reason else None) + b"\n\n"
        yield b"data: [DONE]\n\n"

    async def close(self) -> None:
        """There is nothing to close."""


def _answer(model: Any, body: bytes) -> str:
    assert isinstance(model, CannedModel)  # noqa: S101 - `Providers` hands every model to the provider of its kind
    question = msgspec.json.decode(body, type=ChatRequest).last_user_text.strip().lower()
    answers = {asked.strip().lower(): answer for asked, answer in model.answers.items()}
    if question not in answers:
        # "unsupported": another model of the decision's plan is tried. "rejected" would end the request.
        raise UpstreamFailure("unsupported", f"{model.name} has no answer to this question.", status=404)
    return answers[question]


def _json(model: Any, kind: str, choice: dict[str, Any], counted: str | None) -> bytes:
    reply = {"id": "canned", "object": kind, "created": int(time.time()), "model": model.name, "choices": [choice]}
    if counted is not None:
        tokens = {"prompt_tokens": 0, "completion_tokens": len(counted) // 4, "total_tokens": len(counted) // 4}
        reply["usage"] = tokens
    return msgspec.json.encode(reply)


MODEL: Any = CannedModel(name="faq", local=True, answers={"When are you open?": "Every day from 9 to 17."})


def asked(question: str) -> bytes:
    """A request as the service hands it to a provider."""
    return msgspec.json.encode({"model": MODEL.upstream_model, "messages": [{"role": "user", "content": question}]})


async def main() -> None:
    """Ask as the service does, and read what comes as it does."""
    provider = Canned()
    reply = reply_decoder.decode(await provider.complete(MODEL, asked("when are you open?")))
    print(reply.choices[0].message.content)
    async for event in provider.stream(MODEL, asked("When are you open?")):
        data = event.removeprefix(b"data: ").strip()
        if data != b"[DONE]":
            print(repr(chunk_decoder.decode(data).choices[0].delta.content))
    try:
        await provider.complete(MODEL, asked("Why?"))
    except UpstreamFailure as failure:
        print(f"{failure.kind}: {failure}; another model may help: {failure.another_model_may_help}")


if __name__ == "__main__":
    asyncio.run(main())
