"""Candidates in a replay do as the owner switched, each time from then on, and learn how often replies come late."""

import msgspec
import numpy as np
import pytest

from bandit.history import Memory
from bandit.linear import LinearThompson
from bandit.policies import Random
from bandit.pooled import PooledThompson
from bandit.posteriors import Counts, Estimate, Evidence
from bandit.thompson import Thompson
from bandit.vocabulary import PROMPT_TIERS, Terms
from service.evaluation.decision_log import entries
from service.evaluation.replaying import Hindsight
from service.learning.contexts import dated_labels
from service.learning.controls import Control, Saved
from service.parts import decision_row
from service.storage import store
from tests.service.evaluation.decision_logs import (
    ARMS,
    DELAY_S,
    START,
    call,
    past_of,
    prompts_of,
    rate,
    rated_log,
    rating,
    stored,
    told_otherwise,
)

DAY_S = 86_400.0
LOG = rated_log(Random(name="random"), 1200, 31)
SWITCHED = 600  # the decision before which something is switched
AT = LOG[SWITCHED].decision.created_at - 1.0
FITTED = (PooledThompson(name="l", boldness=1.0), LinearThompson(name="l", boldness=1.0))


def switched(action, at=AT, saved=None, **more):
    content = msgspec.json.encode(saved or Saved()).decode()
    return Control(id=1, at=at, action=action, content=content, **more)


def drawn(policy, *controls, log=LOG):
    """The chance of the large model in every decision of the log."""
    hindsight = Hindsight([policy], ARMS, Memory(), past_of(log)._replace(controls=controls))
    found = []
    for entry in log:
        found.append(hindsight.draw(entry.decision)[policy.name]["large"])
        hindsight.hear(entry)
    return np.array(found)


@pytest.mark.parametrize("policy", FITTED, ids=["pooled", "linear"])
def test_a_freeze_holds_what_a_candidate_then_believed(policy):
    """On both task types of the log, which alternate; until it is let go."""
    let_go = LOG[900].decision.created_at - 1.0
    free, held = drawn(policy), drawn(policy, switched("freeze"), switched("unfreeze", let_go))
    assert np.array_equal(held[:SWITCHED], free[:SWITCHED])
    assert len(set(held[SWITCHED:900:2])) == len(set(held[SWITCHED + 1 : 900 : 2])) == 1
    assert len(set(free[SWITCHED:900:2])) > 1
    assert held[900:] == pytest.approx(free[900:], abs=0.02)  # fitted at other hours


@pytest.mark.parametrize("policy", FITTED, ids=["pooled", "linear"])
def test_a_freeze_of_one_task_type_leaves_the_other_free(policy):
    held = drawn(policy, switched("freeze", task_type="Open QA"))
    assert len(set(held[SWITCHED::2])) == 1
    assert len(set(held[SWITCHED + 1 :: 2])) > 1


def test_what_was_held_under_a_candidate_s_name_before_the_log_began_is_held():
    held = {"small": Estimate(0.9, 0.01), "large": Estimate(0.1, 0.01)}
    saved = Saved(estimates={"l": {"Open QA": dict.fromkeys(PROMPT_TIERS, held)}})
    before = switched("rollback", START - 1.0, saved)
    found = drawn(FITTED[0], before)
    assert found[::2].max() < 0.01
    assert found[1::2].max() > 0.1
    other = PooledThompson(name="other", boldness=1.0)
    assert np.array_equal(drawn(other, before), drawn(other))


def test_the_evidence_that_thompson_was_frozen_with_is_its_own():
    policy = Thompson(name="l", prior_strength=5.0)
    saved = Saved(evidence={"Open QA": {"small": Evidence(50.0, 45.0), "large": Evidence(50.0, 5.0)}})
    found = drawn(policy, switched("freeze", saved=saved))
    assert np.array_equal(found[:SWITCHED], drawn(policy)[:SWITCHED])
    assert found[SWITCHED::2].max() < 0.02


@pytest.mark.parametrize("policy", [*FITTED, Thompson(name="l")], ids=["pooled", "linear", "thompson"])
def test_after_a_reset_a_candidate_begins_again(policy):
    """At once as before the first rating: for an hour at least nothing of earlier hours is heard."""
    known = {}
    for one in past_of(LOG).arrivals:
        if one.at < AT:
            of_arm = known.setdefault(one.cell.task_type, {}).setdefault(one.cell.arm, {})
            of_arm["thumb"] = of_arm.get("thumb", Counts()).plus(one.counts)
    reset = switched("reset", saved=Saved(forgotten=known, arms=tuple(ARMS)))
    found, free = drawn(policy, reset), drawn(policy)
    assert np.array_equal(found[:SWITCHED], free[:SWITCHED])
    assert found[SWITCHED : SWITCHED + 2] == pytest.approx(found[:2], abs=2e-3)
    assert np.abs(free[SWITCHED : SWITCHED + 2] - found[:2]).max() > 0.05


def test_a_freeze_that_cannot_be_read_is_passed_over(caplog):
    policy = FITTED[0]
    spoilt = msgspec.structs.replace(switched("freeze"), content="{")
    assert np.array_equal(drawn(policy, spoilt), drawn(policy, switched("on")))
    assert "cannot be read and is passed over" in caplog.text


# Late replies


def test_a_policy_that_minds_late_replies_learns_from_the_log_who_is_late():
    """Small takes 10 s, large half a second; a late reply takes a whole point of quality away."""
    terms = Terms(late_price=1.0)
    log = []
    for entry in rated_log(Random(name="random"), 400, 32):
        choice = msgspec.structs.replace(entry.decision.choice, terms=terms)
        slow = 10.0 if entry.answered_by == "small" else 0.5
        log.append(told_otherwise(entry, choice=choice)._replace(value=None, waited_s=slow))
    patient, hurried = PooledThompson(name="p"), PooledThompson(name="h", late_after_s=2.0)
    assert drawn(hurried, log=log)[:100].max() == pytest.approx(drawn(patient, log=log).max())
    assert drawn(hurried, log=log)[200:].min() > 0.95
    at_leisure = PooledThompson(name="a", late_after_s=20.0)
    assert drawn(at_leisure, log=log)[200:] == pytest.approx(drawn(patient, log=log)[200:])


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        (PooledThompson(name="p"), Terms()),
        (PooledThompson(name="p", late_after_s=2.0), Terms(late_price=3.0)),
        (PooledThompson(name="p", objective="budget", usd_per_request=1.0), Terms(usd_price=2.0, room_usd=1.0)),
        (LinearThompson(name="l"), Terms()),
    ],
)
def test_a_candidate_sees_the_prices_of_what_it_has_a_limit_to(policy, wanted):
    hindsight = Hindsight([policy], ARMS, Memory(), past_of([]))
    choice = msgspec.structs.replace(LOG[0].decision.choice, terms=Terms(usd_price=2.0, room_usd=1.0, late_price=3.0))
    assert hindsight._terms(policy, told_otherwise(LOG[0], choice=choice).decision) == wanted


async def test_a_stream_has_waited_for_its_first_token(database):
    log = rated_log(Random(name="random"), 2, 33)

    def work(connection):
        store.insert_decisions(connection, [decision_row(entry.decision) for entry in log])
        store.insert_attempts(
            connection, [call(log[0], latency_s=9.0, first_token_s=0.25), call(log[1], latency_s=9.0)]
        )
        return [entry.waited_s for entry in entries(connection, START, START + DAY_S)]

    assert await database.write(work) == [0.25, 9.0]


# Labels with their prompts


def test_only_labels_that_stood_then_and_count_yet_are_learned_from():
    found = prompts_of(LOG)
    now = START + DELAY_S + 100.0
    known = found.before(now, 30.0)
    assert len(known.value) == int((found.known_at < now).sum()) > 0
    assert len(found.before(now + 200 * DAY_S, 30.0).value) == 0
    later = found._replace(known_at=found.known_at + 1e6)  # all were corrected
    assert len(later.before(now, 30.0).value) == 0


async def test_labels_before_the_log_are_read_as_far_as_they_count(database):
    """Of three, one is older than four half-lives; a corrected one is known from its correction on."""
    log = rated_log(Random(name="random"), 3, 34, rate=1.0)

    def work(connection):
        store.insert_decisions(connection, [decision_row(entry.decision) for entry in log])
        rate(connection, rating(log[0], at=START - 50 * DAY_S))
        rate(connection, rating(log[1], at=START - 1.0))
        rate(connection, rating(log[2], at=START + 10.0))
        rate(connection, rating(log[2], value=0.25, at=START + 5_000.0))
        return dated_labels(connection, START, 10.0)

    found = await database.write(work)
    assert found.created_at.tolist() == [START + 10.0, START - 1.0]
    assert found.known_at.tolist() == [START + 5_000.0, START - 1.0]
    assert found.labelled.value[0] == 0.25
    assert len(found.before(START + 20.0, 10.0).value) == 1
    assert len(found.before(START + 5_001.0, 10.0).value) == 2


async def test_a_stored_log_has_the_labels_of_the_one_in_memory(database):
    log = rated_log(Random(name="random"), 300, 35)

    def work(connection):
        stored(connection, log)
        return dated_labels(connection, START, 30.0)

    found, wanted = await database.write(work), prompts_of(log)
    assert found.labelled.arms == wanted.labelled.arms
    for one, other in zip([*found.labelled[1:], *found[1:]], [*wanted.labelled[1:], *wanted[1:]], strict=True):
        assert np.array_equal(one, other)
