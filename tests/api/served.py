"""`armwise serve` as a process of its own, and what it writes."""

import asyncio
import contextlib
import os
import sys

import aiohttp

from service.serving import listen


class Served:
    """A running process; `written` is what it wrote to standard error, once it has ended."""

    def __init__(self, url, process):
        self.url = url
        self.process = process
        self.written = ""

    async def stop(self):
        """End it as an operator would."""
        if self.process.returncode is None:
            self.process.terminate()
        _, written = await asyncio.wait_for(self.process.communicate(), 60)
        self.written += written.decode()


@contextlib.asynccontextmanager
async def served(folder, toml, **environ):
    """Serve with these settings until the block ends."""
    (folder / "armwise.toml").write_text(toml)
    with listen("127.0.0.1", 0) as found:
        port = found.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "service", "serve", "--port", str(port), cwd=folder, env={**os.environ, **environ},
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    running = Served(f"http://127.0.0.1:{port}", process)
    try:
        async with asyncio.timeout(60), aiohttp.ClientSession() as http:
            while process.returncode is None:
                with contextlib.suppress(aiohttp.ClientError):
                    async with http.get(f"{running.url}/ready") as ready:
                        if ready.status == 200:
                            break
                await asyncio.sleep(0.1)
        yield running
    finally:
        if process.returncode is None:
            await running.stop()
