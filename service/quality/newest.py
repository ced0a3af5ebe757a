"""What the newest replies add up to, for reports.

To add up 20,000 replies takes half a second of a core, more than a page may wait. So of a long log the last sums are
told, with their time, and newer ones are read in the background while somebody looks. They are read from the log each
time: whatever is rated late, pruned or rebuilt is in the next ones.
"""

import logging
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
from sqlalchemy import Connection

from service.learning import calibrations, rated
from service.learning.calibrations import Answered
from service.metrics.catalogue import Metrics
from service.storage.database import Database

log = logging.getLogger("armwise")

FEW = 2_000  # replies that are added up while a page waits: some hundredths of a second
KEPT_S = 60.0


class Sums(msgspec.Struct, frozen=True, kw_only=True):
    """What the newest 20,000 replies add up to."""

    at: float  # when they were read, in seconds since 1970-01-01 UTC
    replies: int
    fired: dict[str, int]  # by heuristic, on how many of them it fired
    answered: dict[str, Answered]  # by model
    rated: rated.BySubject


class Newest:
    """The sums of the newest replies, one per process. `afterwards` does work that no page waits for."""

    def __init__(
        self, database: Database, metrics: Metrics, afterwards: Callable[[Coroutine[Any, Any, None]], None]
    ) -> None:
        self._database = database
        self._metrics = metrics
        self._afterwards = afterwards
        self._last: Sums | None = None
        self._reading = False

    async def sums(self, now: float) -> Sums:
        """The sums as they are; of many replies, as they were at most a minute before somebody last looked.

        Raises:
            StorageUnavailable: the database could not be read.
        """
        last = self._last
        if last is None or last.replies < FEW:
            return await self.read(now)
        if now - last.at >= KEPT_S and not self._reading:
            self._reading = True
            self._afterwards(self._read_again(now))
        return last

    async def read(self, now: float) -> Sums:
        """Read them from the log.

        Raises:
            StorageUnavailable: the database could not be read.
        """
        found = await self._database.read(_read, now)
        if self._last is None or found.at >= self._last.at:
            self._last = found
        return found

    async def _read_again(self, now: float) -> None:
        try:
            await self.read(now)
        except Exception:  # what is told says how old it is; whoever looks next tries again
            log.exception("the newest replies could not be added up")
            self._metrics.learner_error("recalibrate")
        finally:
            self._reading = False


def _read(connection: Connection, now: float) -> Sums:
    replies, fired = calibrations.fired(connection)
    return Sums(
        at=now,
        replies=replies,
        fired=fired,
        answered=calibrations.answered(connection),
        rated=rated.sums(connection, calibrations.NEWEST),
    )
