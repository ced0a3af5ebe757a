"""The one writer of a process: everything that must be durable passes here, in order, in grouped commits.

A commit costs a flush of the disk however many rows it holds, so what waits is committed together: at once when the
writer is idle, and while a burst lasts, a little later for all of it.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from sqlalchemy import Connection, text

from bandit.posteriors import CellKey, Counts
from service import learn, settings
from service.errors import StorageUnavailable
from service.experiments.exposures import expose
from service.storage import store
from service.storage.database import Database, Result, Work, is_conflict, is_storage_fault
from service.traffic.sums import Rollup, new_attempts, new_decisions

log = logging.getLogger("armwise")

_MOST_WAITING = 10_000  # rows; more than that is seconds of work, so callers are told at once
_TRIES = 5  # of a transaction that meets another process at the same row
_REMEMBER_S = 60.0  # a version stored within it is not sent again; less than any decision is kept, so it is still there
_LATER_S = 0.05  # how long what nobody waits for may wait for company
_LATER_TIMEOUTS = 10  # how many times as long it may wait for a database that is away
_STEP_S = 0.001
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0


class _Job:
    """What one caller wants written, and the future it waits on."""

    __slots__ = (
        "attempts", "beliefs", "configs", "decision", "expired", "future", "measurements", "prompt", "served", "size",
        "then", "timer", "work",
    )  # fmt: skip

    def __init__(self, future: "asyncio.Future[Any]", size: int = 1) -> None:
        self.future = future
        self.size = size
        self.expired = False
        self.timer: asyncio.TimerHandle | None = None
        self.configs: Mapping[str, str] = {}
        self.beliefs: Mapping[str, str] = {}
        self.decision: Mapping[str, object] | None = None
        self.prompt: Mapping[str, object] | None = None
        self.attempts: Sequence[Mapping[str, object]] = ()
        self.served: tuple[str, str] | None = None
        self.measurements: Sequence[learn.Measurement] = ()
        self.work: Work[Any] | None = None
        self.then: Callable[[Any], None] | None = None

    def succeed(self, result: object) -> None:
        """Answer the caller, unless it went away; what runs in the writer's order runs in any case."""
        if self.timer is not None:
            self.timer.cancel()
        if self.then is not None:
            try:
                self.then(result)
            except Exception as error:  # noqa: BLE001 - the caller's own function: the caller gets its error
                self.fail(error)
                return
        if not self.future.done():
            self.future.set_result(result)

    def fail(self, error: Exception) -> None:
        """Tell the caller, unless it went away."""
        if self.timer is not None:
            self.timer.cancel()
        if not self.future.done():
            self.future.set_exception(error)


class Writer:
    """Writes for everybody, in the order of the calls.

    Each method returns a future that is done when the commit is: what it acknowledges is durable. After
    `settings.timeout_s` it fails with `StorageUnavailable`: a job that was still waiting is then withdrawn and will
    not be written; one whose commit was under way may still be. Every write may be repeated without harm. A caller
    that is cancelled does not cancel its write. `on_commit` gets what a commit added to the cells, once, after it.
    """

    def __init__(
        self,
        database: Database,
        settings: settings.Database,
        on_commit: Callable[[dict[CellKey, Counts]], None],
        *,
        window_s: float,
        took: Callable[[float], None] = lambda _: None,
    ) -> None:
        self.window_s = window_s  # how old a decision may be that is rated
        self.healthy = True  # False from a failed write until the next one succeeds
        self.last_commit_at: float | None = None  # seconds since 1970-01-01 UTC
        self._database = database
        self._settings = settings
        self._on_commit = on_commit
        self._took = took  # is told the seconds of each commit
        self._queue: deque[_Job] = deque()
        self._later: deque[_Job] = deque()  # what nobody waits for
        self._later_due = 0.0  # time.monotonic()
        self._rows_waiting = 0
        self._wake = asyncio.Event()
        self._closing = False
        self._crowd = 0  # callers that waited for the last group
        self._stored: set[str] = set()  # versions of beliefs
        self._stored_since = time.monotonic()
        self._task: asyncio.Task[None] | None = None

    @property
    def queue_length(self) -> int:
        """Rows that wait for a commit."""
        return self._rows_waiting

    async def start(self) -> None:
        """Begin to write what is asked."""
        self._task = asyncio.create_task(self._run(), name="writer")

    async def close(self) -> None:
        """Write what waits, then stop; new jobs are refused."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await self._task

    def add_config(self, version: str, content: str) -> "asyncio.Future[None]":
        """Store settings once per content."""
        job = self._job()
        job.configs = {version: content}
        return self._put(job)

    def add_decision(
        self,
        row: Mapping[str, object],
        beliefs: tuple[str, str] | None = None,
        prompt: Mapping[str, object] | None = None,
    ) -> "asyncio.Future[None]":
        """Store a decision, (version, content) of the beliefs it was taken on, and its prompt when that is kept."""
        job = self._job()
        job.decision, job.prompt = row, prompt
        if beliefs is not None and beliefs[0] not in self._stored:
            job.beliefs = dict([beliefs])
        return self._put(job)

    def add_attempts(
        self, rows: Sequence[Mapping[str, object]], served: tuple[str, str] | None = None
    ) -> "asyncio.Future[None]":
        """Store calls to providers, and (decision id, arm) of who served when it was not the drawn arm."""
        job = self._job(max(1, len(rows)))
        job.attempts, job.served = rows, served
        return self._put(job)

    def add_later(
        self, attempts: Sequence[Mapping[str, object]], measurements: Sequence[learn.Measurement]
    ) -> "asyncio.Future[list[learn.Outcome]]":
        """Store what followed a reply. Nobody waits for it, so it is written together with others, within 50 ms.

        It may wait ten times `settings.timeout_s` for a database that is away.
        """
        job = self._job(max(1, len(attempts) + len(measurements)))
        job.attempts, job.measurements = attempts, measurements
        if self._refused(job):
            return job.future
        if not self._later:
            self._later_due = time.monotonic() + _LATER_S
            asyncio.get_running_loop().call_later(_LATER_S + _STEP_S, self._wake.set)  # not a moment too early
        self._give_time(job, _LATER_TIMEOUTS * self._settings.timeout_s)
        self._later.append(job)
        self._rows_waiting += job.size
        return job.future

    def record(self, measurements: Sequence[learn.Measurement]) -> "asyncio.Future[list[learn.Outcome]]":
        """Learn from measurements; an outcome for each, in order."""
        job = self._job(max(1, len(measurements)))
        job.measurements = measurements
        return self._put(job)

    def call(
        self, work: Work[Result], then: Callable[[Result], None] | None = None, *, patience: float = 1.0
    ) -> "asyncio.Future[Result]":
        """Run `work` in the writer's order, and after its commit, still in that order, `then` on its result.

        `work` may run more than once, when its transaction has to be repeated. It may take `settings.timeout_s` times
        `patience`.
        """
        job = self._job()
        job.work, job.then = work, then
        return self._put(job, patience)

    def _job(self, size: int = 1) -> _Job:
        return _Job(asyncio.get_running_loop().create_future(), size)

    def _refused(self, job: _Job) -> bool:
        if self._closing:
            job.fail(StorageUnavailable("The service is shutting down and takes no more writes."))
        elif self._rows_waiting >= _MOST_WAITING:
            job.fail(StorageUnavailable(f"{self._rows_waiting:,} rows wait for the database already."))
        return job.future.done()

    def _put(self, job: _Job, patience: float = 1.0) -> "asyncio.Future[Any]":
        if not self._refused(job):
            self._give_time(job, patience * self._settings.timeout_s)
            self._queue.append(job)
            self._rows_waiting += job.size
            self._wake.set()
        return job.future

    def _give_time(self, job: _Job, seconds: float) -> None:
        job.timer = asyncio.get_running_loop().call_later(seconds, self._expire, job, seconds)

    def _expire(self, job: _Job, seconds: float) -> None:
        """Tell the caller that it is too late; unless its group is being committed just now, nothing is written."""
        job.expired = True
        error = StorageUnavailable(f"The database did not take a write within {seconds:g} s.")
        self._suffer(error)
        job.fail(error)

    async def _run(self) -> None:
        while True:
            if self._queue or self._later_is_due():
                await self._linger()
                await self._commit(self._take())
            elif self._closing:
                return
            elif not self.healthy:
                await self._probe()
            else:
                self._wake.clear()
                await self._wake.wait()

    def _later_is_due(self) -> bool:
        return bool(self._later) and (self._closing or time.monotonic() >= self._later_due)

    async def _linger(self) -> None:
        """In a burst, wait for the rest of it: for as many callers as came last time, and while more keep coming."""
        if self._crowd <= 1:
            return
        end = time.monotonic() + self._settings.group_ms / 1000.0
        seen = 0
        while self._rows_waiting < self._settings.group_rows and time.monotonic() < end:
            waiting = len(self._queue)
            if waiting >= self._crowd and waiting == seen:
                return
            seen = waiting
            await asyncio.sleep(_STEP_S)

    def _take(self) -> list[_Job]:
        jobs: list[_Job] = []
        rows = self._move(self._queue, jobs, 0)
        self._crowd = len(jobs)
        if self._later_is_due():
            self._move(self._later, jobs, rows)
        return jobs

    def _move(self, queue: deque[_Job], jobs: list[_Job], rows: int) -> int:
        """Move jobs into a group that holds `rows` rows, as many as it may hold; the rows it holds then."""
        while queue and (not jobs or rows + queue[0].size <= self._settings.group_rows):
            job = queue.popleft()
            self._rows_waiting -= job.size
            jobs.append(job)
            rows += job.size
        return rows

    async def _commit(self, jobs: list[_Job], *, again: bool = False) -> None:
        """Commit jobs together; when one of them is at fault, each by itself. `again`: they may be stored already."""
        pause_s, tries = _FIRST_PAUSE_S, 0
        while jobs := [job for job in jobs if not job.expired]:
            tries += 1
            started = time.perf_counter()
            try:
                results, deltas = await self._database.write(
                    partial(_apply, jobs=jobs, window_s=self.window_s, now=time.time(), again=again or tries > 1)
                )
            except Exception as error:  # noqa: BLE001 - whatever it is, it must reach the callers and not end the writer
                if is_storage_fault(error):
                    if tries == 1:  # a connection that was cut since the last write: open another one
                        continue
                    self._suffer(error)
                    await asyncio.sleep(pause_s)
                    pause_s = min(2.0 * pause_s, _LONGEST_PAUSE_S)
                elif len(jobs) > 1:
                    for job in jobs:
                        await self._commit([job], again=True)
                    return
                elif not is_conflict(error) or tries >= _TRIES:
                    jobs[0].fail(error)
                    return
            else:
                self._took(time.perf_counter() - started)
                self._succeed(jobs, results, deltas)
                return

    def _succeed(self, jobs: list[_Job], results: list[Any], deltas: dict[CellKey, Counts]) -> None:
        self._recover()
        if time.monotonic() - self._stored_since > _REMEMBER_S:
            self._stored.clear()
            self._stored_since = time.monotonic()
        for job in jobs:
            self._stored.update(job.beliefs)
        if deltas:
            try:
                self._on_commit(deltas)
            except Exception:  # it is committed: callers must be told so, whatever memory makes of it
                log.exception("what was learned could not be taken into memory; the next refresh reads it")
        for job, result in zip(jobs, results, strict=True):
            job.succeed(result)

    async def _probe(self) -> None:
        """Look whether the database is back; called while nothing waits for it."""
        try:
            await self._database.write(lambda connection: connection.execute(text("SELECT 1")))
        except Exception as error:  # noqa: BLE001 - any failure means: not yet
            self._suffer(error)
            await asyncio.sleep(_LONGEST_PAUSE_S / 2)
        else:
            self._recover()

    def _suffer(self, error: Exception) -> None:
        if self.healthy:
            log.error("the database takes no writes: %s: %s", type(error).__name__, error)
        self.healthy = False

    def _recover(self) -> None:
        if not self.healthy:
            log.warning("the database takes writes again")
        self.healthy = True
        self.last_commit_at = time.time()


def _apply(
    connection: Connection, *, jobs: list[_Job], window_s: float, now: float, again: bool
) -> tuple[list[Any], dict[CellKey, Counts]]:
    """All jobs in one transaction: what others refer to comes first.

    `again`: a transaction with them failed before. It may have been committed all the same, so we look what is stored.
    """
    rollup = _store(connection, jobs, now, again=again)
    measurements = [measurement for job in jobs for measurement in job.measurements]
    outcomes: list[learn.Outcome] = []
    deltas: dict[CellKey, Counts] = {}
    if measurements:
        outcomes, deltas = learn.record(connection, measurements, window_s=window_s, now=now, rollup=rollup)
    rollup.write(connection)
    results: list[Any] = []
    for job in jobs:
        if job.work is not None:
            results.append(job.work(connection))
        elif job.measurements:
            results.append(outcomes[: len(job.measurements)])
            del outcomes[: len(job.measurements)]
        else:
            results.append(None)
    return results, deltas


def _store(connection: Connection, jobs: list[_Job], now: float, *, again: bool) -> Rollup:
    """What jobs say of requests; returns what that adds to the sums."""
    configs = {version: content for job in jobs for version, content in job.configs.items()}
    beliefs = {version: content for job in jobs for version, content in job.beliefs.items()}
    decisions = [job.decision for job in jobs if job.decision is not None]
    prompts = [job.prompt for job in jobs if job.prompt is not None]
    attempts = [row for job in jobs for row in job.attempts]
    served = [job.served for job in jobs if job.served is not None]
    if configs:
        store.insert_configs(connection, configs, now)
    if beliefs:
        store.insert_beliefs(connection, beliefs, now)
    if again:
        decisions = new_decisions(connection, decisions)
    if again or any(row["step"] for row in attempts):  # after a fallback, failed ones are written before the reply
        attempts = new_attempts(connection, attempts)
    inserts = (
        (store.insert_decisions, decisions), (expose, decisions), (store.insert_prompts, prompts),
        (store.insert_attempts, attempts),
    )  # fmt: skip
    for insert, rows in inserts:
        if rows:
            insert(connection, rows)
    rollup = Rollup()
    rollup.decided(decisions)
    rollup.called(connection, attempts)
    if served:
        rollup.served(connection, served)
        store.set_served_arms(connection, served)
    return rollup
