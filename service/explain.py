"""One stored decision, told step by step, and taken again from its stored inputs to show that it comes out the same."""

from typing import Any

import msgspec
from sqlalchemy import Connection

from bandit.policies import Policy
from service import store
from service.beliefs import decode
from service.configuration import settings_from_content
from service.decide import Decision, redecide
from service.errors import NotFound
from service.settings import Settings
from service.setup import safe_policy_of


def explain(connection: Connection, decision_id: str, key_id: str | None = None) -> dict[str, Any]:
    """The decision with its attempts and rewards, and whether it repeats bit for bit.

    `key_id` None: an admin; else only decisions of that key are shown.

    Raises:
        NotFound: no such decision, or of another key.
    """
    row: Any = store.decision(connection, decision_id)
    if row is None or (key_id is not None and row["key_id"] != key_id):
        raise NotFound(f"No decision has the id `{decision_id[:80]}`.", code="not_found")
    decision = msgspec.json.decode(row["detail"], type=Decision)
    return {
        **msgspec.to_builtins(decision),
        "served_arm": row["served_arm"] or decision.choice.arm,
        "attempts": store.attempts_of(connection, [decision_id]),
        "rewards": store.rewards_of(connection, [decision_id]),
        "repeated": repeated(connection, decision),
        "trade": trade(connection, decision),
    }


def trade(connection: Connection, decision: Decision) -> list[dict[str, Any]]:
    """What each eligible model offered, quality for money; empty for policies that do not weigh it."""
    config = store.config_content(connection, decision.config_version)
    content = store.belief_content(connection, decision.choice.beliefs_version)
    if config is None or content is None or decision.method != "auto":
        return []
    settings = settings_from_content(config)
    models = {model.name: model.arm() for model in settings.models}
    choice, policy = decision.choice, policies_of(settings)[decision.choice.policy]
    arms = [models[name] for name in choice.arms]
    return [msgspec.to_builtins(row) for row in policy.trade(decision.profile, arms, decode(content), choice.terms)]


def repeated(connection: Connection, decision: Decision) -> dict[str, Any]:
    """The decision taken again from the settings and beliefs it was stored with."""
    config = store.config_content(connection, decision.config_version)
    content = store.belief_content(connection, decision.choice.beliefs_version)
    if config is None or content is None:
        missing = "settings" if config is None else "beliefs"
        return {"same": False, "why": f"the {missing} it was taken on are not stored"}
    settings = settings_from_content(config)
    arms = {model.name: model.arm() for model in settings.models if model.enabled}
    again = redecide(decision, arms, policies_of(settings), decode(content))
    return {"same": again.same, **msgspec.to_builtins(again.choice)}


def policies_of(settings: Settings) -> dict[str, Policy]:
    """The policies by name, with the one that decides when learning cannot."""
    safe = safe_policy_of(settings)
    return {safe.name: safe, **{policy.name: policy for policy in settings.policies}}
