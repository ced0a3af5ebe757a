"""Keeping to budgets of money and of late replies: what a dollar, or a late reply, costs the next request.

A request counts with what is expected of it when its model is drawn, and with the rest when its reply was metered. Late
replies are priced like money: the budget is the share that may be late, the cost of a model its chance to be late.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from msgspec.structs import replace

from bandit.budget import Pacer, PacerState, price, repriced, room_usd, within_window
from bandit.costs import DEFAULT_OUTPUT_TOKENS, call_cost
from bandit.fitted import FittedPolicy
from bandit.history import Cell
from bandit.linear import LinearThompson, typical_of
from bandit.policies import Policy
from bandit.pooled import PooledThompson
from bandit.posteriors import Beliefs, Estimate
from bandit.vocabulary import FREE, PROMPT_TIERS, TASK_TYPES, Arm, PromptTier, TaskType, Terms
from service.auth import Key
from service.errors import BudgetSpent
from service.money.accounts import DAY_S, NANO, NO_LIMIT, Accounts, Name, Row, today
from service.setup import Setup
from service.storage.writer import Writer

if TYPE_CHECKING:  # only for types: the parts join these
    from service.decide import Decision
    from service.learning.knowledge import Knowledge

_KEY, _LATE = "key:", "late:"
_TYPICAL_PROMPT_TOKENS = 200.0
_REMEMBERED = 5_000.0  # requests from which the shares of task types and tiers are known
_FIRST_DAY_SHARE = 0.02  # of a day that must be over before its pace says how many requests it will have
_FIRST_DAY_REQUESTS = 1_000.0


class _Expected(NamedTuple):
    """What was counted for a request that is under way."""

    money: tuple[Name, ...]
    usd: float
    late: Name | None
    late_share: float
    late_after_s: float


class Funded(NamedTuple):
    """A variant of an experiment with a budget of its own."""

    policy: str
    reads: str  # namespace
    share: float  # of the requests, and so of a budget by the day


class Standing(NamedTuple):
    """How a policy keeps one of its budgets: of money in USD, or of late replies."""

    policy: str
    budget: Literal["money", "late"]
    spent: float
    granted: float
    debt_requests: float  # what was spent ahead, in budgets of one request; negative: saved
    price: float  # quality points that a dollar, or a late reply, costs


class Budgets:
    """The budgets of policies and of API keys. Belongs to the event loop."""

    def __init__(self) -> None:
        self._accounts = Accounts()
        self._expected: dict[str, _Expected] = {}  # by decision
        self._limited: set[str] = set()  # ids of API keys with a limit
        self._prices: dict[str, float] = {}  # by owner of an account, as last solved for
        self._traffic: dict[tuple[TaskType, PromptTier], float] = {}
        self._prompt_tokens: dict[TaskType, float] = {}
        self.variants: Mapping[str, Funded] = {}  # of experiments, with budgets of their own, by their account

    def terms(self, policy: Policy, now: float, account: str = "") -> Terms:
        """What money and lateness cost the next request of a policy, or of a variant that has an account."""
        policy = self._of_account(policy, account)
        if not isinstance(policy, FittedPolicy) or not policy.limited:
            return FREE
        usd_price, room, budget, late_price = 0.0, None, None, 0.0
        if policy.objective == "budget":
            pacer, state = self.money(policy, now)
            usd_price, room, budget = price(pacer, state), room_usd(pacer, state), pacer.target_usd
        if policy.late_after_s:
            late_price = price(*self.lateness(policy))
        return Terms(usd_price=usd_price, room_usd=room, budget_usd=budget, late_price=late_price)

    def money(self, policy: FittedPolicy, now: float) -> tuple[Pacer, PacerState]:
        """The pacer of a policy's budget, and where it stands."""
        pacer, state = _money_pacer(policy), self._state(_money_name(policy, now))
        if policy.usd_per_request:
            return pacer, state
        over = now % DAY_S / DAY_S
        before = self._accounts.sums(Name(policy.name, today(now) - 1)).requests or _FIRST_DAY_REQUESTS
        expected = state.requests / over if over > _FIRST_DAY_SHARE and state.requests else before
        return within_window(pacer, state, policy.usd_per_day, over, expected * (1.0 - over))

    def lateness(self, policy: FittedPolicy) -> tuple[Pacer, PacerState]:
        """The same of late replies, with a late reply in a dollar's place."""
        return Pacer(budget_usd=policy.late_share), self._state(Name(_LATE + policy.name))

    def standings(self, setup: Setup, now: float) -> list[Standing]:
        """How every policy, and every variant with an account of its own, keeps its budgets."""
        found: list[Standing] = []
        for policy, *_ in self._all(setup):
            if isinstance(policy, FittedPolicy) and policy.objective == "budget":
                found.append(_standing(policy.name, "money", *self.money(policy, now)))
            if isinstance(policy, FittedPolicy) and policy.late_after_s:
                found.append(_standing(policy.name, "late", *self.lateness(policy)))
        return found

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
        spent = self._accounts.sums(Name(_KEY + key.id, today(now))).spent / NANO
        if spent >= limit_usd:
            left_s = DAY_S - now % DAY_S
            message = (
                f"This API key has spent ${spent:.4f} of the ${limit_usd:g} it may spend a day. "
                f"The next day begins in {left_s / 3600:.1f} hours (midnight UTC)."
            )
            raise BudgetSpent(message, retry_after_s=left_s)

    def drawn(self, setup: Setup, decision: "Decision", now: float) -> None:
        """Count a request when its model was drawn."""
        if not setup.budgeted:
            return
        self._notice(decision)
        policy = setup.policies.get(decision.choice.policy)
        if policy is not None and decision.assigned is not None:
            policy = self._of_account(policy, decision.assigned.account)
        money, late, late_after_s = [], None, 0.0
        if decision.method == "auto" and isinstance(policy, FittedPolicy):
            if policy.objective == "budget":
                money.append(_money_name(policy, now))
                target = _money_pacer(policy).target_usd if policy.usd_per_request else 0.0
                self._accounts.count(money[0], _row(1, target, decision.expected_usd))
            if policy.late_after_s:
                late, late_after_s = Name(_LATE + policy.name), policy.late_after_s
                target = Pacer(budget_usd=policy.late_share).target_usd
                self._accounts.count(late, _row(1, target, decision.expected_late))
        if decision.caller.key_id in self._limited:
            money.append(Name(_KEY + decision.caller.key_id, today(now)))
            self._accounts.count(money[-1], _row(1, 0.0, decision.expected_usd))
        if money or late is not None:
            self._expected[decision.id] = _Expected(
                tuple(money), decision.expected_usd, late, decision.expected_late, late_after_s
            )

    def settled(self, decision_id: str, cost_usd: float, waited_s: float) -> None:
        """Count how a request differed from what was expected of it; nothing the second time.

        `waited_s` is the time to the reply, or to the first token of a stream.
        """
        expected = self._expected.pop(decision_id, None)
        if expected is None:
            return
        for name in expected.money:
            self._accounts.count(name, _row(0, 0.0, cost_usd - expected.usd))
        if expected.late is not None:
            late = float(waited_s > expected.late_after_s)
            self._accounts.count(expected.late, _row(0, 0.0, late - expected.late_share))

    async def exchange(self, writer: Writer, setup: Setup, now: float) -> None:
        """Add what was counted here to the database, and take over what all replicas counted.

        Raises:
            StorageUnavailable: nothing was added; the next exchange does it.
        """
        if setup.budgeted:
            most_saved = {}
            for policy, *_ in self._all(setup):
                if isinstance(policy, FittedPolicy):
                    most_saved[policy.name] = _savings(_money_pacer(policy)) if policy.usd_per_request else NO_LIMIT
                    most_saved[_LATE + policy.name] = _savings(Pacer(budget_usd=policy.late_share))
            await self._accounts.exchange(writer, most_saved, now)

    def reprice(self, setup: Setup, knowledge: "Knowledge", now: float) -> None:
        """Solve for the prices again, with what is believed now. Milliseconds: call it in a thread."""
        for policy, namespace, name in self._all(setup):
            if not (isinstance(policy, PooledThompson | LinearThompson) and policy.limited and setup.arms):
                continue
            fit = knowledge.fit(namespace, name)
            cells = [(cell, fit[cell]) for cell in ((t, z) for t in TASK_TYPES for z in PROMPT_TIERS) if cell in fit]
            if not cells:
                continue
            known = [_known(policy, knowledge, cell, setup.arms, beliefs) for cell, beliefs in cells]
            weights = np.array([self._traffic.get(cell, 0.0) for cell, _ in cells])
            quality = np.array([[one.mean for one in row] for row in known])
            late = np.array([[one.late for one in row] for row in known])
            lengths = [round(self._prompt_tokens.get(cell[0], _TYPICAL_PROMPT_TOKENS)) for cell, _ in cells]
            cost = np.array(
                [
                    [
                        call_cost(arm, length, one.output_tokens or DEFAULT_OUTPUT_TOKENS)
                        for arm, one in zip(setup.arms, row, strict=True)
                    ]
                    for length, row in zip(lengths, known, strict=True)
                ]
            )
            terms = self.terms(policy, now)  # each price is solved for with the other one as it stands
            if policy.objective == "budget":
                pacer, state = self.money(policy, now)
                solved = repriced(pacer, state, weights, quality - terms.late_price * late, cost)
                self._prices[policy.name] = solved.price0
            if policy.late_after_s:
                pacer, state = self.lateness(policy)
                solved = repriced(pacer, state, weights, quality - terms.usd_price * cost, late)
                self._prices[_LATE + policy.name] = solved.price0

    def _of_account(self, policy: Policy, account: str) -> Policy:
        """The policy as the owner of an account: its own, or a variant's share of it."""
        funded = self.variants.get(account)
        if funded is None or not isinstance(policy, FittedPolicy):
            return policy
        return replace(policy, name=account, usd_per_day=policy.usd_per_day * funded.share)

    def _all(self, setup: Setup) -> list[tuple[Policy, str, str]]:
        """Every policy with an account, the namespace that it reads, and its name there."""
        found = [(policy, "", policy.name) for policy in setup.policies.values()]
        for account, funded in self.variants.items():
            if (policy := setup.policies.get(funded.policy)) is not None:
                found.append((self._of_account(policy, account), funded.reads, funded.policy))
        return found

    def _notice(self, decision: "Decision") -> None:
        """Remember what kinds of requests come, and how long they are."""
        cell = (decision.profile.task_type, decision.profile.tier)
        self._traffic[cell] = self._traffic.get(cell, 0.0) + 1.0
        if sum(self._traffic.values()) > 2 * _REMEMBERED:
            self._traffic = {known: calls / 2.0 for known, calls in self._traffic.items()}
        tokens = self._prompt_tokens.get(cell[0], _TYPICAL_PROMPT_TOKENS)
        self._prompt_tokens[cell[0]] = tokens + 0.01 * (decision.profile.prompt_tokens - tokens)

    def _state(self, name: Name) -> PacerState:
        sums = self._accounts.sums(name)
        return PacerState(
            requests=sums.requests,
            granted_usd=sums.granted / NANO,
            spent_usd=sums.spent / NANO,
            price0=self._prices.get(name.owner, 0.0),
        )


def _standing(policy: str, budget: Literal["money", "late"], pacer: Pacer, state: PacerState) -> Standing:
    debt = state.debt_usd / pacer.target_usd
    return Standing(policy, budget, state.spent_usd, state.granted_usd, debt, price(pacer, state))


def _known(
    policy: PooledThompson | LinearThompson, knowledge: "Knowledge", cell: Cell, arms: Sequence[Arm], beliefs: Beliefs
) -> list[Estimate]:
    """What is known of every arm in a cell; of a linear policy, on the task type's typical prompt."""
    if isinstance(policy, LinearThompson):
        return policy.estimates_at(typical_of(knowledge.typical, cell[0]), *cell, arms, beliefs)
    return [policy.estimate(arm, *cell, beliefs) for arm in arms]


def _money_name(policy: FittedPolicy, now: float) -> Name:
    return Name(policy.name, 0 if policy.usd_per_request else today(now))


def _money_pacer(policy: FittedPolicy) -> Pacer:
    return Pacer(budget_usd=policy.usd_per_request or policy.usd_per_day)


def _row(requests: int, granted: float, spent: float) -> Row:
    return Row(requests, round(NANO * granted), round(NANO * spent))


def _savings(pacer: Pacer) -> int:
    return round(NANO * pacer.target_usd * pacer.horizon)
