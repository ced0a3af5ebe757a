"""Telling somebody else of a change: JSON to an address of the owner's, in the background and never twice at once."""

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from typing import Literal

import aiohttp
import msgspec

from service.alarms import AlarmRow, public, sentence

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
        self._waiting: asyncio.Queue[tuple[str, AlarmRow]] = asyncio.Queue(_MOST_WAITING)

    def put(self, variable: str, row: AlarmRow) -> None:
        """Send a change later, to the address in this environment variable."""
        try:
            self._waiting.put_nowait((variable, row))
        except asyncio.QueueFull:
            log.error("the webhook is not told of %s: %d others wait for it already", row.id, _MOST_WAITING)  # noqa: TRY400 - nothing failed here
            self._counted("dropped")

    async def run(self) -> None:
        """Send what waits, for ever."""
        while True:
            variable, row = await self._waiting.get()
            try:
                self._counted(await self._send(variable, row))
            except Exception:  # the next one is sent all the same
                log.exception("the webhook could not be told of %s", row.id)
                self._counted("failed")

    async def _send(self, variable: str, row: AlarmRow) -> Sent:
        url = os.environ.get(variable)
        if not url:
            log.error("the webhook is not told of %s: set the environment variable %s", row.id, variable)
            return "failed"
        body = msgspec.json.encode({"text": sentence(row), "alarm": public(row)})
        fault = ""
        for pause_s in self._pauses_s:
            await asyncio.sleep(pause_s)
            fault = await self._try(url, body)
            if not fault:
                return "sent"
        log.error(
            "the webhook was not told of %s: %d tries, the last one ended with %s", row.id, len(self._pauses_s), fault
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
