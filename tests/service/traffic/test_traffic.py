"""What is counted by the hour: exact, whatever is repeated, moved or corrected, and the same as the log adds up to."""

import asyncio
import math
from bisect import bisect_right
from collections import Counter
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, text
from sqlalchemy.exc import OperationalError

from service.learn import Measurement
from service.settings import Database as DatabaseSettings
from service.storage import store
from service.storage.database import Database, downgrade, migrate
from service.storage.writer import Writer
from service.traffic import sums
from service.traffic.reports import page_start, statistics
from service.traffic.series import counted, points, quantile, series
from service.traffic.sums import BOUNDS_S, HOUR_S, Key, Rollup, whole
from service.traffic.sums_of_log import folded, missing, missing_of_days, stored

NOON = 1_800_000_000.0
HOUR = int(NOON / HOUR_S)
PATIENT = DatabaseSettings(timeout_s=60.0)


def nothing(_deltas):
    pass


@pytest.fixture
async def writer(database):
    made = Writer(database, PATIENT, nothing, window_s=1e9)
    await made.start()
    yield made
    await made.close()


def rating(decision_id="d", value=1.0, at=NOON + 60.0, **said):
    said = {"metric": "quality", "source": "user", "user": "a", **said}
    return Measurement(decision_id=decision_id, value=value, at=at, **said)


async def counted_in(database, hour=HOUR):
    found = await database.read(stored, hour, hour + 1)
    return {key: {name: count for name, count in counts.items() if count} for key, counts in found.items()}


async def differs(database):
    """What differs of hours from the log, and of days from their hours."""
    return {**await database.read(missing, 0.0), **await database.read(missing_of_days)}


async def test_a_request_and_its_feedback(database, writer, decision_row, attempt_row):
    await writer.add_decision(decision_row("d", explored=True, routing_s=0.0002))
    key = Key(HOUR, "small", "Open QA", "thompson", "auto")
    assert await counted_in(database) == {key: {"decisions": 1, "explored": 1, "simple": 1, "routing_us": 200}}
    call = attempt_row("d", latency_s=0.5, first_token_s=0.25, cost_usd=0.001)
    await writer.add_later([call], [])
    await writer.record([rating(value=0.25)])
    counted = (await counted_in(database))[key]
    assert counted.pop("latency_12") == 1  # 0.453 to 0.640 s
    assert BOUNDS_S[11] < 0.5 < BOUNDS_S[12]
    assert counted == {
        "decisions": 1, "explored": 1, "simple": 1, "routing_us": 200, "calls": 1, "prompt_tokens": 10,
        "completion_tokens": 20, "cost_nano": 1_000_000, "latency_us": 500_000, "first_tokens": 1,
        "first_token_us": 250_000, "ratings": 1, "rating_micro": 250_000, "lag_ms": 60_000,
    }  # fmt: skip
    assert await differs(database) == {}


async def test_a_changed_mind_counts_once_and_machines_do_not_count(database, writer, decision_row):
    await writer.add_decision(decision_row("d"))
    for value in (1.0, 0.0, 0.0, 0.5):
        await writer.record([rating(value=value, at=NOON + 100.0 * value)])
    await writer.record([rating(source="judge", user=""), rating(source="heuristics", user="", channel="heuristic")])
    (counted,) = (await counted_in(database)).values()
    assert (counted["ratings"], counted["rating_micro"], counted["lag_ms"]) == (1, 500_000, 100_000)
    assert await differs(database) == {}


async def test_after_a_fallback_the_decision_counts_under_who_answered(database, writer, decision_row, attempt_row):
    await writer.add_decision(decision_row("d", explored=True))
    failed = attempt_row("d", outcome="timeout", cost_usd=0.0, latency_s=2.0)
    await writer.add_attempts([failed], ("d", "large"))
    await writer.add_later([failed, attempt_row("d", step=1, arm="large")], [])
    await writer.record([rating()])
    found = {key.arm: counts for key, counts in (await counted_in(database)).items()}
    assert found["small"].items() >= {"calls": 1, "failures": 1, "latency_us": 2_000_000}.items()
    assert "decisions" not in found["small"]
    expected = {"decisions": 1, "explored": 1, "fallbacks": 1, "simple": 1, "calls": 1, "ratings": 1}
    assert found["large"].items() >= expected.items()
    assert "failures" not in found["large"]
    assert await differs(database) == {}


async def test_what_is_put_twice_counts_once(database, writer, decision_row, attempt_row):
    for _ in range(2):
        puts = [writer.add_decision(decision_row(name)) for name in "ab"]
        await asyncio.gather(*puts)
        await writer.add_attempts([attempt_row("a"), attempt_row("b")], ("a", "large"))
        await writer.record([rating("a")])
    found = {key.arm: counts for key, counts in (await counted_in(database)).items()}
    assert found["small"]["decisions"] == found["large"]["decisions"] == 1
    assert found["small"]["calls"] == 2
    assert await differs(database) == {}


async def test_a_commit_whose_acknowledgement_is_lost_counts_once(database, decision_row, attempt_row):
    class Cut:
        """A database whose first commit of each kind succeeds without telling so."""

        def __init__(self):
            self.left = 2

        async def write(self, work):
            result = await database.write(work)
            if self.left:
                self.left -= 1
                raise OperationalError(None, None, ConnectionError("the connection was cut"))
            return result

    made = Writer(Cut(), PATIENT, nothing, window_s=1e9)
    await made.start()
    await made.add_decision(decision_row("d"))
    await made.add_later([attempt_row("d")], [rating()])
    await made.close()
    (counted,) = (await counted_in(database)).values()
    assert (counted["decisions"], counted["calls"], counted["ratings"]) == (1, 1, 1)
    assert await differs(database) == {}


async def test_a_transaction_that_fails_counts_nothing(database, writer, decision_row, attempt_row):
    with pytest.raises(Exception, match="decision_id"):
        await writer.add_attempts([attempt_row("nobody")])
    await writer.add_decision(decision_row("d"))
    assert [counts["decisions"] for counts in (await counted_in(database)).values()] == [1]
    assert await differs(database) == {}


async def test_replicas_add_to_the_same_sums(database, database_url, decision_row, attempt_row):
    others = [Database(database_url) for _ in range(3)]
    writers = [Writer(other, PATIENT, nothing, window_s=1e9) for other in others]

    async def serve(number, made):
        await made.start()
        for turn in range(15):
            arms = ("small", "large") if number % 2 else ("large", "small")
            ids = [f"{number}-{turn}-{arm}" for arm in arms]
            await asyncio.gather(
                *(made.add_decision(decision_row(one, arm=arm)) for one, arm in zip(ids, arms, strict=True))
            )
            calls = [attempt_row(one, arm=arm) for one, arm in zip(ids, arms, strict=True)]
            await made.add_later(calls, [rating(one) for one in ids])
        await made.close()

    await asyncio.gather(*(serve(number, made) for number, made in enumerate(writers)))
    for other in others:
        await other.close()
    found = await counted_in(database)
    assert {key.arm: (n["decisions"], n["calls"], n["ratings"]) for key, n in found.items()} == {
        "small": (45, 45, 45),
        "large": (45, 45, 45),
    }
    assert await differs(database) == {}


async def test_damaged_sums_are_made_again_and_what_is_counted_meanwhile_stays(database, writer, decision_row):
    await asyncio.gather(*(writer.add_decision(decision_row(name)) for name in "abc"))
    await database.write(lambda c: c.execute(text("UPDATE traffic SET decisions = 50, calls = 7")))
    await database.write(lambda c: sums.add(c, {Key(HOUR, "gone", "Other", "p", "auto"): {"decisions": 4}}))
    wrong, of_days = await database.read(missing, 0.0), await database.read(missing_of_days)
    await writer.add_decision(decision_row("d"))
    await database.write(lambda connection: sums.add(connection, wrong))
    await database.write(lambda connection: sums.add_to_days(connection, of_days))
    assert {key.arm: counts.get("decisions", 0) for key, counts in (await counted_in(database)).items()} == {
        "small": 4,
        "gone": 0,
    }
    assert await differs(database) == {}


async def test_hours_go_with_their_decisions_and_half_an_hour_is_left_alone(database, writer, decision_row):
    times = [NOON - 7200.0, NOON - 3600.0, NOON + 1000.0, NOON + 2000.0]
    await asyncio.gather(*(writer.add_decision(decision_row(f"{at}", created_at=at)) for at in times))
    before = NOON + 1500.0
    while await database.write(partial(store.prune, before=before)):
        pass
    dropped = 0
    while rows := await database.write(partial(sums.prune, before=before)):
        dropped += rows
    assert dropped == 2
    assert [counts["decisions"] for counts in (await counted_in(database)).values()] == [2]  # one of them is gone
    assert await database.read(missing, before) == {}
    assert await database.read(missing_of_days) == {}


async def test_a_day_goes_with_its_last_hour(database, writer, decision_row, attempt_row):
    midnight = NOON // 86_400 * 86_400.0
    times = {"early": midnight + 60.0, "late": midnight + 5 * HOUR_S, "next": midnight + 30 * HOUR_S}
    await asyncio.gather(*(writer.add_decision(decision_row(name, created_at=at)) for name, at in times.items()))
    await writer.add_later([attempt_row(name) for name in times], [rating("late", at=midnight + 6 * HOUR_S)])

    async def days():
        statement = text("SELECT day, decisions, ratings FROM traffic_days ORDER BY day")
        return await database.read(lambda connection: [tuple(row) for row in connection.execute(statement)])

    day = int(midnight // 86_400)
    assert await days() == [(day, 2, 1), (day + 1, 1, 0)]
    assert await database.write(partial(sums.prune, before=times["late"])) == 1
    assert await days() == [(day, 1, 1), (day + 1, 1, 0)]
    assert await database.write(partial(sums.prune, before=times["late"])) == 0
    assert await database.write(partial(sums.prune, before=times["next"])) == 1
    assert await days() == [(day + 1, 1, 0)]
    assert await database.read(missing_of_days) == {}


async def test_damaged_days_are_made_again_from_their_hours(database, writer, decision_row):
    await asyncio.gather(*(writer.add_decision(decision_row(name)) for name in "abc"))
    await database.write(lambda c: c.execute(text("UPDATE traffic_days SET decisions = 50, calls = 7")))
    gone = {Key(3, "gone", "Other", "p", "auto"): {"decisions": 4}}
    await database.write(lambda connection: sums.add_to_days(connection, gone))
    wrong = await database.read(missing_of_days)
    await writer.add_decision(decision_row("d"))
    await database.write(lambda connection: sums.add_to_days(connection, wrong))
    assert await differs(database) == {}
    assert (await database.read(statistics, 0.0, NOON * 2))["calls"] == 4


def added_up(connection, by, low, high, **more):
    """Decisions and ratings by a key, with days in place of hours."""
    found = Counter()
    for *key, decisions, ratings in connection.execute(
        select(counted(by, ("decisions", "ratings"), low, high, **more))
    ):
        of_day = tuple(part // 24 if isinstance(part, int) else part for part in key)
        found["decisions", *of_day] += decisions
        found["ratings", *of_day] += ratings
    return found


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    hours=st.lists(st.tuples(st.integers(0, 100), st.sampled_from(["small", "large"])), max_size=12),
    low=st.integers(0, 60),
    length=st.integers(1, 60),
)
def test_whole_days_and_their_hours_add_up_to_the_same(database_url, hours, low, length):
    """Whatever the period: sums of days and the hours at its edges say what hours alone say."""
    start = HOUR // 24 * 24
    rollup, inside, by_day = Rollup(), 0, Counter()
    for number, (hour, arm) in enumerate(hours):
        counts = {"decisions": 1 + number, "ratings": number}
        rollup.add(Key(start + hour, arm, ("Open QA", "Rewrite")[number % 2], "p", "auto"), counts)
        inside += (low <= hour < low + length) * counts["decisions"]
        by_day[hour // 24, arm] += counts["decisions"]

    def work(connection):
        for table in ("traffic", "traffic_days"):
            connection.execute(text(f"DELETE FROM {table}"))  # noqa: S608 - our own tables
        rollup.write(connection)

    def look(connection):
        period = (start + low, start + low + length)
        for by in (("hour", "arm"), ("arm", "task_type"), ("policy", "method")):
            for more in ({}, {"task_type": "Rewrite"}):
                by_hours = added_up(connection, by, *period, days=False, **more)
                assert added_up(connection, by, *period, **more) == by_hours
            told = added_up(connection, by, *period)
            assert sum(count for (name, *_), count in told.items() if name == "decisions") == inside
        daily = points(series(connection, start, 5, 24), start, 5, 24)
        assert by_day == {
            (day, arm): told["decisions"] for day, point in enumerate(daily) for arm, told in point["models"].items()
        }

    async def run():
        database = Database(database_url, 1)
        try:
            await database.write(work)
            await database.read(look)
        finally:
            await database.close()

    asyncio.run(run())


async def test_statistics_count_decisions_once_however_many_attempts(database, writer, decision_row, attempt_row):
    day = int(NOON // 86_400)
    last_second = (day + 1) * 86_400 - 0.5
    rows = [
        decision_row("a", created_at=last_second),
        decision_row("b", created_at=last_second, tier="complex", policy="rules"),
        decision_row("c", created_at=last_second + 1, method="user_specified"),
        decision_row("unserved", created_at=last_second + 1, arm="medium", task_type="Rewrite"),
    ]
    await asyncio.gather(*(writer.add_decision(row) for row in rows))
    first = attempt_row("a", outcome="timeout", cost_usd=0.0, latency_s=2.0)
    await writer.add_attempts([first], ("a", "large"))
    second = attempt_row("a", step=1, arm="large", cost_usd=0.25)
    await writer.add_attempts([second, attempt_row("b"), attempt_row("c")])
    found = await database.read(statistics, NOON - 86_400, NOON + 86_400)
    assert (found["calls"], found["attempts"], found["failed_attempts"]) == (4, 4, 1)
    assert found["cost_usd"] == pytest.approx(0.252)
    assert found["mean_latency_ms"] == pytest.approx(3500 / 4)
    assert found["mean_routing_ms"] == pytest.approx(0.1)
    assert (found["prompt_tokens"], found["completion_tokens"]) == (40, 80)
    assert found["distribution"] == {
        "model": {"small": 2, "large": 1, "medium": 1},
        "tier": {"simple": 3, "complex": 1},
        "task_type": {"Open QA": 3, "Rewrite": 1},
        "policy": {"thompson": 3, "rules": 1},
        "method": {"auto": 3, "user_specified": 1},
    }
    assert found["models"]["large"] == {
        "calls": 1, "cost_usd": 0.25, "mean_latency_ms": 500.0, "task_types": {"Open QA": 1}
    }  # fmt: skip
    assert found["models"]["medium"]["mean_latency_ms"] is None
    assert [(one["from"], one["calls"], one["model"]) for one in found["days"]] == [
        (day * 86_400, 2, {"large": 1, "small": 1}),
        ((day + 1) * 86_400, 2, {"medium": 1, "small": 1}),
    ]
    assert (await database.read(statistics, last_second + 1, NOON * 2))["calls"] == 2


async def test_pages_far_back_begin_where_they_would(database, decision_row):
    times = [NOON + 60.0 * number for number in range(1_500)]  # 25 hours

    def work(connection):
        rows = [decision_row(f"{at:.0f}", created_at=at) for at in times]
        store.insert_decisions(connection, rows)
        rollup = Rollup()
        rollup.decided(rows)
        rollup.write(connection)

    await database.write(work)
    expected = [f"{at:.0f}" for at in reversed(times)]
    for offset in (0, 999, 1_000, 1_001, 1_019, 1_020, 1_400, 1_497, 1_500, 2_000):
        begin, left = await database.read(page_start, offset)
        found = await database.read(partial(store.list_decisions, limit=5, offset=left, before=begin))
        assert [row["id"] for row in found] == expected[offset : offset + 5]


def test_quantiles_lie_within_their_class():
    classes = [0] * 28
    assert quantile(classes, 0.5) is None
    classes[0] = 4
    assert quantile(classes, 0.5) == pytest.approx(0.005)
    classes[12], classes[27] = 4, 2
    assert quantile(classes, 0.6) == pytest.approx(BOUNDS_S[11] * 2**0.25)
    assert quantile(classes, 0.95) == BOUNDS_S[-1]


@settings(deadline=None)
@given(st.lists(st.floats(0.02, 80.0), min_size=1, max_size=50), st.sampled_from([0.5, 0.95]))
def test_quantiles_are_off_by_less_than_a_class(latencies, share):
    classes = [0] * 28
    for latency in latencies:
        classes[bisect_right(BOUNDS_S, latency)] += 1
    exact = sorted(latencies)[math.ceil(share * len(latencies)) - 1]
    assert exact / 2**0.5 <= quantile(classes, share) <= exact * 2**0.5


async def test_migrating_fills_it_from_what_is_stored(database_url, decision_row, attempt_row):
    opened = Database(database_url)

    def fill(connection):
        rows = [
            decision_row("a", served_arm="large", tier="complex", routing_s=0.0000125),
            decision_row("b", created_at=NOON + 3599.5),
            decision_row("c", created_at=NOON + 3600.0, method="user_specified"),
        ]
        store.insert_decisions(connection, rows)
        first = attempt_row("a", outcome="timeout", latency_s=3.0, cost_usd=0.0)
        calls = [
            first,
            attempt_row("a", step=1, arm="large", latency_s=1e9, first_token_s=0.1),
            *(attempt_row("b", step=step, latency_s=bound) for step, bound in enumerate(BOUNDS_S)),
        ]
        store.insert_attempts(connection, calls)

    await opened.write(fill)
    await opened.close()
    await asyncio.to_thread(downgrade, database_url, "0010")
    await asyncio.to_thread(migrate, database_url)
    opened = Database(database_url)
    found = await opened.read(stored, HOUR, HOUR + 2)
    assert sum(counts["decisions"] for counts in found.values()) == 3
    assert await opened.read(missing, 0.0) == {}
    assert await opened.read(missing_of_days) == {}
    await opened.close()


amounts = st.one_of(st.floats(0, 200), st.sampled_from([0.0, 0.0000005, 0.0000025, 1e7, *BOUNDS_S]))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    amounts=st.tuples(amounts, amounts, amounts, amounts),
    value=st.floats(0, 1),
    created_at=st.floats(NOON, NOON + 7200.0),
    outcome=st.sampled_from(["ok", "timeout"]),
)
def test_the_log_adds_up_to_the_same_last_unit(
    database_url, decision_row, attempt_row, amounts, value, created_at, outcome
):
    routing_s, latency_s, first_token_s, cost_usd = amounts

    async def run():
        database = Database(database_url, 1)
        made = Writer(database, PATIENT, nothing, window_s=1e9)
        try:
            for table in ("traffic", "traffic_days", "rewards", "attempts", "decisions"):
                statement = text(f"DELETE FROM {table}")  # noqa: S608 - our own tables
                await database.write(lambda connection, said=statement: connection.execute(said) and None)
            await made.start()
            await made.add_decision(decision_row("d", created_at=created_at, routing_s=routing_s))
            said = {"latency_s": latency_s, "first_token_s": first_token_s, "cost_usd": cost_usd, "outcome": outcome}
            await made.add_later([attempt_row("d", **said)], [rating(value=value, at=created_at + latency_s)])
            kept, log = await database.read(stored, HOUR, HOUR + 3), await database.read(folded, HOUR, HOUR + 3)
            assert {key: {n: c for n, c in counts.items() if c} for key, counts in kept.items()} == {
                key: {n: c for n, c in counts.items() if c} for key, counts in log.items()
            }
        finally:
            await made.close()
            await database.close()

    asyncio.run(run())


@pytest.mark.parametrize(("amount", "units"), [(0.0, 0), (-1.0, 0), (float("nan"), 0), (2.5e-6, 3), (1e300, 10**12)])
def test_amounts_are_whole_numbers(amount, units):
    assert whole(amount, 1e6) == units
