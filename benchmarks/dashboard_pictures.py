"""The pictures of docs/dashboard.md and of the README: the dashboard in a real browser, before a real service.

Run with python -m benchmarks.dashboard_pictures. Needs Chromium (Debian: apt-get install chromium) and playwright (pip
install -e '.[dev]'); takes four minutes. The service has the simulated models of `armwise demo` and gets its
prompts in a minute or two; all times are spread over a day before the pictures are taken. Nothing else is made up.
"""

import argparse
import contextlib
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Page, expect, sync_playwright

from service.demo.service import SETTINGS as DEMO

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "img"
ROUNDS = 54  # of the demo's prompts
DAY_S = 86_400.0

SETTINGS = f"""{DEMO}
[[policies]]
name = "generalist-alone"
kind = "fixed"
arm = "generalist"

[experiments]
look_every_s = 2.0
"""
EXPERIMENT = {
    "name": "routing-or-generalist",
    "variants": [
        {"name": "generalist", "policy": "generalist-alone", "share": 0.25},
        {"name": "routed", "policy": "pooled_thompson", "share": 0.25},
    ],
    "unit": "request",
    "primary": {"name": "quality"},
    "guardrails": [{"metric": "failure", "limit": 0.05}],
    "minimum_s": 0.0,
    "horizon": 1200,
    "window_s": 2.0,
    "grace_s": 5.0,
    "mode": "shared",
}
EVENT = {"model": "writer", "event": "version", "note": "the name points to a newer model"}

# Each decision and what hangs on it moves back, so that all together lie evenly in the last day.
SPREAD = """
CREATE TEMP TABLE moved AS
    SELECT id, round({day} * (1.0 - (row_number() OVER (ORDER BY created_at)) * 1.0 / count(*) OVER ())) AS by
    FROM decisions;
UPDATE decisions SET created_at = created_at - (SELECT by FROM moved WHERE moved.id = decisions.id);
UPDATE attempts SET started_at = started_at - (SELECT by FROM moved WHERE moved.id = attempts.decision_id);
UPDATE rewards SET
    created_at = created_at - (SELECT by FROM moved WHERE moved.id = rewards.decision_id),
    updated_at = updated_at - (SELECT by FROM moved WHERE moved.id = rewards.decision_id),
    hour = CAST((SELECT created_at / 3600 FROM decisions WHERE decisions.id = rewards.decision_id) AS INTEGER);
CREATE TEMP TABLE course AS
    SELECT min(at) AS began, max(at) AS ended FROM (SELECT at FROM looks UNION SELECT at FROM experiment_steps);
UPDATE looks SET at = (SELECT ended - (ended - looks.at) * {day} / (ended - began) FROM course);
UPDATE looks SET content = json_set(content, '$.at', at);
UPDATE experiment_steps SET at = (SELECT ended - (ended - experiment_steps.at) * {day} / (ended - began) FROM course);
"""


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """A service in a folder; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with armwise(folder, "serve", "--port", str(port)) as process:
        url = f"http://127.0.0.1:{port}"
        for _ in range(300):
            with contextlib.suppress(httpx.HTTPError):
                httpx.get(f"{url}/ready").raise_for_status()
                break
            time.sleep(0.2)
        yield url
        process.terminate()


def armwise(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    """The command, in a folder."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-m", "service", *words], cwd=folder, env=environment)


def tell(url: str, path: str, body: dict[str, Any] | None = None) -> None:
    """POST what must be taken."""
    httpx.post(url + path, json=body or {}, timeout=30).raise_for_status()


def fill(folder: Path) -> None:
    """Send the demo's prompts with their thumbs, through an experiment, and spread them over a day."""
    with serving(folder) as url:
        tell(url, "/v1/experiments", EXPERIMENT)
        tell(url, f"/v1/experiments/{EXPERIMENT['name']}/start")
        armwise(folder, "demo", "--url", url, "--rounds", str(ROUNDS)).wait()
        tell(url, "/v1/events", EVENT)
        time.sleep(5.0)  # for the last units' time to be over, and a look
        tell(url, f"/v1/experiments/{EXPERIMENT['name']}/stop", {"note": "enough for a picture"})
    with contextlib.closing(sqlite3.connect(folder / "demo.db")) as database:
        database.executescript(SPREAD.format(day=DAY_S))
    armwise(folder, "rebuild").wait()


def loaded(page: Page, url: str) -> None:
    """Open the page and wait for every panel."""
    page.goto(f"{url}/dashboard")
    page.locator("section.panel").last.wait_for()
    expect(page.locator('section[data-state="loading"]')).to_have_count(0)


def take(url: str, chromium: str) -> None:
    """All pictures."""
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        page = browser.new_page(viewport={"width": 1280, "height": 2020})
        loaded(page, url)
        picture(page, "overview")
        page.locator("#experiments").screenshot(path=FOLDER / "dashboard-experiment.png")
        page.locator("#playground").get_by_role("textbox").fill("Write a Python function that reverses a list.")
        page.get_by_role("button", name="Send").click()
        page.get_by_role("button", name="Good reply").click()
        page.get_by_role("button", name="Explain step by step").click()
        page.locator(".explained").screenshot(path=FOLDER / "dashboard-decision.png")
        page.close()
        phone = browser.new_page(viewport={"width": 390, "height": 1400}, color_scheme="dark")
        loaded(phone, url)
        picture(phone, "phone")
        browser.close()


def picture(page: Page, name: str) -> None:
    """What the window shows."""
    page.screenshot(path=FOLDER / f"dashboard-{name}.png")


def main() -> None:
    """Make the pictures anew."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        sys.exit("No Chromium is installed: apt-get install chromium")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "armwise.toml").write_text(SETTINGS)
        fill(folder)
        with serving(folder) as url:
            take(url, chromium)


if __name__ == "__main__":
    main()
