"""Reading by a model: cached, shared, bounded, in time."""

import asyncio
import os
import random
import sys
import threading
from collections import Counter

import pytest
from msgspec.structs import replace

from service.classifiers.models import READ_CHARACTERS
from tests.service.classifiers.slow_model import SETTINGS, SMALL, SOON, SlowModel, metric, until

# Cache and sharing


async def test_a_text_is_read_once_and_then_known(serve):
    model = SlowModel()
    classifying = await serve(model)
    first = await classifying.classify("again", SETTINGS)
    second = await classifying.classify("again", SETTINGS)
    assert model.texts == ["again"]
    assert second.classification == first.classification
    assert second.trace.cached
    assert second.trace.tokens == first.trace.tokens
    assert (second.trace.queue_s, second.trace.inference_s) == (0.0, 0.0)
    assert metric(classifying, "classifier_lookups_total", found="cached") == 1


async def test_texts_that_differ_only_beyond_what_is_read_are_the_same_text(serve):
    model = SlowModel()
    classifying = await serve(model)
    head = "word " * (READ_CHARACTERS // 5)
    await classifying.classify(head + "one end", SETTINGS)
    assert (await classifying.classify(head + "another end", SETTINGS)).trace.cached
    assert len(model.texts[0]) == READ_CHARACTERS


async def test_fifty_callers_of_one_text_share_one_reading(serve):
    model = SlowModel(held=True)
    classifying = await serve(model)
    asked = [asyncio.create_task(classifying.classify("the same", SETTINGS)) for _ in range(50)]
    await until(lambda: model.texts)
    model.go.release()
    answers = await asyncio.gather(*asked)
    assert model.texts == ["the same"]
    assert {answer.trace.classifier for answer in answers} == {model.name}
    assert metric(classifying, "classifier_lookups_total", found="shared") == 49


async def test_the_least_recently_asked_answers_are_forgotten_first(serve):
    model = SlowModel()
    classifying = await serve(model, settings=replace(SETTINGS, cache_entries=2))
    for text in ("a", "b", "a", "c", "a", "b"):
        await classifying.classify(text, SETTINGS)
    assert model.texts == ["a", "b", "c", "b"]


async def test_the_cache_holds_no_text(serve):
    classifying = await serve(SlowModel())
    await classifying.classify("my-secret-4711", SETTINGS)
    queue = classifying._queue
    assert len(queue._cache) == 1
    assert "4711" not in repr(queue._cache)
    assert not queue._in_flight
    assert not queue._waiting


@pytest.mark.parametrize("text", ["", "\ud800 alone", "\x00", "🙂" * 9000])
async def test_any_text_can_be_asked(serve, text):
    classifying = await serve(SlowModel())
    assert (await classifying.classify(text, SETTINGS)).trace.fallback == ""


# Queue, deadline, cancellation


async def test_a_full_queue_is_answered_by_the_small_classifier_at_once(serve):
    model = SlowModel(held=True)
    classifying = await serve(model)
    asked = []
    for number in range(SETTINGS.workers + SETTINGS.queue):
        asked.append(asyncio.create_task(classifying.classify(f"text {number}", SETTINGS)))
        await until(lambda number=number: len(model.texts) + len(classifying._queue) == number + 1)
        await until(lambda number=number: len(model.texts) == min(number + 1, SETTINGS.workers))
    assert len(classifying._queue) == SETTINGS.queue
    extra = await classifying.classify("one more", SETTINGS)
    assert (extra.trace.classifier, extra.trace.fallback) == (SMALL.name, "queue full")
    shared = asyncio.create_task(classifying.classify("text 5", SETTINGS))  # is in the queue already
    await asyncio.sleep(0)
    model.go.release(10)
    answers = [*await asyncio.gather(*asked), await shared]
    assert {answer.trace.classifier for answer in answers} == {model.name}
    assert len(classifying._queue) == 0
    assert metric(classifying, "classifier_fallbacks_total", reason="queue full") == 1
    assert metric(classifying, "classifier_queue_length") == 0


async def test_past_the_deadline_the_small_one_answers_and_the_late_answer_is_kept(serve):
    model = SlowModel(held=True)
    classifying = await serve(model)
    late = await classifying.classify("slow", SOON)
    assert (late.trace.classifier, late.trace.fallback) == (SMALL.name, "deadline")
    assert late.seconds >= SOON.deadline_s
    assert late.classification == SMALL.classify("slow")
    assert model.texts == ["slow"]
    model.go.release()
    await until(lambda: not classifying._queue._in_flight)
    assert (await classifying.classify("slow", SOON)).trace.cached
    assert metric(classifying, "classifier_fallbacks_total", reason="deadline") == 1


async def test_what_nobody_waits_for_any_more_is_not_read(serve):
    model = SlowModel(held=True)
    classifying = await serve(model, settings=replace(SETTINGS, workers=1))
    begun = asyncio.create_task(classifying.classify("begun", SETTINGS))
    await until(lambda: model.texts)
    late = await classifying.classify("given up", SOON)
    assert late.trace.fallback == "deadline"
    cancelled = asyncio.create_task(classifying.classify("cancelled", SETTINGS))
    await until(lambda: len(classifying._queue) == 1)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert len(classifying._queue) == 0
    wanted = asyncio.create_task(classifying.classify("wanted", SETTINGS))
    await asyncio.sleep(0)
    model.go.release(10)
    await asyncio.gather(begun, wanted)
    assert model.texts == ["begun", "wanted"]


async def test_a_caller_that_is_cancelled_takes_nothing_from_the_others(serve):
    model = SlowModel(held=True)
    classifying = await serve(model, settings=replace(SETTINGS, workers=1))
    blocking = asyncio.create_task(classifying.classify("first", SETTINGS))
    await until(lambda: model.texts)
    first, second = (asyncio.create_task(classifying.classify("shared", SETTINGS)) for _ in range(2))
    await until(lambda: len(classifying._queue) == 1)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    model.go.release(10)
    assert (await second).trace.classifier == model.name
    await blocking


async def test_whatever_callers_do_every_one_gets_an_answer_and_nothing_is_left(serve):
    chance = random.Random(7)
    model = SlowModel()
    classifying = await serve(model, settings=replace(SETTINGS, workers=3))
    most = 0

    async def call():
        nonlocal most
        await asyncio.sleep(chance.random() * 0.2)
        text = f"text {chance.randrange(40)}"
        settings = replace(SETTINGS, queue=6, deadline_s=chance.choice([0.0005, 0.005, 1.0]))
        most = max(most, len(classifying._queue))
        return await classifying.classify(text, settings)

    calls = [asyncio.create_task(call()) for _ in range(600)]
    for task in chance.sample(calls, 60):
        asyncio.get_running_loop().call_later(chance.random() * 0.2, task.cancel)
    answers = await asyncio.gather(*calls, return_exceptions=True)
    done = [answer for answer in answers if not isinstance(answer, asyncio.CancelledError)]
    assert all(answer.trace.classifier in {model.name, SMALL.name} for answer in done)
    assert len(done) >= 540
    await until(lambda: not classifying._queue._in_flight)
    assert most <= 6
    assert not classifying._queue._waiting
    assert max(Counter(model.texts).values()) == 1  # the cache is large enough for all


async def test_texts_of_similar_length_that_wait_are_read_together_and_none_waits_for_them(serve):
    model = SlowModel(held=True, together=3)
    classifying = await serve(model, settings=replace(SETTINGS, workers=1))
    settings = replace(SETTINGS, queue=20)
    short, long = (
        [f"short text {number}" for number in range(6)],
        ["a much longer text " * 5 + str(n) for n in range(2)],
    )
    first = asyncio.create_task(classifying.classify("first", settings))
    await until(lambda: model.texts)
    asked = [asyncio.create_task(classifying.classify(text, settings)) for text in [*short, *long]]
    await until(lambda: len(classifying._queue) == 8)
    model.go.release(20)
    answers = await asyncio.gather(first, *asked)
    assert {answer.trace.classifier for answer in answers} == {model.name}
    assert sorted(model.texts) == sorted(["first", *short, *long])
    assert model.batches[:2] == [1, 3]  # the first found nobody waiting, the next ones did
    assert max(model.batches) == 3
    assert not any(len({len(text) > 50 for text in batch}) > 1 for batch in cut(model.texts, model.batches))


def cut(texts, sizes):
    """The batches that were read."""
    rest = iter(texts)
    return [[next(rest) for _ in range(size)] for size in sizes]


async def test_a_text_that_cannot_be_read_harms_none_that_is_read_with_it(serve):
    model = SlowModel(held=True, together=4)
    classifying = await serve(model, settings=replace(SETTINGS, workers=1))
    settings = replace(SETTINGS, queue=20)
    first = asyncio.create_task(classifying.classify("first", settings))
    await until(lambda: model.texts)
    texts = ["good text 1", "poison here", "good text 2", "good text 3", "good text 4"]
    asked = [asyncio.create_task(classifying.classify(text, settings)) for text in texts]
    await until(lambda: len(classifying._queue) == 5)
    model.go.release(20)
    await first
    answers = await asyncio.gather(*asked)
    assert [answer.trace.fallback for answer in answers] == ["", "failed", "", "", ""]
    assert max(model.batches) == 4


@pytest.mark.skipif(sys.platform != "linux", reason="threads have a priority of their own on Linux only")
async def test_the_event_loop_goes_first(serve):
    model = SlowModel()
    classifying = await serve(model)
    await classifying.classify("one", SETTINGS)
    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    reading = [os.getpriority(os.PRIO_PROCESS, thread.native_id) for thread in model.threads]
    assert reading
    assert all(nice > own or nice == own == 19 for nice in reading)
