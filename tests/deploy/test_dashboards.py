"""Grafana's dashboards: what the code makes, and every query of theirs on a Prometheus that scraped a real run."""

import json
import re
import shutil
import time
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from service.metrics.catalogue import Metrics
from tests.deploy.live import prometheus, service, traffic

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
FOLDER = DEPLOY / "grafana/dashboards"
BOARDS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))}
RULES = [
    rule
    for name in ("rules.yml", "alerts.yml")
    for group in yaml.safe_load((DEPLOY / "prometheus" / name).read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
RECORDED = {rule["record"] for rule in RULES if "record" in rule}

# Of an alert's condition only what is compared is data at all times: `a > 3 and b == 0` is `a and b`.
COMPARISON = re.compile(r"\s(?:==|!=|<=|>=|<|>)\s+(?:\([\d.\s*]+\)|[\d.]+)")


def panels(board):
    return [panel for panel in BOARDS[board]["panels"] if panel["type"] != "row"]


def queries():
    """Every query, by where it stands; of a panel that is with its legend, of an alert with its words."""
    for board in BOARDS:
        for panel in panels(board):
            for target in panel["targets"]:
                place = f"{board}: {panel['title']}: {target['legendFormat']}"
                yield place, target["expr"].replace("$__rate_interval", "1m")
    for rule in RULES:
        if "record" in rule:
            yield rule["record"], rule["record"]
        else:
            words = rule["annotations"]["summary"] + rule["annotations"]["description"]
            yield f"{rule['alert']}: {words}", COMPARISON.sub("", rule["expr"])
    page = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    section = page.partition("## Questions and their queries")[2].partition("\n## ")[0]
    yield from re.findall(r"^\| ([^|]+\?) \| `([^`]+)` \|", section, re.MULTILINE)


QUERIES = dict(queries())


def series_names():
    """Names that a query may use."""
    names = set()
    for family in text_string_to_metric_families(Metrics().exposition()[0].decode()):
        kinds = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "gauge": [""]}
        names |= {family.name + ending for ending in kinds.get(family.type, [])}
    return names


def test_the_files_are_what_the_code_makes():
    from deploy.grafana.make_dashboards import texts

    made = texts()
    assert {path.name for path in FOLDER.iterdir()} == set(made)
    for name, text in made.items():
        assert (FOLDER / name).read_text(encoding="utf-8") == text, "run python -m deploy.grafana.make_dashboards"


def test_no_query_is_lost_for_its_name():
    assert len(QUERIES) == len(list(queries()))


def test_an_alert_compares_only_with_numbers():
    for rule in RULES:
        if "alert" in rule:
            assert COMPARISON.search(rule["expr"]), rule["alert"]
            assert not re.search(r"[<>]|[=!]= ", COMPARISON.sub("", rule["expr"])), rule["alert"]


@pytest.mark.parametrize(("place", "query"), QUERIES.items(), ids=lambda one: one[:60])
def test_queries_name_only_series_that_exist(place, query):
    used = re.findall(r"\b(?:armwise|process|python)_\w+", query)
    recorded = re.findall(r"\barmwise:\w+:\w+", query)
    assert used or recorded or "up{" in query or "ALERTS{" in query, place
    assert set(used) <= series_names()
    assert set(recorded) <= RECORDED


def test_every_metric_is_shown():
    """Also where only a rule uses it, if a dashboard shows the rule."""
    text = " ".join(query for place, query in QUERIES.items() if place.partition(":")[0] in BOARDS)
    text += " ".join(rule["expr"] for rule in RULES if "record" in rule and rule["record"] in text)
    ours = {name for name in series_names() if name.startswith("armwise_") and not name.endswith(("_sum", "_count"))}
    assert {name for name in ours if not re.search(rf"\b{name}\b", text)} == set()


@pytest.mark.parametrize("board", BOARDS)
def test_panels_have_their_own_place_say_what_they_show_and_ask_the_chosen_prometheus(board):
    taken = set()
    for panel in BOARDS[board]["panels"]:
        place = panel["gridPos"]
        x, y, width, height = place.get("x", 0), place.get("y", 0), place["w"], place["h"]
        cells = {(column, line) for column in range(x, x + width) for line in range(y, y + height)}
        assert x + width <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    for panel in panels(board):
        assert panel["description"].endswith((".", "?")), panel["title"]
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters)
    titles = [panel["title"] for panel in panels(board)]
    assert len(set(titles)) == len(titles)
    ids = [panel["id"] for panel in BOARDS[board]["panels"]]
    assert len(set(ids)) == len(ids)
    (variable,) = BOARDS[board]["templating"]["list"]
    assert (variable["name"], variable["query"]) == ("datasource", "prometheus")


def test_dashboards_have_names_of_their_own():
    assert len({board["uid"] for board in BOARDS.values()}) == len(BOARDS)
    assert len({board["title"] for board in BOARDS.values()}) == len(BOARDS)


def test_compose_shows_the_dashboards_and_the_rules():
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]
    mounts = dict(volume.split(":")[:2] for volume in compose["grafana"]["volumes"])
    provider = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/armwise.yml").read_text(encoding="utf-8"))
    folder = provider["providers"][0]["options"]["path"]
    assert mounts["./deploy/grafana/dashboards"] == folder
    home = Path(compose["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert str(home.parent) == folder
    assert home.stem in BOARDS
    sources = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text(encoding="utf-8"))
    assert [source["type"] for source in sources["datasources"] if source["isDefault"]] == ["prometheus"]
    assert "./deploy/prometheus:/etc/prometheus:ro" in compose["prometheus"]["volumes"]


LATER = "armwise_holdout_difference"  # a number from fifty rated users of the holdout on: more than a short run has


@pytest.mark.peers
@pytest.mark.timeout(600)
def test_every_query_gives_data_on_a_real_prometheus_that_scraped_a_real_run(tmp_path):
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed (Debian package prometheus)")
    with (
        service(tmp_path / "service") as port,
        prometheus(tmp_path / "prometheus", port) as asked,
        traffic(port) as calling,
    ):
        waiting = {place: query for place, query in QUERIES.items() if LATER not in query}
        deadline = time.monotonic() + 400
        while waiting and time.monotonic() < deadline and not calling.done():
            answers = {place: asked.samples(query) for place, query in waiting.items()}
            for place, samples in answers.items():
                named = set(re.findall(r"\{\{ *(?:\$labels\.)?(\w+) *\}\}", place))
                assert all(named <= labels.keys() for labels, _ in samples), f"{place} lacks a label of {samples}"
            waiting = {place: QUERIES[place] for place, samples in answers.items() if not samples}
            time.sleep(1)
        assert waiting == {}
