"""The references are made from the code: they hold everything there is, in words, and agree with the pages by hand."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal

import pytest
from msgspec import Meta
from msgspec.structs import fields
from prometheus_client.parser import text_string_to_metric_families

from service.metrics.catalogue import Metrics
from service.settings import Settings

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| `(\w+)` \| (.*) \| (.*) \| (.*) \|$", re.MULTILINE)


@pytest.fixture(scope="module")
def references():
    spec = importlib.util.spec_from_file_location("references", ROOT / "docs/references.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def settings(references):
    return references.settings_page()


def section(page, heading):
    return page.split(f"## {heading}\n")[1].split("\n## ")[0]


def structs_in(references, kind):
    found = set(references.structs_of(kind))
    return found.union(*(structs_in(references, field.type) for struct in found for field in fields(struct)))


def test_every_setting_has_a_type_a_default_and_a_meaning(references, settings):
    rows = ROW.findall(settings)
    assert {name for name, *_ in rows} == {
        field.name for struct in structs_in(references, Settings) - {Settings} for field in fields(struct)
    }
    for name, kind, default, meaning in rows:
        assert kind, name
        assert default, name
        assert len(meaning) > 7, name
        assert meaning != "As above.", name


def test_every_table_of_the_file_has_its_section(settings):
    for field in fields(Settings):
        assert re.search(rf"^## `\[+{field.name}\]+`", settings, re.MULTILINE), field.name


def test_rows_say_what_the_code_says(settings):
    server = section(settings, "`[server]`")
    assert "| `port` | whole number ≥ 1, ≤ 65535 | `8402` | Port to listen on. |" in server
    models = section(settings, '`[[models]]` with `provider = "translated"`')
    assert "| `name` | text | required |" in models
    assert "| `price_cached_in` | number ≥ 0 | left out |" in models
    assert '| `tier` | `small` or `medium` or `large` | `"medium"` |' in models
    assert "whole number ≥ 1" in section(settings, "`[learning]`")
    assert "| `arm` | text | required | Name of the model. |" in section(
        settings, '`[[policies]]` with `kind = "fixed"`'
    )


def test_a_default_that_differs_would_be_seen(settings):
    """The page by hand and the code give the same default for every setting of a plain table."""
    hand = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    compared = 0
    for name in ("server", "database", "routing", "learning", "logging", "retention", "judge"):
        said = section(hand, f"`[{name}]`")
        for key, _, default, _ in ROW.findall(section(settings, f"`[{name}]`")):
            shown = re.search(rf"^\| `{key}` \| ([^|]*) \|", said, re.MULTILINE)[1].strip(" `")
            assert shown.replace("_", "") == default.strip("`").replace("_", ""), f"{name}.{key}"
            compared += 1
    assert compared > 25


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (str, "text"),
        (bool, "true or false"),
        (float | None, "number"),
        (Annotated[float, Meta(ge=0.0, le=1.0)], "number ≥ 0, ≤ 1"),
        (Literal["a", "b"], "`a` or `b`"),
        (tuple[str, ...], "list of: text"),
        (tuple[float, float, float], "list of 3: number"),
        (dict[str, Annotated[float, Meta(gt=0.0)]], "table: number > 0"),
    ],
)
def test_types_in_words(references, kind, words):
    assert references.type_in_words(kind) == words


def test_every_metric_is_there_with_its_labels(references):
    exposed, _ = Metrics().exposition()
    families = {family.name for family in text_string_to_metric_families(exposed.decode())}
    ours = {name for name in families if name.startswith("armwise_")}
    page = references.metrics_page()
    rows = {name: labels for name, _, labels, _ in ROW.findall(page)}
    assert {name.removesuffix("_total") for name in rows} == ours
    assert rows["armwise_served_total"] == "`model`"
    assert rows["armwise_decisions_total"] == "`task_type`, `model`, `policy`, `method`"


def test_the_page_by_hand_gives_every_metric_the_labels_that_it_has(references):
    hand = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    for name, _, labels, meaning in references.metrics():
        row = re.search(rf"^\| `{name}` \| ([^|]*)\|", hand, re.MULTILINE)
        assert row, f"docs/metrics.md lacks {name}"
        assert [label.strip(" `") for label in row[1].split(",") if label.strip()] == list(labels), name
        assert meaning


@pytest.mark.parametrize("page", ["settings", "metrics"])
def test_a_page_can_be_read_without_building_the_site(page):
    done = subprocess.run(
        [sys.executable, "docs/references.py", page], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.startswith(f"# Every {page.removesuffix('s')}")
