"""Accounts of several replicas, and budgets over many requests."""

import asyncio
import time
from contextlib import suppress

import numpy as np
import pytest
from sqlalchemy import insert, select

from bandit.pooled import PooledThompson
from bandit.posteriors import Estimate
from bandit.selection import choose, seed_of
from bandit.vocabulary import PROMPT_TIERS, TASK_TYPES, Limits, PromptProfile
from service.auth import Key
from service.decide import Caller, Decision
from service.errors import BudgetSpent, StorageUnavailable
from service.learning.beliefs import encode_estimates
from service.learning.knowledge import Knowledge
from service.money.accounts import DAY_S, NANO, Accounts, Name, Row, prune_accounts
from service.money.budgets import Budgets
from service.settings import Budgets as BudgetSettings
from service.settings import Database as DatabaseSettings
from service.settings import Settings, SimulatedModel
from service.setup import create_setup
from service.storage.tables import budgets
from service.storage.writer import Writer

MODELS = (
    SimulatedModel(name="cheap", tier="small", price_in=0.1, price_out=0.4),
    SimulatedModel(name="middle", tier="medium", price_in=1.0, price_out=4.0),
    SimulatedModel(name="dear", tier="large", price_in=5.0, price_out=20.0),
)
NOW = 20_000 * DAY_S + 3 * 3600.0


def setup_of(models=MODELS, **policy):
    return create_setup(
        Settings(
            models=models, policies=(PooledThompson(name="p", **policy),),
            budgets=BudgetSettings(usd_per_key_day={"team": 1.0}),
        )
    )  # fmt: skip


def knowledge_of(qualities, late=(0.0, 0.0, 0.0)):
    """Knowledge whose fit says the same of every cell: replies of 400 tokens."""
    rows = zip(MODELS, qualities, late, strict=True)
    content = encode_estimates({model.name: Estimate(mean, 0.02, 400.0, share) for model, mean, share in rows})
    knowledge = Knowledge()
    knowledge.take_fit("", "p", {(task, tier): content for task in TASK_TYPES for tier in PROMPT_TIERS})
    return knowledge


def ask(setup, knowledge, budgets, number, now):
    """One decision, as the service takes it."""
    policy = setup.default_policy
    profile = PromptProfile(task_type=TASK_TYPES[number % 11], tier=PROMPT_TIERS[number % 3], prompt_tokens=200)
    beliefs, decision_id = knowledge.believed(policy, "", profile, now), f"decision-{number}"
    terms = budgets.terms(policy, now)
    choice = choose(policy, profile, setup.arms, beliefs, seed_of(decision_id), terms=terms)
    trade = {row.arm: row for row in policy.trade(profile, setup.arms, beliefs, terms)}[choice.arm]
    return Decision(
        id=decision_id, created_at=now, method="auto", caller=Caller(), profile=profile, limits=Limits(),
        choice=choice, excluded={}, plan=(choice.arm,), expected_usd=trade.cost_usd, expected_late=trade.late,
    )  # fmt: skip


@pytest.mark.parametrize("share", [0.12, 0.25, 0.5])
@pytest.mark.parametrize("shock", [1.0, 4.0])
def test_a_budget_is_kept_to_half_a_percent_over_eight_thousand_requests(share, shock):
    """Replies cost a third more or less than expected; ten are under way at a time; at half time prices may rise."""
    budget = share * (200 * 5.0 + 400 * 20.0) * 1e-6
    dearer = [
        SimulatedModel(name=m.name, tier=m.tier, price_in=m.price_in * shock, price_out=m.price_out * shock)
        for m in MODELS
    ]
    before, after = (setup_of(models, objective="budget", usd_per_request=budget) for models in (MODELS, dearer))
    knowledge, budgets, rng = knowledge_of((0.7, 0.78, 0.84)), Budgets(), np.random.default_rng(5)
    budgets.reprice(before, knowledge, NOW)
    spent, under_way = 0.0, []
    for number in range(8_000):
        setup = before if number < 4_000 else after
        if number % 200 == 0:
            budgets.reprice(setup, knowledge, NOW)
        decision = ask(setup, knowledge, budgets, number, NOW)
        budgets.drawn(setup, decision, NOW)
        under_way.append((decision, decision.expected_usd * rng.uniform(0.67, 1.33)))
        if len(under_way) > 10:
            settled, cost = under_way.pop(0)
            budgets.settled(settled.id, cost, 0.1)
            spent += cost
    spent += sum(cost for _, cost in under_way)
    assert spent <= 1.005 * 8_000 * budget
    assert spent >= 0.95 * 8_000 * budget  # the cheapest model never costs more than the budget here


def test_late_replies_come_in_their_share():
    """The best model is late four times in ten; a tenth may be. Chance: three standard errors are .01."""
    setup = setup_of(late_after_s=1.0, late_share=0.1)
    knowledge, budgets, rng = knowledge_of((0.7, 0.78, 0.84), (0.01, 0.05, 0.4)), Budgets(), np.random.default_rng(6)
    late = 0
    for number in range(8_000):
        if number % 200 == 0:
            budgets.reprice(setup, knowledge, NOW)
        decision = ask(setup, knowledge, budgets, number, NOW)
        budgets.drawn(setup, decision, NOW)
        is_late = rng.random() < decision.expected_late
        late += is_late
        budgets.settled(decision.id, 0.0, 2.0 if is_late else 0.5)
    assert 0.085 <= late / 8_000 <= 0.11


def test_a_request_is_settled_once_and_one_without_a_reply_costs_nothing():
    setup = setup_of(objective="budget", usd_per_request=0.01)
    knowledge, budgets = knowledge_of((0.7, 0.78, 0.84)), Budgets()
    decision = ask(setup, knowledge, budgets, 1, NOW)
    budgets.drawn(setup, decision, NOW)
    assert budgets.money(setup.default_policy, NOW)[1].spent_usd == pytest.approx(decision.expected_usd)
    budgets.settled(decision.id, 0.0, 0.0)
    budgets.settled(decision.id, 5.0, 0.0)
    assert budgets.money(setup.default_policy, NOW)[1].spent_usd == pytest.approx(0.0)
    assert budgets.money(setup.default_policy, NOW)[1].requests == 1


def test_a_key_has_a_limit_a_day():
    setup, budgets = setup_of(), Budgets()
    key = Key(id="k1", name="team", scopes=frozenset({"chat"}), created_at=0.0, digest="")
    budgets.allow(key, setup, NOW)
    decision = ask(setup, knowledge_of((0.7, 0.78, 0.84)), budgets, 1, NOW)
    ours = Decision(**{name: getattr(decision, name) for name in decision.__struct_fields__} | {
        "caller": Caller(key_id="k1"), "expected_usd": 1.5,
    })  # fmt: skip
    budgets.drawn(setup, ours, NOW)
    with pytest.raises(BudgetSpent, match=r"spent \$1.5000 of the \$1 ") as refused:
        budgets.allow(key, setup, NOW)
    assert refused.value.retry_after_s == pytest.approx(21 * 3600.0)
    budgets.allow(key, setup, NOW + DAY_S)
    budgets.settled(ours.id, 0.2, 0.0)
    budgets.allow(key, setup, NOW)
    other = Key(id="k2", name="unnamed", scopes=frozenset({"chat"}), created_at=0.0, digest="")
    budgets.allow(other, setup, NOW)


def test_a_days_budget_is_granted_as_the_day_passes():
    setup, budgets = setup_of(objective="budget", usd_per_day=24.0), Budgets()
    policy = setup.default_policy
    _, morning = budgets.money(policy, 20_000 * DAY_S + 6 * 3600.0)
    _, evening = budgets.money(policy, 20_000 * DAY_S + 18 * 3600.0)
    assert morning.granted_usd == pytest.approx(0.997 * 6.0)
    assert evening.granted_usd == pytest.approx(0.997 * 18.0)


def test_standings_say_how_far_ahead_of_its_budgets_a_policy_is():
    """A request that cost 21 budgets is 20 ahead of its own one; two on time save twice what may be late."""
    setup = setup_of(objective="budget", usd_per_request=0.01, late_after_s=1.0, late_share=0.1)
    knowledge, budgets, target = knowledge_of((0.7, 0.78, 0.84)), Budgets(), 0.997 * 0.01
    assert [(one.policy, one.budget, one.debt_requests) for one in budgets.standings(setup, NOW)] == [
        ("p", "money", 0.0), ("p", "late", 0.0)
    ]  # fmt: skip
    for number, usd in enumerate((21 * target, target)):
        decision = ask(setup, knowledge, budgets, number, NOW)
        budgets.drawn(setup, decision, NOW)
        budgets.settled(decision.id, usd, 0.5)
    money, late = budgets.standings(setup, NOW)
    assert money.spent == pytest.approx(22 * target)
    assert money.granted == pytest.approx(2 * target)
    assert money.debt_requests == pytest.approx(20.0)
    assert money.price == pytest.approx(budgets.terms(setup.default_policy, NOW).usd_price)
    assert money.price > 0.0
    assert late.debt_requests == pytest.approx(-2.0)
    assert budgets.standings(setup_of(), NOW) == []


async def test_accounts_of_replicas_add_up_and_old_savings_lapse(database):
    accounts = [Accounts(), Accounts()]
    writers = [Writer(database, DatabaseSettings(timeout_s=60), lambda _: None, window_s=1.0) for _ in accounts]
    for writer in writers:
        await writer.start()
    name, now = Name("p"), time.time()

    async def count(which):
        for _ in range(20):
            accounts[which].count(name, Row(1, 10 * NANO, 4 * NANO))
            await accounts[which].exchange(writers[which], {}, now)

    await asyncio.gather(count(0), count(1))
    for one, writer in zip(accounts, writers, strict=True):
        await one.exchange(writer, {}, now + 2.0)
        assert one.sums(name) == Row(40, 400 * NANO, 160 * NANO)
    accounts[0].count(name, Row(1, 10 * NANO, 4 * NANO))
    await accounts[0].exchange(writers[0], {"p": 50 * NANO}, now)
    assert accounts[0].sums(name) == Row(41, 214 * NANO, 164 * NANO)
    for writer in writers:
        await writer.close()


async def test_what_could_not_be_written_stays_counted(database):
    class Away:
        async def call(self, work, then):
            raise StorageUnavailable("away")

    accounts, name = Accounts(), Name("key:1", 7)
    accounts.count(name, Row(1, 0, 5))
    with pytest.raises(StorageUnavailable):
        await accounts.exchange(Away(), {}, 0.0)
    assert accounts.sums(name) == Row(1, 0, 5)
    writer = Writer(database, DatabaseSettings(timeout_s=60), lambda _: None, window_s=1.0)
    await writer.start()
    await accounts.exchange(writer, {}, 7 * DAY_S)
    await writer.close()
    assert accounts.sums(name) == Row(1, 0, 5)
    assert accounts._pending == {}


async def test_what_was_added_without_an_answer_is_not_added_twice(database):
    class Silent:
        """Adds, and never says so."""

        async def call(self, work, then):
            await database.write(work)
            raise StorageUnavailable("cut off")

    class Twice:
        """Adds and answers twice, as when the first answer was given up and came late."""

        async def call(self, work, then):
            for _ in range(2):
                then(await database.write(work))

    accounts, name = Accounts(), Name("p")
    for writer, spent in ((Silent(), 5), (Silent(), 7), (Twice(), 11), (Silent(), 13), (Twice(), 17), (Twice(), 0)):
        accounts.count(name, Row(1, 0, spent))
        with suppress(StorageUnavailable):
            await accounts.exchange(writer, {}, time.time())
    await accounts.exchange(Twice(), {}, time.time())  # what was counted while the last one was on its way
    assert accounts.sums(name) == Row(6, 0, 53)
    assert accounts._pending == {}
    other = Accounts()
    await other.exchange(Twice(), {}, time.time())
    assert other.sums(name) == Row(6, 0, 53)


async def test_accounts_of_old_days_are_dropped(database):
    def work(connection):
        for day in (0, 3, 7, 10):
            row = {"name": "key:1", "day": day, "requests": 1, "granted": 0, "spent": 5, "updated_at": 0.0}
            connection.execute(insert(budgets), [row])
        prune_accounts(connection, 7.5 * DAY_S)
        return list(connection.scalars(select(budgets.c.day).order_by(budgets.c.day)))

    assert await database.write(work) == [0, 7, 10]
