"""A service for the demo: simulated models, a database that is thrown away, a free port; stopped with the demo."""

import asyncio
import contextlib
import sys
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path

import aiohttp

from service.configuration import settings_from_toml
from service.demo.gain import World
from service.errors import ArmwiseError
from service.serving import listen

COST_WEIGHT = 2.0  # quality that a dollar of a call is worth: half a cent buys a hundredth
READY_S = 60.0
_STOP_S = 15.0

# A world made up for a minute: one model that is good at everything and dear, and two cheap ones that are better at
# some tasks and poor at the others. They differ by task more than public outcomes say that real models do
# (docs/learning.md), so that a thousand thumbs show it. Nothing tells the service: it knows tiers and prices.
# Every thumb is honest here, so no user's word is limited.
SETTINGS = f"""
[server]
host = "127.0.0.1"

[database]
url = "sqlite:///demo.db"

[rewards]
user_labels_per_day = 0

[learning]
fit_every_s = 1
fit_labels = 50

[[policies]]
name = "pooled_thompson"
kind = "pooled_thompson"
cost_weight = {COST_WEIGHT}
boldness = 1.0

[[policies]]
name = "random"
kind = "random"

[[models]]
name = "generalist"
provider = "simulated"
tier = "large"
price_in = 1.25
price_out = 10.0

[models.quality]
"Brainstorming" = 0.80
"Chatbot" = 0.86
"Classification" = 0.85
"Closed QA" = 0.86
"Code Generation" = 0.80
"Extraction" = 0.85
"Open QA" = 0.90
"Other" = 0.80
"Rewrite" = 0.84
"Summarization" = 0.84
"Text Generation" = 0.80

[[models]]
name = "coder"
provider = "simulated"
tier = "medium"
price_in = 0.3
price_out = 0.9

[models.quality]
"Brainstorming" = 0.50
"Chatbot" = 0.60
"Classification" = 0.88
"Closed QA" = 0.78
"Code Generation" = 0.94
"Extraction" = 0.92
"Open QA" = 0.70
"Other" = 0.93
"Rewrite" = 0.58
"Summarization" = 0.60
"Text Generation" = 0.48

[[models]]
name = "writer"
provider = "simulated"
tier = "medium"
price_in = 0.5
price_out = 1.5

[models.quality]
"Brainstorming" = 0.93
"Chatbot" = 0.92
"Classification" = 0.66
"Closed QA" = 0.70
"Code Generation" = 0.42
"Extraction" = 0.60
"Open QA" = 0.68
"Other" = 0.48
"Rewrite" = 0.94
"Summarization" = 0.92
"Text Generation" = 0.94
"""


def own_world() -> World:
    """What is true of the demo's own service."""
    return World(settings_from_toml(SETTINGS, {}).models, COST_WEIGHT)


class NotStarted(ArmwiseError):
    """The demo's own service did not come up; the message has its last words."""


async def answers(url: str) -> bool:
    """Whether a service is ready there."""
    try:
        timeout = aiohttp.ClientTimeout(total=2.0)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(f"{url}/ready") as response:
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


@contextlib.asynccontextmanager
async def own_service() -> AsyncGenerator[str, None]:
    """Start a service of our own and give its address; nothing of it is left afterwards.

    Raises:
        NotStarted: it ended, or was not ready in time.
    """
    with tempfile.TemporaryDirectory(prefix="armwise-demo-") as place:
        folder = Path(place)
        (folder / "armwise.toml").write_text(SETTINGS, encoding="utf-8")
        with listen("127.0.0.1", 0) as found:
            port = found.getsockname()[1]
        words = ("-m", "service", "serve", "--config", "armwise.toml", "--port", str(port))
        with (folder / "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, *words, cwd=folder, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,  # Ctrl-C is for the demo, which then ends it
            )  # fmt: skip
        try:
            url = f"http://127.0.0.1:{port}"
            await _wait(process, url, folder / "log")
            yield url
        finally:
            await _stop(process)


async def _wait(process: asyncio.subprocess.Process, url: str, log: Path) -> None:
    deadline = asyncio.get_running_loop().time() + READY_S
    while not await answers(url):
        if process.returncode is not None or asyncio.get_running_loop().time() > deadline:
            said = _lines(log)
            ended = "ended" if process.returncode is not None else f"was not ready within {READY_S:g} s"
            raise NotStarted(f"The demo's own service {ended}: {said[-1] if said else 'it said nothing'}")
        await asyncio.sleep(0.1)


def _lines(log: Path) -> list[str]:
    return log.read_text(encoding="utf-8", errors="replace").strip().splitlines()


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _STOP_S)
    except TimeoutError:
        process.kill()
        await process.wait()
