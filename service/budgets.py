"""Keeping to budgets: what was spent, by all replicas together, and what a dollar therefore costs the next request.

A request counts with its expected cost when its model is drawn, and with the rest when its reply was metered. What this
process counted is added to the database's rows four times a second, and their sums are taken over then: a replica knows
of another one's requests a moment later, which is why a budget has a small burst.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from sqlalchemy import Connection, case, select
from sqlalchemy.dialects import postgresql, sqlite

from bandit.budget import Pacer, PacerState, price, repriced, room_usd, within_window
from bandit.costs import call_cost
from bandit.pooled import PooledThompson
from bandit.vocabulary import FREE, PROMPT_TIERS, TASK_TYPES, PromptTier, TaskType, Terms
from service.auth import Key
from service.errors import BudgetSpent
from service.setup import Setup
from service.tables import budgets
from service.writer import Writer

if TYPE_CHECKING:  # only for types: the parts join these
    from service.decide import Decision
    from service.knowledge import Knowledge

NANO = 1_000_000_000  # dollars are stored in billionths, as integers
_DAY_S = 86_400.0
_NO_LIMIT = 1 << 60
_READ_EVERY_S = 1.0
_TYPICAL_PROMPT_TOKENS = 200.0
_REMEMBERED = 5_000.0  # requests from which the shares of task types and tiers are known
_FIRST_DAY_SHARE = 0.02  # of a day that must be over before its pace says how many requests it will have
_FIRST_DAY_REQUESTS = 1_000.0


class Row(NamedTuple):
    """One budget's sums, in billionths of a dollar."""

    requests: int = 0
    granted: int = 0
    spent: int = 0


Name = tuple[str, int]  # whose budget (a policy, or "key:" and an API key's id), and the day it is of; 0: no day


class Budgets:
    """The budgets of policies and of API keys. Belongs to the event loop."""

    def __init__(self) -> None:
        self._rows: dict[Name, Row] = {}
        self._pending: dict[Name, Row] = {}  # counted here, and not yet in the database
        self._expected: dict[str, tuple[tuple[Name, ...], float]] = {}  # of requests that are under way
        self._limited: set[str] = set()  # ids of API keys with a limit
        self._read_at = float("-inf")
        self._price0: dict[str, float] = {}  # of policies, as last solved for
        self._traffic: dict[tuple[TaskType, PromptTier], float] = {}
        self._prompt_tokens: dict[TaskType, float] = {}

    def terms(self, policy: object, now: float) -> Terms:
        """What money costs a policy's next request."""
        if not isinstance(policy, PooledThompson) or policy.objective != "budget":
            return FREE
        pacer, state = self._paced(policy, now)
        return Terms(usd_price=price(pacer, state), room_usd=room_usd(pacer, state))

    def state(self, policy: PooledThompson, now: float) -> tuple[Pacer, PacerState]:
        """The pacer of a policy with a budget, and where it stands."""
        return self._paced(policy, now)

    def allow(self, key: Key, setup: Setup, now: float) -> None:
        """Refuse a request of an API key that has spent its day's limit.

        Raises:
            BudgetSpent: until midnight UTC.
        """
        limit_usd = setup.settings.budgets.usd_per_key_day.get(key.name)
        if limit_usd is None:
            self._limited.discard(key.id)
            return
        self._limited.add(key.id)
        spent = self._sums(_key_name(key.id, now)).spent / NANO
        if spent >= limit_usd:
            left_s = _DAY_S - now % _DAY_S
            message = (
                f"This API key has spent ${spent:.4f} of the ${limit_usd:g} it may spend a day. "
                f"The next day begins in {left_s / 3600:.1f} hours (midnight UTC)."
            )
            raise BudgetSpent(message, retry_after_s=left_s)

    def drawn(self, setup: Setup, decision: "Decision", now: float) -> None:
        """Count a request when its model was drawn."""
        if not setup.budgeted:
            return
        cell = (decision.profile.task_type, decision.profile.tier)
        self._traffic[cell] = self._traffic.get(cell, 0.0) + 1.0
        if sum(self._traffic.values()) > 2 * _REMEMBERED:
            self._traffic = {cell: calls / 2.0 for cell, calls in self._traffic.items()}
        tokens = self._prompt_tokens.get(cell[0], _TYPICAL_PROMPT_TOKENS)
        self._prompt_tokens[cell[0]] = tokens + 0.01 * (decision.profile.prompt_tokens - tokens)
        names, target = [], 0
        policy = setup.policies.get(decision.choice.policy)
        if decision.method == "auto" and isinstance(policy, PooledThompson) and policy.objective == "budget":
            names.append(_policy_name(policy, now))
            target = round(NANO * _pacer(policy).target_usd) if policy.usd_per_request else 0
        if decision.caller.key_id in self._limited:
            names.append(_key_name(decision.caller.key_id, now))
        expected = decision.expected_usd
        for name in names:
            granted = 0 if name[0].startswith(_KEY) else target
            self._count(name, Row(1, granted, round(NANO * expected)))
        if names:
            self._expected[decision.id] = tuple(names), expected

    def settled(self, decision_id: str, cost_usd: float) -> None:
        """Count what a request has cost beyond what was expected; nothing the second time."""
        names, expected = self._expected.pop(decision_id, ((), 0.0))
        for name in names:
            self._count(name, Row(0, 0, round(NANO * (cost_usd - expected))))

    def reprice(self, setup: Setup, knowledge: "Knowledge", now: float) -> None:
        """Solve for the price of money again, with what is believed now. Milliseconds: call it in a thread."""
        if not setup.budgeted:
            return
        for policy in setup.policies.values():
            if isinstance(policy, PooledThompson) and policy.objective == "budget" and setup.arms:
                pacer, state = self._paced(policy, now)
                fit = knowledge.fit("", policy.name)
                weights, quality, cost = [], [], []
                for task in TASK_TYPES:
                    for tier in PROMPT_TIERS:
                        beliefs = fit.get((task, tier))
                        if beliefs is None:
                            continue
                        cell = [policy.estimate(arm, task, tier, beliefs) for arm in setup.arms]
                        length = round(self._prompt_tokens.get(task, _TYPICAL_PROMPT_TOKENS))
                        weights.append(self._traffic.get((task, tier), 0.0))
                        quality.append([one.mean for one in cell])
                        cost.append(
                            [
                                call_cost(arm, length, one.output_tokens or 400)
                                for arm, one in zip(setup.arms, cell, strict=True)
                            ]
                        )
                if weights:
                    solved = repriced(pacer, state, np.array(weights), np.array(quality), np.array(cost))
                    self._price0[policy.name] = solved.price0

    def _paced(self, policy: PooledThompson, now: float) -> tuple[Pacer, PacerState]:
        pacer, sums = _pacer(policy), self._sums(_policy_name(policy, now))
        state = PacerState(
            requests=sums.requests,
            granted_usd=sums.granted / NANO,
            spent_usd=sums.spent / NANO,
            price0=self._price0.get(policy.name, 0.0),
        )
        if policy.usd_per_request:
            return pacer, state
        over = now % _DAY_S / _DAY_S
        before = self._sums((policy.name, int(now // _DAY_S) - 1)).requests or _FIRST_DAY_REQUESTS
        expected = sums.requests / over if over > _FIRST_DAY_SHARE and sums.requests else before
        return within_window(pacer, state, policy.usd_per_day, over, expected * (1.0 - over))

    def _sums(self, name: Name) -> Row:
        row, pending = self._rows.get(name, Row()), self._pending.get(name, Row())
        return Row(*(a + b for a, b in zip(row, pending, strict=True)))

    def _count(self, name: Name, more: Row) -> None:
        self._pending[name] = Row(*(a + b for a, b in zip(self._pending.get(name, Row()), more, strict=True)))

    async def exchange(self, writer: Writer, setup: Setup, now: float) -> None:
        """Add what was counted here to the database, and take over what all replicas counted.

        Raises:
            StorageUnavailable: nothing was added; the next exchange does it.
        """
        pending = {name: row for name, row in self._pending.items() if row != Row()}
        if not pending and (not setup.budgeted or now - self._read_at < _READ_EVERY_S):
            return
        savings = {policy.name: _most_saved(policy) for policy in setup.policies.values()}

        def work(connection: Connection) -> dict[Name, Row]:
            for name in sorted(pending):
                _add(connection, name, pending[name], savings.get(name[0], _NO_LIMIT), now)
            return _read(connection, now)

        def take(rows: dict[Name, Row]) -> None:
            self._rows, self._read_at = rows, now
            for name, row in pending.items():
                self._count(name, Row(*(-part for part in row)))
                if self._pending[name] == Row():
                    del self._pending[name]

        await writer.call(work, take)


_KEY = "key:"


def _key_name(key_id: str, now: float) -> Name:
    return _KEY + key_id, int(now // _DAY_S)


def _policy_name(policy: PooledThompson, now: float) -> Name:
    return policy.name, 0 if policy.usd_per_request else int(now // _DAY_S)


def _pacer(policy: PooledThompson) -> Pacer:
    return Pacer(budget_usd=policy.usd_per_request or policy.usd_per_day)


def _most_saved(policy: object) -> int:
    """How much less than granted may have been spent: older savings lapse."""
    if not isinstance(policy, PooledThompson) or not policy.usd_per_request:
        return _NO_LIMIT
    pacer = _pacer(policy)
    return round(NANO * pacer.target_usd * pacer.horizon)


def _add(connection: Connection, name: Name, row: Row, most_saved: int, at: float) -> None:
    kind = sqlite if connection.dialect.name == "sqlite" else postgresql
    statement = kind.insert(budgets).values(
        name=name[0], day=name[1], requests=row.requests, granted=row.granted, spent=row.spent, updated_at=at
    )
    new = statement.excluded
    granted, spent = budgets.c.granted + new.granted, budgets.c.spent + new.spent
    statement = statement.on_conflict_do_update(
        index_elements=["name", "day"],
        set_={
            "requests": budgets.c.requests + new.requests,
            "granted": case((granted > spent + most_saved, spent + most_saved), else_=granted),
            "spent": spent,
            "updated_at": new.updated_at,
        },
    )
    connection.execute(statement)


def _read(connection: Connection, now: float) -> dict[Name, Row]:
    """The budgets without a day, and those of today and yesterday."""
    since = int(now // _DAY_S) - 1
    columns = (budgets.c.name, budgets.c.day, budgets.c.requests, budgets.c.granted, budgets.c.spent)
    found = connection.execute(select(*columns).where((budgets.c.day == 0) | (budgets.c.day >= since)))
    return {(name, day): Row(requests, granted, spent) for name, day, requests, granted, spent in found}
