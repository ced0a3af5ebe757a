"""A whole service for each test: the real application under a real uvicorn, on a port of its own."""

import asyncio
import contextlib
import threading
import time

import aiohttp
import pytest
import uvicorn

from service.app import create_app
from service.serving import listen
from service.settings import Database, Server, Settings, SimulatedModel


class QuickServer(uvicorn.Server):
    """Ends as soon as it is told to and nobody is connected: uvicorn's waits 0.15 s, which every test would pay."""

    def __init__(self, config):
        super().__init__(config)
        self.told = asyncio.Event()

    def end(self):
        """From another thread."""
        self.should_exit = True
        with contextlib.suppress(RuntimeError):  # it has ended already
            self.loop.call_soon_threadsafe(self.told.set)

    async def startup(self, sockets=None):
        self.loop = asyncio.get_running_loop()
        await super().startup(sockets)

    async def main_loop(self):
        await self.on_tick(0)
        await self.told.wait()

    async def shutdown(self, sockets=None):
        if self.server_state.connections or self.server_state.tasks:
            await super().shutdown(sockets)
            return
        for server in self.servers:
            server.close()
        await self.lifespan.shutdown()


class Running:
    """A service under test."""

    def __init__(self, settings, config=None):
        self.settings = settings
        self.socket = listen("127.0.0.1", 0)
        self.port = self.socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.app = create_app(settings, config)
        self.server = QuickServer(uvicorn.Config(self.app, log_config=None, access_log=False, loop="asyncio"))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)

    def __enter__(self):
        self.thread.start()
        deadline = time.monotonic() + 30
        while not self.server.started:
            if not self.thread.is_alive() or time.monotonic() > deadline:
                self.socket.close()
                pytest.fail("the service did not start")
            time.sleep(0.01)
        return self

    def __exit__(self, *error):
        self.server.end()
        self.thread.join(30)
        for server in self.server.servers:
            server.close()
        self.socket.close()

    @property
    def parts(self):
        return self.app.state.parts


def settings_for(url, *, timeout_s=2.0, **changes):
    """Settings on a database, with whatever else a test needs."""
    return Settings(server=Server(port=8402), database=Database(url=url, timeout_s=timeout_s), **changes)


@pytest.fixture
def run(database_url):
    """Start a service on SQLite or Postgres: run(models=..., ...). All are stopped at the end."""
    with contextlib.ExitStack() as stack:

        def start(url=None, config=None, **changes):
            url = url or database_url
            return stack.enter_context(Running(settings_for(url, **changes), config))

        yield start


@pytest.fixture
def service(run):
    """The service as it is without a settings file."""
    return run()


@pytest.fixture
async def http(service):
    """An HTTP client whose paths are those of `service`."""
    async with aiohttp.ClientSession(service.url) as session:
        yield session


@pytest.fixture
def three_models():
    """Three simulated models by those names and tiers."""
    return tuple(SimulatedModel(name=f"m-{tier}", tier=tier) for tier in ("small", "medium", "large"))


@pytest.fixture
def free_port():
    """A port on which nobody listens."""
    with listen("127.0.0.1", 0) as found:
        return found.getsockname()[1]
