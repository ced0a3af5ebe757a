"""Fixtures of the documentation's tests."""

import os
import shutil
from contextlib import contextmanager

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture
def browser_page():
    """Opens a page of Debian's Chromium: with browser_page() as page. Closed before another test's loop runs."""
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium); CI installs it")
    from playwright.sync_api import sync_playwright

    @contextmanager
    def opened():
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []  # as root it runs only without
        with (
            sync_playwright() as playwright,
            playwright.chromium.launch(executable_path=CHROMIUM, args=flags) as browser,
        ):
            page = browser.new_page()
            page.set_default_timeout(120_000)  # a busy machine is no fault of the page
            yield page

    return opened
