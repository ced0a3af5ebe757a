"""A real Prometheus that scrapes a real run of the service under traffic: chats, streams, thumbs, failures, budgets."""

import asyncio
import contextlib
import itertools
import json
import math
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import aiohttp
import yaml

from service.demo.demo import prompts
from service.serving import listen

ROOT = Path(__file__).parents[2]

SETTINGS = """
[database]
url = "sqlite:///armwise.db"

[classifier]
kind = "embedded"
embedded = "embedding"

[routing]
policy = "thrifty"

[[drift.canaries]]
name = "capital"
prompt = "What is the capital of Australia?"
expects = "(?i)canberra"
every_s = 1.0

[experiments]
look_every_s = 1.0

[holdout]
share = 0.05
model = "large"

[judge]
model = "large"
share = 0.5

[[models]]
name = "small"
provider = "simulated"
tier = "small"
price_in = 0.02
price_out = 0.05

[[models]]
name = "shaky"
provider = "simulated"
tier = "medium"
price_in = 0.5
price_out = 1.5
error_rate = 0.4
error = "rate_limited"

[[models]]
name = "large"
provider = "simulated"
tier = "large"
price_in = 1.25
price_out = 10.0

[[policies]]
name = "thrifty"
kind = "pooled_thompson"
floor = 0.3
objective = "budget"
usd_per_request = 0.002
late_after_s = 1.0

[[policies]]
name = "daily"
kind = "pooled_thompson"
objective = "budget"
usd_per_day = 50.0
"""

EXPERIMENT = {
    "name": "thrift",
    "variants": [
        {"name": "thrifty", "policy": "thrifty", "share": 0.5},
        {"name": "daily", "policy": "daily", "share": 0.5},
    ],
    "primary": {"name": "quality"},
    "minimum_s": 3600.0,
    "window_s": 3.0,
    "grace_s": 5.0,
}


def free_port():
    with listen("127.0.0.1", 0) as found:
        return found.getsockname()[1]


def fetched(url):
    """What a page says, None while nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=30) as reply:  # noqa: S310 - a port of ours
            return reply.read().decode()
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return None


@contextlib.contextmanager
def process(arguments, folder, ready):
    """A program that runs until the end; it is ready when a page of it answers."""
    with (folder / "log.txt").open("w") as log:
        started = subprocess.Popen([*map(str, arguments)], cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 120
        while fetched(ready) is None:
            assert started.poll() is None, (folder / "log.txt").read_text()
            assert time.monotonic() < deadline, (folder / "log.txt").read_text()
            time.sleep(0.1)
        yield
    finally:
        started.terminate()
        started.wait(60)


@contextlib.contextmanager
def service(folder):
    """The service as `armwise serve` starts it; its port."""
    folder.mkdir()
    (folder / "armwise.toml").write_text(SETTINGS)
    port = free_port()
    with process([sys.executable, "-m", "service", "serve", "--port", port], folder, f"http://127.0.0.1:{port}/ready"):
        yield port


class Prometheus:
    """Answers queries."""

    def __init__(self, url):
        self.url = url

    def samples(self, query):
        """What a query gives now: labels and a number, NaN left out."""
        page = fetched(f"{self.url}/api/v1/query?" + urllib.parse.urlencode({"query": query}))
        assert page is not None, query
        found = ((sample["metric"], float(sample["value"][1])) for sample in json.loads(page)["data"]["result"])
        return [(labels, value) for labels, value in found if not math.isnan(value)]


@contextlib.contextmanager
def prometheus(folder, target):
    """A Prometheus with the configuration and rules that are deployed, quicker, and with one target."""
    shutil.copytree(ROOT / "deploy/prometheus", folder)
    configuration = yaml.safe_load((folder / "prometheus.yml").read_text())
    configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    (job,) = configuration["scrape_configs"]
    del job["dns_sd_configs"]
    job["static_configs"] = [{"targets": [f"127.0.0.1:{target}"]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    address = f"127.0.0.1:{free_port()}"
    arguments = [
        "prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data", f"--web.listen-address={address}",
        "--log.level=warn",
    ]  # fmt: skip
    with process(arguments, folder, f"http://{address}/-/ready"):
        yield Prometheus(f"http://{address}")


@contextlib.contextmanager
def traffic(port):
    """Callers, in a thread of their own, until the end; what went wrong there is raised here."""
    ended = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        calling = pool.submit(lambda: asyncio.run(_call(f"http://127.0.0.1:{port}", ended)))
        try:
            yield calling
        finally:
            ended.set()
            calling.result(60)


async def _call(url, ended):
    asked = itertools.cycle([(kind, text) for kind, texts in prompts().items() for text in texts[:4]])
    async with aiohttp.ClientSession(url) as http:
        for path, said in (("", EXPERIMENT), ("/thrift/start", {})):
            async with http.post(f"/v1/experiments{path}", json=said) as reply:
                assert reply.status in {200, 201}, await reply.text()
        for number, (kind, text) in enumerate(asked):
            if ended.is_set():
                return
            simulate = {"task_type": kind}
            if number % 11 == 5:
                simulate["fail"] = "server_error"  # every model: the caller is told 5xx
            if number % 7 == 3:
                simulate["reply"] = "I'm sorry, but I can't help with that."
            body = {
                "messages": [{"role": "user", "content": f"{text} ({number})"}],  # else the classifier knows it
                "simulate": simulate,
                "stream": number % 4 == 0,
                "user": f"user-{number}",
            }
            if number % 29 == 9:
                del body["user"]  # so it can be in no variant
            for _ in range(2 if number % 13 == 1 else 1):  # now and then somebody asks the same again
                async with http.post("/v1/chat/completions", json=body) as reply:
                    await reply.read()
                    decision, status = reply.headers.get("x-armwise-decision-id"), reply.status
            if status == 200 and number % 3 != 0:
                thumb = {"decision_id": decision, "value": float(number % 5 != 0), "user": f"user-{number}"}
                async with http.post("/feedback", json=thumb) as reply:
                    await reply.read()
            if number % 17 == 2:
                async with http.post("/feedback", json={"decision_id": "unknown", "value": 1.0}) as reply:
                    await reply.read()
            await asyncio.sleep(0.05)
