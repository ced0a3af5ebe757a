"""One stored decision, told step by step, and taken again from its stored inputs to show that it comes out the same."""

from typing import Any

import msgspec
from sqlalchemy import Connection

from bandit.vocabulary import Trade
from service.decide import Decision
from service.errors import NotFound
from service.evaluation.stored import Stored
from service.storage import store


def explain(connection: Connection, decision_id: str, key_id: str | None = None) -> dict[str, Any]:
    """The decision with its attempts and rewards, and whether it repeats bit for bit; else the reason why not.

    `key_id` None: an admin; else only decisions of that key are shown.

    Raises:
        NotFound: no such decision, or of another key.
    """
    row: Any = store.decision(connection, decision_id)
    if row is None or (key_id is not None and row["key_id"] != key_id):
        raise NotFound(f"No decision has the id `{decision_id[:80]}`.", code="not_found")
    try:
        decision = msgspec.json.decode(row["detail"], type=Decision)
    except msgspec.ValidationError as error:
        told = msgspec.json.decode(row["detail"], type=dict[str, Any])
        why = f"this version cannot read the decision: {error}"
        derived: dict[str, Any] = {"repeated": {"same": False, "why": why}, "trade": []}
    else:
        told, derived = msgspec.to_builtins(decision), _derived(Stored(connection), decision)
    return {
        **told,
        "served_arm": row["served_arm"] or row["arm"],
        "attempts": store.attempts_of(connection, [decision_id]),
        "rewards": store.rewards_of(connection, [decision_id]),
        **derived,
    }


def _derived(stored: Stored, decision: Decision) -> dict[str, Any]:
    """The decision taken again, and what each eligible model offered where the policy weighs quality for money."""
    again, inputs = stored.again(decision), stored.inputs(decision)
    if isinstance(again, str) or isinstance(inputs, str):
        return {"repeated": {"same": False, "why": again}, "trade": []}
    trade: tuple[Trade, ...] = ()
    if decision.method == "auto":
        arms, policies, beliefs = inputs
        choice = decision.choice
        weighed = [arms[name] for name in choice.arms]
        trade = policies[choice.policy].trade(decision.profile, weighed, beliefs, choice.terms)
    return {
        "repeated": {"same": again.same, **msgspec.to_builtins(again.choice)},
        "trade": [msgspec.to_builtins(row) for row in trade],
    }
