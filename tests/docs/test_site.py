"""The documentation builds, strictly, and works from a disk without a network."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PARTS = re.compile(r"""<(?:script|img|iframe)[^>]*?\ssrc=["']?([^"'\s>]+)|<link[^>]*?\shref=["']?([^"'\s>]+)""")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built as `make docs` does."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", folder],
        cwd=ROOT, capture_output=True, text=True, timeout=250, check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "excluded from the built site" not in done.stderr
    return folder


def named_in(nav):
    """Every page of a navigation."""
    if isinstance(nav, str):
        yield nav
    else:
        for inner in nav.values() if isinstance(nav, dict) else nav:
            yield from named_in(inner)


def test_every_page_is_in_the_navigation():
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    nav = set(named_in(yaml.safe_load(settings)["nav"]))
    missing = {path.name for path in (ROOT / "docs").glob("*.md")} - nav
    assert not missing, "give each of these its line under `nav` in mkdocs.yml"


def test_pages_load_nothing_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        for part in PARTS.finditer(page.read_text(encoding="utf-8")):
            address = part[1] or part[2]
            assert not re.match(r"(?:https?:)?//", address), f"{page.name} loads {address}"
            if not address.startswith("data:"):
                folder = site if address.startswith("/") else page.parent  # 404.html is served at any address
                named = address.lstrip("/").partition("#")[0].partition("?")[0]
                assert (folder / named).exists(), f"{page.name}: {address}"


def test_styles_load_nothing_from_elsewhere(site):
    for style in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", style.read_text(encoding="utf-8")), style.name


def test_the_references_are_part_of_it_and_can_be_searched(site):
    assert "usd_per_request" in (site / "reference/settings.html").read_text(encoding="utf-8")
    assert "armwise_served_total" in (site / "reference/metrics.html").read_text(encoding="utf-8")
    index = json.loads((site / "search/search_index.json").read_text(encoding="utf-8"))
    found = {entry["location"].partition("#")[0] for entry in index["docs"] if "usd_per_request" in entry["text"]}
    assert {"reference/settings.html", "objective.html"} <= found


def test_files_that_pages_link_to_come_along(site):
    assert (site / "repository/armwise.example.toml").read_bytes() == (ROOT / "armwise.example.toml").read_bytes()
    assert (site / "repository/armwise/feedback.py").exists()
    assert (site / "examples/policy.py").exists()
    assert 'href="repository/armwise.example.toml"' in (site / "configuration.html").read_text(encoding="utf-8")


def test_examples_are_shown_whole(site):
    shown = (site / "extend.html").read_text(encoding="utf-8")
    for word in ("CheapEnough", "MISSING_LINK", "CannedModel", "Labelled", "model_server"):
        assert word in shown
    assert "--8&lt;--" not in shown
    assert '<span class="k">class</span>' in shown


def test_it_is_read_and_searched_from_a_disk(site, browser_page):
    asked, mistakes = [], []
    with browser_page() as page:
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda mistake: mistakes.append(str(mistake)))
        page.goto((site / "index.html").as_uri())
        page.get_by_role("link", name="Choosing an objective").first.click()
        assert page.locator("h1").inner_text().startswith("Choosing an objective")
        page.locator("input.md-search__input").fill("usd_per_request")
        page.locator(".md-search-result__item").first.wait_for()
    assert mistakes == []
    assert {address.partition(":")[0] for address in asked} <= {"file", "data", "blob"}
