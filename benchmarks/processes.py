"""Servers under test: start them on a core of their own, and read what they use from /proc (Linux)."""

import os
import re
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import msgspec

_TICKS = os.sysconf("SC_CLK_TCK")
START_S = 60.0  # how long a server may take to answer for the first time
STOP_S = 40.0  # how long it may take to end


class Usage(msgspec.Struct, frozen=True):
    """What a server and its children have used so far, and hold now."""

    cpu_s: float  # user and system time, all threads
    rss_mb: float  # resident memory


class Server:
    """One server process, pinned to `core` or a list such as "0,1", its output in `log`."""

    def __init__(self, name: str, command: Sequence[str], *, core: int | str, folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                ["taskset", "-c", str(core), *command], cwd=folder, stdout=output, stderr=subprocess.STDOUT
            )

    def wait_until(self, url: str) -> None:
        """Return once `url` answers 2xx.

        Raises:
            RuntimeError: it ended, or did not answer in time; the message ends with its last output.
        """
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} ended with status {self.process.returncode}:\n{self._last_output()}")
            try:
                with urllib.request.urlopen(url, timeout=2):  # noqa: S310 - our own address
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        raise RuntimeError(f"{self.name} did not answer {url} within {START_S:.0f} s:\n{self._last_output()}")

    def _last_output(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]

    def usage(self) -> Usage:
        """CPU time and memory until now, children included."""
        ticks, pages = 0, 0
        for pid in _family(self.process.pid):
            # Fields after the command, which may itself hold spaces: see proc_pid_stat(5), counted from 3.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[14 - 3]) + int(fields[15 - 3])
            pages += int(fields[24 - 3])
        return Usage(cpu_s=ticks / _TICKS, rss_mb=pages * os.sysconf("SC_PAGE_SIZE") / 2**20)

    def stop(self) -> None:
        """End it, kindly first."""
        self.process.terminate()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _family(pid: int) -> list[int]:
    """A process and all its descendants."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found = [pid]
    for member in found:
        found.extend(children.get(member, []))
    return found


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def machine() -> dict[str, object]:
    """The processor, its cores and the kernel."""
    model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return {
        "processor": model[1] if model else os.uname().machine,
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": os.uname().release,
    }
