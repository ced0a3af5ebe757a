"""A real browser before a real service with simulated models, started as its own process on a port of its own."""

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


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A service after 176 prompts with thumbs, an event, and what a stranger would send."""
    folder = tmp_path_factory.mktemp("dashboard")
    (folder / "armwise.toml").write_text(SETTINGS)
    environment = {"PYTHONPATH": str(ROOT)} | {
        name: value for name, value in os.environ.items() if not name.startswith("ARMWISE_")
    }
    port = _free_port()
    command = [sys.executable, "-m", "service", "serve", "--port", str(port)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stderr=log, start_new_session=True)
    try:
        running = Served(f"http://127.0.0.1:{port}")
        _wait_until_ready(running, process, folder / "log")
        demo = [sys.executable, "-m", "service", "demo", "--url", running.url, "--rounds", "2"]
        subprocess.run(demo, cwd=folder, env=environment, check=True, capture_output=True, timeout=120)
        reply = running.chat("Who are you? " + MARKUP, user=MARKUP, session=MARKUP, tags={"from": MARKUP})
        thumb = {"decision_id": reply["id"], "value": "up", "user": MARKUP, "comment": MARKUP, "source": "web"}
        running.call("/feedback", thumb)
        running.call("/v1/events", {"model": "small", "event": "version", "note": MARKUP})
        running.call("/v1/experiments", EXPERIMENT)
        running.call(f"/v1/experiments/{EXPERIMENT['name']}/start", {"note": MARKUP})
        running.strange = reply["id"]
        yield running
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


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
