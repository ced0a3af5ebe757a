"""A closed-loop load generator: N keep-alive connections, each of which sends when its last reply is complete.

It is bounded in count and in time, and talks to the loopback only.
"""

import asyncio
import itertools
import math
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence

import httptools
import msgspec

LOOPBACK = ("127.0.0.1", "::1", "localhost")
NO_REPLY = 0  # counted as status: the connection ended, or broke the protocol, before a reply was complete

_REPLY_ID = re.compile(rb'"id"\s*:\s*"([^"]+)"')


class Outcome(msgspec.Struct):
    """What one load did. Latencies are those of replies with a 2xx status, in milliseconds."""

    statuses: Counter[int] = msgspec.field(default_factory=Counter)
    latencies_ms: list[float] = []  # until the reply was complete
    first_byte_ms: list[float] = []  # until the first byte of its body
    ids: list[str] = []  # of the replies, when they were asked for
    cut: int = 0  # streams with a 2xx status that did not end with [DONE]
    seconds: float = 0.0  # from the first request to the last reply

    @property
    def succeeded(self) -> int:
        """Replies with a 2xx status."""
        return len(self.latencies_ms)

    @property
    def failed(self) -> int:
        """Requests without a whole, good reply."""
        return self.statuses.total() - self.succeeded + self.cut

    @property
    def per_second(self) -> float:
        """Good replies a second."""
        return self.succeeded / self.seconds if self.seconds else 0.0


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of `values` do not exceed (nearest rank); NaN without values."""
    if not values:
        return math.nan
    return sorted(values)[max(1, math.ceil(share * len(values))) - 1]


def http_request(path: str, body: bytes, key: str = "") -> bytes:
    """A POST of JSON as it goes over the wire."""
    authorization = f"authorization: Bearer {key}\r\n" if key else ""
    head = (
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"{authorization}content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class _Load:
    """What the connections of one load share."""

    def __init__(
        self, requests: Iterator[bytes], count: int, seconds: float, *, streamed: bool, keep_ids: bool
    ) -> None:
        self.requests = requests
        self.left = count
        self.streamed = streamed
        self.keep_ids = keep_ids
        self.outcome = Outcome()
        self.started = time.perf_counter()
        self.deadline = self.started + seconds

    @property
    def over(self) -> bool:
        return self.left <= 0 or time.perf_counter() >= self.deadline

    def take(self) -> bytes | None:
        """The next request; None when the load is over."""
        if self.over:
            return None
        request = next(self.requests, None)
        self.left = self.left - 1 if request is not None else 0
        return request

    def record(self, status: int, sent: float, first: float, parts: list[bytes]) -> None:
        """Count one reply. `sent` and `first` are times of `time.perf_counter`."""
        now = time.perf_counter()
        outcome = self.outcome
        outcome.seconds = now - self.started
        outcome.statuses[status] += 1
        if not 200 <= status < 300:
            return
        outcome.latencies_ms.append((now - sent) * 1000)
        outcome.first_byte_ms.append((first - sent) * 1000)
        if self.streamed and b"data: [DONE]" not in b"".join(parts[-2:]):
            outcome.cut += 1
        if self.keep_ids and (found := _REPLY_ID.search(b"".join(parts))):
            outcome.ids.append(found[1].decode())


class _Connection(asyncio.Protocol):
    """One keep-alive connection."""

    def __init__(self, load: _Load) -> None:
        self.load = load
        self.closed = asyncio.get_running_loop().create_future()
        self.parser = httptools.HttpResponseParser(self)
        self.parts: list[bytes] = []
        self.sent = self.first = 0.0
        self.waiting = False  # a request is out and its reply is not complete

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self._send()

    def _send(self) -> None:
        request = self.load.take()
        if request is None:
            self.transport.close()
            return
        self.parts = []
        self.waiting = True
        self.sent = time.perf_counter()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.abort()

    def on_body(self, body: bytes) -> None:
        """Part of the reply's body came."""
        if not self.parts:
            self.first = time.perf_counter()
        self.parts.append(body)

    def on_message_complete(self) -> None:
        """The reply is complete."""
        self.waiting = False
        first = self.first if self.parts else time.perf_counter()
        self.load.record(self.parser.get_status_code(), self.sent, first, self.parts)
        if self.parser.should_keep_alive():
            self._send()
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.waiting:
            self.load.record(NO_REPLY, self.sent, self.sent, [])
        if not self.closed.done():
            self.closed.set_result(None)


async def run_load(
    port: int,
    requests: Iterator[bytes],
    *,
    connections: int,
    count: int,
    seconds: float,
    host: str = "127.0.0.1",
    streamed: bool = False,
    keep_ids: bool = False,
    grace_s: float = 30.0,
) -> Outcome:
    """Send at most `count` of `requests` within `seconds`; then wait `grace_s` for the replies that are still out.

    A lost connection counts as a request without reply and is opened again. With `streamed`, streams that do not end
    as they should are counted.

    Raises:
        ValueError: `host` is another machine.
        OSError: nothing listens there, or no longer.
    """
    if host not in LOOPBACK:
        raise ValueError(f"{host} is not this machine, and a load test must not be aimed at others: use {LOOPBACK[0]}.")
    loop = asyncio.get_running_loop()
    load = _Load(requests, count, seconds, streamed=streamed, keep_ids=keep_ids)
    opened: set[_Connection] = set()

    async def keep_one_busy() -> None:
        while not load.over:
            _, connection = await loop.create_connection(lambda: _Connection(load), host, port)
            opened.add(connection)
            await asyncio.shield(connection.closed)
            opened.discard(connection)

    try:
        await asyncio.wait_for(asyncio.gather(*(keep_one_busy() for _ in range(connections))), seconds + grace_s)
    except TimeoutError:
        for connection in opened:
            connection.transport.abort()
        await asyncio.gather(*(connection.closed for connection in opened))
    return load.outcome


# What the prompts are made of: every task with every subject in every manner.
ENGLISH = (
    (
        "Explain to a new colleague",
        "Write a short plan for",
        "List the three main risks of",
        "Compare two approaches to",
        "Summarise what a manager must know about",
        "Write a Python function that helps with",
        "Find the mistake in our notes on",
        "Estimate the monthly cost of",
        "Translate into plain words the report on",
        "Classify the complaints we got about",
    ),
    (
        "moving a billing database to a new region",
        "the queue at the bakery's order counter",
        "a solar roof for a school",
        "indexing a library of old maps",
        "the rota of a small hospital ward",
        "sorting parcels by weight and distance",
        "a chess clock that runs on a microcontroller",
        "testing a distributed lock under packet loss",
        "planting a hedge along a noisy road",
        "the cash flow of a touring theatre",
        "reading a thermometer over a slow bus",
        "a timetable for two ferries and one pier",
    ),
    (
        "Keep it under two hundred words and end with one question that we should ask the customer before we begin.",
        "Use a table where it helps, say which numbers are guesses, and mark everything that needs a second opinion.",
        "Assume that the reader is in a hurry, has no background in the subject, and will act on your answer today.",
        "Give the reasoning step by step, then the answer on its own line, then what would change your mind about it.",
    ),
)
CHINESE = (
    (
        "请向新同事解释",
        "请写一份简短的计划，内容是",
        "请列出三个主要风险，主题是",
        "请比较两种做法，关于",
        "请写一个函数，用来处理",
        "请估算每月的费用，对象是",
    ),
    (
        "把账单数据库迁到另一个机房",
        "面包店取餐柜台的排队问题",
        "给学校屋顶装太阳能板",
        "旧地图档案的编目",
        "小型医院病房的排班",
        "按重量和距离分拣包裹",
        "两艘渡轮共用一个码头的时刻表",
    ),
    (
        "不超过两百字，最后提出一个需要先向客户确认的问题。",
        "先一步一步说明理由，再单独一行写出结论，并说明哪些数字是猜测的。",
        "假设读者很忙，没有相关背景，今天就要照着你的回答去做。",
    ),
)
SYSTEM = (
    "You are a careful assistant of a small engineering office. Answer in the language of the question. Say so when "
    "you do not know, and never make up a source."
)


def prompts() -> list[str]:
    """Several hundred different questions, English and Chinese in turn."""
    english = [f"{task} {subject}. {manner}" for task, subject, manner in itertools.product(*ENGLISH)]
    chinese = [f"{task}{subject}。{manner}" for task, subject, manner in itertools.product(*CHINESE)]
    # Strides coprime to the lengths, so that neighbours share neither task nor subject.
    mixed = []
    for index in range(len(english)):
        mixed.append(english[index * 77 % len(english)])
        if index % 4 == 0:
            mixed.append(chinese[index // 4 * 37 % len(chinese)])
    return mixed


def chat_bodies(*, model: str = "auto", stream: bool = False, pace_ms: float = 0.0, start: int = 0) -> Iterator[bytes]:
    """Chat requests of about 500 bytes without end. A running number makes every text a new one."""
    templates = []
    for prompt in prompts():
        fields: dict[str, object] = {
            "model": model,
            "messages": [
                {"role": "system", "content": SYSTEM},
                {"role": "user", "content": f"{prompt} (case ########)"},
            ],
            "temperature": 0.3,
            "max_tokens": 400,
        }
        if stream:
            fields |= {"stream": True, "stream_options": {"include_usage": True}}
        if pace_ms:
            fields["mock_pace_ms"] = pace_ms
        head, tail = msgspec.json.encode(fields).split(b"########")
        templates.append((head, tail))
    for number in itertools.count(start):
        head, tail = templates[number % len(templates)]
        yield b"%s%08d%s" % (head, number, tail)


def feedback_bodies(ids: Sequence[str]) -> Iterator[bytes]:
    """One rating for each decision; two of three are good."""
    for index, decision_id in enumerate(ids):
        yield msgspec.json.encode({"decision_id": decision_id, "value": 0.0 if index % 3 == 2 else 1.0})
