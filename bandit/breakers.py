"""A circuit breaker: when calls to an arm fail too often nobody makes them for a while, then a few try again.

    closed -- too many failures --> open -- the wait is over --> half-open -- a trial succeeds --> closed
                                     ^                               |
                                     `----- a trial fails: a longer wait

Every step takes the time, in seconds of any clock that never goes back, and gives a new breaker.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from msgspec.structs import replace

State = Literal["closed", "half-open", "open"]

LONGEST_TOLD_S = 3_600.0  # a provider that asks to be left alone for longer is asked again all the same

_JITTER = 0.25  # of a wait comes on top at most, so that replicas do not come back together


class Tolerance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a model whose calls fail gets no more of them, and how it comes back. The settings file's `[breakers]`."""

    enabled: bool = True  # false: no breaker ever opens
    failure_share: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.5  # of recent calls to a model, from which it opens
    window_s: Annotated[float, Meta(gt=0.0)] = 60.0  # calls are recent for so long
    min_calls: Annotated[int, Meta(ge=1)] = 10  # of fewer recent calls the share says nothing
    consecutive_failures: Annotated[int, Meta(ge=1)] = 5  # so many in a row open it too, however long ago they began
    wait_s: Annotated[float, Meta(gt=0.0)] = 5.0  # until a trial; each trial that fails doubles it
    max_wait_s: Annotated[float, Meta(gt=0.0)] = 300.0  # at most
    trials: Annotated[int, Meta(ge=1)] = 1  # calls under way at once that try whether the model is back


class Window(msgspec.Struct, frozen=True):
    """Calls of the last while, in two halves: it spans between half of its length and the whole."""

    began: float = 0.0  # the newer half
    calls: int = 0
    failures: int = 0
    earlier_calls: int = 0  # of the older half
    earlier_failures: int = 0

    def plus(self, now: float, failed: int, half_s: float) -> "Window":
        """The window with one call more; `failed` is 0 or 1."""
        age = now - self.began
        if age < half_s:
            return Window(
                self.began, self.calls + 1, self.failures + failed, self.earlier_calls, self.earlier_failures
            )  # fmt: skip
        if age < 2.0 * half_s:
            return Window(self.began + half_s, 1, failed, self.calls, self.failures)
        return Window(now, 1, failed)


class Call(msgspec.Struct, frozen=True):
    """A call that was begun. Its breaker is told once how it ended."""

    era: int  # of the breaker, when it began
    trial: int  # its number among the trials; 0: it is none


class Breaker(msgspec.Struct, frozen=True, kw_only=True):
    """The breaker of one arm."""

    since: float = 0.0  # when it closed or, open, first opened; half-open belongs to open
    until: float | None = None  # no call before this, then trials; None: closed
    wait_s: float = 0.0  # of the last opening; 0: the next one is the first
    why: str = ""  # it opened, in words
    era: int = 0  # a new one begins when it opens, or is closed by hand
    trials: tuple[tuple[int, float], ...] = ()  # under way: number, and when each is given up
    numbered: int = 0  # trials so far
    in_a_row: int = 0  # failures
    window: Window = Window()

    def state(self, now: float) -> State:
        """Closed, open or half-open."""
        if self.until is None:
            return "closed"
        return "open" if now < self.until else "half-open"

    def lets_through(self, now: float, tolerance: Tolerance) -> bool:
        """Whether a call may be made now: closed, or half-open and a trial is free."""
        if self.until is None:
            return True
        return now >= self.until and len(self._under_way(now)) < tolerance.trials

    def begun(self, now: float, tolerance: Tolerance, within_s: float) -> "tuple[Breaker, Call]":
        """A call begins; it is made whatever the state is. A trial that has not ended `within_s` is given up."""
        if self.until is None or not self.lets_through(now, tolerance):
            return self, Call(self.era, 0)
        number = self.numbered + 1
        trials = (*self._under_way(now), (number, now + within_s))
        return replace(self, trials=trials, numbered=number), Call(self.era, number)

    def released(self, call: Call) -> "Breaker":
        """A call ended without saying anything of the arm: the client went away, or the request was at fault."""
        if not call.trial:
            return self
        return replace(self, trials=tuple(trial for trial in self.trials if trial[0] != call.trial))

    def answered(self, call: Call, now: float) -> "Breaker":
        """The arm answers, though the call has not ended: the first words of a stream."""
        ended = self.released(call)
        if ended.until is None or call.era != self.era:
            return ended
        return replace(ended, since=now, until=None, trials=(), in_a_row=0, window=Window(), why="")

    def succeeded(self, call: Call, now: float, tolerance: Tolerance) -> "Breaker":
        """A call ended well."""
        ended = self if self.until is None else self.answered(call, now)
        if call.era != self.era:
            return ended
        return replace(ended, in_a_row=0, window=ended.window.plus(now, 0, tolerance.window_s / 2.0))

    def failed(self, call: Call, now: float, tolerance: Tolerance, *, kind: str, jitter: float) -> "Breaker":
        """A call failed by the arm's fault, in one word `kind`. `jitter` in [0, 1) lengthens a wait by up to a quarter.

        A call that began before the breaker last opened says nothing of now.
        """
        ended = self.released(call)
        if call.era != self.era:
            return ended
        if ended.until is not None:
            again = now >= ended.until
            return _waiting(ended, now, tolerance, jitter, f"a trial failed: {kind}") if again else ended
        window, in_a_row = ended.window.plus(now, 1, tolerance.window_s / 2.0), ended.in_a_row + 1
        ended = replace(ended, in_a_row=in_a_row, window=window)
        calls, failures = window.calls + window.earlier_calls, window.failures + window.earlier_failures
        if in_a_row >= tolerance.consecutive_failures:
            return _waiting(ended, now, tolerance, jitter, f"{in_a_row} failures in a row, the last: {kind}")
        if calls >= tolerance.min_calls and failures >= tolerance.failure_share * calls:
            return _waiting(ended, now, tolerance, jitter, f"{failures} of {calls} calls failed, the last: {kind}")
        return ended

    def told_to_wait(self, call: Call, now: float, told_s: float, *, jitter: float) -> "Breaker":
        """A call failed and the provider asks for so many seconds without another, whenever that call began."""
        told_s = min(told_s, LONGEST_TOLD_S)
        ended, until = self.released(call), now + told_s * (1.0 + _JITTER * jitter)
        if ended.state(now) == "open":
            return replace(ended, until=max(until, ended.until or until))
        return _opened(ended, now, until, ended.wait_s, f"the provider asked to wait {told_s:g} s")

    def closed(self, now: float) -> "Breaker":
        """Closed by hand: as if it had never opened. What is under way says nothing of it."""
        return Breaker(since=now, era=self.era + 1, numbered=self.numbered)

    def _under_way(self, now: float) -> tuple[tuple[int, float], ...]:
        return tuple(trial for trial in self.trials if trial[1] > now)


def _waiting(breaker: Breaker, now: float, tolerance: Tolerance, jitter: float, why: str) -> Breaker:
    """Open for the first wait or, where it was not closed for long, for twice the last one."""
    recent = breaker.until is not None or now - breaker.since < max(breaker.wait_s, tolerance.window_s)
    wait_s = min(2.0 * breaker.wait_s if breaker.wait_s and recent else tolerance.wait_s, tolerance.max_wait_s)
    return _opened(breaker, now, now + wait_s * (1.0 + _JITTER * jitter), wait_s, why)


def _opened(breaker: Breaker, now: float, until: float, wait_s: float, why: str) -> Breaker:
    since = now if breaker.until is None else breaker.since
    return replace(
        breaker, since=since, until=until, wait_s=wait_s, why=why, era=breaker.era + 1, in_a_row=0, window=Window()
    )
