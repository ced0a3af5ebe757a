"""The examples of the documentation run, and what they add works inside the real service."""

import asyncio
import importlib.util
import json
import subprocess
import sys
import threading
import urllib.request
from http.server import ThreadingHTTPServer
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit.posteriors import Beliefs, Evidence
from bandit.selection import choose
from service.classifiers.models import Plan
from service.quality import Exchange
from service.quality.examine import examine
from service.settings import ClassifierSettings, HeuristicSetting, Quality, SimulatedModel
from tests.api.asking import ask
from tests.api.conftest import Running, settings_for

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "docs/examples").glob("*.py"))


def example(name):
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / f"docs/examples/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def start(sqlite_url):
    """Start a service; all are stopped at the end."""
    started = []

    def begin(**changes):
        started.append(Running(settings_for(sqlite_url, **changes)).__enter__())
        return started[-1]

    yield begin
    for service in started:
        service.__exit__()


def test_every_example_is_shown_in_a_guide():
    guides = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md"))
    for path in EXAMPLES:
        assert f'--8<-- "docs/examples/{path.name}"' in guides, path.name


@pytest.mark.parametrize("path", [path for path in EXAMPLES if path.stem != "web_app"], ids=lambda path: path.stem)
def test_it_runs_as_it_says(path, tmp_path):
    assert f"Run it: .venv/bin/python docs/examples/{path.name}" in path.read_text(encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", path], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert "Traceback" not in done.stderr


# A policy


def test_the_policy_takes_the_cheapest_that_is_good_enough():
    it = example("policy")
    policy = it.CheapEnough(name="p", floor=0.0)
    both = Beliefs("", {"small": Evidence(20.0, 16.0), "large": Evidence(20.0, 20.0)})
    assert choose(policy, it.ASKED, it.ARMS, both, seed=0).arm == "small"
    neither = Beliefs("", {"small": Evidence(20.0, 15.9), "large": Evidence(19.0, 19.0)})
    assert choose(policy, it.ASKED, it.ARMS, neither, seed=0).arm == "small"  # nobody else is known at all
    one = Beliefs("", {"small": Evidence(20.0, 15.9), "large": Evidence(20.0, 15.95)})
    assert choose(policy, it.ASKED, it.ARMS, one, seed=0).arm == "large"


@given(st.floats(0.0, 1.0), st.lists(st.tuples(st.floats(0.0, 1e6), st.floats(0.0, 1.0)), min_size=2, max_size=2))
def test_its_chances_are_a_distribution(floor, known):
    it = example("policy")
    evidence = {arm.name: Evidence(n, n * mean) for arm, (n, mean) in zip(it.ARMS, known, strict=True)}
    chances = it.CheapEnough(name="p", floor=floor).probabilities(it.ASKED, it.ARMS, Beliefs("", evidence))
    assert chances.sum() == pytest.approx(1.0)
    assert np.all(chances >= floor / 2 - 1e-12)


async def test_the_policy_decides_in_the_service(start):
    policy = example("policy").CheapEnough(name="cheap_enough", labels=1.0, floor=0.0)
    service = start(policies=(policy,))
    async with aiohttp.ClientSession(service.url) as http:
        reply = await ask(http)
    assert reply["routing"]["policy"] == "cheap_enough"
    assert reply["routing"]["reason"] == "the cheapest model of at least 0.8"


# A heuristic


def test_the_heuristic_weighs_with_the_others(monkeypatch):
    heuristic = example("heuristic").MISSING_LINK
    found = "service.quality.examine.HEURISTICS"  # where its one line goes
    monkeypatch.setattr(found, (*examine.__globals__["HEURISTICS"], heuristic))
    exchange = Exchange(prompt="Where?", reply="Follow this link to read on.", finish_reason="stop")
    assert [finding.heuristic for finding in examine(exchange, Quality())] == ["missing_link"]
    off = Quality(heuristics={"missing_link": HeuristicSetting(enabled=False)})
    assert examine(exchange, off) == []


@given(st.text())
def test_the_heuristic_never_repeats_a_text(reply):
    found = example("heuristic").MISSING_LINK.find(Exchange(prompt="p", reply="see the link " + reply))
    assert found in {None, "a link is promised and there is none"}


# A provider


@pytest.fixture
async def with_faq(start):
    """A service with the example's model beside a simulated one, both reached by their own providers."""
    it = example("provider")
    service = start(models=(it.MODEL, SimulatedModel(name="small")))
    service.parts.providers._made[it.CannedModel] = it.Canned()  # what `Providers._make` does with its one line
    async with aiohttp.ClientSession(service.url) as http:
        yield http


OPEN = [{"role": "user", "content": "When are you open?"}]


async def test_the_provider_answers_in_the_service(with_faq):
    reply = await ask(with_faq, model="faq", messages=OPEN)
    assert reply["choices"][0]["message"]["content"] == "Every day from 9 to 17."
    assert reply["routing"]["model"] == "faq"


async def test_the_provider_streams_in_the_service(with_faq):
    body = {"model": "faq", "messages": OPEN, "stream": True}
    async with with_faq.post("/v1/chat/completions", json=body) as reply:
        text = await reply.text()
    assert "Every day from 9 to 17." in text
    assert text.rstrip().endswith("data: [DONE]")


async def test_where_it_has_no_answer_another_model_is_tried(with_faq):
    allowed = {"policy": "random", "deny": []}
    for _ in range(8):  # a draw of "small" alone has a chance of 1 in 256
        reply = await ask(with_faq, router=allowed)
        assert reply["routing"]["model"] == "small"


# A classifier


async def test_the_classifier_names_the_task_in_the_service(start):
    service = start()
    plan = Plan(ClassifierSettings(), "rules", "as the test says", example("classifier").Labelled())
    service.parts.classifying.take_over(plan)  # what `create_classifier` leads to with its one line
    async with aiohttp.ClientSession(service.url) as http:
        reply = await ask(http, messages=[{"role": "user", "content": "#sum\nOnce upon a time."}])
    assert (reply["routing"]["task_type"], reply["routing"]["tier"]) == ("Summarization", "medium")


# A web app


@pytest.fixture
def web_app(start):
    """The example's pages in front of a service: their address."""
    it = example("web_app")
    service = start()
    server = ThreadingHTTPServer(("127.0.0.1", 0), it.handler(it.Shop(service.url)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", service.url
    server.shutdown()
    thread.join()
    server.server_close()


def post(url, body, reader):
    request = urllib.request.Request(  # noqa: S310 - our own address
        url, json.dumps(body).encode(), {"cookie": f"reader={reader}"}
    )
    with urllib.request.urlopen(request) as reply:  # noqa: S310 - likewise
        return json.load(reply)


async def test_a_reader_asks_and_rates_on_the_page(web_app):
    page, armwise = web_app
    with urllib.request.urlopen(page) as reply:  # noqa: S310 - likewise
        assert b'id="rate"' in reply.read()
        cookie = reply.headers["set-cookie"]
    assert "HttpOnly" in cookie
    reader = cookie.partition("=")[2].partition(";")[0]
    asked = await asyncio.to_thread(post, f"{page}/ask", {"question": "What is the capital of France?"}, reader)
    assert asked["text"]
    thumb = {"id": asked["id"], "value": "up"}
    assert await asyncio.to_thread(post, f"{page}/rate", thumb, "somebody-else") == {"status": "refused"}
    assert await asyncio.to_thread(post, f"{page}/rate", thumb, reader) == {"status": "recorded"}
    assert await asyncio.to_thread(post, f"{page}/rate", thumb, reader) == {"status": "unchanged"}
    async with (
        aiohttp.ClientSession(armwise) as http,
        http.get(f"/v1/decisions/{asked['id']}") as told,
    ):
        decision = await told.json()
    assert reader in json.dumps(decision)


def test_a_thumb_is_clicked_in_a_browser(web_app, browser_page):
    page_url, _ = web_app
    with browser_page() as page:
        page.goto(page_url)
        page.locator("input").fill("What is the capital of France?")
        page.get_by_role("button", name="Ask").click()
        page.locator("#rate").wait_for(state="visible")
        assert page.locator("#reply").inner_text()
        with page.expect_response("**/rate") as rated:
            page.get_by_role("button", name="👍").click()
        assert rated.value.json() == {"status": "recorded"}
        page.locator("#rate").wait_for(state="hidden")
