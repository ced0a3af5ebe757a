"""Container, compose file, Prometheus and Grafana: what can be shown without running them."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from service.metrics import Metrics
from service.settings import Settings

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana/dashboards/armwise.json").read_text(encoding="utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
ALERTS = [
    rule
    for group in yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def expressions():
    """Every query of the dashboard and the alerts, by where it stands."""
    for panel in PANELS:
        for target in panel["targets"]:
            yield f"panel {panel['title']}", target["expr"].replace("$__rate_interval", "1m")
    for alert in ALERTS:
        yield f"alert {alert['alert']}", alert["expr"]


def documented_queries():
    page = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    section = page.partition("## Questions and their queries")[2].partition("\n## ")[0]
    yield from re.findall(r"^\| ([^|]+\?) \| `([^`]+)` \|", section, re.MULTILINE)


def series_names():
    """Names that a query may use, each with its labels."""
    names = {}
    for family in text_string_to_metric_families(Metrics().exposition()[0].decode()):
        kinds = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "gauge": [""]}
        for ending in kinds.get(family.type, []):
            names[family.name + ending] = family
    return names


@pytest.mark.parametrize(("place", "query"), [*expressions(), *documented_queries()])
def test_queries_name_only_metrics_that_exist(place, query):
    known = series_names()
    used = re.findall(r"\b(?:armwise|process|python)_\w+", query)
    assert used or "up{" in query, place
    for name in used:
        assert name in known, f"{place}: {name}"


def test_the_dashboard_shows_what_an_owner_asks():
    shown = " ".join(query for place, query in expressions() if place.startswith("panel"))
    for metric in (
        "served_total", "requests_total", "errors_total", "upstream_errors_total", "fallbacks_total",
        "request_seconds_bucket", "overhead_seconds_bucket", "first_token_seconds_bucket", "upstream_seconds_bucket",
        "classify_seconds_bucket", "decide_seconds_bucket", "store_seconds_bucket", "tokens_total", "cost_usd_total",
        "feedback_total", "feedback_lag_seconds_bucket", "heuristics_fired_total", "posterior_mean",
        "classifications_total", "classifier_confidence_bucket", "classifier_fallbacks_total",
        "classifier_inference_seconds_bucket", "classifier_queue_seconds_bucket", "classifier_lookups_total",
        "classifier_info", "event_loop_delay_seconds_bucket",
        "posterior_evidence", "snapshot_timestamp_seconds", "learner_errors_total", "degraded", "build_info",
        "drift_alarms_total", "model_suspected", "fit_seconds_bucket", "label_rate_alarm", "webhooks_total",
    ):  # fmt: skip
        assert f"armwise_{metric}" in shown, metric


def test_panels_do_not_overlap_and_read_from_the_provisioned_source():
    taken = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    sources = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())
    assert {panel["datasource"]["uid"] for panel in PANELS} == {sources["datasources"][0]["uid"]}
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_every_alert_says_what_is_wrong_and_what_to_do_and_is_documented():
    page = (ROOT / "docs/deploy.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`(Armwise\w+)`", page)) == {alert["alert"] for alert in ALERTS}
    for alert in ALERTS:
        assert alert["labels"]["severity"] in {"critical", "warning", "info"}
        assert alert["annotations"]["summary"]
        assert alert["annotations"]["description"].endswith((".", "?"))


@pytest.fixture
def promtool():
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed (Debian package prometheus)")

    def run(*arguments):
        done = subprocess.run([found, *map(str, arguments)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    return run


@pytest.mark.peers
def test_promtool_accepts_configuration_alerts_and_queries(promtool, tmp_path):
    promtool("check", "config", DEPLOY / "prometheus/prometheus.yml")
    rules = [
        {"record": f"query:{number}", "expr": query}
        for number, (_, query) in enumerate([*expressions(), *documented_queries()])
    ]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    promtool("check", "rules", file)


def steady(series, values):
    return {"series": series, "values": values}


INFO = 'armwise_classifier_info{instance="a", classifier="embedded/1", '
FALLBACKS = 'armwise_classifier_fallbacks_total{instance="a", reason='
CLASSIFIED = 'armwise_classifications_total{instance="a", classifier="embedded", task_type="Other"}'
CHANGED = 'armwise_drift_alarms_total{model="m", direction="down", stream="label"}'
AFTER_A_DAY = ("ArmwiseNoFeedback", "ArmwiseModelChanged", "ArmwiseUnevenRatings")
CHATS = 'armwise_requests_total{instance="a", endpoint="/v1/chat/completions", streamed="false", status='


@pytest.mark.peers
@pytest.mark.parametrize(
    ("alert", "series", "fires"),
    [
        ("ArmwiseDown", [steady('up{job="armwise", instance="a"}', "0x60")], True),
        ("ArmwiseDown", [steady('up{job="armwise", instance="a"}', "1x60")], False),
        ("ArmwiseDown", [], True),
        ("ArmwiseErrors", [steady(CHATS + '"2xx"}', "0+60x60"), steady(CHATS + '"5xx"}', "0+6x60")], True),
        ("ArmwiseErrors", [steady(CHATS + '"2xx"}', "0+60x60"), steady(CHATS + '"4xx"}', "0+60x60")], False),
        (
            "ArmwiseModelFails",
            [
                steady('armwise_upstream_errors_total{model="m", kind="timeout"}', "0+30x60"),
                steady('armwise_upstream_seconds_count{model="m"}', "0+60x60"),
            ],
            True,
        ),
        (
            "ArmwiseModelFails",
            [
                steady('armwise_upstream_errors_total{model="m", kind="cancelled"}', "0+30x60"),
                steady('armwise_upstream_seconds_count{model="m"}', "0+60x60"),
            ],
            False,
        ),
        (
            "ArmwiseCredentials",
            [steady('armwise_upstream_errors_total{model="m", kind="credentials"}', "1+1x60")],
            True,
        ),
        ("ArmwiseClassifierFailed", [steady(INFO + 'state="failed"}', "1x60")], True),
        (
            "ArmwiseClassifierFailed",
            [steady(INFO + 'state="failed"}', "0x60"), steady(INFO + 'state="serving"}', "1x60")],
            False,
        ),
        (
            "ArmwiseClassifierFallback",
            [steady(FALLBACKS + '"deadline"}', "0+15x60"), steady(CLASSIFIED, "0+60x60")],
            True,
        ),
        (
            "ArmwiseClassifierFallback",
            [steady(FALLBACKS + '"loading"}', "0+60x60"), steady(CLASSIFIED, "0+60x60")],
            False,
        ),
        ("ArmwiseDegraded", [steady('armwise_degraded{instance="a"}', "1x60")], True),
        ("ArmwiseDegraded", [steady('armwise_degraded{instance="a"}', "0x60")], False),
        ("ArmwiseSnapshotOld", [steady('armwise_snapshot_timestamp_seconds{instance="a"}', "0x60")], True),
        ("ArmwiseSnapshotOld", [steady('armwise_snapshot_timestamp_seconds{instance="a"}', "0+60x60")], False),
        (
            "ArmwiseLearnerErrors",
            [steady('armwise_learner_errors_total{instance="a", place="settle"}', "0+1x60")],
            True,
        ),
        ("ArmwiseLearnerErrors", [steady('armwise_learner_errors_total{instance="a", place="settle"}', "5x60")], False),
        (
            "ArmwiseSlow",
            [
                steady('armwise_overhead_seconds_bucket{le="0.05"}', "0+50x60"),
                steady('armwise_overhead_seconds_bucket{le="0.1"}', "0+60x60"),
                steady('armwise_overhead_seconds_bucket{le="+Inf"}', "0+60x60"),
            ],
            True,
        ),
        ("ArmwiseModelChanged", [steady(CHANGED, "_x1480 1x100")], True),
        ("ArmwiseModelChanged", [steady(CHANGED, "3x1480 4x100")], True),
        ("ArmwiseModelChanged", [steady(CHANGED, "4x2000")], False),
        ("ArmwiseUnevenRatings", [steady('armwise_label_rate_alarm{model="m"}', "1x2000")], True),
        ("ArmwiseUnevenRatings", [steady('armwise_label_rate_alarm{model="m"}', "0x2000")], False),
        ("ArmwiseWebhook", [steady('armwise_webhooks_total{instance="a", outcome="failed"}', "0x25 1x20")], True),
        ("ArmwiseWebhook", [steady('armwise_webhooks_total{instance="a", outcome="sent"}', "0x25 1x20")], False),
        ("ArmwiseNoFeedback", [steady('armwise_decisions_total{model="m"}', "0+100x2000")], True),
        (
            "ArmwiseNoFeedback",
            [
                steady('armwise_decisions_total{model="m"}', "0+100x2000"),
                steady('armwise_feedback_total{result="recorded"}', "0+1x2000"),
            ],
            False,
        ),
    ],
)
def test_alerts_fire_when_they_should(promtool, tmp_path, alert, series, fires):
    rule = next(rule for rule in ALERTS if rule["alert"] == alert)
    # The words of an alert are not its condition: without them the test need not repeat them.
    bare = {"alert": alert, "expr": rule["expr"], "for": rule.get("for", "0s")}
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": [bare]}]}))
    probe = f'count(ALERTS{{alertname="{alert}", alertstate="firing"}})'
    expected = [{"labels": "{}", "value": 1}] if fires else []
    case = {
        "interval": "1m",
        "input_series": series,
        "promql_expr_test": [
            {"expr": probe, "eval_time": "1500m" if alert in AFTER_A_DAY else "30m", "exp_samples": expected}
        ],
    }
    (tmp_path / "case.yml").write_text(
        yaml.safe_dump({"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": [case]})
    )
    promtool("test", "rules", tmp_path / "case.yml")


def test_the_image_is_built_apart_and_runs_as_nobody_special():
    stages = re.findall(r"^FROM (\S+)(?: AS (\S+))?$", DOCKERFILE, re.MULTILINE)
    assert [name for _, name in stages] == ["builder", "weights", ""]
    final = DOCKERFILE[DOCKERFILE.rindex("\nFROM ") :]
    assert "COPY --from=builder" in final
    assert "pip install" not in final
    user = re.findall(r"^USER (\S+)$", final, re.MULTILINE)
    assert user == ["armwise"]
    assert final.index("USER armwise") < final.index("ENTRYPOINT")
    assert re.search(r"^HEALTHCHECK .*\\\n.*CMD \[.*/health", final, re.MULTILINE)
    assert re.search(r"^EXPOSE 8402$", final, re.MULTILINE)
    assert re.search(r"^VOLUME /srv/armwise/data$", final, re.MULTILINE)
    assert json.loads(re.search(r"^ENTRYPOINT (.*)$", final, re.MULTILINE)[1]) == [
        "armwise", "serve", "--host", "0.0.0.0"  # noqa: S104 - the container's own network
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("licence", "status", "calls"),
    [
        ("", 0, []),
        ("accepted", 0, ["classifier fetch --accept-licence --to {folder}", "classifier export --weights {folder}"]),
        ("yes", 1, []),
    ],
)
def test_weights_are_baked_in_only_when_their_licence_is_accepted(tmp_path, licence, status, calls):
    stage = DOCKERFILE[DOCKERFILE.index(" AS weights") : DOCKERFILE.rindex("\nFROM ")]
    command = re.search(r"^RUN (?:--mount=\S+ )?\\\n((?:.*\\\n)*.*)$", stage, re.MULTILINE)[1]
    folder, program, log = tmp_path / "weights", tmp_path / "armwise", tmp_path / "log"
    program.write_text(f'#!/bin/sh\necho "$@" >> {log}\n')
    program.chmod(0o755)
    script = command.replace("/opt/nvidia-classifier", str(folder)).replace("/venv/bin/armwise", str(program))
    ran = subprocess.run(["sh", "-c", script], env={**os.environ, "NVIDIA_LICENCE": licence}, check=False)
    assert ran.returncode == status
    assert folder.is_dir(), "what the last stage copies must exist"
    called = log.read_text().splitlines() if log.exists() else []
    assert called == [call.format(folder=folder) for call in calls]


def test_the_image_finds_baked_weights_and_keeps_verdicts_in_the_volume():
    final = DOCKERFILE[DOCKERFILE.rindex("\nFROM ") :]
    assert "COPY --from=weights /opt/nvidia-classifier /opt/nvidia-classifier" in final
    assert "ARMWISE_CLASSIFIER_WEIGHTS=${NVIDIA_LICENCE:+/opt/nvidia-classifier}" in final
    assert final.index("ARG NVIDIA_LICENCE=") < final.index("ARMWISE_CLASSIFIER_WEIGHTS=")
    assert re.search(r"ARMWISE_CACHE=/srv/armwise/data/", final)
    assert "armwise:/srv/armwise/data" in COMPOSE["services"]["armwise"]["volumes"]
    assert set(COMPOSE["services"]["armwise"]["build"]["args"]) <= set(
        re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE)
    )


def test_what_the_image_copies_exists_and_is_let_through():
    copied = [
        name for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE) for name in line.split()[:-1]
    ]
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(copied) == allowed
    for name in copied:
        assert (ROOT / name).exists(), name
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    needed = {project["project"]["readme"], *project["project"]["license-files"]}
    needed |= set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    assert needed <= set(copied)


def test_every_service_has_a_health_check_and_starts_again():
    assert set(COMPOSE["services"]) == {"armwise", "postgres", "prometheus", "grafana"}
    for name, service in COMPOSE["services"].items():
        assert service["restart"] == "unless-stopped", name
        if name != "armwise":  # has it in its image
            assert "healthcheck" in service, name
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name} is open to the world"


def test_secrets_are_required_and_stand_in_no_file():
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    for name in ("POSTGRES_PASSWORD", "GRAFANA_PASSWORD"):
        uses = re.findall(rf"\$\{{{name}[^}}]*\}}", text)
        assert uses, name
        assert all(use.startswith(f"${{{name}:?") for use in uses), (
            "a missing password must stop the start with a sentence"
        )
    for service in COMPOSE["services"].values():
        for variable, value in service.get("environment", {}).items():
            if re.search("PASSWORD|KEY|SECRET", variable):
                assert value.startswith("${"), variable


def test_mounted_files_exist():
    for service in COMPOSE["services"].values():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            if source.startswith("."):
                assert (ROOT / source).exists(), source
            else:
                assert source in COMPOSE["volumes"]


def test_the_settings_of_the_compose_file_are_valid():
    text = (DEPLOY / "armwise.compose.toml").read_text(encoding="utf-8")
    settings = msgspec.toml.decode(text, type=Settings)
    assert settings.database.url_env in COMPOSE["services"]["armwise"]["environment"]
    # The model shown as a comment must be right too: it is there to be uncommented.
    _, _, example = text.partition("# [[models]]")
    uncommented = text + "\n[[models]]" + re.sub(r"^# ?", "", example, flags=re.MULTILINE)
    assert len(msgspec.toml.decode(uncommented, type=Settings).models) == 1


def test_the_stop_is_given_time_for_requests_in_flight():
    seconds = int(COMPOSE["services"]["armwise"]["stop_grace_period"].removesuffix("s"))
    assert seconds > Settings().server.drain_s


def test_constraints_are_plain_pins_that_hold_here():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    for line in pins:
        assert re.fullmatch(r"[A-Za-z0-9][\w.-]*==[\w.]+", line), line
    names = [line.partition("==")[0].lower().replace("-", "_") for line in pins]
    assert len(names) == len(set(names))
    assert "torch" not in names
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [
        *project["dependencies"],
        *project["optional-dependencies"]["postgres"],
        *project["optional-dependencies"]["dev"],
    ]
    for requirement in asked:
        name = re.match(r"[A-Za-z0-9_.-]+", requirement)[0].lower().replace("-", "_")
        assert name in {*names, "armwise"}, f"{name} is not pinned; see the head of constraints.txt"


def test_make_lists_every_target():
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is not installed")
    listed = subprocess.run([make, "-s"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    wanted = {"help", "run", "demo", "test", "check", "format", "bench", "migrate", "clean"}
    assert set(re.findall(r"make (\w+)", listed)) == wanted


def test_make_says_which_python_is_needed(tmp_path):
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is not installed")
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    old = tmp_path / "old-python"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.1" && exit 0\nexit 1\n')
    old.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    ran = subprocess.run(
        [make, "run", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True, check=False, env=environment
    )
    assert ran.returncode != 0
    assert "Armwise needs Python 3.11 or newer; found: Python 3.9.1." in ran.stderr
    assert not (tmp_path / ".venv").exists()


def test_readme_runner_runs_marked_blocks_and_stops_at_the_first_failure(tmp_path):
    readme = tmp_path / "README.md"
    block = "<!-- ci: run -->\n```{}\n{}\n```\n"
    readme.write_text(
        "```bash\nexit 9\n```\n" + block.format("bash", "echo one; true") + block.format("python", "print('two')")
    )
    runner = [sys.executable, ROOT / ".ci/readme_requests", readme]
    ran = subprocess.run(runner, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout
    assert "\none\n" in ran.stdout
    assert "\ntwo\n" in ran.stdout
    readme.write_text(block.format("bash", "false | true") + block.format("bash", "echo never"))
    ran = subprocess.run(runner, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "\nnever\n" not in ran.stdout
    readme.write_text("<!-- ci: run -->\n\nno block\n")
    assert subprocess.run(runner, capture_output=True, check=False).returncode == 1


def test_hooks_only_format_and_lint():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repo["repo"] for repo in hooks] == ["local"]
    assert [hook["id"] for hook in hooks[0]["hooks"]] == ["ruff-format", "ruff-check"]
    assert {hook["language"] for hook in hooks[0]["hooks"]} == {"system"}


def test_the_changelog_opens_with_what_is_unreleased():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[([^\]]+)\]", text, re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", heading) for heading in headings[1:])


def test_the_licence_is_whole():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
