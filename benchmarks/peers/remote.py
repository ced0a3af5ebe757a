"""A peer in an environment of its own: the near end of the pipe to `worker.py`."""

import contextlib
import json
import subprocess
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, cast

from benchmarks.peers import PeerArm, Request
from benchmarks.peers.install import peers_folder, python_of

_WORKER = Path(__file__).with_name("worker.py")


class WorkerFailed(Exception):
    """A peer's process ended by itself; the message has its last words."""


class RemotePeer:
    """One router of another package. Raises NotInstalled when its environment is missing.

    Rewards are sent without waiting for an answer, in the order of events, so that a batch of them costs one switch.
    """

    def __init__(
        self, name: str, driver: str, environment: str, arms: Sequence[PeerArm], seed: int, budget_usd: float | None
    ) -> None:
        self.name = name
        self.fallbacks = 0
        self.decision_s = 0.0
        python = python_of(environment)
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [python, "-I", "-W", "ignore", _WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            encoding="utf-8",
        )
        self._requests = cast("IO[str]", self._process.stdin)
        self._answers = cast("IO[str]", self._process.stdout)
        self.close = weakref.finalize(self, _end, self._process, self._complaints)
        how = {"driver": driver, "arms": arms, "seed": seed, "budget_usd": budget_usd, "folder": str(peers_folder())}
        self._ask(how)

    def choose(self, request: Request) -> int:
        chosen, nanoseconds, failed = json.loads(self._ask(["choose", request]))
        self.decision_s += nanoseconds / 1e9
        self.fallbacks += failed
        return int(chosen)

    def learn(self, number: int, request: Request, arm: int, reward: float) -> None:
        self._tell(["learn", request, arm, reward])

    def _ask(self, message: Any) -> str:
        self._tell(message)
        try:
            self._requests.flush()
        except BrokenPipeError:
            raise self._failed() from None
        answer = self._answers.readline()
        if not answer:
            raise self._failed()
        return answer

    def _tell(self, message: Any) -> None:
        try:
            self._requests.write(json.dumps(message) + "\n")
        except BrokenPipeError:
            raise self._failed() from None

    def _failed(self) -> WorkerFailed:
        self._process.wait(timeout=60)
        self._complaints.seek(0)
        return WorkerFailed(f"{self.name}: {self._complaints.read().decode(errors='replace')[-2_000:]}")


def _end(process: subprocess.Popen[str], complaints: IO[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):  # rewards left to send to a process that is gone
                pipe.close()
    process.kill()
    process.wait()
    complaints.close()
