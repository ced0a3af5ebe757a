"""Who is in which variant, what an experiment's steps come to, and what its posteriors begin with."""

from collections import Counter

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from bandit.experiments import Metric
from bandit.history import faded, table_of
from bandit.posteriors import CellKey, Counts
from bandit.vocabulary import TASK_TYPES
from service.errors import Conflict
from service.experiments.assigning import Assignment, Missed, Unit, assign, bucket_of, digest_of, held_out, standing
from service.experiments.design import Design, Population, Variant
from service.experiments.lifecycle import (
    STEPS,
    Asked,
    Begun,
    Decided,
    Experiment,
    Made,
    Step,
    create,
    current,
    fold,
    list_steps,
    take,
)
from service.experiments.seeds import base_of, plant
from service.learning.ledger import Ledger, joined
from service.settings import Settings
from service.setup import create_setup
from service.storage import store
from service.storage.database import Database

SETUP = create_setup(Settings())
HALVES = (
    Variant(name="control", policy="thompson", share=0.5),
    Variant(name="treated", policy="pooled_thompson", share=0.5),
)
MODES = {"own": ("@ab/treated",) * 3, "frozen": ("", "@ab", "@ab/treated"), "shared": ("", "", "")}


def design(name="ab", **said):
    return Design(**{"name": name, "variants": HALVES, "primary": Metric(name="quality"), **said})


def running(name="ab", salt="salt", started_at=1.0, **said):
    return Experiment(
        design=design(name, **said), salt=salt, state="running", created_at=0.0, started_at=started_at
    )  # fmt: skip


def place(experiments, unit, task="Other", tags=None, policies=SETUP.policies):
    return assign(experiments, unit, task, tags or {}, policies)


def test_units_fall_into_variants_by_their_shares():
    """Chi-square at p = 1e-6, for fixed salts: it says the same every time."""
    sides = (
        Variant(name="a", policy="thompson", share=0.1),
        Variant(name="b", policy="random", share=0.25),
        Variant(name="c", policy="rules", share=0.4),
    )
    for salt in ("one", "two", "three"):
        one = running(variants=sides, salt=salt)
        found = Counter(
            where.variant if (where := place([one], Unit(user=f"user-{n}"))) is not None else None
            for n in range(40_000)
        )
        expected = [4_000, 10_000, 16_000, 10_000]
        assert chisquare([found[name] for name in ("a", "b", "c", None)], expected).pvalue > 1e-6


def test_places_of_one_experiment_say_nothing_of_those_of_another():
    """Chi-square of independence by hand, at p = 1e-6; other names and other salts both shuffle anew."""
    users = [Unit(user=str(n)) for n in range(20_000)]
    first = [place([running()], user).variant for user in users]
    for other in (running("other"), running(salt="pepper")):
        second = [place([other], user).variant for user in users]
        table = Counter(zip(first, second, strict=True))
        assert chisquare(list(table.values())).pvalue > 1e-6


@given(st.text(max_size=40), st.text(max_size=20))
def test_a_place_is_a_function_of_salt_name_and_unit(user, salt):
    one = running(salt=salt)
    found = place([one], Unit(user=user, session="s", request="r"))
    again = place([one], Unit(user=user, session="another", request="later"))
    assert found == again
    if user:
        assert isinstance(found, Assignment)
        assert len(found.unit) == 32
        assert 0 <= bucket_of(digest_of(salt, "ab", user)) < 10_000
    else:
        assert found == Missed(experiment="ab", why="no unit")


@pytest.mark.parametrize(("mode", "expected"), MODES.items())
def test_what_a_variant_reads_and_teaches(mode, expected):
    sides = (Variant(name="treated", policy="thompson", share=0.99), Variant(name="rest", policy="rules", share=0.01))
    found = place([running(variants=sides, mode=mode)], Unit(user="u-1"))
    assert (found.teaches, found.reads, found.account) == expected


@pytest.mark.parametrize("kind", ["user", "session", "key", "request"])
def test_the_unit_is_the_one_that_was_chosen(kind):
    everything = {"user": "u", "session": "s", "key_id": "k", "request": "r"}
    own = {"user": "user", "session": "session", "key": "key_id", "request": "session"}[kind]
    one = running(unit=kind)
    others = {name: "other" for name in everything if name != own}
    assert place([one], Unit(**everything)) == place([one], Unit(**{**everything, **others}))
    if kind != "request":
        assert place([one], Unit(**{**everything, own: ""})) == Missed(experiment="ab", why="no unit")
    else:
        assert isinstance(place([one], Unit(request="r")), Assignment)


def test_nobody_takes_part_while_a_policy_is_missing():
    policies = {name: policy for name, policy in SETUP.policies.items() if name != "pooled_thompson"}
    found = {place([running()], Unit(user=str(n)), policies=policies) for n in range(20)}
    assert found == {Missed(experiment="ab", why="no policy")}


def test_the_first_that_began_claims_a_request():
    one, two = running("z", started_at=1.0), running("a", started_at=2.0)
    order = standing({"a": two, "z": one}).running
    assert [found.name for found in order] == ["z", "a"]
    assert place(order, Unit(user="u")).experiment == "z"


TAGS = st.dictionaries(st.sampled_from("ab"), st.sampled_from("xy"), max_size=2)
TASKS = st.lists(st.sampled_from(TASK_TYPES[:3]), max_size=2, unique=True).map(tuple)
POPULATIONS = st.builds(Population, task_types=TASKS, tags=TAGS)


@given(POPULATIONS, POPULATIONS)
def test_populations_meet_exactly_when_a_request_can_be_of_both(one, other):
    some = [{}] + [dict(zip("ab", pair, strict=True)) for pair in ("xx", "xy", "yx", "yy")]
    both = any(one.holds(task, tags) and other.holds(task, tags) for task in TASK_TYPES for tags in some)
    assert one.meets(other) == other.meets(one) == both


def test_the_holdout_only_grows_with_its_share_and_needs_a_name():
    users = [Unit(user=f"u-{n}") for n in range(20_000)]
    one, five = ([user for user in users if held_out(user, share)] for share in (0.01, 0.05))
    assert len(five) == pytest.approx(1_000, abs=150)  # 5 standard deviations
    assert {user.user for user in one} < {user.user for user in five}
    assert not held_out(Unit(key_id="k", request="r"), 0.05)
    assert [user for user in users if held_out(Unit(session=user.user), 0.05)] == five


# Steps


def steps_of(actions):
    """Rows of the log, as if nobody had checked them."""
    content = {
        "create": Made(design=design(), salt="s"),
        "start": Begun(),
        "decide": Decided(ship="treated"),
    }  # fmt: skip
    return [
        Step(
            id=number, at=float(number), experiment="ab", action=action,
            content=msgspec.json.encode(content.get(action, {})).decode(),
        )
        for number, action in enumerate(actions, 1)
    ]  # fmt: skip


@given(st.lists(st.sampled_from(list(STEPS)), max_size=12))
def test_steps_that_cannot_follow_are_passed_over_and_counted(actions):
    found, unreadable = fold(steps_of(actions))
    state, refused = None, 0
    for action in actions:
        after = ("created" if state is None else None) if action == "create" else STEPS[action].get(state)
        state, refused = (state, refused + 1) if after is None else (after, refused)
    assert (found["ab"].state if "ab" in found else None, unreadable) == (state, refused)


@given(st.sampled_from(["", "[]", "nonsense", '{"ship": "nobody"}', '{"ship": 7}']))
def test_damage_in_one_step_leaves_the_rest(content):
    rows = steps_of(["create", "start", "stop", "decide"])
    rows[-1] = msgspec.structs.replace(rows[-1], content=content)
    found, unreadable = fold(rows)
    assert (found["ab"].state, unreadable) == ("stopped", 1)
    rows[0] = msgspec.structs.replace(rows[0], content=content)
    assert fold(rows) == ({}, 4)


# In the database

HOUR = 500_000
AT = HOUR * 3600.0


def cell(arm="small", hour=HOUR, namespace="", task="Other"):
    return CellKey(namespace, arm, task, "medium", hour, "thumb")


@pytest.fixture
async def database(database_url):
    found = Database(database_url, 1)
    yield found
    await found.close()


async def test_a_seed_is_what_the_common_posterior_counts_at_that_moment(database):
    counts = {
        cell(f"m-{arm}", HOUR - age, task=task): Counts(1_000_000 * arm + age, age, age // 2)
        for arm in range(1, 9)
        for age in (*range(0, 300, 7), 5_000, 5_001, 9_999)
        for task in TASK_TYPES[:3]
    }
    merged = {cell("m-1", namespace="@old/a"): Counts(5, 3, 2)}
    left_out = {cell("m-1", namespace="@dropped/a"): Counts(7, 7, 7)}
    cells = counts | merged | left_out
    await database.write(lambda connection: store.add_to_cells(connection, cells, AT))
    await database.write(lambda connection: plant(connection, "ab", ["@old/a"], AT))
    later = {cell("m-1"): Counts(10, 10, 10)}
    await database.write(lambda connection: store.add_to_cells(connection, later, AT))
    base = await base_of(database, "ab")
    assert len(base.table.hour) > 1_000  # in several pages
    expected = Counter()
    for key, one in (counts | merged).items():
        expected[key.task_type, key.arm] += np.array(one)
    for (task, arm), total in expected.items():
        found = [one for (name, _, _), one in base.sums[task].items() if name == arm]
        assert tuple(np.sum(found, axis=0)) == tuple(total)
    assert base.table.counts.sum(axis=0).tolist() == sum(expected.values()).tolist()
    recent = base.table.hour >= HOUR - 14 * 24
    assert sorted(set(base.table.hour[recent])) == sorted({key.hour for key in counts if key.hour >= HOUR - 14 * 24})
    assert all(abs(hour - HOUR + 5_000) <= 84 or abs(hour - HOUR + 9_999) <= 84 for hour in base.table.hour[~recent])
    assert (await base_of(database, "nobody")).sums == {}


async def test_a_step_waits_for_the_one_before_and_is_checked_against_it(database):
    one = await database.write(lambda connection: create(connection, design(), "me", 1.0))
    assert one.id == 1
    with pytest.raises(Conflict, match="already"):
        await database.write(lambda connection: create(connection, design(), "me", 2.0))
    start, stop = Asked(action="start"), Asked(action="stop", note="x" * 1_000)
    await database.write(lambda connection: take(connection, "ab", start, Begun(), "me", 3.0))
    with pytest.raises(Conflict, match="now it can: pause, stop"):
        await database.write(lambda connection: take(connection, "ab", start, Begun(), "me", 4.0))
    await database.write(lambda connection: take(connection, "ab", stop, Begun(), "w" * 300, 5.0))
    rows = await database.read(list_steps, "ab")
    assert [(row.id, row.action) for row in rows] == [(1, "create"), (2, "start"), (3, "stop")]
    found = (await database.read(current))["ab"]
    assert (found.state, found.started_at, found.stopped_at) == ("stopped", 3.0, 5.0)
    assert len(found.salt) == 32


# Counts that stand on others


CELLS = st.dictionaries(
    st.builds(
        cell,
        arm=st.sampled_from(["small", "large", "gone"]),
        hour=st.integers(HOUR - 50, HOUR),
        task=st.sampled_from(TASK_TYPES),
    ),
    st.integers(0, 3).map(lambda n: Counts(1_000_000 * n, 500_000 * n, 250_000 * n)),
    max_size=12,
)


@given(CELLS, CELLS)
def test_rows_of_two_tables_together_count_as_those_of_both(one, other):
    both = dict(one)
    for key, counts in other.items():
        both[key] = both.get(key, Counts()).plus(counts)
    names = ["large", "small"]
    memory = SETUP.settings.learning.memory
    found = faded(joined([table_of(one), table_of(other)]), names, float(HOUR), memory)
    expected = faded(table_of(both), names, float(HOUR), memory)
    for name in ("labels", "readings"):
        for mine, its in zip(getattr(found, name), getattr(expected, name), strict=True):
            np.testing.assert_allclose(mine, its, atol=1e-9)


def test_a_ledger_counts_what_a_namespace_began_with_and_what_it_listens_to():
    ledger = Ledger()
    ledger.add(cell(), Counts(1, 1, 1))
    ledger.add(cell(namespace="@ab/a"), Counts(2, 1, 1))
    assert ledger.table("").counts.tolist() == [[1, 1, 1]]
    ledger.begin("@ab/a", table_of({cell("other"): Counts(4, 4, 4)}))
    assert sorted(ledger.table("@ab/a").counts[:, 0]) == [2, 4]
    ledger.listen(("@ab/a",))
    assert sorted(ledger.table("").counts[:, 0]) == [1, 2]  # not what it began with: that is its own
    ledger.begin("@ab/a", None)
    assert ledger.table("@ab/a").counts[:, 0].tolist() == [2]
