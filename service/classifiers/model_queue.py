"""One loaded classifier model at work: what it answered is cached, equal texts share one reading, the rest queues.

The queue is bounded and everything in it is waited for by somebody. Threads of low priority do the work, so that the
event loop always gets its core.
"""

import asyncio
import contextlib
import logging
import os
import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import blake2b
from queue import SimpleQueue
from typing import Literal, NamedTuple

from service.classifiers.models import Answered, Model
from service.metrics.catalogue import Metrics

log = logging.getLogger("armwise")

FAILURES_IN_A_ROW = 5  # after as many the model rests
REST_S = 30.0  # then one prompt tries it again
# Measured on two cores with two threads that read all the time: 5 steps bring the event loop's p95 from 4 to 3 ms and
# its p99 from 7 to 6 ms, 8 steps to 2 and 5 ms, and cost no throughput. Beside two busy programs of usual priority the
# model is read 17 times a second with 5 steps, 5 times with 8: the small classifier answers the rest. With many more
# steps the loop waits for the interpreter's lock, held by a thread that gets no core: up to 0.1 s were seen with 10.
_NICER_BY = 8
_SIMILAR = 1.3  # texts are read together when none is longer than another by more than this factor
_JOIN_S = 10.0  # at shutdown, for what is being read

Refusal = Literal["queue full", "deadline", "failed"]


class Read(NamedTuple):
    """An answer of the model, and what it took."""

    answered: Answered
    cached: bool = False
    queue_s: float = 0.0  # until the model began to read
    inference_s: float = 0.0


class Job:
    """One text that is read once, however many callers wait for it."""

    def __init__(self, key: bytes, text: str, done: "asyncio.Future[Read | Refusal]") -> None:
        self.key = key
        self.text = text
        self.done = done
        self.callers = 0
        self.begun_at = 0.0


class ModelQueue:
    """Readings of one model for all requests of one process. All methods are for the event loop's thread."""

    def __init__(self, model: Model, metrics: Metrics, *, workers: int, cache_entries: int) -> None:
        self.model = model
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._cache: OrderedDict[bytes, Answered] = OrderedDict()
        self._cache_entries = cache_entries
        self._in_flight: dict[bytes, Job] = {}
        # Shared with the threads. Only methods of them are used that neither block nor need a lock: a thread of low
        # priority that holds a lock would keep the event loop waiting for a core as well.
        self._waiting: deque[Job] = deque()
        self._tickets: SimpleQueue[bool] = SimpleQueue()  # one for each job that was queued; False ends a thread
        self._threads: list[threading.Thread] = []
        self._ending: list[threading.Thread] = []
        self._failures = 0
        self._rest_until = 0.0
        self.resize(workers=workers, cache_entries=cache_entries)

    def __len__(self) -> int:
        """Texts that wait to be read."""
        return len(self._waiting)

    @property
    def failing(self) -> bool:
        """Whether the model failed so often that it rests."""
        return self._failures >= FAILURES_IN_A_ROW

    def resize(self, *, workers: int, cache_entries: int) -> None:
        """Have as many threads, and keep as many answers. Threads that are too many end after the work before them."""
        self._cache_entries = cache_entries
        self._forget_the_oldest()
        while len(self._threads) > workers:
            self._tickets.put(False)
            self._ending.append(self._threads.pop())
        self._ending = [thread for thread in self._ending if thread.is_alive()]
        while len(self._threads) < workers:
            thread = threading.Thread(target=self._work, name="classifier", daemon=True)
            self._threads.append(thread)
            thread.start()

    async def read(self, text: str, *, most_waiting: int, deadline_s: float) -> Read | Refusal:
        """The model's answer, or why there is none in time.

        A caller that is cancelled, or past its deadline, leaves the work to the others; work that nobody waits for is
        dropped unless it has begun, and then its answer is cached.
        """
        arrived = time.perf_counter()
        text = self.model.cut(text)
        key = _digest(text)
        answered = self._cache.get(key)
        if answered is not None:
            self._cache.move_to_end(key)
            self._metrics.classifier_looked_up("cached")
            return Read(answered, cached=True)
        job = self._in_flight.get(key)
        if job is not None:
            self._metrics.classifier_looked_up("shared")
        elif self._rest_until > arrived:
            return "failed"
        elif len(self._waiting) >= most_waiting:
            return "queue full"
        else:
            job = self._submit(key, text)
        job.callers += 1
        try:
            await asyncio.wait((job.done,), timeout=deadline_s)
        finally:
            job.callers -= 1
            if not job.callers:
                self._drop(job)
        if not job.done.done():
            return "deadline"
        found = job.done.result()
        if isinstance(found, Read):
            return found._replace(queue_s=max(job.begun_at - arrived, 0.0))
        return found

    def _submit(self, key: bytes, text: str) -> Job:
        self._metrics.classifier_looked_up("nothing")
        job = Job(key, text, self._loop.create_future())
        self._in_flight[key] = job
        self._waiting.append(job)
        self._tickets.put(True)
        self._metrics.classifier_queue(len(self._waiting))
        if self.failing:
            self._rest()  # this one tries it; until it has, the others do not
        return job

    def _drop(self, job: Job) -> None:
        """Forget a job, unless a thread has begun it."""
        try:
            self._waiting.remove(job)
        except ValueError:
            return
        del self._in_flight[job.key]
        self._metrics.classifier_queue(len(self._waiting))

    def _work(self) -> None:
        """What a thread does until it gets its last ticket."""
        lower_priority()
        while self._tickets.get():
            jobs = self._next()
            begun_at = time.perf_counter()
            for job in jobs:
                job.begun_at = begun_at
            for job, found in zip(jobs, self._answers(jobs), strict=True):
                call_soon(self._loop, partial(self._finished, job, found))

    def _next(self) -> list[Job]:
        """The job that waits longest, and with it others of similar length when there are more than threads.

        None when the job of a ticket was dropped, or read together with another.
        """
        try:
            jobs = [self._waiting.popleft()]
        except IndexError:
            return []
        length = len(jobs[0].text)
        for job in list(self._waiting)[len(self._threads) :]:
            if len(jobs) >= self.model.together:
                break
            if length / _SIMILAR <= len(job.text) <= length * _SIMILAR:
                with contextlib.suppress(ValueError):  # another thread took it, or it was dropped
                    self._waiting.remove(job)
                    jobs.append(job)
        return jobs

    def _answers(self, jobs: list[Job]) -> list[Read | Refusal]:
        if not jobs:
            return []
        started = time.perf_counter()
        try:
            answered = self.model.answer_together([job.text for job in jobs])
        except Exception:  # serving goes on; it is counted, and /ready says so when it does not end
            if len(jobs) > 1:  # perhaps one of them is at fault: it shall harm no other
                return [found for job in jobs for found in self._answers([job])]
            log.exception("%s failed on a prompt", self.model.name)
            return ["failed"]
        seconds = time.perf_counter() - started
        return [Read(one, inference_s=seconds) for one in answered]

    def _finished(self, job: Job, found: Read | Refusal) -> None:
        del self._in_flight[job.key]
        self._metrics.classifier_queue(len(self._waiting))
        if isinstance(found, Read):
            self._metrics.classifier_read(found.inference_s, found.answered)
            self._failures, self._rest_until = 0, 0.0
            self._cache[job.key] = found.answered
            self._forget_the_oldest()
        else:
            self._failures += 1
            if self.failing:
                self._rest()
        job.done.set_result(found)

    def _rest(self) -> None:
        self._rest_until = time.perf_counter() + REST_S

    def _forget_the_oldest(self) -> None:
        while len(self._cache) > self._cache_entries:
            self._cache.popitem(last=False)

    def retire(self) -> None:
        """Take no more threads than the work that is still waited for needs; they end with it."""
        self.resize(workers=0, cache_entries=0)

    async def close(self) -> None:
        """Drop what has not begun, wait for what has, end the threads."""
        for job in list(self._waiting):
            self._drop(job)
            job.done.set_result("failed")
        self.retire()
        await asyncio.to_thread(join, self._ending)


def _digest(text: str) -> bytes:
    """What the cache knows a text by. The text cannot be read from it."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def lower_priority() -> None:
    """Let the other threads of this process go first. On Linux only: elsewhere a thread has no priority of its own."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, min(19, os.getpriority(os.PRIO_PROCESS, thread) + _NICER_BY))


def call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    """Run `callback` on a loop from another thread; nothing when the loop has ended, for then nobody waits."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(callback)


def join(threads: Sequence[threading.Thread]) -> None:
    """Wait for threads to end, some seconds at most."""
    deadline = time.monotonic() + _JOIN_S
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0.0))
