"""Decisions taken again from what is stored of them, also by a version that reads less than the one that stored it."""

import json

import msgspec
import pytest
from sqlalchemy import insert, update

from bandit.linear import LinearThompson
from bandit.policies import Random
from bandit.pooled import PooledThompson
from bandit.posteriors import Estimate, Regression
from bandit.selection import choose, seed_of
from bandit.vocabulary import Choice
from service.configuration import settings_content
from service.evaluation.evaluating import Span, at_prices, derived_again
from service.evaluation.explain import explain
from service.evaluation.stored import Stored
from service.learning.beliefs import decode, encode_estimates, encode_regressions, version
from service.parts import decision_row
from service.settings import Safety, Settings
from service.storage import store
from service.storage.tables import beliefs, configs, decisions
from service.traffic.reports import records
from tests.service.evaluation.decision_logs import START, decided
from tests.service.evaluation.test_evaluating import MODELS

POLICY = PooledThompson(name="pooled", cost_weight=1.0)
SETTINGS = Settings(models=MODELS, policies=(POLICY, Random(name="random")))
BELIEVED = encode_estimates({"small": Estimate(0.7, 0.1), "large": Estimate(0.6, 0.1)})
SPAN = Span(since=START - 1.0, until=START + 1e6)


def taken(number=0, policy=POLICY, content=BELIEVED):
    """A decision on what is believed."""
    usual = decided(number, Random(name="random"))
    arms = [model.arm() for model in MODELS]
    choice = choose(policy, usual.profile, arms, decode(content), seed_of(usual.id))
    return decided(number, policy, choice=choice, config_version="c")


@pytest.fixture
def stored(database):
    """Store a decision with settings and beliefs; of the settings' content whatever a test changes."""

    async def do(change=lambda _: None, settings=SETTINGS, believed=BELIEVED, decision=None):
        content = json.loads(settings_content(settings))
        change(content)
        decision = decision or taken()

        def work(connection):
            store.insert_configs(connection, {"c": json.dumps(content)}, START)
            store.insert_beliefs(connection, {version(BELIEVED): believed}, START)
            store.insert_decisions(connection, [decision_row(decision)])

        await database.write(work)
        return decision

    return do


def policy_of(content, name):
    return next(one for one in content["policies"] if one["name"] == name)


async def test_a_decision_comes_out_the_same_and_says_what_was_weighed(database, stored):
    decision = await stored()
    told = await database.read(explain, decision.id)
    assert told["repeated"]["same"] is True
    assert [row["arm"] for row in told["trade"]] == ["small", "large"]
    assert told["trade"][0]["quality"] == 0.7


CANNOT = {
    "a field of its policy has another name": (
        lambda content: policy_of(content, "pooled").update(bravery=policy_of(content, "pooled").pop("boldness")),
        "cannot read the settings of the policy pooled: Object contains unknown field `bravery`",
    ),
    "its kind of policy is gone": (
        lambda content: policy_of(content, "pooled").update(kind="epsilon_greedy"),
        "cannot read the settings of the policy pooled: Invalid value 'epsilon_greedy'",
    ),
    "its policy is gone": (
        lambda content: content["policies"].remove(policy_of(content, "pooled")),
        "the policy pooled is not in the settings",
    ),
    "a model's price is no number": (
        lambda content: content["models"][0].update(price_in="dear"),
        "cannot read the settings it was taken on: Expected `float`, got `str`",
    ),
    "there are no models": (lambda content: content.pop("models"), "missing required field `models`"),
}


@pytest.mark.parametrize(("change", "why"), CANNOT.values(), ids=CANNOT.keys())
async def test_what_can_no_longer_be_derived_is_told_and_the_reason(database, stored, change, why):
    decision = await stored(change)
    told = await database.read(explain, decision.id)
    assert told["repeated"]["same"] is False
    assert why in told["repeated"]["why"]
    assert told["trade"] == []
    assert told["choice"]["arm"] == told["served_arm"] == decision.choice.arm
    again = await database.read(derived_again, SPAN)
    assert (again["decisions"], again["same"]) == (1, 0)
    assert why in again["different"][0]["why"]


CAN = {
    "another policy is unreadable": lambda content: policy_of(content, "random").update(luck=3),
    "a section has a setting of an older version": lambda content: content["quality"].update(old=1),
    "there is a section that is gone": lambda content: content.update(gone={"a": 1}),
    "a provider is gone": lambda content: content["models"][0].update(provider="gone", key_file="x"),
}


@pytest.mark.parametrize("change", CAN.values(), ids=CAN.keys())
async def test_a_change_elsewhere_in_the_settings_keeps_no_decision_from_being_derived(database, stored, change):
    decision = await stored(change)
    assert (await database.read(explain, decision.id))["repeated"]["same"] is True
    assert (await database.read(derived_again, SPAN))["same"] == 1


async def test_beliefs_of_another_shape_are_told(database, stored):
    decision = await stored(believed='[{"small": ["much", 0.1]}]')
    assert "cannot read the beliefs" in (await database.read(explain, decision.id))["repeated"]["why"]


async def test_beliefs_on_which_a_policy_fails_are_told(database, stored):
    linear = LinearThompson(name="linear")
    choice = msgspec.structs.replace(taken().choice, policy="linear")
    decision = decided(0, linear, choice=choice, config_version="c")
    spoilt = {name: Regression((0.5,), b"") for name in ("small", "large")}
    await stored(
        settings=Settings(models=MODELS, policies=(linear,)), believed=encode_regressions(spoilt), decision=decision
    )
    why = (await database.read(explain, decision.id))["repeated"]["why"]
    assert "this version cannot decide on what is stored: ValueError" in why


async def test_a_decision_of_another_shape_is_told_as_it_stands(database, stored):
    decision = await stored()
    detail = '{"id": "d-0", "mood": "good"}'
    await database.write(lambda connection: connection.execute(update(decisions).values(detail=detail)))
    told = await database.read(explain, decision.id)
    assert (told["mood"], told["served_arm"]) == ("good", decision.choice.arm)
    assert "this version cannot read the decision: " in told["repeated"]["why"]


async def test_nothing_stored_is_told(database):
    decision = taken()
    await database.write(lambda connection: store.insert_decisions(connection, [decision_row(decision)]))
    assert (await database.read(explain, decision.id))["repeated"]["why"] == (
        "the settings it was taken on are not stored"
    )
    await database.write(
        lambda connection: connection.execute(
            insert(configs).values(version="c", content=settings_content(SETTINGS), created_at=START)
        )
    )
    assert (await database.read(explain, decision.id))["repeated"]["why"] == (
        "the beliefs it was taken on are not stored"
    )


async def test_the_baseline_decides_again_for_those_the_kill_switch_kept_from_the_policies(database, stored):
    settings = Settings(models=MODELS, policies=SETTINGS.policies, safety=Safety(baseline="large"))
    usual = taken()
    choice = Choice(
        arm="large", propensity=1.0, arms=("small", "large"), probabilities=(0.0, 1.0), policy="(baseline)",
        beliefs_version=version(BELIEVED), seed=seed_of(usual.id),
    )  # fmt: skip
    decision = decided(0, POLICY, method="kill_switch", choice=choice, config_version="c")
    await stored(settings=settings, decision=decision)
    assert (await database.read(explain, decision.id))["repeated"]["same"] is True


async def test_at_other_prices_those_that_cannot_be_read_are_left_out_by_reason(database, stored):
    await stored()
    other = taken(1, Random(name="random"))
    await stored(decision=other)
    await database.write(
        lambda connection: connection.execute(
            update(configs).values(
                content=settings_content(SETTINGS).replace('"kind":"pooled_thompson"', '"kind":"gone"')
            )
        )
    )
    prices = {"large": {"price_in": 0.0}}
    columns, left_out = await database.read(at_prices, SETTINGS, prices, "cheap", SPAN)
    assert len(columns.task) == 1
    (reason,) = left_out
    assert "cannot read the settings of the policy pooled" in reason


async def test_the_same_inputs_are_read_once(database, stored):
    first, second = await stored(), await stored(decision=taken(1))

    def work(connection):
        found = Stored(connection)
        one = found.inputs(first)
        connection.execute(update(beliefs).values(content="{"))
        return one, found.inputs(second)

    one, two = await database.write(work)
    assert one.beliefs is two.beliefs
    assert one.policies is two.policies


def test_a_decision_that_cannot_be_read_takes_no_others_from_the_owners_list():
    good, bad = decision_row(taken(0)), {**decision_row(taken(1)), "detail": '{"id": 1'}
    told = records([({**row, "served_arm": None}, []) for row in (good, bad)])
    assert (told[0]["id"], told[0]["model"]) == (good["id"], good["arm"])
    assert told[1] == {"id": bad["id"], "timestamp": bad["created_at"], "unreadable": True}
