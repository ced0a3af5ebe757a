"""The circuit breaker of each model in this process: told how calls end, asked which models get none now.

What counts is what a provider did: no connection, no answer in time, 429, 5xx, no chat completion, our key refused.
What a request is at fault for, and clients that go away, say nothing. Used on the event loop alone.
"""

import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from bandit.breakers import Breaker, Call
from bandit.selection import seed_of, uniform
from service.errors import FailureKind, UpstreamFailure
from service.metrics.catalogue import Metrics
from service.settings import AnyModel
from service.setup import Setup

log = logging.getLogger("armwise")

FAULTS: frozenset[FailureKind] = frozenset(
    {"connection", "timeout", "rate_limited", "server_error", "malformed", "credentials", "unknown_model"}
)

_MAY_ASK_TO_WAIT = frozenset({"rate_limited", "server_error"})
_NONE: frozenset[str] = frozenset()
_UNKNOWN = Breaker()  # of a model that is gone, for a request that began before


class Breakers:
    """All breakers of one process. `clock` tells seconds and never goes back."""

    def __init__(
        self, setup: Setup, metrics: Metrics, *, clock: Callable[[], float] = time.monotonic, salt: str | None = None
    ) -> None:
        self._metrics = metrics
        self._clock = clock
        self._salt = os.urandom(8).hex() if salt is None else salt  # so that no two replicas wait alike
        self._models: Mapping[str, AnyModel] = {}
        self._breakers: dict[str, Breaker] = {}
        self._not_closed: set[str] = set()
        self._obeyed: dict[str, int] = {}
        self.take_over(setup)

    def take_over(self, setup: Setup) -> None:
        """Go by these settings from now on. A model whose settings changed begins with a closed breaker."""
        self._tolerance, models = setup.settings.breakers, setup.models
        now = self._clock()
        for name in (*self._breakers, *(models.keys() - self._breakers.keys())):
            if not self._tolerance.enabled or self._models.get(name) != models.get(name):
                self._put(name, self._breakers.get(name, Breaker()).closed(now))
        self._breakers = {name: self._breakers[name] for name in models}
        self._metrics.breakers(models.keys() - self._models.keys())
        self._models = models

    @property
    def shut(self) -> frozenset[str]:
        """Models that get no call at this moment."""
        if not self._not_closed:
            return _NONE
        now = self._clock()
        return frozenset(
            name for name in self._not_closed if not self._breakers[name].lets_through(now, self._tolerance)
        )

    def lets_through(self, name: str) -> bool:
        """Whether a model may be called at this moment."""
        return name not in self._not_closed or self._breakers[name].lets_through(self._clock(), self._tolerance)

    def begin(self, model: AnyModel) -> Call:
        """A call to `model` begins, whether it may or not. Say how it ended, or that it was released."""
        breaker = self._breakers.get(model.name, _UNKNOWN)
        if breaker.until is None:
            return Call(breaker.era, 0)
        longest_s = model.connect_timeout_s + max(model.timeout_s, model.first_token_timeout_s)
        begun, call = breaker.begun(self._clock(), self._tolerance, longest_s)
        self._put(model.name, begun)
        return call

    def answered(self, name: str, call: Call) -> None:
        """The first words of a stream are there; its end is still to come."""
        breaker = self._breakers.get(name)
        if breaker is not None and breaker.until is not None:
            self._put(name, breaker.answered(call, self._clock()))

    def succeeded(self, name: str, call: Call) -> None:
        """A call ended well."""
        breaker = self._breakers.get(name)
        if breaker is not None and self._tolerance.enabled:
            self._put(name, breaker.succeeded(call, self._clock(), self._tolerance))

    def failed(self, name: str, call: Call, failure: UpstreamFailure) -> None:
        """A call failed, by the provider's fault or another's."""
        breaker = self._breakers.get(name)
        if breaker is None or not self._tolerance.enabled:
            return
        if failure.kind not in FAULTS:
            self._put(name, breaker.released(call))
            return
        jitter = uniform(seed_of(f"{self._salt} {name} {breaker.era}"))
        told_s = asked_to_wait(failure.retry_after, time.time()) if failure.kind in _MAY_ASK_TO_WAIT else 0.0
        if told_s > 0.0:
            self._put(name, breaker.told_to_wait(call, self._clock(), told_s, jitter=jitter))
        else:
            self._put(name, breaker.failed(call, self._clock(), self._tolerance, kind=failure.kind, jitter=jitter))

    def released(self, name: str, call: Call) -> None:
        """A call ended, whether something was said of it or not: its place among the trials is free."""
        if call.trial and (breaker := self._breakers.get(name)) is not None:
            self._put(name, breaker.released(call))

    def skipped(self, names: Iterable[str]) -> None:
        """Count models that were not called, as others answered."""
        for name in names:
            self._metrics.breaker_skipped(name)

    def obey(self, closed_by_hand: Mapping[str, int]) -> None:
        """Close breakers that the owner closed; `closed_by_hand` has the number of each model's last such control."""
        for name, number in closed_by_hand.items():
            if number > self._obeyed.get(name, 0):
                self._obeyed[name] = number
                if name in self._not_closed:
                    self._put(name, self._breakers[name].closed(self._clock()))

    def tell(self) -> None:
        """Tell the metrics; call it each second, for waits end by themselves."""
        now = self._clock()
        for name in self._not_closed:
            self._metrics.breaker_state(name, self._breakers[name].state(now))

    def told(self, at: float) -> list[dict[str, Any]]:
        """Each breaker as the owner reads it; `at` is now, in seconds since 1970 UTC."""
        now = self._clock()
        return [
            {
                "model": name,
                "state": breaker.state(now),
                "since": at - now + breaker.since,
                "why": breaker.why,
                "next_trial_at": None if breaker.until is None else at + max(breaker.until - now, 0.0),
            }
            for name, breaker in self._breakers.items()
        ]

    def _put(self, name: str, new: Breaker) -> None:
        old = self._breakers.get(name)
        self._breakers[name] = new
        if old is None or old.until == new.until:
            return
        now = self._clock()
        self._metrics.breaker_state(name, new.state(now))
        if new.until is None:
            self._not_closed.discard(name)
            log.info("the breaker of %s closed", name)
        elif new.era != old.era:
            if name not in self._not_closed:
                self._not_closed.add(name)
                self._metrics.breaker_opened(name)
            log.warning("the breaker of %s opened: %s; a trial in %.1f s", name, new.why, new.until - now)


def asked_to_wait(retry_after: str | None, now: float) -> float:
    """Seconds that a Retry-After header asks for, a number or a date; 0 when it asks for nothing that can be read.

    `now` is seconds since 1970 UTC.

    >>> asked_to_wait("1.5", 0.0), asked_to_wait("Thu, 01 Jan 1970 00:01:00 GMT", 50.0), asked_to_wait("soon", 0.0)
    (1.5, 10.0, 0.0)
    """
    if retry_after is None:
        return 0.0
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(retry_after).timestamp() - now
        except (ValueError, OverflowError):
            return 0.0
    return seconds if math.isfinite(seconds) and seconds > 0.0 else 0.0
