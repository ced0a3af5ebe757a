"""What request ids, access lines and traces cost: processor time of a chat request, with each of them and without.

Run: python -m benchmarks.tracing_cost                     about two minutes
     python -m benchmarks.tracing_cost --beside ../before  with another checkout in the same run

Servers that differ in one setting take turns on one core, so what else runs on the machine falls on all of them. The
collector is part of this program and takes everything.
"""

import argparse
import asyncio
import itertools
import os
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from benchmarks.load_client import chat_bodies, http_request, percentile, run_load
from benchmarks.load_test import CHAT, CLIENT_CORE, SERVICE_CORE, SETTINGS
from benchmarks.processes import Server, free_port

ROOT = Path(__file__).parents[1]
CONNECTIONS = 4
VARIANTS = {
    "nothing": "",
    "access lines": '[logging]\nformat = "json"\nlevels = {{ "armwise.access" = "debug" }}\n',
    "traces": '[tracing]\nendpoint = "{collector}"\n',
    "one trace in ten": '[tracing]\nendpoint = "{collector}"\nsample = 0.1\n',
}


class Collector(BaseHTTPRequestHandler):
    """Takes everything and keeps nothing."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Take a batch."""
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Write nothing."""


def started(name: str, settings: str, folder: Path, checkout: Path) -> tuple[Server, int]:
    """A running Armwise of that checkout, and its port."""
    folder.mkdir()
    (folder / "armwise.toml").write_text(settings)
    port = free_port()
    os.environ["PYTHONPATH"] = str(checkout)
    command = [sys.executable, "-m", "service", "serve", "--port", str(port)]
    server = Server(name.replace(" ", "-"), command, core=SERVICE_CORE, folder=folder)
    server.wait_until(f"http://127.0.0.1:{port}/ready")
    return server, port


async def measure(servers: dict[str, tuple[Server, int]], rounds: int, count: int) -> None:
    """Let the servers take turns and print the medians."""
    numbers = itertools.count(0, 500_000)
    cpu_ms: dict[str, list[float]] = {name: [] for name in servers}
    latencies: dict[str, list[float]] = {name: [] for name in servers}
    for number in range(rounds + 1):
        for name, (server, port) in list(servers.items())[:: 1 if number % 2 else -1]:
            bodies = chat_bodies(stream=False, pace_ms=0.0, start=next(numbers))
            requests = (http_request(CHAT, body) for body in bodies)
            before = server.usage()
            outcome = await run_load(
                port, requests, connections=CONNECTIONS, count=count, seconds=120, streamed=False, keep_ids=False
            )
            await asyncio.sleep(1.0)  # for what is sent to the collector meanwhile
            if outcome.failed:
                sys.exit(f"{outcome.failed} requests failed: {outcome.statuses}")
            if number:  # the first round warms up
                cpu_ms[name].append((server.usage().cpu_s - before.cpu_s) * 1000 / count)
                latencies[name] += outcome.latencies_ms
    print(f"{'':20} {'CPU a request (ms)':>20} {'least':>8} {'p50 (ms)':>10} {'p99 (ms)':>10}")
    for name in servers:
        found, took = sorted(cpu_ms[name]), latencies[name]
        print(
            f"{name:20} {found[len(found) // 2]:20.3f} {found[0]:8.3f} "
            f"{percentile(took, 0.5):10.2f} {percentile(took, 0.99):10.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="What request ids, access lines and traces cost.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--count", type=int, default=1000, help="requests of a round")
    parser.add_argument("--beside", type=Path, help="another checkout, measured in the same run")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {CLIENT_CORE})
    collecting = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=collecting.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory(prefix="armwise-tracing-") as temporary:
        folder = Path(temporary)
        mock_port = free_port()
        command = [sys.executable, str(ROOT / "benchmarks/mock_upstream.py"), "--port", str(mock_port)]
        mock = Server("mock", command, core=CLIENT_CORE, folder=folder)
        base = SETTINGS.format(upstream=f"http://127.0.0.1:{mock_port}/v1")
        addresses = {"collector": f"http://127.0.0.1:{collecting.server_port}"}
        kinds = [(name, ROOT, base + more.format(**addresses)) for name, more in VARIANTS.items()]
        if arguments.beside is not None:
            kinds.append(("beside", arguments.beside.resolve(), base))
        servers: dict[str, tuple[Server, int]] = {}
        try:
            mock.wait_until(f"http://127.0.0.1:{mock_port}/ready")
            for name, checkout, settings in kinds:
                servers[name] = started(name, settings, folder / name, checkout)
            asyncio.run(measure(servers, arguments.rounds, arguments.count))
        finally:
            for server in (*(server for server, _ in servers.values()), mock):
                server.stop()


if __name__ == "__main__":
    main()
