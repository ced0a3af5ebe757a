"""A running service and a watched page, for the tests of the dashboard."""

import time

import httpx
from playwright.sync_api import expect

SLOWEST_MS = 60_000  # of anything the browser waits for, on a machine that does much else
STILL_S = 3.0
MARKUP = "<img src=x onerror=window.broken=1>"
PANELS = (
    "totals", "shares", "posteriors", "money", "worth", "budget", "feedback", "reliability", "drift", "heuristics",
    "experiments", "decisions", "playground", "controls",
)  # fmt: skip

# A policy with a budget, so that there is a pace to show; and every fifth call of one model fails. What was learned is
# fitted many times within STILL_S.
SETTINGS = """\
[learning]
fit_every_s = 0.2

[[models]]
provider = "simulated"
name = "small"
tier = "small"
price_in = 0.02
price_out = 0.04

[[models]]
provider = "simulated"
name = "medium"
tier = "medium"
price_in = 0.1
price_out = 0.3
error_rate = 0.2

[[models]]
provider = "simulated"
name = "large"
tier = "large"
price_in = 1.25
price_out = 10.0

[[policies]]
name = "thrifty"
kind = "pooled_thompson"
objective = "budget"
usd_per_request = 0.01

[[policies]]
name = "random"
kind = "random"
"""


# Of requests that nobody sends: the tests' own go to the settings' policy.
EXPERIMENT = {
    "name": "thrift",
    "variants": [
        {"name": "control", "policy": "random", "share": 0.5},
        {"name": "thrifty", "policy": "thrifty", "share": 0.5},
    ],
    "unit": "request",
    "primary": {"name": "quality"},
    "population": {"tags": {"taking": "part"}},
}


class Served:
    """A running service and what was sent to it."""

    def __init__(self, url):
        self.url = url

    def call(self, path, body=None):
        """GET, or with a body POST."""
        answer = httpx.request("POST" if body else "GET", self.url + path, json=body, timeout=30)
        answer.raise_for_status()
        return answer.json()

    def chat(self, prompt, **router):
        return self.call(
            "/v1/chat/completions", {"messages": [{"role": "user", "content": prompt}], "router": router}
        )  # fmt: skip

    def learned(self):
        """Wait until all that was measured is fitted: nothing that is believed changes for a while."""
        believed, began = None, time.monotonic()
        since = began
        while time.monotonic() < since + STILL_S:
            assert since < began + SLOWEST_MS / 1000, "what is believed does not come to rest"
            cells = self.call("/v1/posteriors")["cells"]
            if cells != believed:
                believed, since = cells, time.monotonic()
            time.sleep(0.1)


class Watched:
    """A page with all that must not happen on it."""

    def __init__(self, page):
        self.page = page
        self.errors = []
        self.asked = []
        page.set_default_timeout(SLOWEST_MS)
        page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))

    def open(self, url):
        """The page, with every panel loaded."""
        self.page.goto(f"{url}/dashboard")
        self.settled()
        return self.page

    def settled(self):
        """Wait until no panel is loading."""
        expect(self.page.locator("section.panel")).to_have_count(len(PANELS))
        expect(self.page.locator('section[data-state="loading"]')).to_have_count(0)
