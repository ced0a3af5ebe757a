"""Which classifier answers in the service, when that changes, and that it says so."""

import asyncio
import logging
import threading

import pytest
from msgspec.structs import replace

from service.classifiers import model_queue
from service.classifiers.classifying import Classifying
from service.classifiers.models import plan_of
from service.errors import ConfigurationError, UnusableWeights
from service.metrics.catalogue import Metrics
from service.settings import ClassifierSettings
from tests.service.classifiers.slow_model import SETTINGS, SMALL, SlowModel, metric, plan, until

# Which classifier answers


async def test_the_small_classifier_answers_at_once_and_leaves_nothing_to_wait_for(serve):
    classifying = await serve()
    asked = classifying.classify("Translate this into French.", SETTINGS)
    with pytest.raises(StopIteration) as answered:  # a coroutine that never waits ends at its first step
        asked.send(None)
    classified = answered.value.value
    assert classified.classification == SMALL.classify("Translate this into French.")
    assert classified.trace.classifier == SMALL.name
    assert classified.trace.fallback == ""
    assert classified.trace.tiers == SMALL.tiers
    assert classifying.state == "serving"


async def test_the_model_answers_and_says_how(serve):
    model = SlowModel()
    classifying = await serve(model)
    classified = await classifying.classify("Make this shorter.", SETTINGS)
    assert classified.classification.classifier == classified.trace.classifier == model.name
    assert classified.trace.precision == "fp32"
    assert classified.trace.tokens == 5
    assert classified.trace.tiers == (0.2, 0.4)
    assert not classified.trace.cached
    assert classified.seconds >= classified.trace.queue_s + classified.trace.inference_s > 0
    assert classifying.serving is model
    assert metric(classifying, "classifier_info", classifier=model.name, state="serving") == 1


async def test_the_small_classifier_serves_while_the_model_is_loaded_and_until_it_is(serve):
    loaded = threading.Event()
    model = SlowModel()

    def load():
        assert loaded.wait(20)
        return model

    classifying = Classifying(Metrics())
    classifying.take_over(plan(load=load))
    classified = await classifying.classify("one", SETTINGS)
    assert (classified.trace.classifier, classified.trace.fallback) == (SMALL.name, "loading")
    assert classifying.state == "loading"
    assert metric(classifying, "classifier_info", classifier=SMALL.name, state="loading") == 1
    loaded.set()
    await until(lambda: classifying.state == "serving")
    classified = await classifying.classify("one", SETTINGS)
    assert (classified.trace.classifier, classified.trace.fallback) == (model.name, "")
    assert metric(classifying, "classifier_info", classifier=SMALL.name, state="loading") == 0
    await classifying.close()


@pytest.mark.parametrize("error", [UnusableWeights("model.safetensors has no head_3"), OSError("gone"), KeyError("x")])
async def test_a_model_that_cannot_be_loaded_is_told_loudly_and_the_small_one_serves(serve, error, caplog):
    def load():
        raise error

    classifying = await serve(load=load)
    classified = await classifying.classify("one", SETTINGS)
    assert (classified.trace.classifier, classified.trace.fallback) == (SMALL.name, "failed")
    assert classifying.state == "failed"
    assert str(error) in classifying.why
    assert [record.levelno for record in caplog.records if str(error) in record.getMessage()][-1] == logging.ERROR
    assert metric(classifying, "classifier_fallbacks_total", reason="failed") == 1
    assert metric(classifying, "classifier_info", classifier=SMALL.name, state="failed") == 1


async def test_when_even_the_small_classifier_fails_the_length_decides(serve, caplog):
    class Broken:
        name = "broken/1"
        tiers = (0.2, 0.4)

        def classify(self, text):
            raise ValueError("broken")

    classifying = await serve(small=Broken())
    tiers = []
    for words in (10, 300, 2000):
        classified = await classifying.classify("word " * words, replace(SETTINGS, max_characters=10_000))
        below = sum(classified.classification.complexity >= boundary for boundary in classified.trace.tiers)
        tiers.append(below)
        assert (classified.trace.classifier, classified.trace.fallback) == ("length", "failed")
    assert tiers == [0, 1, 2]
    assert "the classifier failed" in caplog.text


async def test_boundaries_in_the_settings_are_for_the_classifier_they_name(serve):
    model = SlowModel(held=True)
    own = replace(SETTINGS, simple_below=0.1, medium_below=0.9)
    classifying = await serve(model)
    late = await classifying.classify("one", replace(own, deadline_s=0.02))
    assert late.trace.fallback == "deadline"
    assert late.trace.tiers == SMALL.tiers
    model.go.release(10)
    assert (await classifying.classify("one", own)).trace.tiers == (0.1, 0.9)
    classifying = await serve()
    assert (await classifying.classify("one", own)).trace.tiers == (0.1, 0.9)


# Failure


async def test_a_model_that_fails_is_counted_and_told_and_tried_again_later(serve, monkeypatch, caplog):
    monkeypatch.setattr(model_queue, "REST_S", 0.05)
    model = SlowModel()
    classifying = await serve(model)
    model.broken = True
    for number in range(model_queue.FAILURES_IN_A_ROW):
        assert classifying.state == "serving"
        classified = await classifying.classify(f"text {number}", SETTINGS)
        assert (classified.trace.classifier, classified.trace.fallback) == (SMALL.name, "failed")
    assert classifying.state == "failed"
    assert classifying.serving is SMALL
    assert "in a row" in classifying.why
    asked = len(model.texts)
    assert (await classifying.classify("while it rests", SETTINGS)).trace.fallback == "failed"
    assert len(model.texts) == asked
    await asyncio.sleep(0.06)
    model.broken = False
    assert (await classifying.classify("tried again", SETTINGS)).trace.classifier == model.name
    assert classifying.state == "serving"
    assert "RuntimeError" in caplog.text
    classifying.tell()
    assert metric(classifying, "classifier_info", classifier=model.name, state="serving") == 1


async def test_one_prompt_that_the_model_cannot_read_harms_no_other(serve):
    model = SlowModel()
    classifying = await serve(model)
    for number in range(3 * model_queue.FAILURES_IN_A_ROW):
        model.broken = number % 2 == 0
        classified = await classifying.classify(f"text {number}", SETTINGS)
        assert classified.trace.fallback == ("failed" if model.broken else "")
    assert classifying.state == "serving"


# Other settings


async def test_another_model_is_swapped_in_and_no_caller_is_lost(serve):
    old, new = SlowModel("nvidia/old/fp32", held=True), SlowModel("nvidia/new/fp32")
    classifying = await serve(old)
    begun = [asyncio.create_task(classifying.classify(f"text {number}", SETTINGS)) for number in range(4)]
    await until(lambda: len(old.texts) == 2)
    loaded = threading.Event()

    def load():
        assert loaded.wait(20)
        return new

    classifying.take_over(plan(load=load))
    assert classifying.serving is old  # until the new one is there
    loaded.set()
    await until(lambda: classifying.serving is new)
    assert (await classifying.classify("text 0", SETTINGS)).trace.classifier == new.name
    old.go.release(10)
    assert {answer.trace.classifier for answer in await asyncio.gather(*begun)} == {old.name}
    assert not (await classifying.classify("text 3", SETTINGS)).trace.cached  # what the old one said is forgotten


async def test_a_loaded_model_is_kept_while_its_settings_and_files_stay(serve):
    loads = []

    def load():
        loads.append(SlowModel())
        return loads[-1]

    files = ["as they were"]
    kept = plan(load=load, identity=lambda: tuple(files))
    classifying = await serve(load=load, identity=lambda: tuple(files))
    await classifying.classify("known", SETTINGS)
    more = kept._replace(settings=replace(SETTINGS, workers=4, cache_entries=10))
    classifying.take_over(more)
    assert classifying.state == "serving"
    assert (await classifying.classify("known", SETTINGS)).trace.cached
    assert len(classifying._queue._threads) == 4
    classifying.take_over(kept)
    assert len(classifying._queue._threads) == 2
    files.append("tuned")
    classifying.take_over(kept)
    await until(lambda: len(loads) == 2 and classifying.serving is loads[1])


async def test_a_model_that_is_no_longer_wanted_is_let_go_whenever_it_was_loaded(serve):
    late = threading.Event()

    def load():
        assert late.wait(20)
        return SlowModel("nvidia/late/fp32")

    classifying = await serve(SlowModel())
    classifying.take_over(plan(load=load))
    classifying.take_over(plan())
    assert classifying.serving is SMALL
    assert (await classifying.classify("one", SETTINGS)).trace.fallback == ""
    late.set()
    await until(lambda: not any(thread.name.startswith("classifier") for thread in threading.enumerate()))
    await asyncio.sleep(0)
    assert classifying.serving is SMALL


async def test_a_new_model_that_cannot_be_loaded_leaves_the_old_one(serve):
    old = SlowModel()
    classifying = await serve(old)

    def load():
        raise UnusableWeights("model.safetensors is cut off")

    classifying.take_over(plan(load=load))
    await until(lambda: classifying.state == "failed")
    assert classifying.serving is old
    assert (await classifying.classify("one", SETTINGS)).trace.classifier == old.name
    assert "cut off" in classifying.why


async def test_what_failed_is_loaded_again_when_the_settings_are_read_again(serve):
    faults = [UnusableWeights("model.safetensors is cut off")]
    model = SlowModel()

    def load():
        if faults:
            raise faults.pop()
        return model

    same = plan(load=load, identity=lambda: "the same")
    classifying = await serve(load=load, identity=lambda: "the same")
    assert classifying.state == "failed"
    classifying.take_over(same)
    await until(lambda: classifying.state == "serving")
    assert classifying.serving is model


async def test_closing_waits_for_a_model_that_is_being_loaded(serve):
    begun, go = threading.Event(), threading.Event()

    def load():
        begun.set()
        assert go.wait(20)
        return SlowModel()

    classifying = Classifying(Metrics())
    classifying.take_over(plan(load=load))
    await asyncio.to_thread(begun.wait, 20)
    closing = asyncio.create_task(classifying.close())
    await asyncio.sleep(0.01)
    assert not closing.done()
    go.set()
    await closing
    await asyncio.sleep(0)
    assert classifying.serving is SMALL


async def test_closing_waits_for_what_is_read_and_drops_the_rest(serve):
    model = SlowModel(held=True)
    classifying = await serve(model, settings=replace(SETTINGS, workers=1))
    begun, waiting = (asyncio.create_task(classifying.classify(text, SETTINGS)) for text in ("begun", "waiting"))
    await until(lambda: model.texts and len(classifying._queue) == 1)
    closing = asyncio.create_task(classifying.close())
    assert (await waiting).trace.fallback == "failed"
    assert not closing.done()
    model.go.release()
    await closing
    assert (await begun).trace.classifier == model.name
    assert model.texts == ["begun"]


async def test_the_sentence_embedding_is_read_like_any_model():
    settings = ClassifierSettings(kind="embedded", embedded="embedding", deadline_s=30.0)
    classifying = Classifying(Metrics())
    classifying.take_over(plan_of(settings, {}))
    early = await classifying.classify("Translate this into French: good morning.", settings)
    assert early.trace.classifier == (SMALL.name if early.trace.fallback else classifying.serving.name)
    await until(lambda: classifying.state == "serving")
    classified = await classifying.classify("Translate this into French: good evening.", settings)
    assert classified.trace.classifier.startswith("embedding/")
    assert classified.trace.precision == "int8"
    assert classified.trace.tokens > 5
    assert classified.trace.fallback == ""
    queue = classifying._queue
    classifying.take_over(plan_of(replace(settings, deadline_s=1.0), {}))
    assert classifying._queue is queue
    await classifying.close()


# What the settings mean


def test_auto_means_nvidia_only_when_its_weights_are_there(tmp_path):
    folder = tmp_path / "weights"
    settings = ClassifierSettings(weights=str(folder))
    found = plan_of(settings, {})
    assert found.kind == "embedded"
    assert "armwise classifier fetch" in found.why
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert "model.safetensors" in plan_of(settings, {}).why
    (folder / "model.safetensors").write_bytes(b"")
    assert plan_of(settings, {}).kind == "nvidia"
    assert plan_of(ClassifierSettings(weights="absent"), {"ARMWISE_CLASSIFIER_WEIGHTS": str(folder)}).kind == "nvidia"
    assert plan_of(replace(settings, kind="embedded"), {}).kind == "embedded"
    assert plan_of(replace(settings, kind="rules"), {}).small.name.startswith("rules/")


def test_weights_may_be_named_as_on_the_hub(tmp_path):
    snapshot = tmp_path / "hub" / "models--nvidia--prompt-task-and-complexity-classifier" / "snapshots" / "0a1b"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0a1b")
    for name in ("config.json", "model.safetensors"):
        (snapshot / name).write_text("{}")
    settings = ClassifierSettings(weights="nvidia/prompt-task-and-complexity-classifier")
    found = plan_of(settings, {"HF_HOME": str(tmp_path)})
    assert found.kind == "nvidia"
    assert str(snapshot) in found.why


def test_nvidia_by_name_without_weights_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="there is no folder"):
        plan_of(ClassifierSettings(kind="nvidia", weights=str(tmp_path / "absent")), {})


def test_other_files_are_another_model(tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_text("{}")
    settings = ClassifierSettings(weights=str(tmp_path))
    before = plan_of(settings, {}).identity()
    assert plan_of(replace(settings, workers=7, deadline_s=9.0, reads="conversation"), {}).identity() == before
    assert plan_of(replace(settings, precision="fp32"), {}).identity() != before
    assert plan_of(replace(settings, token_budget=64), {}).identity() != before
    (tmp_path / "model.safetensors").write_text("{ }")
    assert plan_of(settings, {}).identity() != before
