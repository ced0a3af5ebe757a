"""NVIDIA's model in the whole service, with small random weights: swapped in, told by decisions, never in the way."""

import asyncio
import shutil
import sqlite3
import threading
import time

import aiohttp
import msgspec
import pytest

from benchmarks.random_classifier import build
from service.configuration import read_settings
from service.settings import ClassifierSettings

WORDS = ["write", "a", "story", "about", "the", "sea", "then", "explain", "why", "it", "is", "blue", "in", "python"]


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """A folder of random weights that was loaded once, so that its artefact is there."""
    from service.classifiers.nvidia import load_nvidia

    folder = build(tmp_path_factory.mktemp("classifier") / "tiny", "tiny")
    load_nvidia(folder)
    return folder


@pytest.fixture
def weights(exported, tmp_path):
    """A copy of them that a test may harm."""
    return shutil.copytree(exported, tmp_path / "weights")


def classifier(folder, **changes):
    return ClassifierSettings(weights=str(folder), **{"deadline_s": 30.0, **changes})


def message(number):
    return " ".join(WORDS[(number * step) % len(WORDS)] for step in range(1, 4 + number % 50)) + f" {number}"


async def ask(http, text, **more):
    body = {"messages": [{"role": "user", "content": text}], "simulate": {"quality": 1.0}, **more}
    async with http.post("/v1/chat/completions", json=body) as reply:
        assert reply.status == 200, await reply.text()
        return reply.headers, await reply.json()


async def told(http, path):
    async with http.get(path) as reply:
        assert reply.status == 200, await reply.text()
        return await reply.json() if reply.content_type == "application/json" else await reply.text()


async def loaded(http, state="serving", name=""):
    """Wait until the service says so; then what it says."""
    for _ in range(3000):
        ready = await told(http, "/ready")
        if ready["classifier_state"] == state and ready["classifier"].startswith(name):
            return ready
        await asyncio.sleep(0.01)
    raise AssertionError(ready)


def value(metrics, line):
    return sum(float(found.rpartition(" ")[2]) for found in metrics.splitlines() if found.startswith(line))


async def test_it_is_swapped_in_and_every_decision_says_so(run, weights):
    service = run(classifier=classifier(weights))
    async with aiohttp.ClientSession(service.url) as http:
        first = await told(http, "/ready")  # at once, whatever the model still needs
        assert first["status"] == "ready"
        ready = await loaded(http, name="nvidia/")
        name = ready["classifier"]
        assert str(weights) in ready["classifier_why"]
        headers, reply = await ask(http, message(1))
        assert headers["x-armwise-classifier"] == reply["routing"]["classifier"] == name
        assert "x-armwise-classifier-fallback" not in headers
        made = reply["routing"]["classified"]
        assert made["classifier"] == name
        assert made["precision"] == "fp32"
        assert made["tokens"] > 2
        assert made["inference_s"] > 0
        assert made["tiers"] == [0.2, 0.4]
        complexity = reply["routing"]["complexity_score"]
        assert reply["routing"]["tier"] == (
            "simple" if complexity < 0.2 else "medium" if complexity < 0.4 else "complex"
        )
        _, again = await ask(http, message(1))
        assert again["routing"]["classified"]["cached"] is True
        assert again["routing"]["task_type"] == reply["routing"]["task_type"]
        for body in (reply, again):
            explained = await told(http, f"/v1/decisions/{body['id']}")
            assert explained["classified"] == body["routing"]["classified"]
            assert explained["profile"]["classifier"] == name
            assert len(explained["profile"]["vector"]) == 32
            assert explained["repeated"]["same"] is True
        async with http.post("/v1/route", json={"messages": [{"role": "user", "content": message(1)}]}) as answer:
            assert (await answer.json())["classified"]["cached"] is True
        metrics = await told(http, "/metrics")
    assert value(metrics, f'armwise_classifier_info{{classifier="{name}",state="serving"}}') == 1
    assert value(metrics, 'armwise_classifications_total{classifier="nvidia"') == 3
    assert value(metrics, 'armwise_classifier_lookups_total{found="cached"}') == 2
    assert value(metrics, "armwise_classifier_inference_seconds_count") == 1
    assert value(metrics, "armwise_classifier_fallbacks_total") == value(
        metrics, 'armwise_classifier_fallbacks_total{reason="loading"}'
    )


async def test_its_answers_are_those_of_the_model_itself(run, weights):
    from service.classifiers.nvidia import load_nvidia

    model = load_nvidia(weights)
    service = run(classifier=classifier(weights))
    async with aiohttp.ClientSession(service.url) as http:
        await loaded(http, name="nvidia/")
        for number in range(12):
            _, reply = await ask(http, message(number))
            expected = model.classify(message(number))
            profile = (await told(http, f"/v1/decisions/{reply['id']}"))["profile"]
            assert profile["task_type"] == expected.task_type
            assert profile["complexity"] == expected.complexity
            assert profile["task_probabilities"] == pytest.approx(expected.task_probabilities, abs=1e-6)


async def test_without_weights_the_embedded_one_serves_and_says_why(run, tmp_path):
    service = run(classifier=classifier(tmp_path / "absent"))
    async with aiohttp.ClientSession(service.url) as http:
        ready = await told(http, "/ready")
        assert ready["classifier"].startswith("embedded/")
        assert ready["classifier_state"] == "serving"
        assert "armwise classifier fetch" in ready["classifier_why"]
        headers, reply = await ask(http, message(1))
    assert "x-armwise-classifier-fallback" not in headers
    assert reply["routing"]["classified"].get("fallback", "") == ""


@pytest.mark.parametrize("kind", ["auto", "nvidia"])
async def test_damaged_weights_stop_nothing_and_are_told_everywhere(run, weights, kind, caplog):
    for artefact in weights.glob("armwise-*"):
        artefact.unlink()
    file = weights / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    service = run(classifier=classifier(weights, kind=kind))
    async with aiohttp.ClientSession(service.url) as http:
        ready = await loaded(http, "failed")
        assert ready["status"] == "ready"
        assert ready["classifier"].startswith("embedded/")
        assert "model.safetensors" in ready["classifier_why"]
        headers, reply = await ask(http, message(1))
        assert headers["x-armwise-classifier-fallback"] == "failed"
        assert headers["x-armwise-classifier"].startswith("embedded/")
        assert reply["routing"]["classified"]["fallback"] == "failed"
        metrics = await told(http, "/metrics")
    assert value(metrics, 'armwise_classifier_fallbacks_total{reason="failed"}') == 1
    assert "model.safetensors" in caplog.text


async def test_past_its_deadline_the_embedded_one_decides_and_the_decision_says_so(run, weights):
    service = run(classifier=classifier(weights, deadline_s=1e-6, simple_below=0.0, medium_below=0.0))
    async with aiohttp.ClientSession(service.url) as http:
        name = (await loaded(http, name="nvidia/"))["classifier"]
        fallbacks = set()
        for number in range(20):  # a reading may be over before the deadline is looked at
            headers, reply = await ask(http, message(number))
            fallback = headers.get("x-armwise-classifier-fallback", "")
            fallbacks.add(fallback)
            explained = await told(http, f"/v1/decisions/{reply['id']}")
            assert explained["classified"].get("fallback", "") == fallback
            assert explained["classified"]["classifier"].startswith("embedded/" if fallback else name)
            assert explained["classified"]["tiers"] != [0.0, 0.0] or not fallback
            assert explained["repeated"]["same"] is True
    assert "deadline" in fallbacks


async def test_many_who_ask_the_same_at_once_cost_one_reading(run, weights):
    service = run(classifier=classifier(weights))
    async with aiohttp.ClientSession(service.url) as http:
        await loaded(http, name="nvidia/")
        replies = await asyncio.gather(*(ask(http, message(3)) for _ in range(50)))
        assert len({reply["routing"]["task_type"] for _, reply in replies}) == 1
        metrics = await told(http, "/metrics")
    assert value(metrics, "armwise_classifier_inference_seconds_count") == 1
    assert value(metrics, "armwise_classifier_lookups_total") == 50


def toml(database, folder, kind):
    return f'[database]\nurl = "{database}"\n[classifier]\nkind = "{kind}"\nweights = "{folder}"\ndeadline_s = 30.0\n'


async def test_settings_change_the_classifier_under_traffic_and_no_request_is_lost(
    run, weights, tmp_path, database_url
):
    path = tmp_path / "armwise.toml"
    path.write_text(toml(database_url, weights, "embedded"))
    service = run(database_url, config=path, classifier=read_settings(path, {}).classifier)
    stop = asyncio.Event()
    seen = []

    async def traffic(http, first):
        number = first
        while not stop.is_set():
            number += 10
            headers, reply = await ask(http, message(number))
            made = reply["routing"]["classified"]
            assert made["classifier"] == headers["x-armwise-classifier"]
            assert made.get("fallback", "") in {"", "loading"}
            seen.append(made["classifier"].partition("/")[0])

    async with aiohttp.ClientSession(service.url) as http:
        clients = [asyncio.create_task(traffic(http, first)) for first in range(4)]
        for kind in ("nvidia", "embedded", "rules", "nvidia"):
            path.write_text(toml(database_url, weights, kind))
            async with http.post("/admin/reload") as reply:
                assert reply.status == 200
                assert any("classifier.kind" in change for change in (await reply.json())["changes"])
            await loaded(http, name=f"{kind}/")
            before = len(seen)
            while seen[before:].count(kind) < 4:
                await asyncio.sleep(0.005)
                assert not any(client.done() for client in clients)
        stop.set()
        await asyncio.gather(*clients)
        name = (await told(http, "/ready"))["classifier"]
        queue = service.parts.classifying._queue
        async with http.post("/admin/reload") as reply:
            assert (await reply.json())["changes"] == []
        assert (await told(http, "/ready"))["classifier_state"] == "serving"
        assert service.parts.classifying._queue is queue  # nothing was loaded again
        path.write_text(toml(database_url, tmp_path / "absent", "nvidia"))
        async with http.post("/admin/reload") as reply:
            assert reply.status == 400
            assert "there is no folder" in await reply.text()
        assert (await told(http, "/ready"))["classifier"] == name
    assert {"nvidia", "embedded", "rules"} <= set(seen)


async def test_a_client_that_leaves_before_its_prompt_was_read_takes_it_along(run, weights):
    service = run(classifier=classifier(weights, workers=1))
    async with aiohttp.ClientSession(service.url) as http:
        await loaded(http, name="nvidia/")
        queue = service.parts.classifying._queue
        model, begun, go = queue.model, threading.Event(), threading.Event()

        class Held:
            name, precision, tiers, together, cut = model.name, model.precision, model.tiers, 1, model.cut

            def answer_together(self, texts):
                begun.set()
                assert go.wait(20)
                return model.answer_together(texts)

        queue.model = Held()
        first = asyncio.create_task(ask(http, message(1)))
        assert await asyncio.to_thread(begun.wait, 20)
        impatient = asyncio.create_task(ask(http, message(2)))
        while not len(queue):
            await asyncio.sleep(0.005)
        assert not impatient.done()
        impatient.cancel()
        while len(queue):
            await asyncio.sleep(0.005)
        go.set()
        _, reply = await first
        assert reply["routing"]["classified"]["classifier"] == model.name
        metrics = await told(http, "/metrics")
    assert value(metrics, "armwise_classifier_inference_seconds_count") == 1
    assert value(metrics, "armwise_decisions_total") == 1


async def test_nothing_blocks_the_event_loop_while_the_model_has_all_it_can_do(run, weights, monkeypatch):
    """Processor time of every callback on the service's loop; the same measure as in the test of the invariants."""
    service = run(classifier=classifier(weights, queue=8))
    spent = []
    run_handle = asyncio.Handle._run
    serving = service.thread.ident

    def timed(handle):
        if threading.get_ident() != serving:
            run_handle(handle)
            return
        started = time.thread_time()
        run_handle(handle)
        spent.append(time.thread_time() - started)

    async with aiohttp.ClientSession(service.url) as http:
        await loaded(http, name="nvidia/")
        await ask(http, message(0))
        monkeypatch.setattr(asyncio.Handle, "_run", timed)
        replies = []
        for start in range(1, 97, 32):
            replies += await asyncio.gather(*(ask(http, message(start + n) * 20) for n in range(32)))
        monkeypatch.undo()
    made = [reply["routing"]["classified"] for _, reply in replies]
    assert {one["classifier"].partition("/")[0] for one in made} <= {"nvidia", "embedded"}
    assert len(spent) > 200
    assert sum(seconds > 0.005 for seconds in spent) <= len(spent) / 100


async def test_the_service_stops_with_prompts_still_in_the_queue(run, weights):
    service = run(classifier=classifier(weights, workers=1))
    async with aiohttp.ClientSession(service.url) as http:
        await loaded(http, name="nvidia/")
        waiting = [asyncio.create_task(ask(http, message(number) * 50)) for number in range(40)]
        await asyncio.sleep(0.02)
        await asyncio.to_thread(service.__exit__, None, None, None)
        answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert not service.thread.is_alive()
    for answer in answers:  # answered, or never taken on: the client sees its connection end
        assert isinstance(answer, tuple | aiohttp.ClientError), answer
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("classifier")]


async def test_a_decision_of_the_version_before_is_explained_and_repeats(run, sqlite_url):
    """It has no word on how its prompt was classified, and its settings know no other classifiers."""
    service = run(sqlite_url, classifier=ClassifierSettings(kind="embedded"))
    async with aiohttp.ClientSession(service.url) as http:
        _, reply = await ask(http, message(1))
        database = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))
        detail, version = database.execute("SELECT detail, config_version FROM decisions").fetchone()
        older = msgspec.json.decode(detail)
        del older["classified"]
        (content,) = database.execute("SELECT content FROM configs WHERE version = ?", (version,)).fetchone()
        settings = msgspec.json.decode(content)
        kept = {name: settings["classifier"][name] for name in ("kind", "reads", "max_characters", "cues")}
        settings["classifier"] = {**kept, "simple_below": 0.27, "medium_below": 0.33}
        with database:
            database.execute("UPDATE decisions SET detail = ?", (msgspec.json.encode(older).decode(),))
            database.execute("UPDATE configs SET content = ?", (msgspec.json.encode(settings).decode(),))
        database.close()
        explained = await told(http, f"/v1/decisions/{reply['id']}")
    assert explained["classified"] is None
    assert explained["repeated"]["same"] is True
