"""LiteLLM's adaptive router: its request types, its Beta cells, its Thompson draws, its tier prior, its cost weight.

What is called, all of it LiteLLM's:

- once: `AdaptiveRouter(router_name, config, model_to_prefs, model_to_cost)`. The tiers small, medium and large are its
  `quality_tier` 1, 2 and 3; no model declares strengths. `model_to_cost` is the arm's mean dollars per call, which it
  only compares with one another; like LiteLLM it is read once, so that prices which change later are not seen.
- to choose: `classify_prompt(prompt)`, then `pick_best` over `AdaptiveRouter.cell` of each model with the weights of
  the configuration. This is what `async_pre_routing_hook` and `pick_model` do, but with a generator of our own, because
  those draw from the global one.
- to learn: `apply_delta(cell, reward, 1 - reward)`, put back where `AdaptiveRouter.record_turn` puts it. LiteLLM has no
  feedback endpoint: its post-call hook calls `record_turn`, which reads signals such as "thanks" or a repeated question
  out of the conversation (from its fourth message on) and ends in exactly this update, +1 to alpha or beta. A reward of
  a replay is no conversation, so it enters where the signals do; that is kinder to LiteLLM than the hook would be.

`apply_delta` drops every update that would bring a cell above 200, the prior's 10 included: learning there stops. A
cell with a zero cannot be drawn from: the error is not repaired. LiteLLM's request would fail then and go where
`default_fallbacks` leads, which stands here for the model of quality rank 0; those choices are
counted, and nothing is learned from them, because its hook knows no model that it chose.
"""

import random
import time
from collections.abc import Sequence

from litellm.router_strategy.adaptive_router.adaptive_router import AdaptiveRouter
from litellm.router_strategy.adaptive_router.bandit import apply_delta, pick_best
from litellm.router_strategy.adaptive_router.classifier import classify_prompt
from litellm.types.router import AdaptiveRouterConfig, AdaptiveRouterPreferences, AdaptiveRouterWeights

from benchmarks.peers import PeerArm, Request

QUALITY_TIER = {"small": 1, "medium": 2, "large": 3}


class LiteLLMAdaptive:
    """One adaptive router. `cost_weight` None: LiteLLM's default, 0.3 against 0.7 for quality."""

    def __init__(self, arms: Sequence[PeerArm], seed: int, cost_weight: float | None) -> None:
        weights = (
            AdaptiveRouterWeights()
            if cost_weight is None
            else AdaptiveRouterWeights(quality=1 - cost_weight, cost=cost_weight)
        )
        self.name = f"litellm adaptive router, cost weight {weights.cost:g}"
        self.fallbacks = 0
        self.decision_s = 0.0
        self._models = [arm.name for arm in arms]
        self._router = AdaptiveRouter(
            router_name="replay",
            config=AdaptiveRouterConfig(available_models=self._models, weights=weights),
            model_to_prefs={
                arm.name: AdaptiveRouterPreferences(quality_tier=QUALITY_TIER[arm.tier], strengths=[]) for arm in arms
            },
            model_to_cost={arm.name: arm.cost_usd for arm in arms},
        )
        self._fallback = min(range(len(arms)), key=lambda index: arms[index].quality_rank)
        self._chance = random.Random(seed)
        self._unrouted: set[int] = set()

    def choose(self, request: Request) -> int:
        router, weights = self._router, self._router.config.weights
        started = time.perf_counter()
        try:
            request_type = classify_prompt(request.prompt)
            model = pick_best(
                {name: router.cell(request_type, name) for name in self._models},
                router.model_to_cost,
                weights.quality,
                weights.cost,
                self._chance,
            )
            chosen = self._models.index(model)
        except Exception:  # noqa: BLE001 - whatever stops LiteLLM, its fallback serves
            self.fallbacks += 1
            self._unrouted.add(request.number)
            chosen = self._fallback
        self.decision_s += time.perf_counter() - started
        return chosen

    def learn(self, number: int, request: Request, arm: int, reward: float) -> None:
        if number in self._unrouted:
            return
        key = (classify_prompt(request.prompt), self._models[arm])
        self._router._cells[key] = apply_delta(self._router.cell(*key), reward, 1 - reward)  # noqa: SLF001
