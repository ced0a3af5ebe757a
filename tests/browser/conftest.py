"""A real browser before a real service with simulated models, started as its own process on a port of its own."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import expect, sync_playwright

from tests.browser.pages import EXPERIMENT, MARKUP, SETTINGS, SLOWEST_MS, Served, Watched

ROOT = Path(__file__).parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Folder:
    """A folder with settings and a database, and the command `armwise` in it."""

    def __init__(self, path):
        self.path = path
        self.environment = {"PYTHONPATH": str(ROOT)} | {
            name: value for name, value in os.environ.items() if not name.startswith("ARMWISE_")
        }
        (path / "armwise.toml").write_text(SETTINGS)

    def armwise(self, *words):
        """What a command prints."""
        command = [sys.executable, "-m", "service", *words]
        done = subprocess.run(
            command, cwd=self.path, env=self.environment, check=True, capture_output=True, text=True, timeout=240
        )
        return done.stdout

    @contextlib.contextmanager
    def serving(self):
        """The service, until the end."""
        port = _free_port()
        log = self.path / "log"
        command = [sys.executable, "-m", "service", "serve", "--port", str(port)]
        with log.open("w") as writing:
            process = subprocess.Popen(
                command, cwd=self.path, env=self.environment, stderr=writing, start_new_session=True
            )
        try:
            running = Served(f"http://127.0.0.1:{port}")
            _wait_until_ready(running, process, log)
            yield running
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


@pytest.fixture
def folder(browser, tmp_path):
    """A folder in which nothing was done yet."""
    return Folder(tmp_path)


@pytest.fixture(scope="module")
def served(browser, tmp_path_factory):
    """A service after 176 prompts with thumbs, an event, an experiment, and what a stranger would send."""
    folder = Folder(tmp_path_factory.mktemp("dashboard"))
    with folder.serving() as running:
        folder.armwise("demo", "--url", running.url, "--rounds", "2")
        reply = running.chat("Who are you? " + MARKUP, user=MARKUP, session=MARKUP, tags={"from": MARKUP})
        thumb = {"decision_id": reply["id"], "value": "up", "user": MARKUP, "comment": MARKUP, "source": "web"}
        running.call("/feedback", thumb)
        running.call("/v1/events", {"model": "small", "event": "version", "note": MARKUP})
        running.call("/v1/experiments", EXPERIMENT)
        running.call(f"/v1/experiments/{EXPERIMENT['name']}/start", {"note": MARKUP})
        running.strange = reply["id"]
        running.learned()
        running.log = folder.path / "data" / "armwise.db"
        yield running


def _free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _wait_until_ready(running, process, log):
    for _ in range(600):
        try:
            running.call("/ready")
        except httpx.HTTPError:
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        else:
            return
    pytest.fail(f"the service did not become ready: {log.read_text()}")


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium; as root it runs only without its sandbox.

    Closed with the module: while Playwright's loop runs in this thread, no asynchronous test of another one can.
    """
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium); CI installs it")
    flags = ["--disable-background-networking"]
    if os.geteuid() == 0:
        flags.append("--no-sandbox")
    expect.set_options(timeout=SLOWEST_MS)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser):
    """Open the page: open_page(width=..., dark=...). Its mistakes are `watched.errors`."""
    opened = []

    def make(width=1280, height=900, *, dark=False):
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
        )
        opened.append(context)
        return Watched(context.new_page())

    yield make
    for context in opened:
        context.close()
