"""The simulated provider: OpenAI's shapes, equal replies to equal requests, every failure, quality as in the facts."""

import asyncio
import json
from statistics import fmean

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import validate
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from bandit.vocabulary import TASK_TYPES
from service.errors import UpstreamFailure
from service.providers import Providers
from service.providers.facts import facts_of, profiles, table
from service.providers.simulated import Simulated, prepare
from service.settings import OpenAICompatibleModel, SimulatedModel
from service.wire import chunk_decoder, reply_decoder

SMALL = SimulatedModel(name="small", tier="small", price_in=0.02, price_out=0.05)
LARGE = SimulatedModel(name="large", tier="large", price_in=1.25, price_out=10.0)
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius", "fahrenheit"]}},
            "required": ["city", "unit"],
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}}
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 18}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def body(prompt="Why is the sky blue?", **fields):
    return msgspec.json.encode({"model": "any", "messages": [{"role": "user", "content": prompt}], **fields})


async def completed(model=SMALL, **fields):
    return ChatCompletion.model_validate_json(await Simulated().complete(model, body(**fields)))


async def streamed(model=SMALL, **fields):
    """The chunks of a stream, which must end with [DONE]."""
    pieces = [piece async for piece in Simulated().stream(model, body(stream=True, **fields))]
    payloads = [line.removeprefix("data: ") for line in b"".join(pieces).decode().split("\n\n")]
    assert payloads[-2:] == ["[DONE]", ""]
    return [ChatCompletionChunk.model_validate_json(payload) for payload in payloads[:-2]]


def without_time(reply):
    return {name: value for name, value in json.loads(reply).items() if name != "created"}


def test_it_serves_simulated_models_and_no_others():
    assert isinstance(Providers().of(SMALL), Simulated)
    with pytest.raises(TypeError, match="OpenAICompatibleModel"):
        prepare(OpenAICompatibleModel(name="gpt"), body())


async def test_its_own_quality_on_a_task_type_stands_before_the_tables():
    model = msgspec.structs.replace(SMALL, quality={"Rewrite": 0.0, "Open QA": 1.0})
    for task_type, quality in (("Rewrite", 0.0), ("Open QA", 1.0)):
        for seed in range(20):
            reply = await completed(model, seed=seed, simulate={"task_type": task_type})
            assert reply.model_extra["simulated"]["quality"] == quality
    found = [(await completed(model, seed=seed, simulate={"task_type": "Other"})).model_extra for seed in range(20)]
    assert {one["simulated"]["quality"] for one in found} != {0.0, 1.0}


async def test_a_plain_reply_is_a_chat_completion():
    reply = await completed(simulate={"quality": 1.0, "task_type": "Rewrite"})
    [choice] = reply.choices
    assert reply.object == "chat.completion"
    assert reply.model == "small"
    assert choice.finish_reason == "stop"
    assert choice.message.role == "assistant"
    assert "simulated reply of small" in choice.message.content
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert reply.usage.prompt_tokens == 6  # 20 characters
    assert reply.model_extra["simulated"]["quality"] == 1.0
    assert reply.model_extra["simulated"]["task_type"] == "Rewrite"


async def test_armwise_reads_what_it_writes():
    reply = reply_decoder.decode(await Simulated().complete(SMALL, body()))
    assert reply.usage is not None
    assert reply.usage.completion_tokens > 0
    events = [event async for event in Simulated().stream(SMALL, body(stream=True))]
    finished = chunk_decoder.decode(events[-2].removeprefix(b"data: "))
    assert finished.choices[0].finish_reason


async def test_the_cost_is_that_of_the_configured_prices():
    reply = await completed(LARGE)
    cost = reply.usage.prompt_tokens * 1.25e-6 + reply.usage.completion_tokens * 10e-6
    assert reply.model_extra["simulated"]["cost_usd"] == pytest.approx(cost, abs=1e-9)


async def test_a_stream_says_role_content_end_and_usage_in_that_order():
    chunks = await streamed(stream_options={"include_usage": True}, simulate={"quality": 1.0, "chunks": 100})
    first, *contents, last, usage = chunks
    assert first.choices[0].delta.role == "assistant"
    assert len(contents) == 100
    assert all(chunk.choices[0].delta.content and not chunk.choices[0].finish_reason for chunk in contents)
    assert last.choices[0].finish_reason == "stop"
    assert last.model_extra["simulated"]["quality"] == 1.0
    assert usage.choices == []
    assert usage.usage.completion_tokens > 0
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


async def test_a_stream_without_the_wish_tells_no_usage():
    assert all("usage" not in chunk.model_fields_set for chunk in await streamed())


async def test_a_stream_says_the_same_as_a_plain_reply():
    script = {"quality": 0.9, "task_type": "Code Generation"}
    plain = await completed(simulate=script)
    chunks = await streamed(simulate=script)
    words = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "".join(words) == plain.choices[0].message.content


async def test_n_alternatives():
    reply = await completed(n=3)
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    chunks = await streamed(n=3)
    ended = [choice.index for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    assert ended == [0, 1, 2]


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_the_token_limit_cuts_the_reply(name):
    reply = await completed(simulate={"quality": 1.0}, **{name: 5})
    assert reply.choices[0].finish_reason == "length"
    assert len(reply.choices[0].message.content) == 20
    assert reply.usage.completion_tokens == 5
    chunks = await streamed(simulate={"quality": 1.0}, **{name: 5})
    assert [choice.finish_reason for choice in chunks[-1].choices] == ["length"]


@pytest.mark.parametrize("stop", ["simulated", ["nowhere", "simulated"]])
async def test_a_stop_sequence_ends_the_reply_before_it(stop):
    reply = await completed(stop=stop, simulate={"quality": 1.0})
    assert reply.choices[0].message.content == "This is a "
    assert reply.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("tool_choice", "called"),
    [("required", "weather"), ({"type": "function", "function": {"name": "clock"}}, "clock")],
)
async def test_a_tool_that_must_be_called_is_called_with_arguments_of_its_schema(tool_choice, called):
    reply = await completed(tools=[WEATHER, CLOCK], tool_choice=tool_choice)
    [choice] = reply.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    [call] = choice.message.tool_calls
    assert call.function.name == called
    schema = next(tool["function"]["parameters"] for tool in (WEATHER, CLOCK) if tool["function"]["name"] == called)
    validate(json.loads(call.function.arguments), schema)

    chunks = await streamed(tools=[WEATHER, CLOCK], tool_choice=tool_choice)
    pieces = [piece for chunk in chunks for piece in chunk.choices[0].delta.tool_calls or ()]
    assert pieces[0].function.name == called
    assert pieces[0].id
    assert "".join(piece.function.arguments for piece in pieces) == call.function.arguments
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize("tool_choice", [None, "auto", "none"])
async def test_a_tool_that_may_be_called_is_not(tool_choice):
    reply = await completed(tools=[WEATHER], tool_choice=tool_choice)
    assert reply.choices[0].message.tool_calls is None


async def test_json_is_answered_where_json_is_wanted():
    reply = await completed(response_format={"type": "json_object"})
    assert isinstance(json.loads(reply.choices[0].message.content), dict)
    wanted = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
    reply = await completed(response_format=wanted)
    validate(json.loads(reply.choices[0].message.content), PERSON)


async def test_chinese_prompts_get_chinese_replies():
    reply = await completed(prompt="为什么天空是蓝色的？", simulate={"quality": 1.0})
    assert "模拟回复" in reply.choices[0].message.content


async def test_the_words_of_the_reply_can_be_given():
    reply = await completed(simulate={"reply": "Forty-two."})
    assert reply.choices[0].message.content == "Forty-two."
    assert reply.usage.completion_tokens == 3


@pytest.mark.parametrize("stream", [False, True])
async def test_the_same_request_gets_the_same_reply(stream):
    async def ask(model, prompt):
        if stream:
            events = [event async for event in Simulated().stream(model, body(prompt, stream=True))]
            return [without_time(event.removeprefix(b"data: ")) for event in events[:-1]]
        return without_time(await Simulated().complete(model, body(prompt)))

    assert await ask(SMALL, "one") == await ask(SMALL, "one")
    assert await ask(SMALL, "one") != await ask(SMALL, "two")
    assert await ask(SMALL, "one") != await ask(LARGE, "one")


@pytest.mark.parametrize("profile", ["small", "medium", "large", "gpt-4o-mini-2024-07-18"])
@pytest.mark.parametrize("task_type", ["Brainstorming", "Other", "Summarization"])
def test_quality_and_length_are_those_of_the_facts(profile, task_type):
    """4,000 draws: five standard errors of a quality are at most 0.04, so a right draw fails once in a million."""
    model = SimulatedModel(name="m", profile=profile)
    fact = facts_of(profile).on(task_type)
    script = {"task_type": task_type}
    replies = [prepare(model, body(str(number), simulate=script)) for number in range(4000)]
    assert fmean(reply.quality for reply in replies) == pytest.approx(fact.quality, abs=0.04)
    assert fmean(reply.quality >= 0.5 for reply in replies) == pytest.approx(fact.quality, abs=0.04)
    assert all(0.0 <= reply.quality <= 1.0 for reply in replies)
    assert fmean(reply.completion_tokens for reply in replies) == pytest.approx(fact.output_tokens, rel=0.05)


def test_some_bad_replies_look_bad_and_good_ones_never_do():
    bad = [prepare(SMALL, body(str(i), simulate={"quality": 0.1})).words for i in range(500)]
    texts = [words.text for words in bad]
    assert 0.10 < fmean("not sure" in text for text in texts) < 0.30
    assert 0 < fmean(text == "" for text in texts) < 0.08
    assert any(text.count("repeats itself") == 8 for text in texts)
    assert any("can't help" in text for text in texts)
    assert any(words.finish_reason == "length" for words in bad)
    assert fmean("stands for a poor answer" in text for text in texts) > 0.25
    good = [prepare(SMALL, body(str(i), simulate={"quality": 0.9})).words for i in range(500)]
    assert {(words.text, words.finish_reason) for words in good} == {(good[0].text, "stop")}


FAILURES = [
    ("connection", "connection", 502),
    ("timeout", "timeout", 504),
    ("rate_limited", "rate_limited", 429),
    ("server_error", "server_error", 500),
    ("cut", "connection", 502),
]


@pytest.mark.parametrize(("fail", "kind", "status"), FAILURES)
async def test_failures_of_plain_calls(fail, kind, status):
    with pytest.raises(UpstreamFailure) as caught:
        await Simulated().complete(SMALL, body(simulate={"fail": fail}))
    assert (caught.value.kind, caught.value.status) == (kind, status)
    assert caught.value.retry_after == ("1" if fail == "rate_limited" else None)


@pytest.mark.parametrize(("fail", "kind", "status"), FAILURES)
async def test_failures_of_streams(fail, kind, status):
    seen = []

    async def read():
        async for event in Simulated().stream(SMALL, body(stream=True, simulate={"fail": fail, "quality": 1.0})):
            seen.append(event)  # noqa: PERF401 - what came before the failure is the point

    with pytest.raises(UpstreamFailure) as caught:
        await read()
    assert (caught.value.kind, caught.value.status) == (kind, status)
    content = b"".join(seen)
    assert (b'"content":"This' in content) == (fail == "cut")
    assert b"[DONE]" not in content
    assert b'"finish_reason":"' not in content


async def test_a_malformed_reply_is_no_chat_completion():
    reply = await Simulated().complete(SMALL, body(simulate={"fail": "malformed"}))
    with pytest.raises(msgspec.DecodeError):
        reply_decoder.decode(reply)
    [event] = [event async for event in Simulated().stream(SMALL, body(stream=True, simulate={"fail": "malformed"}))]
    with pytest.raises(msgspec.DecodeError):
        chunk_decoder.decode(event.removeprefix(b"data: "))


async def test_an_empty_reply_is_well_formed_and_worth_nothing():
    reply = await completed(simulate={"fail": "empty"})
    assert reply.choices[0].message.content == ""
    assert reply.model_extra["simulated"]["quality"] == 0.0
    chunks = await streamed(simulate={"fail": "empty"})
    assert not any(choice.delta.content for chunk in chunks for choice in chunk.choices)


async def test_what_is_meant_for_one_model_leaves_the_others_alone():
    script = {"fail": "server_error", "only": ["large"], "task_type": "Rewrite"}
    reply = await completed(SMALL, simulate=script)
    assert reply.model_extra["simulated"]["task_type"] == "Rewrite"
    with pytest.raises(UpstreamFailure):
        await completed(LARGE, simulate=script)


async def test_the_configured_share_of_calls_fails():
    model = SimulatedModel(name="shaky", error_rate=0.2, error="rate_limited")
    failing = [prepare(model, body(str(number))).failing for number in range(2000)]
    assert fmean(kind == "rate_limited" for kind in failing) == pytest.approx(0.2, abs=0.05)  # 5 standard errors
    assert set(failing) == {"rate_limited", None}
    assert failing == [prepare(model, body(str(number))).failing for number in range(2000)]


@pytest.mark.parametrize(
    "request_body",
    [b"{", b'{"messages": []}', body(simulate={"task_typ": "Rewrite"}), body(simulate={"quality": 2}), body(n=129)],
)
async def test_a_request_that_cannot_be_read_is_rejected_as_a_provider_would(request_body):
    with pytest.raises(UpstreamFailure) as caught:
        await Simulated().complete(SMALL, request_body)
    assert (caught.value.kind, caught.value.status) == ("rejected", 400)
    assert not caught.value.another_model_may_help


async def test_a_tool_choice_that_names_no_tool_is_rejected():
    with pytest.raises(UpstreamFailure, match="`clock`, which is not among the tools"):
        await completed(tools=[WEATHER], tool_choice={"type": "function", "function": {"name": "clock"}})


async def test_an_unknown_profile_says_which_there_are():
    with pytest.raises(UpstreamFailure, match=r"no profile `huge` for m\. Known: small, medium, large") as caught:
        await Simulated().complete(SimulatedModel(name="m", profile="huge"), body())
    assert caught.value.kind == "unknown_model"


@pytest.mark.parametrize("latency", [{"latency_scale": 1.0}, {"simulate": {"latency_s": 5.0}}])
async def test_a_reply_that_would_take_too_long_times_out(latency):
    scale = latency.pop("latency_scale", 0.0)
    model = SimulatedModel(name="slow", tier="large", latency_scale=scale, timeout_s=0.01)
    with pytest.raises(UpstreamFailure) as caught:
        await Simulated().complete(model, body(**latency))
    assert caught.value.kind == "timeout"
    with pytest.raises(UpstreamFailure) as caught:
        await anext(Simulated().stream(model, body(stream=True, **latency)))
    assert caught.value.kind == "timeout"


def test_latency_is_that_of_the_facts_times_the_scale():
    facts = facts_of("large")
    reply = prepare(SimulatedModel(name="m", tier="large", latency_scale=2.0), body())
    assert reply.plain_s == pytest.approx(2 * (facts.first_token_s + reply.completion_tokens / facts.tokens_per_s))
    assert prepare(SimulatedModel(name="m", tier="large"), body()).plain_s == 0.0


async def test_a_stream_lets_others_run_between_two_chunks():
    order = []

    async def count():
        while True:
            order.append("other")
            await asyncio.sleep(0)

    other = asyncio.create_task(count())
    async for _ in Simulated().stream(SMALL, body(stream=True, simulate={"chunks": 5})):
        order.append("chunk")  # noqa: PERF401 - the order of the two is the point
    other.cancel()
    assert "chunkchunk" not in "".join(order)


@settings(max_examples=60, deadline=None)
@given(
    text=st.text(min_size=1, max_size=80),
    limit=st.none() | st.integers(0, 30),
    chunks=st.none() | st.integers(1, 120),
    alternatives=st.integers(1, 3),
)
def test_any_words_are_cut_into_pieces_and_within_the_limit(text, limit, chunks, alternatives):
    script = {"reply": text, "chunks": chunks}
    reply = prepare(SMALL, body(max_tokens=limit, n=alternatives, simulate=script))
    assert "".join(reply.pieces) == reply.words.text
    assert all(reply.pieces)
    assert text.startswith(reply.words.text)
    if limit is not None:
        assert reply.completion_tokens <= limit * alternatives
        assert (reply.words.finish_reason == "length") == (reply.words.text != text)


def test_every_fact_has_a_source_and_a_number_of_prompts():
    facts = table()
    assert set(facts.profiles) == {"small", "medium", "large"}
    assert set(profiles()) >= {"small", "medium", "large", "google/gemini-2.5-pro", "mistralai/mistral-large-2512"}
    assert "ASSUMED" in facts.latency
    for model in facts.models.values():
        source = facts.sources[model.source]
        assert source.licence in {"Apache-2.0", "MIT"}
        assert source.origin
        assert source.prices
        assert set(model.task_types) | set(source.overall_mean_used_for) == set(TASK_TYPES)
        assert model.first_token_s > 0
        assert model.tokens_per_s > 0
        assert model.price_in > 0
        assert model.price_out > 0
        for fact in (model.overall, *model.task_types.values()):
            assert fact.n >= 20
            assert 0.0 < fact.quality <= 1.0
            assert fact.output_tokens > 0


def test_every_profile_can_be_drawn_for_every_task_type():
    for profile in profiles():
        for task_type in TASK_TYPES:
            reply = prepare(SimulatedModel(name="m", profile=profile), body(simulate={"task_type": task_type}))
            assert reply.task_type == task_type
