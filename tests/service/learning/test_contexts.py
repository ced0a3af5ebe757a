"""Labels with their prompts, as linear policies learn from them: what is read, when, and what it does to decisions."""

import asyncio
from functools import partial

import aiohttp
import msgspec
import numpy as np
import pytest

from bandit.linear import LinearThompson, features, regression
from bandit.posteriors import Beliefs, Regression
from bandit.vocabulary import PROMPT_TIERS, TASK_TYPES, DimensionScores, PromptProfile
from service.configuration import settings_from_toml
from service.errors import ConfigurationError, StorageUnavailable
from service.learn import Measurement, record
from service.learning.beliefs import Contents, decode, encode_regressions
from service.learning.contexts import Contexts
from service.learning.fitting import Fitting
from service.learning.knowledge import Knowledge
from service.metrics.catalogue import Metrics
from service.probes.quiz import Asked, Mark, store_mark
from service.probes.quiz_questions import Posed, question_from
from service.settings import Learning, Settings, SimulatedModel
from service.setup import create_setup
from service.storage import store
from tests.api.asking import ask
from tests.api.conftest import Running, settings_for

NOON = 1_800_000_000.0
WEEK = 7 * 86_400.0
HOUR = 3_600.0
PROFILE = PromptProfile(
    task_type="Open QA", tier="simple", complexity=0.25, scores=DimensionScores(reasoning=0.5), vector=(0.1, 0.2)
)
LINEAR = (LinearThompson(name="linear"),)


@pytest.fixture
def decide(database, decision_row):
    """Store decisions by id."""

    async def do(*ids, detail=None, **said):
        detail = msgspec.json.encode({"id": "d", "profile": PROFILE}).decode() if detail is None else detail
        rows = [decision_row(one, detail=detail, **said) for one in ids]
        await database.write(lambda connection: store.insert_decisions(connection, rows))

    return do


@pytest.fixture
def rate(database):
    """Rate a decision."""

    async def do(decision_id="d", value=1.0, at=NOON, **said):
        one = Measurement(
            **{"decision_id": decision_id, "metric": "q", "source": "user", "value": value, "at": at, **said}
        )
        await database.write(partial(record, measurements=[one], window_s=1e9, now=at))

    return do


async def test_a_label_stands_with_the_features_of_its_prompt(database, decide, rate):
    await decide("d", "e")
    await rate("d", 0.25, weight=0.5)
    await rate("e", 1.0, arm="large", at=NOON + 1, channel="failure")
    found = await Contexts(database).labelled(NOON + 2, 30.0)
    assert found.arms == ("large", "small")
    rows = sorted(zip(found.arm, found.value, found.weight, strict=True))
    assert rows == [(0, 1.0, 1.0), (1, 0.25, 0.5)]
    assert found.x.tolist() == [features(PROFILE)] * 2
    assert {TASK_TYPES[task] for task in found.task} == {"Open QA"}
    assert {PROMPT_TIERS[tier] for tier in found.tier} == {"simple"}
    assert set(found.hour) == {int(NOON // HOUR)}


async def test_nothing_learned_is_nothing_read(database):
    found = await Contexts(database).labelled(NOON, 30.0)
    assert found.arms == ()
    assert found.x.shape[0] == len(found.value) == 0


async def test_what_is_no_label_or_of_another_experiment_or_old_is_left_out(database, decide, rate):
    await decide("d")
    await decide("other", namespace="experiment")
    await rate("d", channel="heuristic")
    await rate("d", channel="reading", metric="reading")
    await rate("other")
    await rate("d", at=NOON - 41 * 86_400.0, metric="old")  # more than four half-lives ago
    assert (await Contexts(database).labelled(NOON, 10.0)).arms == ()


async def test_a_new_label_is_read_at_the_next_look_and_a_changed_one_within_the_hour(database, decide, rate):
    await decide("d", "e")
    await rate("d", 1.0)
    contexts = Contexts(database)
    assert (await contexts.labelled(NOON + 10, 30.0)).value.tolist() == [1.0]
    await rate("d", 0.5, at=NOON + 20)  # a changed mind, soon
    await rate("e", 0.75, at=NOON + 20)
    assert sorted((await contexts.labelled(NOON + 30, 30.0)).value) == [0.5, 0.75]
    await contexts.labelled(NOON + 600, 30.0)
    await rate("d", 0.0, at=NOON + 700)  # and late
    assert sorted((await contexts.labelled(NOON + 710, 30.0)).value) == [0.5, 0.75]
    assert sorted((await contexts.labelled(NOON + 10 + HOUR, 30.0)).value) == [0.0, 0.75]


async def test_decisions_past_their_retention_are_no_longer_heard(database, decide, rate):
    await decide("d")
    await rate("d")
    contexts = Contexts(database)
    assert len((await contexts.labelled(NOON + 10, 30.0)).value) == 1
    await database.write(partial(store.prune, before=NOON + 1.0))
    assert len((await Contexts(database).labelled(NOON + 20, 30.0)).value) == 0


async def test_a_decision_that_cannot_be_read_costs_its_own_labels_alone(database, decide, rate, caplog):
    await decide("d")
    await decide("older", detail='{"profile": 3}')
    await rate("d")
    await rate("older")
    assert len((await Contexts(database).labelled(NOON + 10, 30.0)).value) == 1
    assert "decision older has no profile that can be read" in caplog.text


async def test_labels_of_one_moment_are_all_read_once(database, decide):
    """600 of them: several pages."""
    ids = [f"d{number}" for number in range(600)]
    await decide(*ids)
    said = [
        Measurement(decision_id=one, metric="q", source="user", value=number / 600, at=NOON)
        for number, one in enumerate(ids)
    ]
    await database.write(partial(record, measurements=said, window_s=WEEK, now=NOON))
    found = await Contexts(database).labelled(NOON + 1, 30.0)
    assert sorted(found.value) == [number / 600 for number in range(600)]


async def test_the_marks_of_a_quiz_stand_with_the_features_of_their_questions(database, decide, rate, caplog):
    question = question_from([{"role": "user", "content": "What is the capital of France?"}])
    asked = Asked(SimulatedModel(name="small"), Posed(question, PROFILE))
    mark = Mark(value=0.75, weight=0.5, by="judge", cost_usd=0.0)
    await database.write(partial(store_mark, asked=asked, mark=mark, metric="q", now=NOON))
    await decide("d")
    await rate("d", 1.0)
    older = {**dict((await database.read(store.rewards_of, [asked.id]))[0]), "decision_id": "quiz-old", "detail": "{}"}
    await database.write(lambda connection: store.insert_rewards(connection, [older]))
    contexts = Contexts(database)
    found = await contexts.labelled(NOON + 10, 30.0)
    assert sorted(zip(found.value, found.weight, strict=True)) == [(0.75, 0.5), (1.0, 1.0)]
    assert found.x.tolist() == [features(PROFILE)] * 2
    assert {TASK_TYPES[task] for task in found.task} == {"Open QA"}
    again = Mark(value=0.25, weight=0.5, by="judge", cost_usd=0.0)
    await database.write(partial(store_mark, asked=asked, mark=again, metric="q", now=NOON + 20))
    assert sorted((await contexts.labelled(NOON + 30, 30.0)).value) == [0.25, 1.0]
    assert caplog.text == ""


# Settings


@pytest.mark.parametrize(
    "line", ["vector_dims = 33", "vector_dims = -1", "strength = 0.5", "floor = 1.5", "active = 0", "boldness = -0.1"]
)
def test_numbers_that_make_no_sense_are_refused(line):
    with pytest.raises(ConfigurationError, match=f"policies\\[0\\].{line.split()[0]}`"):
        settings_from_toml(f'[[policies]]\nname = "linear"\nkind = "linear_thompson"\n{line}', {})


# Beliefs


def known(value=0.5):
    one = regression(np.array([value, 1 / 3]), np.array([[0.04, 0.01], [0.01, 0.02]]))
    return {"b": one, "a": Regression((0.0, 1.0), one.factor)}


def test_regressions_return_bit_for_bit():
    content = encode_regressions(known())
    assert content == encode_regressions(dict(sorted(known().items())))
    assert decode(content).regressions == known()
    assert decode(content).version != decode(encode_regressions(known(0.25))).version


def test_the_last_large_contents_are_remembered():
    contents = Contents()
    versions = [contents.keep(encode_regressions(known(number))).version for number in range(70)]
    assert [contents.get(version) is not None for version in versions] == [False] * 6 + [True] * 64


# Through the service


class NoDatabase:
    """A database that cannot be reached."""

    async def read(self, work, *arguments):
        raise StorageUnavailable("the database is down")


async def test_without_a_database_the_last_fit_stays_and_it_is_tried_again():
    knowledge, metrics = Knowledge(), Metrics()
    fitting = Fitting(knowledge, metrics)
    fitting.contexts = Contexts(NoDatabase())
    setup = create_setup(Settings(policies=LINEAR))
    knowledge.take_fit("", "linear", {("Other", "simple"): encode_regressions(known())})
    await fitting.refresh(setup, NOON)
    assert metrics.registry.get_sample_value("armwise_learner_errors_total", {"place": "fit"}) == 1.0
    assert knowledge.fit("", "linear")["Other", "simple"].regressions == known()
    assert fitting.due(setup, NOON + 5.0)  # though no label came


async def decision(http, reply):
    async with http.get(f"/v1/decisions/{reply['id']}") as answer:
        return await answer.json()


async def chance(http, model):
    """The chance that a model had in a decision taken now, which can be repeated bit for bit."""
    told = await decision(http, await ask(http))
    assert told["method"] == "auto"
    assert told["repeated"]["same"] is True
    assert told["repeated"]["probabilities"] == told["choice"]["probabilities"]
    return dict(zip(told["choice"]["arms"], told["choice"]["probabilities"], strict=True))[model]


async def test_feedback_moves_traffic_through_the_whole_service(database_url):
    """60 thumbs up for the small model, 60 down for the large one, told to one of two replicas. Nothing is drawn."""
    settings = settings_for(database_url, policies=LINEAR, learning=Learning(fit_every_s=0.05))
    with Running(settings) as service, Running(settings) as replica:
        async with aiohttp.ClientSession(service.url) as http, aiohttp.ClientSession(replica.url) as other:
            before = await chance(http, "small")
            assert before < 0.2
            for number in range(120):
                model = ("small", "large")[number % 2]
                reply = await ask(http, model=model)
                body = {"decision_id": reply["id"], "value": model == "small"}
                async with http.post("/feedback", json=body) as answer:
                    assert answer.status == 200
            for told in (http, other):
                after = before
                for _ in range(200):
                    after = await chance(told, "small")
                    if after > 0.9:
                        break
                    await asyncio.sleep(0.05)
                assert after > 0.9


async def test_poisoned_weights_stop_no_chat(sqlite_url):
    spoiled = Beliefs("spoiled", regressions={name: Regression((float("nan"),), b"") for name in ("small", "large")})
    with Running(settings_for(sqlite_url, policies=LINEAR)) as service:
        fits = service.parts.knowledge._fits["", "linear"]
        fits.update({(task, tier): spoiled for task in TASK_TYPES for tier in PROMPT_TIERS})
        async with aiohttp.ClientSession(service.url) as http:
            reply = await ask(http)
            assert reply["routing"]["method"] == "static_fallback"
