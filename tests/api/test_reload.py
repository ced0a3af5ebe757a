"""Changing the settings file under traffic: nothing is lost, neither a request nor what was learned."""

import asyncio
import os
import signal
import subprocess
import sys

import aiohttp
import pytest

from service.configuration import read_settings

MESSAGES = [{"role": "user", "content": "Name three rivers."}]
GOOD = {"simulate": {"quality": 1.0}}  # no heuristic counts a failure beside the thumbs


def toml(database, models):
    lines = ["[database]", f'url = "{database}"']
    for name, price in models.items():
        lines += ["[[models]]", f'name = "{name}"', 'provider = "simulated"', f"price_out = {price}"]
    return "\n".join(lines)


@pytest.fixture
def configured(tmp_path, database_url):
    """A settings file, and a function that rewrites it with other models."""
    path = tmp_path / "armwise.toml"
    database = database_url

    def write(**models):
        path.write_text(toml(database, models))
        return path

    write.database = database
    return write


@pytest.fixture
def running(configured, run):
    path = configured(one=1.0, two=2.0)
    settings = read_settings(path, {})
    return run(configured.database, config=path, models=settings.models)


async def test_reload_adds_removes_and_reprices_models_under_traffic(configured, running):
    statuses = []
    stop = asyncio.Event()

    async def traffic(http):
        while not stop.is_set():
            async with http.post("/v1/chat/completions", json={"messages": MESSAGES, **GOOD}) as reply:
                statuses.append(reply.status)
                if reply.status == 200:
                    last = (await reply.json())["id"]
            async with http.post("/feedback", json={"decision_id": last, "value": True}) as reply:
                statuses.append(reply.status)

    async with aiohttp.ClientSession(running.url) as http:
        clients = [asyncio.create_task(traffic(http)) for _ in range(4)]
        for models in ({"two": 5.0, "three": 1.0}, {"three": 1.0}, {"one": 1.0, "two": 2.0, "three": 3.0}):
            await asyncio.sleep(0.1)
            configured(**models)
            async with http.post("/admin/reload") as reply:
                assert reply.status == 200
                assert (await reply.json())["changes"]
            async with http.get("/v1/models") as reply:
                names = {entry["id"] for entry in (await reply.json())["data"]}
            assert {name for name in names if not name.startswith("auto")} == set(models)
        stop.set()
        await asyncio.gather(*clients)
        assert set(statuses) == {200}
        async with http.get("/v1/posteriors") as reply:
            cells = (await reply.json())["cells"]
    assert sum(cell["n"] for cell in cells) == len(statuses) // 2


async def test_a_file_with_mistakes_changes_nothing_and_says_all_of_them(configured, running):
    path = configured(one=1.0)
    path.write_text(path.read_text() + '\ncolour = "red"\nprice_in = -1.0\n')
    async with aiohttp.ClientSession(running.url) as http:
        async with http.post("/admin/reload") as reply:
            assert reply.status == 400
            message = (await reply.json())["error"]["message"]
        assert "colour" in message
        assert "price_in" in message
        async with http.get("/v1/models") as reply:
            assert "two" in {entry["id"] for entry in (await reply.json())["data"]}


def test_reload_keeps_what_was_learned_about_a_removed_model(configured, running):
    async def through():
        async with aiohttp.ClientSession(running.url) as http:
            async with http.post("/v1/chat/completions", json={"messages": MESSAGES, "model": "one", **GOOD}) as reply:
                decision_id = (await reply.json())["id"]
            async with http.post("/feedback", json={"decision_id": decision_id, "value": True}) as reply:
                assert reply.status == 200
            counts = []
            for models in ({"two": 2.0}, {"one": 1.0, "two": 2.0}):
                configured(**models)
                async with http.post("/admin/reload") as reply:
                    assert reply.status == 200
                async with http.get("/v1/posteriors") as reply:
                    counts.append(sum(cell["n"] for cell in (await reply.json())["cells"]))
            return counts

    assert asyncio.run(through()) == [0, 1]


@pytest.mark.parametrize("workers", [1, 2])
async def test_sighup_reads_the_settings_again(configured, tmp_path, workers, free_port):
    path = configured(one=1.0)
    command = [sys.executable, "-m", "service", "serve", "--config", str(path), "--port", str(free_port)]
    process = subprocess.Popen([*command, "--workers", str(workers)], cwd=tmp_path, env={**os.environ})
    url = f"http://127.0.0.1:{free_port}"
    try:
        assert await model_names(url, {"one"}) == {"one"}
        configured(one=1.0, two=2.0)
        process.send_signal(signal.SIGHUP)
        assert await model_names(url, {"one", "two"}) == {"one", "two"}
    finally:
        process.terminate()
        assert process.wait(30) in {0, -signal.SIGTERM}


async def model_names(url, wanted):
    """The models served, once eight answers in a row agree on `wanted`, or after 30 seconds."""
    names, agreeing = set(), 0
    for _ in range(600):
        try:
            async with aiohttp.ClientSession(url) as http, http.get("/v1/models") as reply:
                names = {entry["id"] for entry in (await reply.json())["data"] if not entry["id"].startswith("auto")}
        except aiohttp.ClientError:
            names = set()
        agreeing = agreeing + 1 if names == wanted else 0
        if agreeing == 8:
            break
        await asyncio.sleep(0.05)
    return names
