"""Telling somebody else of a change: JSON to an address of the owner's, in the background and never twice at once."""

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import aiohttp
import msgspec

from service.drift.alarms import AlarmRow, public, sentence

log = logging.getLogger("armwise")

Sent = Literal["sent", "failed", "dropped"]

_MOST_WAITING = 100
_LIMIT_S = 5.0
_PAUSES_S = (0.5, 2.0)  # before the second and the third try


class Webhook:
    """Sends changes one after the other; whatever the other end does, nothing here waits for it.

    The address is a secret: it is read from the environment and never shown. `counted` is told how each sending ended.
    """

    def __init__(
        self, counted: Callable[[Sent], None], *, limit_s: float = _LIMIT_S, pauses_s: Sequence[float] = _PAUSES_S
    ) -> None:
        self._counted = counted
        self._limit = aiohttp.ClientTimeout(total=limit_s)
        self._pauses_s = (0.0, *pauses_s)
        self._waiting: asyncio.Queue[tuple[str, str, bytes]] = asyncio.Queue(_MOST_WAITING)

    def put(self, variable: str, row: AlarmRow) -> None:
        """Send a change later, to the address in this environment variable."""
        self.tell(variable, row.id, {"text": sentence(row), "alarm": public(row)})

    def tell(self, variable: str, what: str, content: Mapping[str, Any]) -> None:
        """Send anything later; the log calls it `what`."""
        try:
            self._waiting.put_nowait((variable, what, msgspec.json.encode(content)))
        except asyncio.QueueFull:
            log.error("the webhook is not told of %s: %d others wait for it already", what, _MOST_WAITING)  # noqa: TRY400 - nothing failed here
            self._counted("dropped")

    async def run(self) -> None:
        """Send what waits, for ever."""
        while True:
            variable, what, body = await self._waiting.get()
            try:
                self._counted(await self._send(variable, what, body))
            except Exception:  # the next one is sent all the same
                log.exception("the webhook could not be told of %s", what)
                self._counted("failed")

    async def _send(self, variable: str, what: str, body: bytes) -> Sent:
        url = os.environ.get(variable)
        if not url:
            log.error("the webhook is not told of %s: set the environment variable %s", what, variable)
            return "failed"
        fault = ""
        for pause_s in self._pauses_s:
            await asyncio.sleep(pause_s)
            fault = await self._try(url, body)
            if not fault:
                return "sent"
        log.error(
            "the webhook was not told of %s: %d tries, the last one ended with %s", what, len(self._pauses_s), fault
        )
        return "failed"

    async def _try(self, url: str, body: bytes) -> str:
        """Why it failed, without the address; "" when it did not."""
        try:
            headers = {"content-type": "application/json"}
            async with (
                aiohttp.ClientSession(timeout=self._limit) as http,
                http.post(url, data=body, headers=headers, allow_redirects=False) as reply,
            ):
                return "" if reply.status < 300 else f"status {reply.status}"
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return type(error).__name__
