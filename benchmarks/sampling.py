"""Where a process spends its CPU time, by function, sampled by py-spy."""

import asyncio
import contextlib
import re
import shutil
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

_PLACE = re.compile(r"^(.*) \((.*?)(?::\d+)?\)$")


@contextlib.asynccontextmanager
async def sampled(pid: int, seconds: int, folder: Path, *, top: int = 45) -> AsyncIterator[Path]:
    """Sample `pid` for `seconds` while the body runs; afterwards the file that it yields holds the report.

    Raises:
        FileNotFoundError: py-spy is not installed.
    """
    beside = Path(sys.executable).with_name("py-spy")
    tool = str(beside) if beside.exists() else shutil.which("py-spy")
    if tool is None:
        raise FileNotFoundError("py-spy is not installed: `pip install py-spy` and try again.")
    stacks, report = folder / "stacks.txt", folder / "profile.txt"
    arguments = ["--pid", str(pid), "--duration", str(seconds), "--rate", "500", "--format", "raw", "--output", stacks]
    process = await asyncio.create_subprocess_exec(
        tool, "record", *map(str, arguments), "--nonblocking", "--threads", stdout=asyncio.subprocess.DEVNULL
    )
    yield report
    await process.wait()
    report.write_text(hot_functions(stacks.read_text(), top))


def hot_functions(stacks: str, top: int) -> str:
    """Shares of all samples: by function alone, and with what it calls.

    `stacks` has py-spy's raw format: "outer (file:line);inner (file:line) count" on each line.
    """
    alone, within = Counter[str](), Counter[str]()
    total = 0
    for line in stacks.splitlines():
        stack, _, text = line.rpartition(" ")
        count = int(text)
        total += count
        frames = [_short(frame) for frame in stack.split(";")]
        alone[frames[-1]] += count
        for frame in set(frames):
            within[frame] += count

    def listed(title: str, counts: Counter[str]) -> list[str]:
        return [title, *(f"{100 * count / total:5.1f} %  {frame}" for frame, count in counts.most_common(top))]

    if not total:
        return "no samples"
    return "\n".join([f"{total} samples", *listed("alone", alone), *listed("with what it calls", within)])


def _short(frame: str) -> str:
    """A function and the last folders of its file, without the line."""
    place = _PLACE.match(frame)
    return f"{place[1]} ({'/'.join(place[2].split('/')[-3:])})" if place else frame
