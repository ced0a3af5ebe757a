"""What Armwise costs: latency, CPU and memory beside a bare passthrough on the same stack, in the same run.

Run: python -m benchmarks.load_test            under five minutes
     python -m benchmarks.load_test --quick    under a minute, for the pipeline
     python -m benchmarks.load_test --soak     200,000 requests more, for growth
     python -m benchmarks.load_test --profile  also where the CPU goes, by py-spy when it is installed
     python -m benchmarks.load_test --beside FOLDER   another checkout, with its own .venv, in the same run

The server under test has core 0 for itself; the mock upstream and this client share core 1. Armwise runs with what a
real installation has: a key, the embedded classifier, Thompson sampling, heuristics, learning, and SQLite.
"""

import argparse
import asyncio
import contextlib
import gc
import importlib.metadata
import itertools
import math
import os
import platform
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import uvloop

from benchmarks.load_client import Outcome, chat_bodies, feedback_bodies, http_request, percentile, run_load
from benchmarks.load_report import Table, doubts, faults, summary, table
from benchmarks.processes import Server, free_port, machine
from benchmarks.sampling import sampled

SERVICE_CORE, CLIENT_CORE = 0, 1
SETTLE_S = 0.3  # after a load, for the work that a server does after its replies
CHAT = "/v1/chat/completions"
MOST = 450_000  # requests of one load; their numbers must not reach those of the next
SOAK_S = 1200.0  # a soak ends then, whatever it has sent
HERE = Path(__file__).parent
ROOT = HERE.parent
RESULTS = HERE / "results"
LOCAL = RESULTS / "local"  # not kept in git
PACKAGES = ("litestar", "uvicorn", "uvloop", "httptools", "aiohttp", "msgspec", "sqlalchemy", "numpy", "scipy")

SETTINGS = """\
[database]
url = "sqlite:///{database}"

[[models]]
name = "small"
provider = "openai_compatible"
base_url = "{upstream}"
tier = "small"
price_in = 0.02
price_out = 0.05

[[models]]
name = "medium"
provider = "openai_compatible"
base_url = "{upstream}"
tier = "medium"
price_in = 0.5
price_out = 1.5

[[models]]
name = "large"
provider = "openai_compatible"
base_url = "{upstream}"
tier = "large"
price_in = 1.25
price_out = 10.0
"""


class Cell(NamedTuple):
    """One kind of load."""

    name: str
    connections: int
    streamed: bool = False
    pace_ms: float = 0.0


CELLS = (
    Cell("plain, 1 connection", 1),
    Cell("plain, 16 connections", 16),
    Cell("stream in a burst, 1 connection", 1, streamed=True),
    Cell("stream in a burst, 16 connections", 16, streamed=True),
    Cell("stream paced 2 ms, 16 connections", 16, streamed=True, pace_ms=2.0),
)
SATURATING, BURSTS = CELLS[1], CELLS[3]


class Target(NamedTuple):
    """Something that answers chat requests."""

    name: str
    port: int
    server: Server
    key: str = ""


class Measured(msgspec.Struct):
    """One target under one kind of load, all rounds together."""

    statuses: Counter[int] = msgspec.field(default_factory=Counter)
    failed: int = 0
    latencies_ms: list[float] = []
    first_byte_ms: list[float] = []
    per_second: list[float] = []  # one for each round
    cpu_s: float = 0.0
    seconds: float = 0.0

    def add(self, outcome: Outcome, cpu_s: float) -> None:
        """Count one round."""
        self.statuses += outcome.statuses
        self.failed += outcome.failed
        self.latencies_ms += outcome.latencies_ms
        self.first_byte_ms += outcome.first_byte_ms
        self.per_second.append(outcome.per_second)
        self.cpu_s += cpu_s
        self.seconds += outcome.seconds

    def summary(self) -> dict[str, Any]:
        """The figures that are kept."""
        count = len(self.latencies_ms)
        return {
            "requests": self.statuses.total(),
            "failed": self.failed,
            "statuses": {str(status): number for status, number in sorted(self.statuses.items())},
            "per_second": statistics.median(self.per_second),
            "per_second_rounds": self.per_second,
            "p50_ms": percentile(self.latencies_ms, 0.5),
            "p99_ms": percentile(self.latencies_ms, 0.99),
            "first_byte_p50_ms": percentile(self.first_byte_ms, 0.5),
            "first_byte_p99_ms": percentile(self.first_byte_ms, 0.99),
            "cpu_ms": self.cpu_s * 1000 / count if count else math.nan,
            "core_share": self.cpu_s / self.seconds if self.seconds else math.nan,
        }


class Bench:
    """The servers, and the loads on them. Every request of a bench is another text."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.servers: list[Server] = []
        self._numbers = itertools.count(0, 500_000)  # see MOST

    def start(self, name: str, command: list[str], port: int, core: int = SERVICE_CORE) -> Target:
        """Start a server and wait until it is ready."""
        server = Server(name, command, core=core, folder=self.folder)
        self.servers.append(server)
        server.wait_until(f"http://127.0.0.1:{port}/ready")
        return Target(name, port, server)

    def start_targets(self, services: Mapping[str, Path]) -> dict[str, Target]:
        """The mock itself, the passthrough, and the `armwise` commands that are named."""
        mock_port, bare_port = free_port(), free_port()
        upstream = f"http://127.0.0.1:{mock_port}/v1"
        mock = [sys.executable, str(HERE / "mock_upstream.py"), "--port", str(mock_port)]
        bare = [sys.executable, str(HERE / "passthrough.py"), "--port", str(bare_port), "--upstream", upstream]
        targets = [self.start("direct", mock, mock_port, CLIENT_CORE), self.start("passthrough", bare, bare_port)]
        targets += [self.start_service(name, armwise, upstream) for name, armwise in services.items()]
        return {target.name: target for target in targets}

    def start_service(self, name: str, armwise: Path, upstream: str) -> Target:
        """Armwise, with a database and a key of its own."""
        port, config = free_port(), self.folder / f"{name}.toml"
        config.write_text(SETTINGS.format(upstream=upstream, database=self.database(name)))
        made = subprocess.run(
            [armwise, "key", "create", "--config", config, "--name", "load"],
            cwd=self.folder,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        command = [str(armwise), "serve", "--config", str(config), "--port", str(port), "--workers", "1"]
        return self.start(name, command, port)._replace(key=made.stdout.strip())

    def database(self, name: str) -> Path:
        """Where a service keeps what it stores."""
        return self.folder / f"{name}.db"

    def stop(self) -> None:
        """End all servers."""
        for server in reversed(self.servers):
            server.stop()

    async def load(self, target: Target, cell: Cell, *, count: int, seconds: float, keep_ids: bool = False) -> Outcome:
        """One load of chat requests."""
        bodies = chat_bodies(stream=cell.streamed, pace_ms=cell.pace_ms, start=next(self._numbers))
        return await run_load(
            target.port,
            (http_request(CHAT, body, target.key) for body in bodies),
            connections=cell.connections,
            count=count,
            seconds=seconds,
            streamed=cell.streamed,
            keep_ids=keep_ids,
        )

    async def warm_up(self, targets: dict[str, Target], count: int) -> None:
        """What is compiled, opened or learned at first use is not measured."""
        for target, cell in itertools.product(targets.values(), (SATURATING, BURSTS)):
            await self.load(target, cell, count=count, seconds=20)

    async def compare(self, targets: dict[str, Target], rounds: int, seconds: float) -> tuple[Table, list[str]]:
        """All cells on all targets in turn, each round in the other order; and the ids of Armwise's replies."""
        measured = {cell.name: {name: Measured() for name in targets} for cell in CELLS}
        ids: list[str] = []
        for number in range(rounds):
            order = list(targets.values())[:: 1 if number % 2 == 0 else -1]
            for cell, target in itertools.product(CELLS, order):
                keep_ids = cell is SATURATING and target.name == "armwise"
                before = target.server.usage()
                outcome = await self.load(target, cell, count=MOST, seconds=seconds, keep_ids=keep_ids)
                await asyncio.sleep(SETTLE_S)
                measured[cell.name][target.name].add(outcome, target.server.usage().cpu_s - before.cpu_s)
                ids += outcome.ids
        return {cell: {name: one.summary() for name, one in row.items()} for cell, row in measured.items()}, ids

    async def give_feedback(self, target: Target, ids: list[str], seconds: float) -> dict[str, Any]:
        """Rate each decision once, 64 at a time; then look in the database for what was acknowledged."""
        before = target.server.usage()
        requests = (http_request("/feedback", body, target.key) for body in feedback_bodies(ids))
        outcome = await run_load(target.port, requests, connections=64, count=len(ids), seconds=seconds)
        database = sqlite3.connect(f"file:{self.database(target.name)}?mode=ro", uri=True)
        with contextlib.closing(database):
            stored = database.execute("SELECT count(*) FROM rewards WHERE source != 'heuristics'").fetchone()[0]
            decisions = database.execute("SELECT count(*) FROM decisions").fetchone()[0]
        await asyncio.sleep(SETTLE_S)
        measured = Measured()
        measured.add(outcome, target.server.usage().cpu_s - before.cpu_s)
        return {**measured.summary(), "acknowledged": outcome.succeeded, "stored": stored, "decisions": decisions}

    async def soak(self, target: Target, count: int, seconds: float) -> dict[str, Any]:
        """Memory and speed over `count` requests at concurrency 16, in ten parts."""
        parts: list[dict[str, float]] = []
        failed = 0
        started = time.monotonic()
        for _ in range(10):
            left = seconds - (time.monotonic() - started)
            if left <= 0:
                break
            before = target.server.usage()
            outcome = await self.load(target, SATURATING, count=count // 10, seconds=left)
            failed += outcome.failed
            usage = target.server.usage()
            cpu_ms = (usage.cpu_s - before.cpu_s) * 1000 / max(1, outcome.succeeded)
            p99_ms = percentile(outcome.latencies_ms, 0.99)
            part = {
                "requests": outcome.statuses.total(),
                "rss_mb": usage.rss_mb,
                "per_second": outcome.per_second,
                "cpu_ms": cpu_ms,
                "p99_ms": p99_ms,
            }
            parts.append(part)
            print("  soak: " + "  ".join(f"{name} {value:.4g}" for name, value in part.items()), flush=True)
        # The first two parts fill pools and caches; growth is what comes after.
        growth = parts[-1]["rss_mb"] - parts[1]["rss_mb"] if len(parts) > 2 else math.nan
        return {"parts": parts, "failed": failed, "growth_mb": growth}

    async def profile(self, target: Target, cell: Cell, seconds: int) -> str:
        """Where the CPU goes under one kind of load."""
        async with sampled(target.server.process.pid, seconds, self.folder) as report:
            await self.load(target, cell, count=MOST, seconds=seconds + 2)
        return f"{cell.name}: {report.read_text()}"


def circumstances(arguments: argparse.Namespace) -> dict[str, Any]:
    """What must be known to repeat a run."""
    return {
        "taken_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no", "--", "service", "bandit")),
        "arguments": {name: value for name, value in vars(arguments).items() if name not in {"out", "beside"}},
        "beside": _git("rev-parse", "HEAD", folder=arguments.beside) if arguments.beside else "",
        "settings": SETTINGS,
        "machine": machine(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def _git(*command: str, folder: Path = ROOT) -> str:
    return subprocess.run(["git", *command], cwd=folder, capture_output=True, text=True, check=False).stdout.strip()


async def run(arguments: argparse.Namespace) -> int:
    """The whole test; the exit status."""
    rounds, seconds = (1, 1.5) if arguments.quick else (3, 4.0)
    gc.collect()
    gc.freeze()
    with tempfile.TemporaryDirectory(prefix="armwise-load-") as name:
        bench = Bench(Path(name))
        try:
            services = {} if arguments.tools_only else {"armwise": Path(sys.executable).with_name("armwise")}
            if arguments.beside:
                services["beside"] = arguments.beside.absolute() / ".venv" / "bin" / "armwise"
            targets = bench.start_targets(services)
            service = targets.get("armwise")
            await bench.warm_up(targets, 300 if arguments.quick else 2000)
            cells, ids = await bench.compare(targets, rounds, seconds)
            results: dict[str, Any] = {"cells": cells}
            if service:
                results["feedback"] = await bench.give_feedback(service, ids, seconds * 2)
                if arguments.soak:
                    results["soak"] = await bench.soak(service, arguments.requests, SOAK_S)
                if arguments.profile:
                    for cell in (SATURATING, BURSTS):
                        print(await bench.profile(service, cell, 10))
            results["rss_mb"] = {target.name: target.server.usage().rss_mb for target in targets.values()}
        finally:
            bench.stop()
    lines = summary(results)
    print(table(lines))
    if not arguments.tools_only:
        out = arguments.out or (LOCAL if arguments.quick else RESULTS) / "load_test.json"
        out.parent.mkdir(parents=True, exist_ok=True)
        content = msgspec.json.encode({**circumstances(arguments), "summary": lines, **results})
        out.write_bytes(msgspec.json.format(content, indent=1) + b"\n")
    print("\n".join(doubts(results)), file=sys.stderr)
    if broken := faults(results):
        print("\n".join(broken), file=sys.stderr)
        return 1
    return 2 if arguments.strict and any(line.within is False for line in lines) else 0


def main() -> None:
    parser = argparse.ArgumentParser(description="What Armwise costs, beside a bare passthrough on the same stack.")
    parser.add_argument("--quick", action="store_true", help="one short round of everything, under a minute")
    parser.add_argument("--soak", action="store_true", help="then look for growth over many requests")
    parser.add_argument("--requests", type=int, default=200_000, help="of the soak (default: %(default)s)")
    parser.add_argument("--profile", action="store_true", help="then show where the CPU goes (needs py-spy)")
    parser.add_argument("--beside", type=Path, metavar="FOLDER", help="a checkout with a .venv, to be compared")
    parser.add_argument("--tools-only", action="store_true", help="mock and passthrough alone")
    parser.add_argument("--strict", action="store_true", help="exit with 2 when a budget is not kept")
    parser.add_argument("--out", type=Path, help="file for the figures (default: benchmarks/results/load_test.json)")
    arguments = parser.parse_args()
    if (os.cpu_count() or 1) < 2:
        sys.exit("The load test needs two cores: one for the server under test, one for the mock and the client.")
    os.sched_setaffinity(0, {CLIENT_CORE})
    sys.exit(uvloop.run(run(arguments)))


if __name__ == "__main__":
    main()
