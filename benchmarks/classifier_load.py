"""What the whole service does with NVIDIA's classifier under load: requests, fallbacks, the event loop, memory, start.

Run: python -m benchmarks.classifier_load                    about a minute; makes a random model of the real size first
     python -m benchmarks.classifier_load --weights FOLDER   any folder with weights

`armwise serve` runs in a process of its own on all cores, with learning and SQLite; the upstream is simulated. 32
callers send chats of 6 to 120 tokens, as long as one of `MIXES` says, every text another one, so that no answer comes
from the cache. The event loop's delay is measured twice: inside the service, twenty times a second
(armwise_event_loop_delay_seconds), and from outside, as the time of GET /health on a connection of its own, by a
process of its own.
"""

import argparse
import asyncio
import http.client
import itertools
import json
import multiprocessing
import os
import re
import sys
import tempfile
import time
import urllib.request
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.classifier_variants import MIXES, Texts
from benchmarks.load_client import http_request, percentile, run_load
from benchmarks.processes import Server, free_port, machine
from benchmarks.random_classifier import build
from service.classifiers.nvidia import load_nvidia
from service.classifiers.nvidia.checkpoint import open_checkpoint
from service.classifiers.nvidia.gate import Verdict, record, subject_of
from service.classifiers.nvidia.tokens import Tokenizer

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "classifier_load.json"
MOST_PER_SECOND = 300  # texts that are made for a run: if more were read, some would come from the cache
WARM_UP_S = 2.0
TARGETS = {
    "classified by the model, per second": (150.0, "at least"),
    "event loop delay p99, ms": (5.0, "less than"),
    "resident memory, MB": (900.0, "less than"),
}

SETTINGS = """\
[database]
url = "sqlite:///classifier_load.db"

[classifier]
kind = "{kind}"
weights = "{weights}"
precision = "{precision}"
workers = {workers}

[[models]]
name = "small"
provider = "openai_compatible"
base_url = "{upstream}"
tier = "small"

[[models]]
name = "large"
provider = "openai_compatible"
base_url = "{upstream}"
tier = "large"
"""


def texts(tokenizer: Tokenizer, count: int, mix: str = "chat") -> list[str]:
    """Different texts of 6 to 120 tokens, as long as one of `MIXES` says; the same in every run."""
    mixed = Texts(lambda text: tokenizer.encode(text).tokens).mixed(mix)
    found: dict[str, None] = {}
    while len(found) < count:
        found[next(mixed)] = None
    return list(found)


def body(text: str) -> bytes:
    return msgspec.json.encode({"model": "auto", "messages": [{"role": "user", "content": text}]})


def probe(port: int, pipe: Connection) -> None:
    """In a process of its own: how long /health takes, every 10 ms, until told to end."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    took = []
    while not pipe.poll(0.01):
        started = time.perf_counter()
        connection.request("GET", "/health")
        connection.getresponse().read()
        took.append((time.perf_counter() - started) * 1000)
    pipe.send(took)


def get(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as reply:
        return bytes(reply.read())


def samples(port: int) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """All metrics of the service."""
    text = get(port, "/metrics").decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def quantile(buckets: dict[float, float], share: float) -> float:
    """As Prometheus reads it: linear within the bucket it falls into. NaN without values."""
    total = max(buckets.values(), default=0.0)
    before, count = 0.0, 0.0
    for bound, cumulated in sorted(buckets.items()):
        if total and cumulated >= share * total:
            inside = cumulated - count
            return before + (bound - before) * ((share * total - count) / inside if inside else 1.0)
        before, count = bound, cumulated
    return float("nan")


def memory(pid: int) -> dict[str, float]:
    """Resident memory of a process in MB: now, at most, its own, and pages of files that it shares."""
    status = Path(f"/proc/{pid}/status").read_text()
    names = {"VmRSS": "resident", "VmHWM": "most", "RssAnon": "own", "RssFile": "of_files"}
    return {name: int(re.search(rf"{key}:\s+(\d+)", status)[1]) / 1024 for key, name in names.items()}  # type: ignore[index]


class Bench:
    """The simulated upstream, and one service after another."""

    def __init__(self, folder: Path, weights: Path, seconds: float, mix: str) -> None:
        self.folder = folder
        self.weights = weights
        count = round(MOST_PER_SECOND * (seconds + WARM_UP_S))
        self.texts = texts(open_checkpoint(weights).tokenizer, count, mix)
        self.cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
        self.upstream = free_port()
        command = [sys.executable, str(HERE / "mock_upstream.py"), "--port", str(self.upstream)]
        self.mock = Server("upstream", command, core=self.cores, folder=folder)
        self.mock.wait_until(f"http://127.0.0.1:{self.upstream}/")

    def start(self, kind: str, precision: str, workers: int) -> tuple[Server, int, dict[str, float]]:
        """A service, its port, and how long it took to be ready and to have its classifier."""
        port = free_port()
        config = self.folder / f"{kind}.toml"
        upstream = f"http://127.0.0.1:{self.upstream}/v1"
        config.write_text(
            SETTINGS.format(kind=kind, precision=precision, workers=workers, weights=self.weights, upstream=upstream)
        )
        command = [
            str(Path(sys.executable).with_name("armwise")),
            "serve",
            "--config",
            str(config),
            "--port",
            str(port),
        ]
        started = time.perf_counter()
        server = Server(f"armwise-{kind}", command, core=self.cores, folder=self.folder)
        took: dict[str, float] = {}
        while "swapped_s" not in took:
            time.sleep(0.01)
            if server.process.poll() is not None:
                raise RuntimeError(server.log.read_text())
            try:
                ready = json.loads(get(port, "/ready"))
            except OSError:
                continue
            took.setdefault("ready_s", time.perf_counter() - started)
            if ready["classifier_state"] == "failed":
                raise RuntimeError(ready["classifier_why"])
            if ready["classifier_state"] == "serving":
                took["swapped_s"] = time.perf_counter() - started
                took["classifier"] = ready["classifier"]
        return server, port, took

    async def measure(self, kind: str, precision: str, workers: int, callers: int, seconds: float) -> dict[str, Any]:
        """One service under load."""
        server, port, took = self.start(kind, precision, workers)
        try:
            requests = (http_request("/v1/chat/completions", body(text)) for text in itertools.cycle(self.texts))
            await run_load(
                port, requests, connections=callers, count=10**9, seconds=WARM_UP_S
            )  # what is made at first use
            ours, theirs = multiprocessing.Pipe()
            watching = multiprocessing.Process(target=probe, args=(port, theirs))
            before, used = samples(port), server.usage()
            watching.start()
            outcome = await run_load(port, requests, connections=callers, count=10**9, seconds=seconds)
            ours.send("end")
            health = await asyncio.to_thread(ours.recv)
            watching.join()
            after, spent = samples(port), server.usage()
            figures = {**took, **_figures(before, after, outcome.seconds)}
            figures |= {
                "callers": callers,
                "requests_per_second": outcome.per_second,
                "failed": outcome.failed,
                "latency_ms": _spread(outcome.latencies_ms),
                "health_ms": _spread(health),
                "cores_used": (spent.cpu_s - used.cpu_s) / outcome.seconds,
                "memory_mb": memory(server.process.pid),
            }
        finally:
            server.stop()
        return figures


def _spread(values: list[float]) -> dict[str, float]:
    return {name: percentile(values, share) for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))}


def _figures(before: dict[Any, float], after: dict[Any, float], seconds: float) -> dict[str, Any]:
    """What the service's own metrics say of the time between two looks at them."""

    def grown(name: str, label: str) -> dict[str, float]:
        found: dict[str, float] = {}
        for (metric, labels), value in after.items():
            if metric == name and value > before.get((metric, labels), 0.0):
                key = dict(labels).get(label, "")
                found[key] = found.get(key, 0.0) + value - before.get((metric, labels), 0.0)
        return found

    def spread(name: str) -> dict[str, float]:
        buckets = {float(bound): value for bound, value in grown(f"{name}_bucket", "le").items()}
        return {f"p{share:g}": quantile(buckets, share / 100) * 1000 for share in (50, 95, 99)}

    classified = grown("armwise_classifications_total", "classifier")
    return {
        "classified": classified,
        "by_model_per_second": classified.get("nvidia", 0.0) / seconds,
        "fallbacks": grown("armwise_classifier_fallbacks_total", "reason"),
        "lookups": grown("armwise_classifier_lookups_total", "found"),
        "loop_delay_ms": spread("armwise_event_loop_delay_seconds"),
        "queue_ms": spread("armwise_classifier_queue_seconds"),
        "inference_ms": spread("armwise_classifier_inference_seconds"),
    }


def prepare(weights: Path, precision: str) -> None:
    """Export the model, and let a precision serve that was never compared with fp32: the weights are random."""
    loaded = load_nvidia(weights, precision=precision, gated=False)  # type: ignore[arg-type]
    if precision != "fp32":
        verdict = Verdict(
            prompts=0, task_agreement=1.0, mean_complexity_error=0.0, max_complexity_error=0.0, tier_flips=0,
            near_flips=0, max_probability_error=0.0, prompt_set="a benchmark, not compared", passed=True,
        )  # fmt: skip
        record(subject_of(weights, loaded.digest, "onnx", "cpu"), [verdict])


def judged(figures: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The figures that have a target."""
    found = {
        "classified by the model, per second": figures["by_model_per_second"],
        "event loop delay p99, ms": figures["loop_delay_ms"]["p99"],
        "resident memory, MB": figures["memory_mb"]["resident"],
    }
    return {
        name: {
            "found": value,
            "target": f"{TARGETS[name][1]} {TARGETS[name][0]:g}",
            "met": value >= TARGETS[name][0] if TARGETS[name][1] == "at least" else value < TARGETS[name][0],
        }
        for name, value in found.items()
    }


async def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """All services in turn."""
    with tempfile.TemporaryDirectory(prefix="armwise-classifier-load-") as name:
        folder = Path(name)
        weights = (arguments.weights or build(folder / "weights", "full")).resolve()
        # In a process of its own: its memory and threads are none of ours.
        preparing = multiprocessing.get_context("spawn").Process(target=prepare, args=(weights, arguments.precision))
        preparing.start()
        await asyncio.to_thread(preparing.join)
        if preparing.exitcode:
            sys.exit("The model could not be exported.")
        bench = Bench(folder, weights, arguments.seconds, arguments.mix)
        try:
            measure = (arguments.workers, arguments.callers, arguments.seconds)
            nvidia = await bench.measure("nvidia", arguments.precision, *measure)
            embedded = await bench.measure("embedded", arguments.precision, *measure)
        finally:
            bench.mock.stop()
    return {"targets": judged(nvidia), "nvidia": nvidia, "embedded": embedded}


def main() -> None:
    parser = argparse.ArgumentParser(description="NVIDIA's classifier in the whole service, under load.")
    parser.add_argument("--weights", type=Path, help="folder with weights (default: random ones of the real size)")
    parser.add_argument("--precision", default="int8", choices=["int8", "fp32"])
    parser.add_argument("--mix", default="chat", choices=MIXES, help="how long prompts are (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="threads that read (default: %(default)s)")
    parser.add_argument("--callers", type=int, default=32, help="at the same time (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of load (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="file for the figures (default: %(default)s)")
    arguments = parser.parse_args()
    results = uvloop.run(run(arguments))
    shown = {name: str(value) for name, value in vars(arguments).items() if name != "out"}
    content = {"machine": machine(), "arguments": shown, **results}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n")
    print(msgspec.json.format(msgspec.json.encode(results), indent=1).decode())


if __name__ == "__main__":
    main()
