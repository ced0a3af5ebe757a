"""What surrounds the handlers: requests are counted, and background work that ends is told."""

import asyncio
from types import SimpleNamespace

import pytest

from service.app import _counted, tell_if_ended
from service.metrics.catalogue import Metrics


def requests(metrics):
    """How many chats were counted."""
    lines = metrics.exposition()[0].decode().splitlines()
    counts = [line.split()[-1] for line in lines if line.startswith("armwise_request_seconds_count")]
    return sum(map(float, counts))


@pytest.mark.parametrize("fails", [False, True])
async def test_a_request_is_counted_once_with_its_last_byte_and_not_after_what_follows(fails):
    metrics = Metrics()
    parts = SimpleNamespace(metrics=metrics)
    scope = {
        "type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": [],
        "litestar_app": SimpleNamespace(state=SimpleNamespace(parts=parts, spans=None)),
    }  # fmt: skip
    seen = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        seen.append(requests(metrics))
        await send({"type": "http.response.body", "body": b"b", "more_body": False})
        seen.append(requests(metrics))
        if fails:
            raise RuntimeError

    async def send(message):
        pass

    try:
        await _counted(app)(scope, None, send)
    except RuntimeError:
        assert fails
    assert [*seen, requests(metrics)] == [0.0, 1.0, 1.0]


async def test_background_work_that_ends_by_a_fault_is_told(caplog):
    async def broken():
        raise RuntimeError("a fault of ours")

    for work in (broken(), asyncio.sleep(0), asyncio.sleep(60)):
        task = asyncio.create_task(work, name=work.__name__)
        task.add_done_callback(tell_if_ended)
        await asyncio.wait([task], timeout=0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await asyncio.sleep(0)
    assert [record.message for record in caplog.records] == ["the background work broken ended; restart the service"]
