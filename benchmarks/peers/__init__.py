"""Other routers, each driven through its own package's code, for the replay benchmark.

What every one is given, and how a reward reaches it, is told where it is driven: `litellm_adaptive.py` for the one that
runs in this process, `worker.py` for those that run in environments of their own.
"""

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol


class Request(NamedTuple):
    """One prompt to be routed."""

    number: int
    task_type: str
    tier: str
    prompt: str
    costs_usd: tuple[float, ...]  # expected of each arm, in the order of the arms


class PeerArm(NamedTuple):
    """A model as a peer is told of it beforehand."""

    name: str
    tier: str  # small, medium or large
    quality_rank: int  # 0: the best of the order that the tiers were made of
    cost_usd: float  # mean of a call


class Peer(Protocol):
    """A router under comparison. The order of calls is the order of events."""

    name: str
    fallbacks: int  # choices that its code failed to make: the fallback of its own router serves, nothing is learned
    decision_s: float  # spent in its own code for choices, pipes not counted

    def choose(self, request: Request) -> int:
        """The index of the arm that serves."""
        ...

    def learn(self, number: int, request: Request, arm: int, reward: float) -> None:
        """Take in the reward, in [0, 1], of what `choose` said for request `number`."""
        ...


class NotInstalled(Exception):
    """A peer's package is not here; the message names the command that gets it."""


Start = Callable[[Sequence[PeerArm], int, float | None], Peer]  # the arms, a seed, and the budget in USD per request


def _litellm(cost_weight: float | None) -> Start:
    def start(arms: Sequence[PeerArm], seed: int, budget_usd: float | None) -> Peer:
        os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else the import fetches a price list
        from benchmarks.peers.litellm_adaptive import LiteLLMAdaptive  # noqa: PLC0415 - only when used

        return LiteLLMAdaptive(arms, seed, cost_weight)

    return start


def _remote(name: str, driver: str, environment: str) -> Start:
    def start(arms: Sequence[PeerArm], seed: int, budget_usd: float | None) -> Peer:
        from benchmarks.peers.remote import RemotePeer  # noqa: PLC0415 - only when used

        return RemotePeer(name, driver, environment, arms, seed, budget_usd)

    return start


# Raise NotInstalled where the package's environment is missing.
PEERS: dict[str, Start] = {
    "litellm_quality": _litellm(0.0),
    "litellm_default": _litellm(None),
    "paretobandit": _remote("ParetoBandit 0.1.1", "paretobandit", "paretobandit"),
    "mabwiser": _remote("MABWiser 2.7.4, Thompson sampling per task type", "mabwiser", "mabwiser"),
    "bayesian_router": _remote("bayesian-router 0.1.1", "bayesian_router", "bayesian_router"),
    "bayesian_router_no_breakers": _remote(
        "bayesian-router 0.1.1, breakers off", "bayesian_router_no_breakers", "bayesian_router"
    ),
}
