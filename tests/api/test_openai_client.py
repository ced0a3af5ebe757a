"""The official OpenAI client, against the whole service."""

import json

import openai
import pytest
from pydantic import BaseModel

from service.settings import SimulatedModel

HELLO = [{"role": "user", "content": "Write a short poem about the sea."}]


@pytest.fixture
def client(service):
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def test_a_plain_call_carries_decision_and_routing(client):
    raw = client.chat.completions.with_raw_response.create(model="auto", messages=HELLO)
    reply = raw.parse()
    routing = reply.model_extra["routing"]
    assert reply.choices[0].message.content
    assert reply.id == routing["decision_id"] == raw.headers["x-armwise-decision-id"]
    assert routing["model"] == raw.headers["x-armwise-model"]
    assert float(raw.headers["x-armwise-propensity"]) == routing["eligible"][routing["model"]] == routing["propensity"]
    assert sum(routing["eligible"].values()) == pytest.approx(1.0)
    assert float(raw.headers["x-armwise-cost-usd"]) > 0
    assert float(raw.headers["x-armwise-overhead-ms"]) >= 0
    assert raw.headers["x-armwise-policy"] == "pooled_thompson"
    assert raw.headers["x-armwise-tier"] in {"simple", "medium", "complex"}
    assert raw.headers["x-armwise-task-type"] == routing["task_type"]


def test_a_stream_has_one_id_and_ends_cleanly(client):
    with client.chat.completions.with_streaming_response.create(model="auto", messages=HELLO, stream=True) as raw:
        chunks = list(raw.parse())
        decision_id = raw.headers["x-armwise-decision-id"]
    assert {chunk.id for chunk in chunks} == {decision_id}
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks)


def test_usage_is_shown_in_a_stream_when_asked_for(client):
    options = {"include_usage": True}
    chunks = list(client.chat.completions.create(model="auto", messages=HELLO, stream=True, stream_options=options))
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens > 0


async def test_the_async_client_works_plain_and_streamed(service):
    async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key="unused") as client:
        reply = await client.chat.completions.create(model="auto", messages=HELLO)
        assert reply.choices[0].message.content
        stream = await client.chat.completions.create(model="auto", messages=HELLO, stream=True)
        words = [chunk.choices[0].delta.content or "" async for chunk in stream]
        assert "".join(words)


def test_tools_are_called(client):
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": parameters}}]
    reply = client.chat.completions.create(model="auto", messages=HELLO, tools=tools, tool_choice="required")
    call = reply.choices[0].message.tool_calls[0]
    assert call.function.name == "weather"
    assert "city" in json.loads(call.function.arguments)


class Person(BaseModel):
    name: str
    age: int


def test_structured_output_is_parsed(client):
    reply = client.chat.completions.parse(model="auto", messages=HELLO, response_format=Person)
    assert isinstance(reply.choices[0].message.parsed, Person)


@pytest.mark.parametrize("model", ["", "auto", "auto:random", "auto:static_tier"])
def test_these_names_route(client, model):
    routing = client.chat.completions.create(model=model, messages=HELLO).model_extra["routing"]
    assert routing["method"] == "auto"
    assert routing["policy"] == (model.partition(":")[2] or "pooled_thompson")


def test_a_named_model_serves(client):
    raw = client.chat.completions.with_raw_response.create(model="medium", messages=HELLO)
    routing = raw.parse().model_extra["routing"]
    assert (routing["method"], routing["model"], routing["propensity"]) == ("user_specified", "medium", 1.0)


def test_models_are_listed(client):
    names = [model.id for model in client.models.list()]
    assert {"auto", "auto:thompson", "small", "medium", "large"} <= set(names)
    assert client.models.retrieve("small").id == "small"


@pytest.mark.parametrize(
    ("arguments", "error", "code"),
    [
        ({"model": "gpt-9"}, openai.NotFoundError, "model_not_found"),
        ({"model": "auto:nothing"}, openai.NotFoundError, "policy_not_found"),
        ({"messages": []}, openai.BadRequestError, "invalid_type"),
        ({"messages": "hello"}, openai.BadRequestError, "invalid_type"),
        ({"extra_body": {"max_tokens": "many"}}, openai.BadRequestError, "invalid_type"),
        ({"extra_body": {"router": {"colour": "red"}}}, openai.BadRequestError, "invalid_type"),
        ({"extra_body": {"router": {"allow": []}}}, openai.BadRequestError, "no_eligible_model"),
        ({"extra_body": {"router": {"policy": "nothing"}}}, openai.NotFoundError, "policy_not_found"),
    ],
)
def test_bad_requests_raise_the_clients_own_exceptions(client, arguments, error, code):
    with pytest.raises(error) as raised:
        client.chat.completions.create(**{"model": "auto", "messages": HELLO, **arguments})
    assert raised.value.code == code
    assert raised.value.body["message"]


def test_no_eligible_model_tells_the_reason_for_each(client):
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(
            model="auto", messages=HELLO, extra_body={"router": {"sensitive": True, "deny": ["small"]}}
        )
    assert raised.value.body["reasons"] == {
        "small": "denied by the request",
        "medium": "the request is sensitive and this model is not local",
        "large": "the request is sensitive and this model is not local",
    }


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        ("rate_limited", openai.RateLimitError),
        ("server_error", openai.InternalServerError),
        ("connection", openai.InternalServerError),
        ("timeout", openai.InternalServerError),
        ("malformed", openai.InternalServerError),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_upstream_errors_raise_the_clients_own_exceptions(run, failure, error, stream):
    service = run(models=(SimulatedModel(name="only", error_rate=1.0, error=failure),))
    client = openai.OpenAI(base_url=f"{service.url}/v1", api_key="unused", max_retries=0)
    with pytest.raises(error):
        client.chat.completions.create(model="auto", messages=HELLO, stream=stream)
    client.close()


def test_a_stream_that_breaks_raises_and_does_not_end_cleanly(run):
    service = run(models=(SimulatedModel(name="only", error_rate=1.0, error="cut"),))
    client = openai.OpenAI(base_url=f"{service.url}/v1", api_key="unused", max_retries=0)
    words = []
    stream = client.chat.completions.create(model="auto", messages=HELLO, stream=True)
    with pytest.raises(openai.APIError):
        words.extend(chunk.choices[0].delta.content or "" for chunk in stream)
    assert "".join(words)
    client.close()
