"""A model server that answers at once, so that a load test measures the gateway in front of it and nothing else.

Run: python -m benchmarks.mock_upstream --port 9000

Every POST gets the same chat completion of about 580 bytes. With `"stream": true` it gets 100 chunks of server-sent
events: in one burst, or one chunk every `mock_pace_ms` milliseconds when the request's body has that field (gateways
pass unknown fields through) or the mock was started with `--pace-ms`. Any other method gets an empty 200.
"""

import argparse
import asyncio

import httptools
import msgspec
import uvloop

STREAM_CHUNKS = 100  # content chunks; a role chunk, a finish chunk and a usage chunk come on top

WORDS = "A short answer with a reason, an example and a caveat is what the reader needs. "
USAGE = {"prompt_tokens": 96, "completion_tokens": STREAM_CHUNKS, "total_tokens": 96 + STREAM_CHUNKS}


class Asked(msgspec.Struct, frozen=True):
    """The fields of a chat request that the mock obeys."""

    stream: bool | None = None
    mock_pace_ms: float | None = None


def completion() -> bytes:
    """The chat completion that every plain request gets."""
    return msgspec.json.encode(
        {
            "id": "chatcmpl-mock0000000000000000000000",
            "object": "chat.completion",
            "created": 1_760_000_000,
            "model": "mock-model",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": WORDS * 3, "refusal": None},
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ],
            "usage": USAGE,
            "system_fingerprint": None,
        }
    )


def events() -> list[bytes]:
    """The server-sent events of a stream: role, 100 words, finish, usage, [DONE]."""
    head = {
        "id": "chatcmpl-mock0000000000000000000000",
        "object": "chat.completion.chunk",
        "created": 1_760_000_000,
        "model": "mock-model",
    }

    def event(choices: list[dict[str, object]], **more: object) -> bytes:
        return b"data: " + msgspec.json.encode({**head, "choices": choices, **more}) + b"\n\n"

    def choice(delta: dict[str, object], finish: str | None = None) -> list[dict[str, object]]:
        return [{"index": 0, "delta": delta, "finish_reason": finish}]

    words = (WORDS * STREAM_CHUNKS).split()[:STREAM_CHUNKS]
    return [
        event(choice({"role": "assistant", "content": ""})),
        *(event(choice({"content": f"{word} "})) for word in words),
        event(choice({}, "stop")),
        event([], usage=USAGE),
        b"data: [DONE]\n\n",
    ]


def _http_chunk(piece: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(piece), piece)


_COMPLETION = completion()
PLAIN_REPLY = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(_COMPLETION) + _COMPLETION
)
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
STREAM_PIECES = [_http_chunk(event) for event in events()]
STREAM_END = b"0\r\n\r\n"
BURST_REPLY = STREAM_HEAD + b"".join(STREAM_PIECES) + STREAM_END
READY = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
UNREADABLE = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n"

_decoder = msgspec.json.Decoder(Asked)


class MockUpstream(asyncio.Protocol):
    """One keep-alive connection of the mock."""

    def __init__(self, pace_ms: float = 0.0) -> None:
        self.pace_ms = pace_ms
        self.body: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.close()

    def on_body(self, body: bytes) -> None:
        """Part of a request's body came."""
        self.body.append(body)

    def on_message_complete(self) -> None:
        """A request is complete: answer it."""
        body = b"".join(self.body)
        self.body.clear()
        if self.parser.get_method() != b"POST":
            self.transport.write(READY)
            return
        try:
            asked = _decoder.decode(body)
        except msgspec.MsgspecError:
            self.transport.write(UNREADABLE)
            return
        pace_ms = self.pace_ms if asked.mock_pace_ms is None else asked.mock_pace_ms
        if not asked.stream:
            self.transport.write(PLAIN_REPLY)
        elif not pace_ms:
            self.transport.write(BURST_REPLY)
        else:
            self._pace(pace_ms / 1000)

    def _pace(self, gap_s: float) -> None:
        """Write one event every `gap_s`, on a fixed schedule, so that a late one does not delay the rest."""
        loop = asyncio.get_running_loop()
        start = loop.time()
        self.transport.write(STREAM_HEAD + STREAM_PIECES[0])

        def step(index: int) -> None:
            if self.transport.is_closing():
                return
            if index == len(STREAM_PIECES):
                self.transport.write(STREAM_END)
                return
            self.transport.write(STREAM_PIECES[index])
            loop.call_at(start + (index + 1) * gap_s, step, index + 1)

        loop.call_at(start + gap_s, step, 1)


async def serve(port: int, pace_ms: float = 0.0) -> asyncio.Server:
    """Listen on the loopback; port 0 takes a free one."""
    return await asyncio.get_running_loop().create_server(lambda: MockUpstream(pace_ms), "127.0.0.1", port)


async def _main() -> None:
    parser = argparse.ArgumentParser(description="A model server that answers at once.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--pace-ms", type=float, default=0.0, help="milliseconds between the chunks of a stream")
    arguments = parser.parse_args()
    server = await serve(arguments.port, arguments.pace_ms)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_main())
