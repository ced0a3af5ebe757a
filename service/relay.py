"""Relaying a stream of server-sent events: byte for byte, but for the id.

Whole events leave as soon as they have arrived; nothing is decoded on the usual path. A copy is kept for metering and
for the quality heuristics, which read it when the reply has left.
"""

import re

import msgspec

from service.errors import UpstreamFailure
from service.wire import ChatChunk, chunk_decoder

_ID = re.compile(rb'"id"\s*:\s*"(?:[^"\\]|\\.)*"')
_FINISHED = re.compile(rb'"finish_reason"\s*:\s*"')  # in JSON text a quote inside a string would be escaped
_NULL_USAGE = re.compile(rb',\s*"usage"\s*:\s*null')
_DONE = b"[DONE]"
_KEPT_BYTES = 4_000_000  # of a stream's copy; what is beyond is relayed all the same, but not metered


def split_events(buffered: bytes) -> tuple[bytes, bytes]:
    """The whole events at the front, and what is left of an event that is still arriving."""
    end = buffered.rfind(b"\n\n") + 2
    crlf = buffered.rfind(b"\r\n\r\n") + 4
    if crlf > 3:
        end = max(end, crlf)
    return (buffered[:end], buffered[end:]) if end > 1 else (b"", buffered)


def payloads(events: bytes) -> list[bytes]:
    """The data of each event, the closing one left out."""
    lines = (line[5:].strip() for line in events.split(b"\n") if line.startswith(b"data:"))
    return [payload for payload in lines if payload and payload != _DONE]


def decode_chunk(payload: bytes) -> ChatChunk:
    """One chunk.

    Raises:
        UpstreamFailure: not a chat completion chunk, or the upstream's error event.
    """
    try:
        chunk = chunk_decoder.decode(payload)
    except msgspec.DecodeError as error:
        raise UpstreamFailure("malformed", f"The provider sent a stream event that is no chunk: {error}.") from error
    if chunk.error is not None:
        raise UpstreamFailure("server_error", f"The provider ended the stream with an error: {message_of(chunk.error)}")
    return chunk


def message_of(error: object) -> str:
    """The words of an error event, whatever its shape; at most 300 characters."""
    if isinstance(error, dict):
        return str(error.get("message", error))[:300]
    return str(error)[:300]


def carries_content(chunk: ChatChunk) -> bool:
    """True from the first chunk on that says anything: a token, a tool call, a refusal, or an end."""
    for choice in chunk.choices:
        delta = choice.delta
        said = delta.content or delta.reasoning_content or delta.refusal or delta.tool_calls or delta.function_call
        if said or choice.finish_reason:
            return True
    return False


def _any_content(events: bytes) -> bool:
    """Whether an event carries content; looks no further than the first that does."""
    while events:
        one, events = split_first(events)
        if any(carries_content(decode_chunk(payload)) for payload in payloads(one)):
            return True
    return False


class Relay:
    """One stream on its way from provider to client."""

    def __init__(self, decision_id: str, *, show_usage: bool) -> None:
        self._new_id = b'"id":"' + decision_id.encode() + b'"'
        self._old_id: bytes | None = None  # the id as the upstream spells it, once seen
        self._show_usage = show_usage
        self._rest = b""
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self.has_content = False
        self.done = False  # the closing [DONE] was relayed
        self.finished = False  # some choice had a finish_reason

    def feed(self, piece: bytes) -> bytes:
        """Take bytes as they arrived, cut anywhere; return the whole events among them, ready to send.

        Raises:
            UpstreamFailure: an event before the first content is no chunk, or any event is an error.
        """
        events, self._rest = split_events(self._rest + piece if self._rest else piece)
        if not events:
            return b""
        if self._kept_bytes < _KEPT_BYTES:
            self._kept.append(events)
            self._kept_bytes += len(events)
        if _DONE in events:
            self.done = True
        if b'"error"' in events:
            for payload in payloads(events):
                decode_chunk(payload)
        if not self.has_content:
            self.has_content = _any_content(events)
        self.finished = self.finished or _FINISHED.search(events) is not None
        return self._rewritten(events)

    def _rewritten(self, events: bytes) -> bytes:
        """The events with our id, and without the usage that only we asked for."""
        if not self._show_usage and b'"usage"' in events:
            if b'"usage":null' in events or b'"usage": null' in events:
                events = _NULL_USAGE.sub(b"", events)
            before, mark, _ = events.partition(b'"usage"')
            if mark:
                start = split_events(before)[0]
                one, rest = split_first(events[len(start) :])
                return self._rewritten(start) + self._one_by_one(one) + self._rewritten(rest)
        if self._old_id is None:
            one, rest = split_first(events)
            return self._one_by_one(one) + (self._rewritten(rest) if rest else b"")
        chunks = events.count(b"data:") - events.count(b"data: [DONE]")
        if events.count(self._old_id) == chunks:
            return events.replace(self._old_id, self._new_id)
        return self._one_by_one(events)

    def _one_by_one(self, events: bytes) -> bytes:
        """Each event on its own: the slow, careful way."""
        kept: list[bytes] = []
        start = 0
        while start < len(events):
            whole, _ = split_first(events[start:])
            start += len(whole)
            found = payloads(whole)
            if not found:
                kept.append(whole)
                continue
            chunk = decode_chunk(found[0])
            if not self._show_usage and chunk.usage is not None and not chunk.choices:
                continue
            kept.append(whole.replace(found[0], self._with_our_id(found[0], chunk), 1))
        return b"".join(kept)

    def _with_our_id(self, payload: bytes, chunk: ChatChunk) -> bytes:
        if chunk.id is None:
            return b"{" + self._new_id + b"," + payload.lstrip()[1:]
        for match in _ID.finditer(payload):
            if msgspec.json.decode(b"{" + match[0] + b"}")["id"] == chunk.id:
                self._old_id = match[0]
                return payload[: match.start()] + self._new_id + payload[match.end() :]
        return payload

    def end(self) -> bytes:
        """What is still to be sent when the upstream has ended without a fault.

        Raises:
            UpstreamFailure: it ended in the middle: neither [DONE] nor a finish_reason was seen.
        """
        rest = self.feed(b"\n\n") if self._rest.strip() else b""
        if self.done:
            return rest
        if not self.finished:
            raise UpstreamFailure("connection", "The provider's stream ended before its reply did.")
        self.done = True
        return rest + b"data: [DONE]\n\n"

    @property
    def copy(self) -> bytes:
        """The events as the upstream sent them, for metering."""
        return b"".join(self._kept)


def split_first(events: bytes) -> tuple[bytes, bytes]:
    """The first whole event, and the others."""
    ends = [end + len(mark) for mark in (b"\n\n", b"\r\n\r\n") if (end := events.find(mark)) >= 0]
    end = min(ends) if ends else len(events)
    return events[:end], events[end:]
