"""What decisions were taken on, as it was stored, and decisions taken again from it, also at other prices.

Settings of older versions are read as far as decisions need them: a setting that was renamed since costs only the
policies that have it.
"""

import logging
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

import msgspec
from sqlalchemy import Connection

from bandit.catalogue import AnyPolicy
from bandit.eligibility import split
from bandit.policies import Policy
from bandit.posteriors import Beliefs
from bandit.selection import choose, seed_of
from bandit.vocabulary import Arm
from service.decide import USER_SPECIFIED, Decision, Repeated, redecide
from service.learning.beliefs import decode
from service.settings import Safety, Settings
from service.setup import holdout_policy_of, safe_policy_of
from service.storage import store

log = logging.getLogger("armwise")

NO_PRICES: Mapping[str, Mapping[str, float]] = MappingProxyType({})


class Inputs(NamedTuple):
    """What a decision was taken on."""

    arms: Mapping[str, Arm]  # the enabled models
    policies: Mapping[str, Policy]
    beliefs: Beliefs


class _Model(Arm, frozen=True, kw_only=True):
    """A stored model, as far as choosing is concerned."""

    enabled: bool = True


class _Named(msgspec.Struct, frozen=True):
    name: str


class _Baseline(msgspec.Struct, frozen=True):
    baseline: str = ""


class _Holdout(msgspec.Struct, frozen=True):
    model: str = ""


class _Content(msgspec.Struct, frozen=True):
    """Stored settings, as far as decisions need them."""

    models: tuple[_Model, ...]
    policies: tuple[msgspec.Raw, ...]
    safety: _Baseline = _Baseline()
    holdout: _Holdout = _Holdout()


class _Known(NamedTuple):
    arms: Mapping[str, Arm]
    policies: Mapping[str, Policy]
    unreadable: Mapping[str, str]  # policies that this version cannot read, and why


class Stored:
    """Settings and beliefs that decisions were taken on, each read once; with other prices, where some are given."""

    def __init__(self, connection: Connection, prices: Mapping[str, Mapping[str, float]] = NO_PRICES) -> None:
        self._connection = connection
        self._prices = prices
        self._settings = lru_cache(maxsize=64)(self._read_settings)
        self._beliefs = lru_cache(maxsize=4096)(self._read_beliefs)

    def inputs(self, decision: Decision) -> Inputs | str:
        """What a decision was taken on; or why it is no longer known."""
        known = self._settings(decision.config_version)
        if isinstance(known, str):
            return known
        beliefs = self._beliefs(decision.choice.beliefs_version)
        if isinstance(beliefs, str):
            return beliefs
        policy = decision.choice.policy
        if decision.method != USER_SPECIFIED and policy in known.unreadable:
            return f"this version cannot read the settings of the policy {policy}: {known.unreadable[policy]}"
        if decision.method != USER_SPECIFIED and policy not in known.policies:
            return f"the policy {policy} is not in the settings it was taken on"
        return Inputs(known.arms, known.policies, beliefs)

    def again(self, decision: Decision) -> Repeated | str:
        """A decision taken again from what it was taken on; or why it cannot be."""
        inputs = self.inputs(decision)
        if isinstance(inputs, str):
            return inputs
        try:
            return redecide(decision, *inputs)
        except Exception as error:  # of whatever version the inputs are
            log.exception("decision %s cannot be taken again", decision.id)
            return f"this version cannot decide on what is stored: {type(error).__name__}: {error}"

    def draw(self, decision: Decision) -> dict[str, float] | str:
        """The probabilities that a decision's own policy has at these prices; or why that cannot be told."""
        inputs = self.inputs(decision)
        if isinstance(inputs, str):
            return inputs
        arms, policies, beliefs = inputs
        eligible, _ = split(list(arms.values()), decision.profile, decision.limits)
        if not eligible:
            return "no model is left at these prices"
        choice = choose(
            policies[decision.choice.policy], decision.profile, eligible, beliefs, seed_of(decision.id),
            terms=decision.choice.terms, max_explore=decision.max_explore,
        )  # fmt: skip
        return dict(zip(choice.arms, choice.probabilities, strict=True))

    def _read_settings(self, version: str) -> _Known | str:
        content = store.config_content(self._connection, version)
        if content is None:
            return "the settings it was taken on are not stored"
        try:
            found = msgspec.json.decode(content, type=_Content)
        except msgspec.MsgspecError as error:
            return f"this version cannot read the settings it was taken on: {error}"
        arms = {model.name: repriced(model, self._prices) for model in found.models if model.enabled}
        readable, unreadable = _policies(found.policies)
        safe = safe_policy_of(Settings(policies=readable, safety=Safety(baseline=found.safety.baseline)))
        held = holdout_policy_of(found.holdout.model)
        policies: dict[str, Policy] = {policy.name: policy for policy in (safe, held, *readable)}
        return _Known(arms, policies, unreadable)

    def _read_beliefs(self, version: str) -> Beliefs | str:
        content = store.belief_content(self._connection, version)
        if content is None:
            return "the beliefs it was taken on are not stored"
        try:
            return decode(content)
        except msgspec.MsgspecError as error:
            return f"this version cannot read the beliefs it was taken on: {error}"


def _policies(stored: tuple[msgspec.Raw, ...]) -> tuple[tuple[AnyPolicy, ...], dict[str, str]]:
    """Policies that this version can read, and for each other one the reason."""
    readable: list[AnyPolicy] = []
    unreadable: dict[str, str] = {}
    for raw in stored:
        try:
            readable.append(msgspec.json.decode(raw, type=AnyPolicy))
        except msgspec.MsgspecError as error:
            unreadable[msgspec.json.decode(raw, type=_Named).name] = str(error)
    return tuple(readable), unreadable


def repriced(arm: Arm, prices: Mapping[str, Mapping[str, float]]) -> Arm:
    """A model at other prices, where there are some for it."""
    return msgspec.structs.replace(arm, **prices.get(arm.name, {}))
