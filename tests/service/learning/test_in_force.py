"""Controls: rows fold to what is in force, hold, forget and roll back; whatever is in them, decisions are taken."""

import getpass
import json

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit.history import ArmRestart
from bandit.pooled import PooledThompson
from bandit.posteriors import MICRO, CellKey, Counts, Estimate, Evidence
from bandit.vocabulary import PromptProfile
from service.classifiers.classifying import ByLength, Classified, Trace
from service.cli.main import main, with_database
from service.decide import Circumstances, decide, redecide
from service.drift.alarms import restart_hour
from service.errors import NotFound, Unprocessable
from service.learning.beliefs import encode_estimates
from service.learning.control_actions import Asked, believed_now, check, counted_now, moment, store_control
from service.learning.controls import FORGET, Control, InForce, Saved, current, fold, list_controls, newer
from service.learning.knowledge import Knowledge
from service.settings import Ceiling, Safety, Settings
from service.setup import create_setup
from service.storage.database import Database
from service.wire import Wishes, decode_request

SETUP = create_setup(Settings())
TASK = "Open QA"
PROFILE = PromptProfile(task_type=TASK, tier="medium")
POOLED = PooledThompson(name="pooled_thompson")


def control(action, number=1, saved=None, **more):
    """A row."""
    content = msgspec.json.encode(saved or Saved()).decode()
    return Control(id=number, at=7200.0 + number, action=action, content=content, **more)


def labels(n, s, task=TASK, arm="small"):
    return {CellKey("", arm, task, "medium", 1, "thumb"): Counts(n * MICRO, s * MICRO, s * MICRO)}


def fit(**means):
    """A content for one cell."""
    return encode_estimates({arm: Estimate(mean, 0.1, 50.0) for arm, mean in means.items()})


def freeze(knowledge, **said):
    """What a freeze of now saves."""
    return believed_now(Asked(action="freeze", **said), SETUP, knowledge)


# Holding


def test_a_frozen_estimate_stays_while_the_others_are_fitted_again():
    knowledge = Knowledge()
    knowledge.take_fit("", "pooled_thompson", {(TASK, "medium"): fit(small=0.5, large=0.6)})
    before = knowledge.believed(POOLED, "", PROFILE, 0.0)
    knowledge.control(fold([control("freeze", saved=freeze(knowledge, model="small"), arm="small")]))
    assert knowledge.believed(POOLED, "", PROFILE, 0.0).estimates == before.estimates
    knowledge.take_fit("", "pooled_thompson", {(TASK, "medium"): fit(small=0.9, large=0.8)})
    now = knowledge.believed(POOLED, "", PROFILE, 0.0)
    assert {arm: one.mean for arm, one in now.estimates.items()} == {"small": 0.5, "large": 0.8}
    assert knowledge.content(now.version)  # what is decided on can be stored
    knowledge.control(InForce())
    after = knowledge.believed(POOLED, "", PROFILE, 0.0)
    assert {arm: one.mean for arm, one in after.estimates.items()} == {"small": 0.9, "large": 0.8}


def test_how_long_replies_are_is_not_held():
    knowledge = Knowledge()
    held = Saved(estimates={"pooled_thompson": {TASK: {"medium": {"small": Estimate(0.2, 0.1, 10.0)}}}})
    knowledge.control(fold([control("rollback", saved=held)]))
    knowledge.take_fit("", "pooled_thompson", {(TASK, "medium"): fit(small=0.9)})
    assert knowledge.believed(POOLED, "", PROFILE, 0.0).estimates == {"small": Estimate(0.2, 0.1, 50.0)}


def test_held_estimates_are_served_though_nothing_can_be_fitted():
    knowledge = Knowledge()
    held = Saved(estimates={"pooled_thompson": {TASK: {"medium": {"small": Estimate(0.2, 0.1)}}}})
    knowledge.control(fold([control("rollback", saved=held)]))
    assert knowledge.believed(POOLED, "", PROFILE, 0.0).estimates == {"small": Estimate(0.2, 0.1)}


def test_a_frozen_posterior_of_thompson_keeps_its_evidence():
    knowledge = Knowledge()
    knowledge.load(labels(10, 5))
    knowledge.control(fold([control("freeze", saved=freeze(knowledge, task_type=TASK), task_type=TASK)]))
    knowledge.fold(labels(100, 0))
    knowledge.fold(labels(7, 7, task="Rewrite"))
    assert knowledge.latest("", TASK).of("small") == Evidence(10.0, 5.0)
    assert knowledge.latest("", "Rewrite").of("small") == Evidence(7.0, 7.0)
    knowledge.control(InForce())
    assert knowledge.latest("", TASK).of("small") == Evidence(110.0, 5.0)


def test_a_cell_frozen_without_evidence_stays_without():
    knowledge = Knowledge()
    knowledge.control(fold([control("freeze", saved=freeze(knowledge))]))
    knowledge.fold(labels(100, 100))
    assert knowledge.latest("", TASK).of("small") == Evidence()


def test_unfreeze_lets_go_of_what_it_names_and_of_nothing_else():
    saved = Saved(
        estimates={"p": {task: {"medium": {arm: Estimate(0.5, 0.1) for arm in "ab"}} for task in (TASK, "Rewrite")}},
        evidence={task: {arm: Evidence(1.0, 1.0) for arm in "ab"} for task in (TASK, "Rewrite")},
    )
    held = fold([control("freeze", saved=saved), control("unfreeze", 2, task_type=TASK, arm="a")])
    assert set(held.since) == {(TASK, "b"), ("Rewrite", "a"), ("Rewrite", "b")}
    assert set(held.held_in("p", (TASK, "medium"))) == {"b"}
    assert set(held.evidence[TASK]) == {"b"}
    assert not fold([control("freeze", saved=saved), control("unfreeze", 2)]).since


# Forgetting


def test_a_reset_forgets_what_was_counted_and_counts_what_comes():
    knowledge = Knowledge()
    knowledge.load(labels(10, 5))
    reset = Saved(forgotten={TASK: {"small": {"thumb": Counts(10 * MICRO, 5 * MICRO, 5 * MICRO)}}}, arms=("small",))
    in_force = fold([control("reset", saved=reset, task_type=TASK, arm="small")])
    knowledge.control(in_force)
    assert knowledge.latest("", TASK).of("small") == Evidence()
    knowledge.fold(labels(4, 3))
    assert knowledge.latest("", TASK).of("small") == Evidence(4.0, 3.0)
    assert in_force.resets == (ArmRestart("small", restart_hour(7201.0), FORGET, TASK),)


@given(n=st.integers(-20, 20), s=st.integers(-20, 20))
def test_corrections_of_what_was_forgotten_never_count_less_than_nothing(n, s):
    knowledge = Knowledge()
    knowledge.load(labels(10 + n, 5 + s))
    reset = Saved(forgotten={TASK: {"small": {"thumb": Counts(10 * MICRO, 5 * MICRO, 5 * MICRO)}}}, arms=("small",))
    knowledge.control(fold([control("reset", saved=reset)]))
    found = knowledge.latest("", TASK).of("small")
    assert 0.0 <= found.explicit_sum <= found.explicit_n


def test_resets_stand_among_the_changes_of_models_by_their_hour():
    early, late = ArmRestart("a", 1, FORGET), ArmRestart("b", 9, FORGET)
    in_force = fold([control("reset", saved=Saved(arms=("small",)))])
    assert [one.arm for one in in_force.restarts([early, late])] == ["a", "small", "b"]


# Rows


def test_the_kill_switch_is_as_it_was_last_switched():
    assert fold([control("off"), control("on", 2), control("off", 3)]).off.id == 3
    assert fold([control("off"), control("on", 2)]).off is None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"evidence": {"Open QA": {"small": [1e999]}}}',
        '{"evidence": {"Open QA": {"small": [1e300]}}}',
        '{"estimates": {"p": {"Nothing": {}}}}',
        '{"estimates": {"p": {"Open QA": {"simple": {"small": [0.5, 1e308]}}}}}',
        '{"estimates": {"p": {"Open QA": {"simple": {"small": [null, 0.1]}}}}}',
    ],
)
def test_a_row_that_cannot_be_read_is_passed_over_and_counted(content):
    broken = Control(id=1, at=0.0, action="freeze", content=content)
    found = fold([broken, control("off", 2)])
    assert found.unreadable == 1
    assert found.off.id == 2


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        (Asked(action="freeze", model="smal"), NotFound),
        (Asked(action="rollback"), Unprocessable),
        (Asked(action="freeze", to="2026-01-01"), Unprocessable),
        (Asked(action="off", model="small"), Unprocessable),
        (Asked(action="on", task_type=TASK), Unprocessable),
    ],
)
def test_what_cannot_be_meant_is_refused(asked, error):
    with pytest.raises(error):
        check(asked, SETUP, InForce())


def test_a_model_that_is_gone_can_be_let_go():
    held = fold([control("freeze", saved=Saved(evidence={TASK: {"gone": Evidence()}}))])
    check(Asked(action="unfreeze", model="gone"), SETUP, held)


@pytest.mark.parametrize("to", ["yesterday", "nan", "inf", "2026-13-01", "", "f" * 31])
def test_a_time_that_is_none_is_refused(to):
    with pytest.raises(Unprocessable):
        moment(None, to)


@pytest.mark.parametrize("to", ["1767268800", "2026-01-01T12:00", "2026-01-01T13:00+01:00"])
def test_times_are_utc_unless_they_say_otherwise(to):
    assert moment(None, to) == 1767268800.0


async def test_rows_come_back_in_order_and_are_read_only_when_there_are_new_ones(database_url):
    database = Database(database_url, 2)
    try:
        assert await database.read(newer, (0, 0)) is None
        assert await database.read(current) == InForce()
        saved = Saved(evidence={TASK: {"small": Evidence(1.0, 0.5)}})
        asked = Asked(action="freeze", task_type=TASK, model="small", note="why")
        first = await database.write(lambda c: store_control(c, asked, saved, "me", 5.0))
        await database.write(lambda c: store_control(c, Asked(action="off"), Saved(), "you", 4.0))
        rows = await database.read(list_controls)
        assert [(row.action, row.who, row.note, row.at) for row in rows] == [
            ("freeze", "me", "why", 5.0),
            ("off", "you", "", 4.0),
        ]
        assert rows[0] == first
        found = await database.read(current)
        assert found.off.who == "you"
        assert found.evidence == {TASK: {"small": Evidence(1.0, 0.5)}}
        assert await database.read(newer, found.mark) is None
        assert (await database.read(lambda c: counted_now(c, Asked(action="reset"), SETUP))).arms == tuple(
            sorted(SETUP.models)
        )
    finally:
        await database.close()


# Decisions

NUMBERS = st.sampled_from([0.0, 1e-300, 0.5, -1.0, 100.0]) | st.sampled_from([1e12, 1e300, 1e308])
ARMS = st.sampled_from(["small", "medium", "large", "gone"])
ESTIMATES = st.dictionaries(ARMS, st.builds(Estimate, NUMBERS, NUMBERS, NUMBERS), max_size=2)
SAVED = st.builds(
    lambda estimates, evidence, forgotten, arms: Saved(
        estimates={"pooled_thompson": {TASK: {"simple": estimates, "medium": estimates}}, "gone": {TASK: {}}},
        evidence={"Unknown": evidence, TASK: evidence, "Other": evidence},
        forgotten={TASK: forgotten, "Other": forgotten},
        arms=tuple(arms),
    ),
    ESTIMATES,
    st.dictionaries(ARMS, st.builds(Evidence, NUMBERS, NUMBERS, NUMBERS, NUMBERS), max_size=4),
    st.dictionaries(
        ARMS,
        st.dictionaries(
            st.sampled_from(["thumb", "heuristic"]),
            st.builds(Counts, *[st.integers(-(2**62), 2**62)] * 3),
        ),
    ),
    st.lists(ARMS, max_size=4),
)
ROWS = st.lists(
    st.builds(
        lambda action, saved, task, arm: control(action, saved=saved, task_type=task, arm=arm),
        st.sampled_from(["freeze", "unfreeze", "reset", "rollback", "off", "on"]),
        SAVED,
        st.sampled_from([None, TASK, "Rewrite"]),
        st.none() | ARMS,
    ),
    max_size=5,
)
REQUEST, _ = decode_request(msgspec.json.encode({"messages": [{"role": "user", "content": "Why?"}]}))
CLASSIFIED = Classified(ByLength().classify("Why?"), Trace(classifier="length", tiers=ByLength.tiers))


@given(rows=ROWS, n=st.integers(-(2**60), 2**60), model=st.sampled_from(["auto:thompson", "auto:pooled_thompson"]))
@settings(max_examples=150, deadline=None)
def test_whatever_controls_and_cells_hold_a_decision_is_taken_and_repeats(rows, n, model):
    knowledge = Knowledge()
    for task in (TASK, "Unknown", "Other"):
        knowledge.fold({CellKey("", "small", task, "medium", 1, "thumb"): Counts(n, -n, n)})
    in_force = fold(rows)
    knowledge.control(in_force)
    request = msgspec.structs.replace(REQUEST, model=model)
    decision = decide(SETUP, knowledge, request, CLASSIFIED, Circumstances(now=0.0, off=in_force.off is not None))
    assert sum(decision.choice.probabilities) == pytest.approx(1.0)
    assert decision.choice.propensity > 0.0
    assert decision.method in {"auto", "static_fallback"} if in_force.off is None else decision.method == "kill_switch"
    beliefs = knowledge.believed(SETUP.policies[model.removeprefix("auto:")], "", decision.profile, 0.0)
    if decision.choice.beliefs_version == beliefs.version:
        policies = {**SETUP.policies, SETUP.safe_policy.name: SETUP.safe_policy}
        arms = {arm.name: arm for arm in SETUP.arms}
        assert redecide(decision, arms, policies, beliefs).same


def test_a_ceiling_is_logged_and_repeats():
    safety = Safety(
        max_explore=0.5,
        tags={"team=billing": Ceiling(max_explore=0.01)},
        keys={"ci": Ceiling(max_explore=0.2)},
    )
    setup = create_setup(Settings(safety=safety))
    knowledge, arms = Knowledge(), {arm.name: arm for arm in setup.arms}
    for tags, key, ceiling in (({}, "", 0.5), ({}, "ci", 0.2), ({"team": "billing"}, "ci", 0.01)):
        request = msgspec.structs.replace(REQUEST, model="auto:random", router=Wishes(tags=tags))
        decision = decide(setup, knowledge, request, CLASSIFIED, Circumstances(now=0.0, key_name=key))
        assert decision.max_explore == ceiling
        assert max(decision.choice.probabilities) == pytest.approx(1.0 - ceiling)
        again = redecide(decision, arms, setup.policies, knowledge.beliefs("", decision.profile.task_type, 0.0))
        assert again.same


def test_the_baseline_serves_while_the_kill_switch_is_pulled():
    setup = create_setup(Settings(safety=Safety(baseline="medium")))
    request = msgspec.structs.replace(REQUEST, model="auto")
    decision = decide(setup, Knowledge(), request, CLASSIFIED, Circumstances(now=0.0, off=True))
    assert (decision.method, decision.choice.arm, decision.propensity) == ("kill_switch", "medium", 1.0)


# The command


def test_the_command_freezes_lists_and_switches(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def armwise(*said):
        done = CliRunner().invoke(main, ["posterior", *said])
        return done.exit_code, done.output

    assert "1 posteriors are held" in armwise("freeze", "--task", "Rewrite", "--model", "small", "--note", "audit")[1]
    assert armwise("off")[0] == 0
    status, listed = armwise("list", "--task", "Rewrite")
    assert status == 0
    assert listed.count("Beta(") == 3
    assert listed.count("held since") == 1
    assert "switched off" in listed
    assert armwise("unfreeze")[0] == 0
    assert armwise("on")[0] == 0
    assert "held since" not in armwise("list")[1]
    assert "counts no more: small on all task types" in armwise("reset", "--model", "small")[1]
    status, said = armwise("rollback", "--to", "2020-01-01")
    assert status == 1
    assert "No decision up to 2020-01-01" in said
    assert armwise("rollback", "--to", "never")[0] == 1
    status, said = armwise("freeze", "--model", "smal")
    assert status == 1
    assert "did you mean `small`" in said


def test_the_command_lists_what_is_believed_of_prompts_of_a_tier(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def means(*said):
        done = CliRunner().invoke(main, ["posterior", "list", "--task", "Rewrite", "--model", "large", "--json", *said])
        [cell] = json.loads(done.stdout)["cells"]
        return cell["mean"]

    assert (means("--tier", "simple"), means("--tier", "complex")) == pytest.approx((0.83, 0.72))  # the tiers' priors
    assert means() == pytest.approx((0.83 + 0.79 + 0.72) / 3)


def test_the_command_takes_models_out_of_service_and_back_and_says_who_and_why(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def armwise(*said):
        done = CliRunner().invoke(main, ["posterior", *said])
        return done.exit_code, done.output

    assert "large is out of service." in armwise("disable", "large", "--note", "the provider is down")[1]
    assert "Out of service: large." in armwise("list", "--task", "Rewrite")[1]
    assert json.loads(armwise("list", "--json")[1])["disabled"] == ["large"]
    assert armwise("disable", "medium")[0] == 0
    status, said = armwise("disable", "small")
    assert (status, "last model in service" in said) == (1, True)
    assert armwise("enable", "large")[0] == armwise("enable", "medium")[0] == 0
    assert armwise("close-breaker", "large")[1].startswith("large is tried again.")
    assert "Out of service" not in armwise("list", "--task", "Rewrite")[1]
    status, said = armwise("enable", "larg")
    assert (status, "did you mean `large`" in said) == (1, True)
    assert armwise("disable")[0] == 2

    rows = with_database(None, list_controls)
    done = [(row.action, row.arm) for row in rows]
    assert done == [("disable", "large"), ("disable", "medium"), ("enable", "large"), ("enable", "medium"),
                    ("close_breaker", "large")]  # fmt: skip
    assert (rows[0].note, rows[0].who) == ("the provider is down", getpass.getuser())
