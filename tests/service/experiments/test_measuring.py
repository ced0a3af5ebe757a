"""What became of an experiment's units: each counted once, in its time, whoever looks and whatever is in the log."""

import asyncio
import json
import math
from functools import partial

import msgspec
import numpy as np
import pytest
from sqlalchemy import delete, insert, select, update

from bandit.experiments import SAMPLE_RATIO_ALARM, Guardrail, Metric, Units
from bandit.experiments import report as judged
from bandit.posteriors import MICRO, CellKey, Counts
from service.errors import Conflict
from service.experiments.design import Design, Population, Variant
from service.experiments.exposures import expose
from service.experiments.holdout import headline, look_at_holdout
from service.experiments.lifecycle import Asked, Begun, create, current, list_steps, take
from service.experiments.looks import Compared, Look, claim, drawn, is_news, keep_look, last_looks, list_looks
from service.experiments.measuring import close_due, closed_units, counts
from service.experiments.outcomes import Outcome, Rated
from service.experiments.verdicts import News, look_at, look_at_all, report_on
from service.settings import Holdout, Settings
from service.storage import store, tables

START = 1_800_000_000.0
WINDOW = 100.0
GRACE = 5.0
OVER = WINDOW + GRACE
GUARDED = tuple(Guardrail(metric=name, limit=0.05) for name in ("failure", "late", "refusal", "feedback"))
SETTINGS = Settings()


def design(**said):
    usual = {
        "name": "pair",
        "variants": (Variant(name="control", policy="a", share=0.5), Variant(name="treated", policy="b", share=0.5)),
        "primary": Metric(name="quality"),
        "minimum_s": 0.0,
        "maximum_s": 1e6,
        "window_s": WINDOW,
        "grace_s": GRACE,
        "late_after_s": 1.0,
        "mode": "shared",
    }
    return Design(**{**usual, **said})


async def started(database, at=START, **said):
    """A running experiment."""

    def write(connection):
        made = design(**said)
        create(connection, made, "owner", at - 1.0)
        take(connection, made.name, Asked(action="start"), Begun(), "owner", at)
        return current(connection)[made.name]

    return await database.write(write)


def rated(decision_id, value, at, **said):
    """A row of feedback; what is not said is usual."""
    usual = {
        "decision_id": decision_id, "metric": "quality", "source": "user", "user": "", "value": value, "weight": 1.0,
        "channel": "thumb", "namespace": "", "arm": "small", "task_type": "Open QA", "tier": "simple",
        "hour": int(at // 3600), "comment": "", "detail": "{}", "created_at": at, "updated_at": at,
    }  # fmt: skip
    return {**usual, **said}


async def log(database, *, decisions=(), attempts=(), rewards=()):
    """Write rows as the service does: exposures with the decisions."""

    def write(connection):
        if decisions:
            store.insert_decisions(connection, decisions)
            expose(connection, decisions)
        if attempts:
            store.insert_attempts(connection, attempts)
        if rewards:
            connection.execute(insert(tables.rewards), list(rewards))

    await database.write(write)


async def outcome(database, unit="u"):
    where = tables.exposures.c.unit == unit
    content = await database.read(lambda connection: connection.scalar(select(tables.exposures.c.outcome).where(where)))
    return None if content is None else msgspec.json.decode(content, type=Outcome)


@pytest.fixture
def asked(decision_row):
    """Makes the row of a decision in the experiment."""
    return partial(decision_row, experiment="pair", variant="treated", unit="u", created_at=START)


async def test_a_unit_by_hand(database, asked, attempt_row):
    one = await started(database)
    call = partial(attempt_row, latency_s=0.5, cost_usd=0.01)
    await log(
        database,
        decisions=[
            asked("first"), asked("slow", created_at=START + 10), asked("failed", created_at=START + 20),
            asked("left", created_at=START + 30), asked("lost", created_at=START + 40),
            asked("last", created_at=START + WINDOW), asked("after", created_at=START + WINDOW + 0.001),
        ],
        attempts=[
            call("first"),
            call("slow", outcome="timeout"), call("slow", step=1, latency_s=2.0, first_token_s=0.6),
            call("failed", outcome="server_error", cost_usd=0.0),
            call("left", outcome="cancelled"),
            call("last", latency_s=2.0, first_token_s=0.9), call("after"),
        ],
        rewards=[
            rated("first", 1.0, START + 1), rated("first", 0.25, START + 2, source="api", channel="score"),
            rated("slow", 0.0, START + WINDOW, weight=0.0), rated("last", 1.0, START + WINDOW + 1),
            rated("first", 0.5, START + 3, metric="tone"), rated("failed", 0.0, START + 21, source="judge"),
            rated("first", 0.4, START + 1, source="heuristics", channel="heuristic", detail='{"refusal":"as an"}'),
            rated("slow", 0.4, START + 11, source="heuristics", channel="reading", detail='{"found":{"other":1}}'),
            rated("failed", 0.0, START + 21, source="heuristics", channel="failure"),
            rated("after", 0.0, START + 50),
        ],
    )  # fmt: skip
    assert await close_due(database, one, START + OVER - 0.001) == 0
    assert await outcome(database) is None
    assert await close_due(database, one, START + OVER) == 1
    found = await outcome(database)
    assert (found.requests, found.rated, found.ended) == (6, 2, 4)
    assert (found.failed, found.late, found.refused) == (1, 1, 1)
    assert found.cost_usd == pytest.approx(0.05)
    assert found.ratings == {"quality": Rated(1.25, 3), "tone": Rated(0.5, 1)}


async def test_a_closed_unit_never_changes_and_is_counted_once(database, asked, attempt_row):
    one = await started(database)
    await log(database, decisions=[asked("d")], attempts=[attempt_row("d")], rewards=[rated("d", 1.0, START + 1)])
    assert await asyncio.gather(*(close_due(database, one, START + OVER) for _ in range(3)))
    before = await outcome(database)
    assert before.ratings == {"quality": Rated(1.0, 1)}
    await log(database, rewards=[rated("d", 0.0, START + 2, source="api")])
    await database.write(lambda connection: connection.execute(delete(tables.attempts)))
    await database.write(lambda connection: connection.execute(delete(tables.decisions)))
    assert await close_due(database, one, START + 10 * OVER) == 0
    assert await outcome(database) == before
    assert (await closed_units(database, one)).units.requests.tolist() == [1]


async def test_requests_that_still_run_when_the_window_is_over_count_with_what_becomes_of_them(
    database, asked, attempt_row
):
    """A model that hangs must show in the guardrails: its failures come when the window is long over."""
    one = await started(database, grace_s=60.0)
    begun = START + WINDOW - 1.0
    running = [asked(name, created_at=begun) for name in ("hangs", "long", "endless", "gone")]
    await log(database, decisions=[asked("quick"), *running], attempts=[attempt_row("quick", latency_s=0.5)])
    for after in (5.0, 59.999):
        assert await close_due(database, one, START + WINDOW + after) == 0
    ended = partial(attempt_row, started_at=begun, latency_s=50.0)
    await log(
        database,
        attempts=[
            ended("hangs", outcome="timeout", cost_usd=0.0), ended("gone", outcome="cancelled", cost_usd=0.02),
            ended("long", streamed=True, first_token_s=0.2, cost_usd=0.04),
        ],
        rewards=[rated("long", 0.4, begun + 50.0, source="heuristics", channel="heuristic", detail='{"refusal":"no"}'),
                 rated("long", 1.0, begun + 50.0)],
    )  # fmt: skip
    assert await close_due(database, one, START + WINDOW + 60.0) == 1
    found = await outcome(database)
    assert (found.requests, found.ended, found.failed, found.late, found.refused) == (5, 3, 1, 1, 1)
    assert (found.rated, found.ratings) == (0, {})  # what people say counts in the window alone
    await log(database, attempts=[ended("endless", outcome="timeout", latency_s=900.0)])
    assert await close_due(database, one, START + 1e6) == 0
    assert await outcome(database) == found


async def test_when_a_unit_closes_hangs_on_its_first_request_alone(database, asked, attempt_row):
    """Were those waited for that have requests running, a slow variant's units would be missing at every look."""
    one = await started(database, grace_s=60.0)
    rows = [asked(name, unit=name, variant=side) for name, side in (("quick", "control"), ("slow", "treated"))]
    await log(database, decisions=rows, attempts=[attempt_row("quick", latency_s=0.5)])
    assert await close_due(database, one, START + WINDOW + 59.999) == 0
    assert await close_due(database, one, START + WINDOW + 60.0) == 2


async def test_units_close_in_the_order_in_which_they_came_in(database, asked):
    one = await started(database)
    names = [f"u{number:03d}" for number in np.random.default_rng(1).permutation(1_200)]
    rows = [
        asked(f"d-{unit}", unit=unit, created_at=START + number, variant="control" if number % 3 else "treated")
        for number, unit in enumerate(names)
    ]
    await log(database, decisions=rows)
    assert await close_due(database, one, START + OVER + 999) == 1_000
    assert await database.read(counts, "pair") == (1_000, 200)
    assert await close_due(database, one, START + OVER + 1_200) == 200
    found = await closed_units(database, one)
    came = {unit: number for number, unit in enumerate(names)}
    assert found.units.variant.tolist() == [0 if came[unit] % 3 else 1 for unit in sorted(names)]
    assert found.damaged == 0


async def test_a_unit_that_shares_its_moment_with_thousands_is_read_once(database):
    one = await started(database)
    row = {"experiment": "pair", "variant": "control", "first_at": START}
    content = msgspec.json.encode(Outcome(1, 0, 1, 0, 0, 0, 0.0, None)).decode()
    rows = [{**row, "unit": f"u{number:05d}", "outcome": content} for number in range(10_001)]
    await database.write(lambda connection: connection.execute(insert(tables.exposures), rows))
    assert len((await closed_units(database, one)).units.variant) == 10_001


async def test_units_read_together_say_what_they_say_one_by_one(database):
    """Several pages with damage in them: the same report as from rows that are decoded each for itself."""
    one = await started(database, guardrails=(Guardrail(metric="failure", limit=0.05),))
    random = np.random.default_rng(3)
    rows, read = [], []
    for number in range(12_000):
        asked_, rated_ = int(random.geometric(0.2)), int(random.random() < 0.6)
        said = Outcome(
            asked_, rated_, asked_, int(random.random() < 0.1), 0, 0, random.random(), random.random(),
            {"quality": Rated(random.random() * rated_, rated_)},
        )  # fmt: skip
        day, variant = number // 5_000, ("control", "treated")[int(random.integers(2))]
        content = msgspec.json.encode(said).decode() if number % 1_000 else ("{", "[1]", "", "[\n]", "x,y")[number % 5]
        rows.append({
            "experiment": "pair", "unit": f"u{number:05d}", "variant": variant, "outcome": content,
            "first_at": START + 86_400.0 * day + random.random() * 80_000.0,
        })  # fmt: skip
        if number % 1_000:
            read.append((variant == "treated", said, day))
    await database.write(lambda connection: connection.execute(insert(tables.exposures), rows))
    expected = Units(
        variant=np.array([each[0] for each in read], dtype=np.int64),
        requests=np.array([each[1].requests for each in read]),
        gave_feedback=np.array([each[1].rated > 0 for each in read]),
        numerators={
            "quality": np.array([each[1].ratings["quality"].total for each in read]),
            "failure": np.array([float(each[1].failed) for each in read]),
        },
        denominators={
            "quality": np.array([float(each[1].ratings["quality"].number) for each in read]),
            "failure": np.array([float(each[1].ended) for each in read]),
        },
        covariate=np.array([each[1].expected for each in read]),
        day=np.array([each[2] for each in read]),
    )
    found, damaged = await report_on(database, one, START + 10 * 86_400.0)
    assert (damaged, found.units) == (12, 11_988)
    by_hand = judged(one.design.plan(), expected, 10 * 86_400.0)
    assert found == by_hand


async def test_time_in_which_it_is_paused_does_not_count(database):
    day = 86_400.0
    one = await started(database, minimum_s=7 * day, maximum_s=28 * day)

    async def step(action, at):
        asked_ = Asked(action=action)
        await database.write(lambda connection: take(connection, "pair", asked_, Begun(), "owner", at))
        return (await database.read(current))["pair"]

    one = await step("pause", START + day)
    assert [one.ran_s(START + days * day) for days in (0.5, 1, 40)] == [0.5 * day, day, day]
    assert await look_at(database, one, None, START + 60 * day) == (
        News("pair", (await database.read(last_looks, ["pair"]))["pair"], changed=False), 0
    )  # fmt: skip
    one = await step("start", START + 50 * day)
    assert one.ran_s(START + 52 * day) == 3 * day
    one = await step("pause", START + 55 * day)
    one = await step("stop", START + 70 * day)
    assert one.ran_s(START + 90 * day) == 6 * day
    assert (await report_on(database, one, START + 90 * day))[0].elapsed_s == 6 * day


async def test_a_name_is_used_once_also_by_an_experiment_that_cannot_be_read(database):
    await started(database)
    broken = update(tables.experiment_steps).where(tables.experiment_steps.c.action == "create").values(content="{")
    await database.write(lambda connection: connection.execute(broken))
    with pytest.raises(Conflict, match="names are not used twice"):
        await started(database)


async def test_poisoned_numbers_leave_one_number_out_and_stop_nothing(database, asked, attempt_row):
    one = await started(database, guardrails=(*GUARDED, Guardrail(metric="cost_usd", limit=0.01)))
    names = [f"u{number}" for number in range(200)]
    odd = CellKey("", "small", "Open QA", "simple", int(START // 3600) - 5, "thumb")
    await database.write(lambda connection: store.add_to_cells(connection, {odd: Counts(-5 * MICRO, 0, 0)}, START))
    await log(
        database,
        decisions=[
            asked(f"d-{unit}", unit=unit, variant="control" if int(unit[1:]) % 2 else "treated") for unit in names
        ],
        attempts=[attempt_row(f"d-{unit}", cost_usd=math.inf if unit == "u1" else 0.001) for unit in names],
        rewards=[rated(f"d-{unit}", 1e300 if unit == "u2" else 1.0, START + 1) for unit in names],
    )
    await close_due(database, one, START + OVER)
    for unit, content in (("u3", "{"), ("u4", "[1]"), ("u5", '[1,1,1,0,0,0,0,null,{"quality":[2]}]')):
        broken = update(tables.exposures).where(tables.exposures.c.unit == unit).values(outcome=content)
        await database.write(lambda connection, broken=broken: connection.execute(broken))
    report, damaged = await report_on(database, one, START + OVER)
    assert (damaged, report.ignored, report.units) == (3, 2, 197)
    assert report.verdict == "keep_going"
    json.dumps(msgspec.to_builtins(report), allow_nan=False)


async def test_what_was_known_before_the_experiment_is_the_covariate(database, asked):
    one = await started(database)
    hour = int(START // 3600)

    def learn(connection):
        good = CellKey("", "small", "Open QA", "simple", hour - 5, "thumb")
        late = CellKey("", "small", "Open QA", "simple", hour, "thumb")
        other = CellKey("@pair/treated", "small", "Open QA", "simple", hour - 5, "thumb")
        some = {good: Counts(95 * MICRO, 90 * MICRO, 0)}
        store.add_to_cells(connection, some | {late: Counts(MICRO, 0, 0), other: Counts(MICRO, 0, 0)}, START)

    await database.write(learn)
    await log(
        database,
        decisions=[
            asked("known", user="ann", unit="ann"), asked("later", user="ann", unit="ann", created_at=START + 1,
            task_type="Code Generation"), asked("new", user="bob", unit="bob"),
            asked("strange", user="eve", unit="eve", task_type="Code Generation"),
        ],
        rewards=[
            *(rated(f"old-{number}", 0.0, START - 100, user="ann") for number in range(5)),
            rated("old", 0.0, START - 100, user="bob", source="judge"), rated("known", 0.0, START + 1, user="ann"),
            rated("ancient", 0.0, START - 29 * 86_400, user="bob"),
        ],
    )  # fmt: skip
    await close_due(database, one, START + OVER + 1)
    mean = (90 + 2.5) / (95 + 5)
    cell = (90 + 5 * mean) / (95 + 5)
    assert (await outcome(database, "bob")).expected == pytest.approx(cell)
    assert (await outcome(database, "eve")).expected == pytest.approx(mean)
    assert (await outcome(database, "ann")).expected == pytest.approx(5 * cell / 10)


def test_shares_of_a_part_of_the_traffic_add_up_to_one():
    variants = (Variant(name="control", policy="a", share=0.1), Variant(name="treated", policy="b", share=0.3))
    plan = design(variants=variants, control="treated").plan()
    assert plan.variants == {"control": 0.25, "treated": 0.75}
    assert plan.control == "treated"


@pytest.mark.parametrize(("metric", "minds"), [("quality", True), ("cost_usd", False), ("late", False)])
def test_who_gives_feedback_matters_where_feedback_is_the_metric(metric, minds):
    variants = (Variant(name="control", policy="a", share=0.5), Variant(name="treated", policy="b", share=0.5))
    plan = design(variants=variants, primary=Metric(name=metric)).plan()
    assert (plan.feedback_tolerance is not None) == minds


# The look


def closed_rows(control, treated, **said):
    """Exposures that are closed, with as many good ones of each side."""
    rows = []
    for variant, (good, bad) in (("control", control), ("treated", treated)):
        for number in range(good + bad):
            value = 1.0 if number < good else 0.0
            content = Outcome(1, 1, 1, 0, 0, 0, 0.001, None, {"quality": (value, 1)})
            content = msgspec.structs.replace(content, **{name: f(value) for name, f in said.items()})
            rows.append({
                "experiment": "pair", "unit": f"{variant}-{number}", "variant": variant, "first_at": START + number,
                "outcome": msgspec.json.encode(content).decode(),
            })  # fmt: skip
    return rows


async def fill(database, rows):
    await database.write(lambda connection: connection.execute(insert(tables.exposures), rows))


async def state(database):
    one = (await database.read(current))["pair"]
    return one.state, [(step.action, step.who, step.note) for step in await database.read(list_steps, "pair")][2:]


async def test_a_better_variant_is_told_and_goes_on(database):
    one = await started(database)
    await fill(database, closed_rows((600, 400), (800, 200)))
    news, damaged = await look_at(database, one, None, START + 50)
    assert (news.look.verdict, news.changed, news.look.stopped, damaged) == ("ship", True, "", 0)
    (each,) = news.look.compared
    assert each.low < 0.2 < each.high
    assert each.low > 0
    assert await state(database) == ("running", [])
    assert await database.read(list_looks, "pair") == [news.look]
    assert await look_at(database, one, news.look, START + 60) == (None, 0)


async def test_a_worse_variant_is_stopped_and_the_log_says_why(database):
    one = await started(database)
    await fill(database, closed_rows((800, 200), (600, 400)))
    news, _ = await look_at(database, one, None, START + 50)
    assert news.look.stopped == "Stopped: a variant is worse than the control."
    found, steps = await state(database)
    assert found == "stopped"
    assert steps == [("stop", "armwise", f"{news.look.stopped} {news.look.sentence}")]
    one = (await database.read(current))["pair"]
    assert await look_at(database, one, news.look, START + 1e7) == (None, 0)


async def test_a_breached_guardrail_stops_it_before_its_shortest_time(database):
    one = await started(database, guardrails=(Guardrail(metric="failure", limit=0.02),), minimum_s=1e5)
    rows = closed_rows((500, 500), (500, 500))
    for row in rows:
        number = int(row["unit"].split("-")[1])
        if row["variant"] == "treated" and number % 3 == 0:
            row["outcome"] = row["outcome"].replace("[1,1,1,0,", "[1,1,1,1,")
    await fill(database, rows)
    news, _ = await look_at(database, one, None, START + 50)
    assert news.look.stopped == "Stopped: a guardrail is breached."
    assert "failure" in news.look.sentence
    assert (await state(database))[0] == "stopped"


async def test_units_that_were_not_assigned_as_planned_stop_it(database):
    one = await started(database)
    await fill(database, closed_rows((800, 800), (500, 500)))
    news, _ = await look_at(database, one, None, START + 50)
    assert news.look.sample_ratio_evidence > SAMPLE_RATIO_ALARM
    assert news.look.verdict == "broken"
    assert (await state(database))[0] == "stopped"


async def test_it_ends_after_its_longest_time_without_a_unit(database):
    one = await started(database, maximum_s=1_000.0)
    assert (await look_at(database, one, None, START + 999))[0].look.stopped == ""
    last = (await database.read(last_looks, ["pair"]))["pair"]
    news, _ = await look_at(database, one, last, START + 1_000)
    assert news.look.stopped == "Stopped: the longest time it may last is over."
    assert (await state(database))[0] == "stopped"


async def test_time_alone_lets_a_better_variant_be_shipped(database):
    one = await started(database, minimum_s=500.0)
    await fill(database, closed_rows((600, 400), (800, 200)))
    first, _ = await look_at(database, one, None, START + 100)
    assert first.look.verdict == "keep_going"
    assert await look_at(database, one, first.look, START + 400) == (None, 0)
    second, _ = await look_at(database, one, first.look, START + 500)
    assert (second.look.verdict, second.changed) == ("ship", True)


async def test_a_step_of_the_owner_at_the_same_moment_wins(database):
    one = await started(database)
    await fill(database, closed_rows((800, 200), (600, 400)))
    stop = Asked(action="stop", note="enough")
    await database.write(lambda connection: take(connection, "pair", stop, Begun(), "owner", START + 49))
    news, _ = await look_at(database, one, None, START + 50)
    assert news.look.stopped == ""
    assert await state(database) == ("stopped", [("stop", "owner", "enough")])
    assert await database.read(list_looks, "pair") == [news.look]


async def test_of_several_replicas_one_looks(database):
    await started(database)
    await fill(database, closed_rows((60, 40), (60, 40)))
    every = SETTINGS.experiments.look_every_s
    seen = await asyncio.gather(*(look_at_all(database, SETTINGS, START + 50) for _ in range(4)))
    assert sum(len(each.news) for each in seen) == 1
    assert len(await database.read(list_looks, "pair")) == 1
    assert not await database.write(partial(claim, now=START + 50 + 0.5 * every, every_s=every))
    assert await database.write(partial(claim, now=START + 50 + every, every_s=every))
    assert await database.write(partial(claim, now=START - 1e6, every_s=every))  # a clock that was wrong


async def test_rows_that_cannot_be_read_are_counted_and_keep_nobody_from_looking(database):
    await started(database, population=Population(tags={"team": "one"}))
    other = Population(tags={"team": "two"})
    await started(database, name="other", primary=Metric(name="tone"), population=other, maximum_s=1.0)
    await fill(database, [{**row, "outcome": "[1,1,1,0,0,0,1e400,null,{}]"} for row in closed_rows((1, 1), (1, 1))])
    seen = await look_at_all(database, SETTINGS, START + 50)
    assert {one.experiment for one in seen.news} == {"pair", "other"}
    assert seen.damaged == 4
    assert set(seen.last) == {"pair", "other"}


async def test_looks_that_cannot_be_read_are_passed_over(database):
    look = Look(at=START, units=1)
    rows = [{"experiment": "pair", "at": START + 1, "content": "{"}]
    await database.write(lambda connection: keep_look(connection, "pair", look))
    await database.write(lambda connection: connection.execute(insert(tables.looks), rows))
    assert await database.read(list_looks, "pair") == [look]
    assert await database.read(last_looks, ["pair"]) == {}


def test_looks_are_kept_as_rarely_as_a_drawing_needs():
    kept, at = [], START
    for units in range(1, 100_001, 7):
        at += 60.0
        look = Look(at=at, units=units)
        if is_news(look, kept[-1] if kept else None):
            kept.append(look)
    assert 400 < len(kept) < 1_500
    assert is_news(msgspec.structs.replace(kept[-1], verdict="ship"), kept[-1])


def test_a_drawing_has_at_most_five_hundred_points_and_the_last_one():
    compared = (Compared(variant="treated", units=1, control_units=2, estimate=0.1, low=0.0, high=0.2),)
    points = drawn([Look(at=START + number, units=number, compared=compared) for number in range(1_777)])
    assert 400 < len(points) <= 500
    assert points[-1]["at"] == START + 1_776
    assert (points[0]["units"], points[0]["estimate"]) == (3, 0.1)
    assert drawn([]) == []


# The permanent holdout


async def test_routing_is_worth_what_users_of_the_holdout_miss(database, decision_row, attempt_row):
    settings = Settings(holdout=Holdout(share=0.05, model="large"))
    generator = np.random.default_rng(3)
    decisions, attempts, rewards = [], [], []
    for number in range(1_500):
        held = number < 500
        row = decision_row(f"d{number}", user=f"u{number % 1_490}", method="holdout" if held else "auto",
                           created_at=START + number)  # fmt: skip
        decisions.append(row)
        attempts.append(attempt_row(row["id"], cost_usd=0.01 if held else 0.004))
        rewards.append(rated(row["id"], float(generator.random() < (0.6 if held else 0.8)), START + number + 1))
    decisions += [
        decision_row("named", user="x", method="user_specified"), decision_row("nobody"),
        decision_row("tested", user="y", experiment="pair", variant="control", unit="y"),
    ]  # fmt: skip
    rewards += [rated(name, 0.0, START + 5) for name in ("named", "nobody", "tested")]
    await log(database, decisions=decisions, attempts=attempts, rewards=rewards)
    assert await database.read(headline) is None
    await look_at_holdout(database, settings, START + 2_000)
    assert await database.read(headline) is None  # nobody was held out, as far as the hours' sums say
    hour = {
        "hour": int(START // 3600),
        "policy": "(holdout)",
        "method": "holdout",
        "arm": "large",
        "task_type": "Open QA",
    }
    await database.write(lambda connection: connection.execute(insert(tables.traffic), [hour]))
    await look_at_holdout(database, settings, START + 2_000)
    found = await database.read(headline)
    assert (found.held_out_units, found.units) == (500, 1_500)  # a user may have been in both
    assert found.low < 0.2 < found.high
    assert found.low > 0.0
    assert found.cost_usd == pytest.approx(0.004)
    assert "Routing beats `large` by +0." in found.sentence
    assert "60% less cost" in found.sentence
    assert (await look_at_all(database, settings, START + 2_060)).worth == found
