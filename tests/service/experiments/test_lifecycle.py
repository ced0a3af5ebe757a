"""Steps that two replicas take at one moment: whatever comes between whose statements, one sees what the other did."""

from functools import partial

import pytest
from sqlalchemy import event
from sqlalchemy.util import await_only

from bandit.experiments import Metric
from service.errors import Conflict
from service.experiments.design import Design, Variant
from service.experiments.lifecycle import Asked, Begun, create, current, list_steps, take
from service.storage.database import Database, is_conflict

START = 1_800_000_000.0
TRIES = 3


def design(name, mode="shared"):
    sides = (Variant(name="control", policy="a", share=0.5), Variant(name="treated", policy="b", share=0.5))
    return Design(name=name, variants=sides, primary=Metric(name="quality"), mode=mode)


def made(name, mode="shared"):
    return partial(create, design=design(name, mode), who="owner", at=START)


def start(name):
    return partial(take, name=name, asked=Asked(action="start"), begun=Begun(), who="owner", at=START + 1.0)


@pytest.fixture
async def replicas(postgres_url):
    """Two processes' connections to one Postgres; SQLite lets nobody in between."""
    opened = [Database(postgres_url, 1), Database(postgres_url, 1)]
    yield opened
    for each in opened:
        await each.close()


async def interrupted(database, work, at, other):
    """Do `work`, and all of `other` just before the statement numbered `at`: how many statements `work` had.

    As a service does: once more when another process wrote at the same moment.
    """
    statements, refused = 0, False

    def watched(connection):
        @event.listens_for(connection, "before_cursor_execute")
        def before(*_):
            nonlocal statements
            if statements == at:
                await_only(other())
            statements += 1

        try:
            return work(connection)
        finally:
            event.remove(connection, "before_cursor_execute", before)

    for _ in range(TRIES):
        try:
            await database.write(watched)
            break
        except Conflict:
            refused = True
            break
        except Exception as error:
            if not is_conflict(error):
                raise
    else:
        pytest.fail(f"it met somebody {TRIES} times, but there was one")
    return statements, refused


@pytest.mark.postgres
@pytest.mark.parametrize("mode", ["shared", "own"])
async def test_of_two_that_start_on_the_same_requests_one_is_refused_whenever_the_other_comes(replicas, mode):
    here, there = replicas
    at = 0
    while True:
        pair = [f"first-{at}", f"second-{at}"]
        for name in pair:
            await here.write(made(name, mode))
        statements, refused = await interrupted(here, start(pair[0]), at, partial(there.write, start(pair[1])))
        running = [one.name for one in (await here.read(current)).values() if one.state == "running"]
        if at >= statements:
            break
        assert (running, refused) == ([pair[1]], True), f"the other came before statement {at} of {statements}"
        await here.write(partial(take, name=pair[1], asked=Asked(action="stop"), begun=Begun(), who="", at=START + 2.0))
        at += 1
    assert at == (3 if mode == "shared" else 4)  # its number, all steps, the copy of what is known, its row
    assert running == [pair[0]]  # nobody came between


@pytest.mark.postgres
@pytest.mark.parametrize("at", range(3))
async def test_of_two_that_take_one_name_one_is_refused_whenever_the_other_comes(replicas, at):
    here, there = replicas
    statements, refused = await interrupted(here, made("pair"), at, partial(there.write, made("pair")))
    assert statements > at
    assert refused
    assert [step.action for step in await here.read(list_steps)] == ["create"]
