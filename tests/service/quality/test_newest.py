"""The sums of the newest replies: of few of them as they are, of many as they were, with their time."""

import pytest
from sqlalchemy import delete, insert, update

from service.learning.calibrations import Answered
from service.metrics.catalogue import Metrics
from service.quality.newest import FEW, KEPT_S, Newest
from service.storage.tables import rewards

NOON = 1_800_000_000.0


def said(number, **more):
    row = {
        "decision_id": f"d{number}", "metric": "quality", "source": "heuristics", "user": "", "value": 1.0,
        "weight": 0.05, "channel": "heuristic", "namespace": "", "arm": "small", "task_type": "Open QA",
        "tier": "simple", "hour": 500_000, "comment": "", "detail": "{}", "created_at": NOON + number,
        "updated_at": NOON + number,
    }  # fmt: skip
    return {**row, **more}


def reading(number):
    return said(number, metric="reading", value=0.75, weight=1.0, channel="reading")


def thumb(number, value):
    return said(number, source="user", user="u", value=value, weight=1.0, channel="thumb")


async def store(database, *rows):
    await database.write(lambda connection: connection.execute(insert(rewards), rows))


def read_replies(count, refused=0):
    """Rows of so many replies that the heuristics read; `refused` of them are refusals."""
    found = [said(number, detail='{"refusal":"no"}' if number < refused else "{}") for number in range(count)]
    return [*found, *(reading(number) for number in range(count))]


class Afterwards:
    """Keeps what is to be done when the page is answered, and does it when told."""

    def __init__(self):
        self.work = []

    async def done(self):
        while self.work:
            await self.work.pop()


@pytest.fixture
def afterwards():
    found = Afterwards()
    yield found
    for work in found.work:
        work.close()


@pytest.fixture
def newest(database, afterwards):
    return Newest(database, Metrics(), afterwards.work.append)


async def test_few_replies_are_told_as_they_are(database, newest, afterwards):
    await store(database, *read_replies(3, refused=1))
    first = await newest.sums(NOON)
    assert (first.at, first.replies, first.fired) == (NOON, 3, {"refusal": 1})
    assert first.answered == {"small": Answered(3, 0)}
    await store(database, thumb(1, 1.0), said(2, user="repeat", metric="other", detail='{"refusal":"x","again":"y"}'))
    second = await newest.sums(NOON + 0.001)
    assert (second.replies, second.fired) == (3, {"refusal": 2, "again": 1})
    assert second.answered == {"small": Answered(3, 1)}
    assert second.rated["small", "Open QA"].labels.n == 1
    assert afterwards.work == []


async def test_many_replies_are_told_as_they_were_and_read_again_for_who_looks_next(database, newest, afterwards):
    await store(database, *read_replies(FEW, refused=7))
    first = await newest.sums(NOON)
    assert (first.replies, first.fired, first.answered) == (FEW, {"refusal": 7}, {"small": Answered(FEW, 0)})
    await store(database, thumb(5, 0.0))  # late feedback
    assert await newest.sums(NOON + KEPT_S - 0.001) is first
    assert afterwards.work == []
    assert await newest.sums(NOON + KEPT_S) is first
    assert await newest.sums(NOON + KEPT_S + 1) is first
    assert len(afterwards.work) == 1  # however many look
    await afterwards.done()
    second = await newest.sums(NOON + KEPT_S + 2)
    assert (second.at, second.answered["small"]) == (NOON + KEPT_S, Answered(FEW, 1))
    assert second.rated["small", "Open QA"].labels.y == 0.0

    await database.write(lambda connection: connection.execute(delete(rewards).where(rewards.c.created_at < NOON + 7)))
    await newest.sums(NOON + 2 * KEPT_S)  # pruned
    await afterwards.done()
    third = await newest.sums(NOON + 2 * KEPT_S)
    assert (third.replies, third.fired, third.answered) == (FEW - 7, {}, {"small": Answered(FEW - 7, 0)})
    changed = update(rewards).where(rewards.c.metric == "reading").values(arm="large")
    await database.write(lambda connection: connection.execute(changed))
    assert (await newest.sums(NOON + 2 * KEPT_S)).answered == {"large": Answered(FEW - 7, 0)}  # few again


async def test_a_database_that_fails_leaves_what_was_told_with_its_time(database, newest, afterwards, caplog):
    await store(database, *read_replies(FEW))
    first = await newest.sums(NOON)
    await database.write(rewards.drop)
    for at in (NOON + KEPT_S, NOON + 2 * KEPT_S):
        assert await newest.sums(at) is first
        await afterwards.done()
    assert caplog.text.count("the newest replies could not be added up") == 2
    metrics = newest._metrics.exposition()[0].decode()
    assert 'armwise_learner_errors_total{place="recalibrate"} 2.0' in metrics


async def test_what_was_read_earlier_does_not_replace_what_was_read_later(database, newest):
    await store(database, *read_replies(FEW))
    later = await newest.read(NOON + 10)
    assert (await newest.read(NOON)).at == NOON
    assert await newest.sums(NOON + 11) is later
