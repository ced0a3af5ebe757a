"""The invariants of docs/architecture.md, each by its name. (`bandit` stays pure: tests/test_architecture.py.)"""

import asyncio
import logging
import threading
import time
from collections import Counter

import aiohttp
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from bandit.catalogue import AnyPolicy
from bandit.posteriors import MICRO, Beliefs, Estimate, Evidence
from bandit.selection import choose, seed_of
from bandit.thompson import Thompson
from bandit.vocabulary import PROMPT_TIERS, Arm, PromptProfile
from service.learning.controls import InForce
from service.settings import SimulatedModel
from service.storage import store
from service.storage.database import Database
from tests.api.asking import MESSAGES, ask, asked

PROFILE = PromptProfile(task_type="Open QA", tier="medium")
ARMS = [Arm(name="a", tier="small"), Arm(name="b", tier="medium"), Arm(name="c", tier="large")]


async def rate(http, decision_id, value, user=""):
    async with http.post("/feedback", json={"decision_id": decision_id, "value": value, "user": user}) as reply:
        return reply.status


def test_probabilities_are_real():
    # Chi-square of 60,000 draws against the logged numbers; it fails by chance once in a thousand seeds, and the
    # ids are fixed.
    beliefs = Beliefs("v", {"a": Evidence(40, 30), "b": Evidence(10, 6), "c": Evidence(5, 4)})
    policy = Thompson(name="t")
    choices = [choose(policy, PROFILE, ARMS, beliefs, seed_of(f"decision-{n}")) for n in range(60_000)]
    logged = choices[0].probabilities
    assert sum(logged) == pytest.approx(1.0, abs=1e-12)
    assert min(logged) >= policy.floor / len(ARMS) - 1e-12
    assert all(choice.propensity == logged[choice.arms.index(choice.arm)] > 0 for choice in choices)
    counts = Counter(choice.arm for choice in choices)
    assert chisquare([counts[arm.name] for arm in ARMS], [60_000 * p for p in logged]).pvalue > 0.001


async def test_a_decision_is_committed_before_its_reply_leaves(service):
    database = Database(service.settings.database.url)
    async with aiohttp.ClientSession(service.url) as http:
        for stream in (False, True) * 10:
            async with http.post("/v1/chat/completions", json={"messages": MESSAGES, "stream": stream}) as reply:
                decision_id = reply.headers["x-armwise-decision-id"]  # the head of the answer, not yet its body
                row = await database.read(lambda connection, wanted=decision_id: store.decision(connection, wanted))
                assert row is not None
                await reply.read()
    await database.close()


async def test_feedback_is_idempotent(service):
    async with aiohttp.ClientSession(service.url) as http:
        reply = await ask(http)
        statuses = await asyncio.gather(*(rate(http, reply["id"], True) for _ in range(50)))
        assert set(statuses) == {200}
        async with http.get("/v1/posteriors") as answer:
            assert sum(cell["n"] for cell in (await answer.json())["cells"]) == 1


async def test_reward_and_posterior_share_a_transaction(service):
    """A reader that looks at any moment finds cells that equal the fold of the rewards it finds."""
    database = Database(service.settings.database.url)
    stop = asyncio.Event()
    looks = 0

    async def look():
        nonlocal looks
        while not stop.is_set():
            assert await database.read(store.compare_fold) == {}
            looks += 1

    async with aiohttp.ClientSession(service.url) as http:
        looking = asyncio.create_task(look())
        for number in range(40):
            reply = await ask(http)
            assert await rate(http, reply["id"], number % 2 == 0) == 200
            assert await rate(http, reply["id"], number % 3 == 0) == 200
        stop.set()
        await looking
    await database.close()
    assert looks > 3


async def test_beliefs_are_a_fold_of_the_rewards(service):
    database = Database(service.settings.database.url)
    async with aiohttp.ClientSession(service.url) as http:
        for number in range(20):
            reply = await ask(http)
            await rate(http, reply["id"], number % 2 == 0)
            await rate(http, reply["id"], 0.3, user="ann")
    stored = {}
    for _ in range(100):  # what the heuristics say follows the replies by a moment
        stored = await database.read(store.sum_cells)
        if service.parts.knowledge.cells() == stored and len(stored) > 1:
            break
        await asyncio.sleep(0.02)
    assert service.parts.knowledge.cells() == stored
    assert sum(counts.n for counts in stored.values()) >= 40 * MICRO
    assert await database.read(store.compare_fold) == {}
    await database.close()


async def test_a_decision_can_be_repeated(service):
    async with aiohttp.ClientSession(service.url) as http:
        ids = []
        for number in range(30):
            reply = await ask(http, router={"explore": number % 5 != 0, "min_tier": ["small", "medium"][number % 2]})
            await rate(http, reply["id"], number % 2 == 0)
            ids.append(reply["id"])
        for decision_id in ids:
            async with http.get(f"/v1/decisions/{decision_id}") as answer:
                told = await answer.json()
            assert told["repeated"]["same"] is True
            assert told["repeated"]["arm"] == told["choice"]["arm"]


@pytest.mark.parametrize("reply_words", [200, 40_000])
async def test_nothing_blocks_the_event_loop(service, reply_words, monkeypatch):
    """Processor time of every callback on the service's loop, which a busy machine does not lengthen.

    The aim is 1 ms a callback. Five are let pass, because processors differ, for all but one callback in a hundred: a
    snapshot's first decision computes its probabilities.
    """
    spent = []
    run = asyncio.Handle._run
    serving = service.thread.ident

    def timed(handle):
        if threading.get_ident() != serving:
            run(handle)
            return
        started = time.thread_time()
        run(handle)
        spent.append(time.thread_time() - started)

    async with aiohttp.ClientSession(service.url) as http:
        await ask(http)  # what is made at first use
        monkeypatch.setattr(asyncio.Handle, "_run", timed)
        for number in range(40):
            simulate = {"reply": " ".join(f"word{(number * n) % 9973}" for n in range(reply_words))}
            status, reply = await asked(http, simulate=simulate)
            assert status == 200
            await rate(http, reply["id"], True)
        monkeypatch.undo()
    assert len(spent) > 200
    assert sum(seconds > 0.005 for seconds in spent) <= len(spent) / 100


@pytest.mark.parametrize("model", [None, "remote", "auto:random", "auto:rules", "auto:static_tier"])
async def test_sensitive_prompts_stay_local(run, model, caplog):
    secret = "my-secret-number-4711"
    service = run(
        models=(SimulatedModel(name="here", local=True, tier="small"), SimulatedModel(name="remote", tier="large"))
    )
    messages = [{"role": "user", "content": f"Remember {secret}."}]
    with caplog.at_level(logging.DEBUG):
        async with aiohttp.ClientSession(service.url) as http:
            for simulate in ({}, {"fail": "server_error", "only": ["here"]}):
                body = {"messages": messages, "router": {"sensitive": True}, "simulate": simulate}
                async with http.post("/v1/chat/completions", json={**body, "model": model} if model else body) as reply:
                    if model == "remote":
                        assert reply.status == 400
                    else:
                        assert reply.status in {200, 500}
                        assert reply.headers.get("x-armwise-model", "here") == "here"
            async with http.get("/stats/raw") as answer:
                attempts = [a["arm"] for record in (await answer.json())["records"] for a in record["attempts"]]
    assert set(attempts) <= {"here"}
    assert secret not in caplog.text


POISON = st.sampled_from([0.0, -1.0, 1e-300, 1e12, 1e308, float("inf"), float("-inf"), float("nan")])


@given(cells=st.lists(st.tuples(POISON, POISON, POISON, POISON), min_size=3, max_size=3))
def test_the_learner_never_breaks_serving_with_any_cell(cells):
    from service.classifiers.classifying import ByLength, Classified, Trace
    from service.decide import Circumstances, decide
    from service.settings import Settings
    from service.setup import create_setup
    from service.wire import decode_request

    setup = _setup.get("setup") or _setup.setdefault("setup", create_setup(Settings()))
    named = dict(zip(setup.models, cells, strict=True))
    beliefs = Beliefs(
        "v",
        {name: Evidence(*cell) for name, cell in named.items()},
        {name: Estimate(*cell[:2]) for name, cell in named.items()},
    )

    class Poisoned:
        controls = InForce()

        def believed(self, policy, namespace, profile, now):
            return beliefs

    request, _ = decode_request(msgspec.json.encode({"messages": MESSAGES}))
    found = ByLength().classify("Explain why the sky is blue.")
    trace = Trace(classifier="length", tiers=ByLength.tiers)
    for model in ("auto:pooled_thompson", "auto:thompson"):
        asking = msgspec.structs.replace(request, model=model)
        decision = decide(setup, Poisoned(), asking, Classified(found, trace), Circumstances(now=0.0))
        assert decision.choice.arm in setup.models
        assert decision.method in {"auto", "static_fallback"}
        assert sum(decision.choice.probabilities) == pytest.approx(1.0)


_setup = {}


MODELS = ("small", "medium", "large")


async def test_the_learner_never_breaks_serving(service):
    """Poisoned counts in memory: chat goes on, by the static tiers, and says so."""
    knowledge = service.parts.knowledge
    poisoned = Beliefs(
        "poison", {name: Evidence(float("nan"), float("inf"), -1.0, 1e308) for name in ("small", "large")}
    )
    async with aiohttp.ClientSession(service.url) as http:
        reply = await ask(http)
        task_type = reply["routing"]["task_type"]
        knowledge._snapshots["", task_type] = poisoned
        knowledge._stale.discard(("", task_type))
        knowledge._swapped_at["", task_type] = float("inf")
        spoiled = Beliefs("spoiled", {}, {name: Estimate(float("nan"), float("inf")) for name in MODELS})
        knowledge._fits["", "pooled_thompson"] = {(task_type, tier): spoiled for tier in PROMPT_TIERS}
        for model in ("auto:thompson", "auto:pooled_thompson"):
            status, reply = await asked(http, model=model)
            assert status == 200
            assert reply["routing"]["method"] == "static_fallback"
        async with http.get("/metrics") as answer:
            assert 'armwise_learner_errors_total{place="policy"} 2.0' in await answer.text()


def test_every_policy_is_in_the_catalogue():
    assert Thompson in AnyPolicy.__args__
