"""A replay through the running service: prompts as chat calls, ratings as feedback, the decisions out of its log.

Everything is the service's own: its classifier, its database, its fits in the background. Behind it stands a small
model server whose reply to a prompt carries the outcome that was recorded. Prompts go to the service on this machine
and into no file.
"""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import msgspec
import numpy as np
import uvicorn
from aiohttp import web
from sqlalchemy import create_engine, select

from bandit.pooled import PooledThompson
from benchmarks.learners import Prior
from benchmarks.replay import Replayed
from benchmarks.streams import Stream
from service.app import create_app
from service.decide import Decision
from service.serving import listen
from service.settings import (
    ClassifierSettings,
    Database,
    Learning,
    OpenAICompatibleModel,
    Quality,
    Settings,
)
from service.storage.tables import decisions

NAME = "pooled_thompson (service)"
_USD_PER_TOKEN = 1e-7  # small, so that recorded costs are whole numbers of tokens
_WINDOW = 1_000_000_000  # tokens: no prompt is too long
_FIT_EVERY_S = 0.2  # requests come faster than users'; so a fit is as late in requests as elsewhere
_START_S = 30.0


def replay_through_service(
    given: Stream, prior: Prior, budget_usd: float | None = None, folder: Path | None = None
) -> Replayed:
    """Replay `pooled_thompson`, with the database in `folder`, by default one that is removed at the end.

    `prior` must be of the vocabulary's task types, as the service names them.

    Raises:
        RuntimeError: the service did not start, or refused a request; says with what.
    """
    if folder is None:
        with TemporaryDirectory(prefix="armwise-replay-") as made:
            return replay_through_service(given, prior, budget_usd, Path(made))
    database = folder / "replay.db"
    asyncio.run(_replayed(given, prior, budget_usd, f"sqlite:///{database}"))
    return _logged(given, database)


async def _replayed(given: Stream, prior: Prior, budget_usd: float | None, database: str) -> None:
    runner = web.AppRunner(_upstream(given), access_log=None)
    await runner.setup()
    socket = listen("127.0.0.1", 0)
    try:
        await web.SockSite(runner, socket).start()
        settings = _settings(prior, budget_usd, database, f"http://127.0.0.1:{socket.getsockname()[1]}/v1")
        with _running(settings) as url:
            async with aiohttp.ClientSession(url) as http:
                await _send(http, given)
    finally:
        await runner.cleanup()


def _settings(prior: Prior, budget_usd: float | None, database: str, upstream: str) -> Settings:
    policy = PooledThompson(name="pooled_thompson", prior=prior.table)
    if budget_usd is not None:
        policy = msgspec.structs.replace(policy, objective="budget", usd_per_request=budget_usd)
    return Settings(
        database=Database(url=database),
        models=tuple(
            OpenAICompatibleModel(
                name=arm.name, tier=arm.tier, price_out=_USD_PER_TOKEN * 1e6, window=_WINDOW, base_url=upstream
            )
            for arm in prior.arms
        ),
        policies=(policy,),
        classifier=ClassifierSettings(kind="embedded"),
        quality=Quality(enabled=False),  # the replies are no prose
        learning=Learning(fit_every_s=_FIT_EVERY_S),
    )


def _upstream(given: Stream) -> web.Application:
    """A model server: the reply says how good the recorded answer was, its usage what that cost."""
    models = {name: column for column, name in enumerate(given.outcomes.models)}

    async def completion(request: web.Request) -> web.Response:
        body = await request.json()
        number, model = int(body["metadata"]["request"]), models[body["model"]]
        tokens = round(float(given.cost_usd[number, model]) / _USD_PER_TOKEN)
        score = float(given.quality[number, model])
        return web.json_response({
            "id": f"recorded-{number}",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": f"{score!r}"}, "finish_reason": "stop"}
            ],
            "usage": {"prompt_tokens": 0, "completion_tokens": tokens, "total_tokens": tokens},
        })  # fmt: skip

    app = web.Application(client_max_size=2**24)
    app.router.add_post("/v1/chat/completions", completion)
    return app


@contextmanager
def _running(settings: Settings) -> Iterator[str]:
    """The service in a thread of its own; its address."""
    socket = listen("127.0.0.1", 0)
    configured = uvicorn.Config(create_app(settings, None), log_config=None, access_log=False, loop="asyncio")
    server = uvicorn.Server(configured)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]}, daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + _START_S
        while not server.started:
            if not thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError(f"the service did not start within {_START_S:.0f} s; what it logged says why")
            time.sleep(0.01)
        yield f"http://127.0.0.1:{socket.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(_START_S)
        socket.close()


async def _send(http: aiohttp.ClientSession, given: Stream) -> None:
    """All requests, one after the other, and before each the ratings that have come by then."""
    waiting = np.flatnonzero(given.rated)
    waiting = waiting[np.argsort(given.told_at[waiting], kind="stable")]
    due = np.searchsorted(given.told_at[waiting], np.arange(len(given.rows) + 1), side="right").tolist()
    answered: list[tuple[str, float]] = []  # decision and quality, by request
    for number, (told, until) in enumerate(pairwise([0, *due[1:]])):
        answered.append(await _ask(http, given, number))
        for earlier in waiting[told:until]:
            identity, quality = answered[earlier]
            await _post(http, "/v1/feedback", {"decision_id": identity, "value": quality, "source": "replay"})


async def _ask(http: aiohttp.ClientSession, given: Stream, number: int) -> tuple[str, float]:
    row = int(given.rows[number])
    tags = {"prompt": given.outcomes.prompt_ids[row][:256], "request": str(number)}
    body = {
        "messages": [{"role": "user", "content": given.outcomes.prompts[row]}],
        "metadata": {"request": str(number)},
        "router": {"tags": tags},
    }
    reply = await _post(http, "/v1/chat/completions", body)
    return str(reply["id"]), float(reply["choices"][0]["message"]["content"])


async def _post(http: aiohttp.ClientSession, path: str, body: dict[str, Any]) -> dict[str, Any]:
    async with http.post(path, json=body) as reply:
        found: dict[str, Any] = await reply.json()
        if reply.status != 200:
            raise RuntimeError(f"the service answered {path} with {reply.status}: {found.get('error', found)}")
        return found


def _logged(given: Stream, database: Path) -> Replayed:
    """Who served which request, as the decisions say it."""
    arms, seconds = np.full(len(given.rows), -1, dtype=np.int64), 0.0
    engine = create_engine(f"sqlite:///{database}")
    try:
        with engine.connect() as connection:
            columns = (decisions.c.detail, decisions.c.arm, decisions.c.served_arm, decisions.c.routing_s)
            for detail, arm, served, routing_s in connection.execute(select(*columns)):
                number = int(msgspec.json.decode(detail, type=Decision).caller.tags["request"])
                arms[number] = given.outcomes.models.index(served or arm)
                seconds += routing_s
    finally:
        engine.dispose()
    if (arms < 0).any():
        raise RuntimeError(
            f"{(arms < 0).sum()} of {len(arms)} requests are not in the log; each should have a decision"
        )
    return Replayed(arms, seconds)
