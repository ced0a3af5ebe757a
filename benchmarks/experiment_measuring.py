"""How long an experiment's units take: to be added up once each, and to be read and judged at every look.

Fills an empty database with an experiment's decisions, calls and ratings, closes all units and asks for the report: as
the command line does, then as a service does, beside an event loop that looks every millisecond how late it is.

    python -m benchmarks.experiment_measuring --url sqlite:////tmp/units.db --units 100000
"""

import argparse
import asyncio
import time
from functools import partial

import numpy as np
from sqlalchemy import insert

from bandit.experiments import Guardrail, Metric
from service.experiments.design import Design, Variant
from service.experiments.exposures import expose
from service.experiments.lifecycle import Asked, Begun, create, current, take
from service.experiments.measuring import close_due
from service.experiments.reporting import sentence, tell
from service.experiments.verdicts import apart
from service.storage import store
from service.storage.database import Database, migrate
from service.storage.tables import rewards

START = 1_800_000_000.0
BATCH = 5_000
TICK_S = 0.001
DESIGN = Design(
    name="pair",
    variants=(Variant(name="control", policy="a", share=0.5), Variant(name="treated", policy="b", share=0.5)),
    primary=Metric(name="quality"),
    guardrails=(Guardrail(metric="failure", limit=0.01), Guardrail(metric="late", limit=0.05)),
    window_s=100.0,
    mode="shared",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True, help="an empty database")
    parser.add_argument("--units", type=int, default=100_000)
    parser.add_argument("--requests", type=int, default=3, help="of each unit; one unit in three rates its last")
    arguments = parser.parse_args()
    migrate(arguments.url)
    asyncio.run(measured(arguments.url, arguments.units, arguments.requests))


async def measured(url, units, requests):
    database = Database(url, 1, command_timeout_s=None)
    try:
        one = await database.write(started)
        generator = np.random.default_rng(1)
        for first in range(0, units, BATCH):
            await database.write(filling(range(first, min(first + BATCH, units)), requests, generator))
        with timed(f"{units:,} units of {requests} requests are closed, once"):
            await close_due(database, one, START + 1e6)
        for _ in range(3):
            with timed("the report is read and judged"):
                told = await tell(database, one.name, START + 1e6)
        print(sentence(told))
    finally:
        await database.close()
    print(f"the event loop alone is late by {shown(await lateness(asyncio.sleep(2.0)))}")
    for _ in range(3):
        report = apart(url, partial(tell, name=one.name, now=START + 1e6))
        print(f"the event loop beside a report is late by {shown(await lateness(report))}")


async def lateness(work):
    """Milliseconds by which an event loop woke up later than it asked to, for as long as `work` is done."""
    found, done = [], asyncio.ensure_future(work)
    while not done.done():
        asked = time.perf_counter() + TICK_S
        await asyncio.sleep(TICK_S)
        found.append((time.perf_counter() - asked) * 1000)
    await done
    return found


def shown(late):
    """Quantiles in words."""
    middle, high, most = np.quantile(late, [0.5, 0.99, 1.0])
    return f"{middle:.2f} ms in the middle, {high:.2f} ms at p99, {most:.1f} ms at most, of {len(late)}"


class timed:  # noqa: N801 - reads as a word where it is used
    """Print wall and processor seconds of what is done inside."""

    def __init__(self, what):
        self.what = what

    def __enter__(self):
        self.wall, self.processor = time.perf_counter(), time.process_time()

    def __exit__(self, *error):
        wall, processor = time.perf_counter() - self.wall, time.process_time() - self.processor
        print(f"{self.what}: {wall:.2f} s, {processor:.2f} s of this process's processor")


def started(connection):
    create(connection, DESIGN, "benchmark", START - 1.0)
    take(connection, DESIGN.name, Asked(action="start"), Begun(), "benchmark", START)
    return current(connection)[DESIGN.name]


def filling(units, requests, generator):
    """Work that writes what these units did."""
    decisions, attempts, said = [], [], []
    for unit in units:
        for number in range(requests):
            name = f"chatcmpl-{unit:012d}{number:020d}"
            decisions.append({
                "id": name, "created_at": START + unit / 1_000 + number, "key_id": "", "method": "auto", "policy": "a",
                "namespace": "", "task_type": "Open QA", "tier": "simple", "arm": "small", "served_arm": None,
                "propensity": 0.5, "routing_s": 1e-4, "beliefs_version": "b", "config_version": "c", "session": "",
                "user": f"user-{unit}", "detail": "{}" * 500, "explored": False, "experiment": DESIGN.name,
                "variant": "treated" if unit % 2 else "control", "unit": f"{unit * 7_919 % 1_000_003:032d}",
            })  # fmt: skip
            attempts.append({
                "decision_id": name, "step": 0, "arm": "small", "outcome": "ok", "status": 200, "streamed": False,
                "started_at": START, "latency_s": 0.5, "first_token_s": None, "prompt_tokens": 1,
                "completion_tokens": 1, "cached_tokens": 0, "cost_usd": 0.001, "error": "",
            })  # fmt: skip
        if unit % 3 == 0:
            at = START + unit / 1_000 + requests
            said.append({
                "decision_id": name, "metric": "quality", "source": "user", "user": f"user-{unit}",
                "value": float(generator.random() < 0.7), "weight": 1.0, "channel": "thumb", "namespace": "",
                "arm": "small", "task_type": "Open QA", "tier": "simple", "hour": int(START // 3600), "comment": "",
                "detail": "{}", "created_at": at, "updated_at": at,
            })  # fmt: skip

    def work(connection):
        store.insert_decisions(connection, decisions)
        expose(connection, decisions)
        store.insert_attempts(connection, attempts)
        connection.execute(insert(rewards), said)

    return work


if __name__ == "__main__":
    main()
