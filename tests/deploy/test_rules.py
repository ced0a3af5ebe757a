"""Prometheus' rules: an alert fires when it should and not otherwise, says what to do, and has a page for more."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.deploy.rules_cases import CASES

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/prometheus"
PAGE = (ROOT / "docs/monitoring.md").read_text(encoding="utf-8")
ALERTS = {
    rule["alert"]: rule
    for group in yaml.safe_load((FOLDER / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
}
RECORDED = {
    rule["record"]: rule["expr"]
    for group in yaml.safe_load((FOLDER / "rules.yml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
}


@pytest.fixture
def promtool():
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed (Debian package prometheus)")

    def run(*arguments):
        done = subprocess.run([found, *map(str, arguments)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    return run


def test_every_alert_is_shown_to_fire_and_to_be_quiet():
    assert {case.alert for case in CASES if case.fires} == set(ALERTS)
    assert {case.alert for case in CASES if not case.fires} == set(ALERTS)


def section(alert):
    """What the page says of an alert."""
    return PAGE.partition(f"\n### {alert}\n")[2].partition("\n### ")[0].partition("\n## ")[0]


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_says_what_is_wrong_what_to_do_and_where_more_stands(alert):
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["description"].endswith((".", "?"))
    assert rule["annotations"]["runbook"] == f"docs/monitoring.md#{alert.lower()}"
    said = section(alert)
    assert len(said.split()) > 25, "what it means, why, and what to do"
    assert "**Do:**" in said


def test_the_page_has_no_alert_that_is_gone_and_lists_all_rules():
    assert set(re.findall(r"^### (Armwise\w+)$", PAGE, re.MULTILINE)) == set(ALERTS)
    listed = set(re.findall(r"^\| `(armwise:\w+:\w+)`", PAGE, re.MULTILINE))
    assert listed == {re.sub(r"(ratio_rate)(30m|1h|2h|6h|1d|3d)$", r"\g<1>5m", name) for name in RECORDED}


def test_a_recorded_share_is_of_the_window_in_its_name():
    for name, expr in RECORDED.items():
        window = re.search(r"(?:rate|increase)(\d+[mhd])$", name)
        windows = set(re.findall(r"\[(\w+)\]", expr))
        assert windows == ({window[1]} if window else set()), name


@pytest.mark.peers
def test_promtool_accepts_the_configuration(promtool):
    promtool("check", "config", FOLDER / "prometheus.yml")
    loaded = yaml.safe_load((FOLDER / "prometheus.yml").read_text(encoding="utf-8"))["rule_files"]
    assert sorted(loaded) == sorted(path.name for path in FOLDER.glob("*.yml") if path.name != "prometheus.yml")


@pytest.mark.peers
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.alert} {case.about}".replace(" ", "-"))
def test_an_alert_fires_when_it_should(promtool, tmp_path, case):
    rule = ALERTS[case.alert]
    # The words of an alert are not its condition: without them the test need not repeat them.
    bare = {"alert": case.alert, "expr": rule["expr"], "for": rule.get("for", "0s")}
    needed = [{"record": name, "expr": expr} for name, expr in RECORDED.items() if name in rule["expr"]]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": [*needed, bare]}]}))
    every = "1m" if case.minute < 2000 else "10m"  # else three days take a minute to test
    tested = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in case.series.items()],
        "promql_expr_test": [
            {
                "expr": f'count(ALERTS{{alertname="{case.alert}", alertstate="firing"}})',
                "eval_time": f"{case.minute}m",
                "exp_samples": [{"labels": "{}", "value": 1}] if case.fires else [],
            }
        ],
    }
    (tmp_path / "case.yml").write_text(
        yaml.safe_dump({"rule_files": ["rules.yml"], "evaluation_interval": every, "tests": [tested]})
    )
    promtool("test", "rules", tmp_path / "case.yml")
