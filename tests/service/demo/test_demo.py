"""The demo, against a small server that answers with the simulated provider."""

import itertools
import json
import re

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from bandit.vocabulary import TASK_TYPES
from service.demo.demo import STREAMED_EVERY, DemoFailed, prompts, run_demo
from service.demo.table import Cell, Tally, posteriors_table, shares_table
from service.providers.simulated import Simulated
from service.settings import SIMULATED_MODELS

PROMPTS = sum(len(texts) for texts in prompts().values())
CHINESE = re.compile(r"[\u4e00-\u9fff]")


class SmallArmwise:
    """Answers chats with the simulated models in turn; keeps what it was sent."""

    def __init__(self, *, fail_chat=(), feedback_status=200, cut=False):
        self.fail_chat = fail_chat  # statuses of the first chats
        self.feedback_status = feedback_status
        self.cut = cut
        self.chats = []
        self.feedback = {}
        self.qualities = {}

    async def chat(self, request):
        body = await request.json()
        number = len(self.chats)
        self.chats.append(body)
        if number < len(self.fail_chat):
            return web.json_response({"error": {"message": "no luck"}}, status=self.fail_chat[number])
        model = SIMULATED_MODELS[number % 3]
        sent = json.dumps({name: value for name, value in body.items() if name != "router"}).encode()
        headers = {"x-armwise-decision-id": f"d{number}", "x-armwise-model": model.name, "x-armwise-cost-usd": "0.5"}
        if body["stream"]:
            events = b"".join([event async for event in Simulated().stream(model, sent)])
            self.qualities[f"d{number}"] = json.loads(re.search(rb'"simulated":(\{.*?\})', events)[1])["quality"]
            events = events[: len(events) // 2] if self.cut else events
            return web.Response(body=events, headers=headers)
        reply = await Simulated().complete(model, sent)
        self.qualities[f"d{number}"] = json.loads(reply)["simulated"]["quality"]
        return web.Response(body=reply, headers=headers)

    async def thumb(self, request):
        body = await request.json()
        self.feedback[body["decision_id"]] = body["value"]
        return web.json_response({"error": {"message": "too late"}}, status=self.feedback_status)

    async def posteriors(self, request):
        cells = [
            {"task_type": task_type, "model": model.name, "alpha": 3.0, "beta": 1.0, "mean": 0.75,
             "interval": [0.3, 0.99], "n": float(task_type == "Rewrite"), "p_best": 1 / 3, "n_heuristic": 0.0}
            for task_type, model in itertools.product(TASK_TYPES, SIMULATED_MODELS)
        ]  # fmt: skip
        return web.json_response({"cells": cells, "prior_tier": "mean"})

    def app(self):
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_post("/feedback", self.thumb)
        app.router.add_get("/v1/posteriors", self.posteriors)
        return app


async def demo(armwise, **options):
    said = []
    async with TestServer(armwise.app()) as server:
        summary = await run_demo(str(server.make_url("/")), echo=said.append, **options)
    return summary, "\n".join(said)


def test_the_prompts_cover_every_task_type_in_both_languages():
    assert set(prompts()) == set(TASK_TYPES) - {"Unknown"}
    for texts in prompts().values():
        assert len(texts) >= 6
        assert sum(bool(CHINESE.search(text)) for text in texts) >= 3
        assert sum(not CHINESE.search(text) for text in texts) >= 3
    everything = [text for texts in prompts().values() for text in texts]
    assert len(set(everything)) == len(everything)


async def test_it_sends_every_prompt_each_round_and_gives_honest_thumbs():
    armwise = SmallArmwise()
    summary, said = await demo(armwise, rounds=2)
    assert len(armwise.chats) == summary.answered == 2 * PROMPTS
    assert summary.failed == 0
    sent = sorted(chat["messages"][0]["content"] for chat in armwise.chats)
    assert sent == sorted(text for texts in prompts().values() for text in (*texts, *texts))
    assert all(chat["model"] == "auto" for chat in armwise.chats)
    assert all(chat["messages"][0]["content"] in prompts()[chat["simulate"]["task_type"]] for chat in armwise.chats)
    assert sum(chat["stream"] for chat in armwise.chats) == 2 * PROMPTS // STREAMED_EVERY
    assert armwise.feedback == {decision: quality >= 0.5 for decision, quality in armwise.qualities.items()}
    assert summary.thumbs_up == sum(armwise.feedback.values())
    assert summary.thumbs_up + summary.thumbs_down == 2 * PROMPTS
    assert summary.mean_quality == pytest.approx(sum(armwise.qualities.values()) / (2 * PROMPTS))
    assert summary.models == ("small", "medium", "large")
    assert len(summary.rounds) == 2
    for task_type in prompts():
        assert sum(found[task_type].calls.total() for found in summary.rounds) == 2 * len(prompts()[task_type])
        assert f"\n{task_type} " in said
    assert 0 < summary.cost_usd < 10  # what the replies say, not the header
    assert "share of small / medium / large, in percent" in said
    assert "round 2" in said
    assert "Rewrite  0.75 [0.30, 0.99] 1*" in said


async def test_no_round_asks_the_same_as_the_same_user_again():
    armwise = SmallArmwise()
    await demo(armwise, rounds=2, feedback=False)
    asked = [(chat["router"]["user"], chat["messages"][0]["content"]) for chat in armwise.chats]
    assert len(set(asked)) == len(asked)


async def test_rounds_differ_in_their_seed_so_that_the_draws_do():
    armwise = SmallArmwise()
    await demo(armwise, rounds=2)
    assert {chat["seed"] for chat in armwise.chats} == {1, 2}


async def test_without_feedback_none_is_given():
    armwise = SmallArmwise()
    summary, said = await demo(armwise, rounds=1, feedback=False)
    assert armwise.feedback == {}
    assert (summary.thumbs_up, summary.thumbs_down) == (0, 0)
    assert "thumbs" not in said


async def test_a_missing_server_is_a_sentence_that_says_how_to_start_one(unused_tcp_port):
    with pytest.raises(DemoFailed, match=r"Nothing answers at http://127\.0\.0\.1:\d+\. Start Armwise with `make run`"):
        await run_demo(f"http://127.0.0.1:{unused_tcp_port}", echo=[].append)


async def test_another_server_is_told_apart():
    async with TestServer(web.Application()) as server:
        with pytest.raises(DemoFailed, match="has no posteriors to show: HTTP 404"):
            await run_demo(str(server.make_url("/")), echo=[].append)


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_key_is_said_at_once(status):
    armwise = SmallArmwise(fail_chat=[status] * PROMPTS)
    with pytest.raises(DemoFailed, match=f"HTTP {status}: no luck Set ARMWISE_API_KEY"):
        await demo(armwise, rounds=1)
    assert len(armwise.chats) < PROMPTS


async def test_real_models_are_asked_once_and_no_more():
    class Real(SmallArmwise):
        async def chat(self, request):
            reply = json.loads((await super().chat(request)).body)
            del reply["simulated"]
            return web.json_response(reply)

    armwise = Real()
    with pytest.raises(DemoFailed, match=r"small at .* is no simulated model: prompts cost money there"):
        await demo(armwise, rounds=1)
    assert len(armwise.chats) == 1
    assert armwise.feedback == {}


async def test_calls_that_fail_are_counted_and_the_others_go_on():
    armwise = SmallArmwise(fail_chat=[502] * 3, feedback_status=410)
    summary, said = await demo(armwise, rounds=1)
    assert summary.answered == PROMPTS - 3
    assert summary.failed == 3 + PROMPTS - 3  # each thumb came too late
    assert "the last one so: HTTP 410: too late" in said


async def test_a_stream_that_breaks_off_is_a_failed_call():
    summary, said = await demo(SmallArmwise(cut=True), rounds=1)
    assert summary.failed == PROMPTS // STREAMED_EVERY
    assert "the stream ended before its [DONE]" in said


async def test_it_stops_when_nothing_is_answered():
    with pytest.raises(DemoFailed, match=r"No call was answered\. The last one failed so: HTTP 503: no luck"):
        await demo(SmallArmwise(fail_chat=[503] * PROMPTS), rounds=3)


def test_with_many_models_a_cell_shows_the_most_used_one():
    models = [f"model-{number}" for number in range(40)]
    tally = Tally(qualities=[1.0, 0.5], cost_usd=0.25)
    tally.calls.update({"model-7": 3, "model-9": 1})
    lines = shares_table([{"Rewrite": tally}], models, ["Rewrite", "Other"])
    assert [line.split() for line in lines[2:4]] == [["Rewrite", "model-7", "75", "0.75", "$0.2500"],
                                                     ["Other", "-", "-", "$0.0000"]]  # fmt: skip


def test_posteriors_mark_the_likeliest_and_leave_out_what_was_not_taught():
    def cell(task_type, model, n, p_best):
        return Cell(task_type=task_type, model=model, mean=0.8, interval=(0.7, 0.9), n=n, p_best=p_best)

    cells = [cell("Rewrite", "a", 12.0, 0.1), cell("Rewrite", "b", 0.0, 0.9), cell("Other", "a", 0.0, 1.0)]
    lines = posteriors_table(cells, ["a", "b"])
    assert lines[2].split("  ") == ["Rewrite", "0.80 [0.70, 0.90] 12", "0.80 [0.70, 0.90] 0*"]
    assert len(lines) == 3
    assert posteriors_table(cells[2:], ["a"]) == ["Nothing was learned: there was no feedback."]
