"""Every vendor that does not speak OpenAI's protocol, through LiteLLM, on a loop and a thread of its own.

LiteLLM takes seconds to import and, as measured, 2 ms of CPU for a call and 30 ms for a stream of 100 chunks: on the
service's loop that would hold up everybody else. So it is imported and run in one background thread.
"""

import asyncio
import logging
import os
import threading
import warnings
from collections.abc import AsyncGenerator, Callable, Coroutine
from concurrent.futures import Future
from contextlib import aclosing, asynccontextmanager, suppress
from types import ModuleType
from typing import Any, TypeVar

import msgspec

from service.errors import UpstreamFailure
from service.providers.keys import key_named, likely_keys
from service.settings import AnyModel, TranslatedModel
from service.tracing.tracing import passed_on

T = TypeVar("T")

_CHUNKS_AHEAD = 64  # of a stream wait for their reader; the upstream is held up when there are more
_CLOSE_WITHIN_S = 5.0

# What a request may set by name. All else travels in the body only (`extra_body`): arguments such as `api_base`,
# `mock_response` or `fallbacks` are the owner's, and a client that could set them could send our key anywhere.
_CHAT_PARAMETERS = frozenset({
    "audio", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs", "max_completion_tokens",
    "max_tokens", "messages", "modalities", "n", "parallel_tool_calls", "prediction", "presence_penalty",
    "prompt_cache_key", "reasoning_effort", "response_format", "safety_identifier", "seed", "service_tier", "stop",
    "store", "stream", "stream_options", "temperature", "thinking", "tool_choice", "tools", "top_logprobs", "top_p",
    "user", "verbosity", "web_search_options",
})  # fmt: skip
_SET_BY_US = frozenset({"model", "extra_body"})


class Translated:
    """LiteLLM behind the provider contract. Not bound to the loop of its caller."""

    def __init__(self) -> None:
        self._background: _Background | None = None

    async def preload(self) -> None:
        """Import LiteLLM now, in the background; without it the first call waits for that."""
        await self._started()

    async def complete(self, model: AnyModel, body: bytes) -> bytes:
        """See `Provider.complete`."""
        background = await self._started()
        return await background.run(_Call(background.litellm, model).complete(body))

    async def stream(self, model: AnyModel, body: bytes) -> AsyncGenerator[bytes, None]:
        """See `Provider.stream`. What piled up while the reader was busy comes as one piece."""
        background = await self._started()
        reading = _Reading(_Call(background.litellm, model), body)
        try:
            while piece := await background.run(reading.take()):
                yield piece
        finally:
            background.soon(reading.stop)

    async def close(self) -> None:
        """Close all connections and end the thread."""
        if self._background is not None:
            background, self._background = self._background, None
            await asyncio.to_thread(background.end)

    async def _started(self) -> "_Background":
        if self._background is None:
            self._background = _Background()
        await asyncio.wrap_future(self._background.ready)
        return self._background


class _Background:
    """One thread that imports LiteLLM and then runs an event loop for it."""

    litellm: ModuleType
    _loop: asyncio.AbstractEventLoop
    _end: asyncio.Event

    def __init__(self) -> None:
        self.ready: Future[None] = Future()
        self.ready.set_running_or_notify_cancel()  # one caller that gives up must not cancel it for all
        self._thread = threading.Thread(target=self._run, name="litellm", daemon=True)
        self._thread.start()

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Await the work, which runs in the background; cancelled here, it is cancelled there."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def soon(self, action: Callable[[], object]) -> None:
        """Let the background call a function."""
        with suppress(RuntimeError):  # the loop has ended, and with it all that it ran
            self._loop.call_soon_threadsafe(action)

    def end(self) -> None:
        """Cancel what runs, close the connections, and wait for the thread."""
        if self.ready.exception() is None:
            self.soon(self._end.set)
            self._thread.join(_CLOSE_WITHIN_S)

    def _run(self) -> None:
        try:
            self.litellm = _import_litellm()
        except BaseException as error:  # noqa: BLE001 - whoever waits for it is told
            self.ready.set_exception(error)
            return
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        self.ready.set_result(None)
        await self._end.wait()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self.litellm.close_litellm_async_clients()
        # One client is not among those. Closed as a whole it would stay so; its transport opens again when needed.
        await self.litellm.module_level_aclient.client._transport.aclose()  # noqa: SLF001
        self.litellm.in_memory_llm_clients_cache.flush_cache()


def _import_litellm() -> ModuleType:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else the import fetches a price list
    import litellm  # noqa: PLC0415 - takes seconds

    litellm.telemetry = False
    litellm.drop_params = False  # a parameter that a vendor does not know is an error, never dropped in silence
    litellm.suppress_debug_info = True
    litellm.num_retries = 0  # trying again is the router's business
    litellm.callbacks = []
    warnings.filterwarnings("ignore", ".*`ReadOnly` qualifier", UserWarning)  # pydantic's, of LiteLLM's own types
    for name in ("LiteLLM", "openai", "httpx", "httpcore"):  # their lines may hold prompts and keys
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return litellm


class _Call:
    """One call to LiteLLM. Lives in the background."""

    def __init__(self, litellm: ModuleType, model: AnyModel) -> None:
        assert isinstance(model, TranslatedModel)  # noqa: S101 - `Providers.of` goes by type
        self.model = model
        self._litellm = litellm
        self._key = key_named(model.api_key_env, model.name) if model.api_key_env else None

    async def complete(self, body: bytes) -> bytes:
        """The reply as OpenAI would write it."""
        try:
            async with asyncio.timeout(self.model.timeout_s):
                reply = await self._litellm.acompletion(**self._arguments(body, stream=False))
            return _reply_bytes(reply)
        except Exception as error:  # noqa: BLE001 - LiteLLM raises whatever its vendors' code raises
            raise self.failure_of(error) from None  # the cause may show our key

    async def chunks(self, body: bytes) -> AsyncGenerator[bytes, None]:
        """The server-sent events as OpenAI would write them."""
        events = _Events()
        try:
            async with _closed(await self._litellm.acompletion(**self._arguments(body, stream=True))) as chunks:
                async for chunk in chunks:
                    if event := events.write(chunk):
                        yield event
        except Exception as error:  # noqa: BLE001 - likewise
            raise self.failure_of(error) from None
        if not events.substance:
            raise UpstreamFailure("malformed", f"{self.model.name} answered with a stream that holds nothing.")
        yield b"data: [DONE]\n\n"

    def failure_of(self, error: Exception) -> UpstreamFailure:
        """What an exception of LiteLLM stands for."""
        from service.providers.litellm_failures import failure_of  # noqa: PLC0415 - httpx came with LiteLLM

        secrets = {self._key, *likely_keys()} if self._key else likely_keys()
        return failure_of(error, self.model.name, self.model.timeout_s, secrets)

    def _arguments(self, body: bytes, *, stream: bool) -> dict[str, Any]:
        import httpx  # noqa: PLC0415 - came with LiteLLM

        fields = {name: value for name, value in msgspec.json.decode(body).items() if value is not None}
        arguments = {name: fields.pop(name) for name in _CHAT_PARAMETERS & fields.keys()}
        extra = {name: value for name, value in fields.items() if name not in _SET_BY_US}
        arguments |= {
            "model": self.model.upstream_model,
            "stream": stream,
            "timeout": httpx.Timeout(self.model.timeout_s, connect=self.model.connect_timeout_s),
            "num_retries": 0,
            "max_retries": 0,
            "_skip_mcp_handler": True,  # it wants one more package for any tool, and would call servers clients name
        }
        if extra:
            arguments["extra_body"] = extra
        if self._key is not None:
            arguments["api_key"] = self._key
        if self.model.base_url:
            arguments["api_base"] = self.model.base_url
        if along := passed_on.get():
            arguments["extra_headers"] = dict(along)
        return arguments


class _Reading:
    """One stream on its way from the background to its reader: a bounded queue and the task that fills it."""

    def __init__(self, call: _Call, body: bytes) -> None:
        self._call = call
        self._body = body
        self._pieces: asyncio.Queue[bytes] = asyncio.Queue(_CHUNKS_AHEAD)  # an empty piece ends it
        self._filling: asyncio.Task[None] | None = None
        self._failure: UpstreamFailure | None = None
        self._ended = False

    async def take(self) -> bytes:
        """All pieces that wait, joined; empty at the end.

        Raises:
            UpstreamFailure: the stream failed, or nothing came in time.
        """
        if self._filling is None:
            self._filling = asyncio.create_task(self._fill())
        taken = b""
        if not self._ended:
            try:
                async with asyncio.timeout(self._call.model.timeout_s):
                    pieces = [await self._pieces.get()]
            except TimeoutError as error:
                raise self._call.failure_of(error) from None
            while not self._pieces.empty():
                pieces.append(self._pieces.get_nowait())
            self._ended = not pieces[-1]
            taken = b"".join(pieces)
        if not taken and self._failure is not None:
            raise self._failure
        return taken

    def stop(self) -> None:
        """Give the stream up; the call to the vendor is closed."""
        if self._filling is not None:
            self._filling.cancel()

    async def _fill(self) -> None:
        try:
            async with aclosing(self._call.chunks(self._body)) as chunks:
                async for chunk in chunks:
                    await self._pieces.put(chunk)
        except UpstreamFailure as failure:
            self._failure = failure
        await self._pieces.put(b"")


def _reply_bytes(reply: Any) -> bytes:
    written = reply.model_dump(mode="json", exclude_none=True, warnings=False)
    for choice in written.get("choices", ()):
        choice.get("message", {}).setdefault("content", None)  # clients look for it beside tool calls
    return msgspec.json.encode(written)


class _Events:
    """Writes the chunks of one stream as server-sent events.

    For an upstream that streams nothing, or an error instead of events, LiteLLM makes up a finished reply. So nothing
    is written before the first chunk that holds something.
    """

    def __init__(self) -> None:
        self.substance = False
        self._identifier = ""
        self._held = b""

    def write(self, chunk: Any) -> bytes:
        """The event, with those held back; empty when it is held back itself."""
        written = chunk.model_dump(mode="json", exclude_none=True, warnings=False)
        self._identifier = written["id"] = self._identifier or written.get("id", "")  # some vendors send many
        choices = written.get("choices", [])
        for choice in choices:
            choice.setdefault("finish_reason", None)
        said = any(choice.get("delta") for choice in choices)
        if "usage" in written and not said and not any(choice["finish_reason"] for choice in choices):
            written["choices"] = []  # as OpenAI reports usage
        self._held += b"data: " + msgspec.json.encode(written) + b"\n\n"
        self.substance = self.substance or said or bool(written.get("usage", {}).get("completion_tokens"))
        if not self.substance:
            return b""
        events, self._held = self._held, b""
        return events


@asynccontextmanager
async def _closed(chunks: Any) -> AsyncGenerator[Any, None]:
    """LiteLLM's stream, at last closed together with the vendor's: some of its wrappers leave that one open."""
    vendors = chunks.completion_stream
    try:
        yield chunks
    finally:
        await chunks.aclose()
        for name in ("async_response_iterator", "response_iterator", "streaming_response"):
            source = getattr(vendors, name, None)
            if isinstance(source, AsyncGenerator):
                with suppress(RuntimeError):  # it is being read at this moment: then it ends with its reader
                    await source.aclose()
