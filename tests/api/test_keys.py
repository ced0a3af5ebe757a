"""API keys over HTTP: none made, one made, scopes, revocation, and whose decisions may be rated."""

import asyncio
import time

import aiohttp
import openai
import pytest

from service.auth import key_row, new_key, new_secret
from service.storage import store
from service.storage.database import Database

MESSAGES = [{"role": "user", "content": "Good morning!"}]


@pytest.fixture
async def keyed(service):
    """Make a key with these scopes and wait until the running service knows it."""
    database = Database(service.settings.database.url)

    async def make(*scopes):
        secret = new_secret()
        key = new_key(secret, "test", scopes, time.time())
        await database.write(lambda connection: store.insert_key(connection, key_row(key)))
        await known(service, key.digest)
        return secret, key

    make.database = database
    yield make
    await database.close()


async def known(service, digest, *, revoked=False):
    for _ in range(400):
        found = service.parts.keyring._by_digest.get(digest)
        if found is not None and (found.revoked_at is not None) == revoked:
            return
        await asyncio.sleep(0.02)
    pytest.fail("the service did not read the keys again")


async def call(service, method, path, secret=None, body=None):
    headers = {"authorization": f"Bearer {secret}"} if secret else {}
    async with (
        aiohttp.ClientSession(service.url, headers=headers) as http,
        http.request(method, path, json=body) as reply,
    ):
        return reply.status, await reply.json()


async def test_with_a_key_made_callers_without_one_are_refused(service, keyed):
    await keyed("chat")
    for secret in (None, "aw-wrong"):
        status, answer = await call(service, "POST", "/v1/chat/completions", secret, {"messages": MESSAGES})
        assert status == 401
        assert answer["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("POST", "/v1/chat/completions", "chat"),
        ("POST", "/v1/route", "chat"),
        ("GET", "/v1/models", "chat"),
        ("POST", "/feedback", "feedback"),
        ("GET", "/stats", "read"),
        ("GET", "/stats/raw", "read"),
        ("GET", "/v1/posteriors", "read"),
        ("GET", "/v1/decisions/chatcmpl-none", "read"),
        ("POST", "/admin/reload", "admin"),
    ],
)
async def test_each_endpoint_needs_its_scope(service, keyed, method, path, scope):
    others = {"chat", "feedback", "read"} - {scope}
    without, _ = await keyed(*others)
    status, answer = await call(service, method, path, without, {"messages": MESSAGES})
    assert status == 403
    assert answer["error"]["type"] == "permission_error"
    enough, _ = await keyed(scope)
    status, _ = await call(service, method, path, enough, {"messages": MESSAGES})
    assert status not in {401, 403}


async def test_health_readiness_and_metrics_need_no_key(service, keyed):
    await keyed("chat")
    async with aiohttp.ClientSession(service.url) as http:
        for path in ("/health", "/ready", "/metrics"):
            async with http.get(path) as reply:
                assert reply.status == 200


async def test_feedback_only_for_decisions_of_the_same_key_unless_admin(service, keyed):
    mine, _ = await keyed("chat", "feedback")
    other, _ = await keyed("chat", "feedback")
    admin, _ = await keyed("admin")
    _, reply = await call(service, "POST", "/v1/chat/completions", mine, {"messages": MESSAGES})
    rating = {"decision_id": reply["id"], "value": True}
    assert (await call(service, "POST", "/feedback", other, rating))[0] == 403
    assert (await call(service, "POST", "/feedback", mine, rating))[0] == 200
    assert (await call(service, "POST", "/feedback", admin, {**rating, "user": "boss"}))[0] == 200


async def test_a_revoked_key_ends_while_the_service_runs(service, keyed):
    secret, key = await keyed("chat")
    assert (await call(service, "GET", "/v1/models", secret))[0] == 200
    await keyed.database.write(lambda connection: store.revoke_key(connection, key.id, time.time()))
    await known(service, key.digest, revoked=True)
    status, answer = await call(service, "GET", "/v1/models", secret)
    assert status == 401
    assert "revoked" in answer["error"]["message"]


async def test_the_openai_client_raises_its_own_exceptions(service, keyed):
    secret, _ = await keyed("feedback")
    for key, error in (("aw-wrong", openai.AuthenticationError), (secret, openai.PermissionDeniedError)):
        async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key=key, max_retries=0) as client:
            with pytest.raises(error):
                await client.chat.completions.create(model="auto", messages=MESSAGES)
