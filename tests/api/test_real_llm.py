"""Armwise in front of a tiny real language model. By hand: REAL_LLM_URL=http://127.0.0.1:8500/v1 pytest -m real_llm

The server is benchmarks/real_llm_server.py, which says what it needs.
"""

import os

import openai
import pytest

from service.settings import OpenAICompatibleModel

URL = os.environ.get("REAL_LLM_URL", "")
pytestmark = [
    pytest.mark.real_llm,
    pytest.mark.skipif(not URL, reason="REAL_LLM_URL does not name a running benchmarks/real_llm_server.py"),
]
CAPITAL = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture
def client(run):
    service = run(models=(OpenAICompatibleModel(name="smol", model="smollm2-135m", base_url=URL, local=True),))
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def test_it_answers(client):
    reply = client.chat.completions.create(model="auto", messages=CAPITAL, max_tokens=40)
    assert "Paris" in reply.choices[0].message.content
    assert reply.usage.completion_tokens > 0
    given = client.post("/feedback", body={"decision_id": reply.id, "value": True}, cast_to=object)
    assert given["status"] == "recorded"


def test_it_streams(client):
    stream = client.chat.completions.create(model="auto", messages=CAPITAL, max_tokens=40, stream=True)
    chunks = list(stream)
    assert len(chunks) > 3
    assert "Paris" in "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
