"""Upstreams on loopback whose every byte a test decides: what they answer, in which pieces, and where they break."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

HANG_UP, KEEP = False, True  # what an answer returns: whether the connection stays


@dataclass
class Call:
    """One request as it arrived, and the wire to answer on."""

    path: str
    headers: dict[str, str]
    body: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, piece: bytes) -> None:
        """Write bytes and see them off, as one piece."""
        self.writer.write(piece)
        await self.writer.drain()

    async def hung_up(self) -> None:
        """Return once the client has closed its side."""
        try:
            while await self.reader.read(65_536):
                pass
        except ConnectionError:
            return


Answer = Callable[[Call], Awaitable[bool]]


@dataclass
class Upstream:
    """A running server. `answer` may be changed between calls."""

    answer: Answer
    port: int = 0
    calls: list[Call] = field(default_factory=list)
    connections: int = 0
    called: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)  # one per connection
    writers: list[asyncio.StreamWriter] = field(default_factory=list)  # likewise
    left: asyncio.Event = field(default_factory=asyncio.Event)  # a client hung up on an answer that `waits`

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.connections += 1
        self.tasks.append(asyncio.current_task())
        self.writers.append(writer)
        try:
            while call := await _read(reader, writer):
                self.calls.append(call)
                self.called.set()
                if await self.answer(call) == HANG_UP:
                    break
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    def waits(self, *pieces: bytes) -> Answer:
        """Send the pieces, then nothing until the client has had enough."""

        async def answer(call: Call) -> bool:
            for piece in pieces:
                await call.send(piece)
            await call.hung_up()
            self.left.set()
            return HANG_UP

        return answer


async def _read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Call | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
    else:
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Call(head[0].split(" ")[1], headers, body, reader, writer)


@asynccontextmanager
async def upstream(answer: Answer) -> AsyncIterator[Upstream]:
    """A server on a free port."""
    made = Upstream(answer)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, backlog=1024)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        for task in made.tasks:
            task.cancel()
        await asyncio.gather(*made.tasks)
        for writer in made.writers:
            writer.transport.abort()  # also with bytes that nobody reads any more
        await asyncio.gather(*(writer.wait_closed() for writer in made.writers), return_exceptions=True)
        await server.wait_closed()


def head(status: int, content_type: str, *lines: str) -> bytes:
    """A status line and headers."""
    return "\r\n".join((f"HTTP/1.1 {status} Said", f"content-type: {content_type}", *lines, "", "")).encode()


def whole(body: bytes, status: int = 200, content_type: str = "application/json", *lines: str) -> bytes:
    """A complete answer."""
    return head(status, content_type, f"content-length: {len(body)}", *lines) + body


def chunked(piece: bytes) -> bytes:
    """One piece in the chunked transfer coding; an empty one ends the body."""
    return b"%x\r\n%s\r\n" % (len(piece), piece)


STREAM_HEAD = head(200, "text/event-stream; charset=utf-8", "transfer-encoding: chunked")


def sends(*pieces: bytes, then: bool = KEEP) -> Answer:
    """Send these bytes as they are, one write each."""

    async def answer(call: Call) -> bool:
        for piece in pieces:
            await call.send(piece)
            await asyncio.sleep(0)
        return then

    return answer


def streams(*pieces: bytes) -> Answer:
    """Answer with an event stream in these pieces."""
    return sends(STREAM_HEAD, *(chunked(piece) for piece in pieces if piece), chunked(b""))


def completion(content: str = "Paris.") -> bytes:
    """A chat completion, with spaces and fields that a re-encoding would lose."""
    return (
        b'{ "id":"chatcmpl-1", "object":"chat.completion","created":1,"model":"m","choices":[{"index":0,'
        b'"message":{"role":"assistant","content":' + json.dumps(content).encode() + b'},"finish_reason":"stop"}],'
        b'"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5},"x_unknown":[1.0,  2.50]}'
    )


def events(*words: str, usage: bool = True) -> list[bytes]:
    """The events of a streamed completion."""

    def event(choices: list[dict[str, object]], **more: object) -> bytes:
        chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices}
        return b"data: " + json.dumps({**chunk, **more}).encode() + b"\n\n"

    made = [event([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])]
    made += [event([{"index": 0, "delta": {"content": word}, "finish_reason": None}]) for word in words]
    made.append(event([{"index": 0, "delta": {}, "finish_reason": "stop"}]))
    if usage:
        made.append(event([], usage={"prompt_tokens": 3, "completion_tokens": len(words), "total_tokens": 9}))
    made.append(b"data: [DONE]\n\n")
    return made
