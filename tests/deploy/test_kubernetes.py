"""Monitoring on Kubernetes: the same rules and dashboards, in the objects that a cluster reads."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"


def test_the_rules_are_those_of_prometheus():
    from deploy.kubernetes.make_rules import FILE, text

    assert FILE.read_text(encoding="utf-8") == text(), "run python -m deploy.kubernetes.make_rules"
    groups = yaml.safe_load(text())["spec"]["groups"]
    names = [rule.get("alert") or rule["record"] for group in groups for rule in group["rules"]]
    assert len(names) == len(set(names))
    assert {"ArmwiseAbsent", "armwise:chat_errors:ratio_rate3d"} <= set(names)


def test_every_dashboard_is_brought():
    listed = yaml.safe_load((DEPLOY / "grafana/kustomization.yaml").read_text(encoding="utf-8"))
    (made,) = listed["configMapGenerator"]
    assert made["files"] == [f"dashboards/{path.name}" for path in sorted((DEPLOY / "grafana/dashboards").iterdir())]


@pytest.mark.peers
def test_kubectl_makes_objects_of_it():
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    done = subprocess.run(
        [kubectl, "kustomize", DEPLOY / "kubernetes"], capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made = {found["kind"]: found for found in yaml.safe_load_all(done.stdout)}
    assert set(made) == {"ConfigMap", "PrometheusRule", "ServiceMonitor"}
    boards = made["ConfigMap"]["data"]
    for path in (DEPLOY / "grafana/dashboards").iterdir():
        assert json.loads(boards[path.name]) == json.loads(path.read_text(encoding="utf-8"))
    assert sum(len(text) for text in boards.values()) < 1_000_000, "an object holds a mebibyte"
    assert made["ConfigMap"]["metadata"]["labels"]["grafana_dashboard"] == "1"
    for kind in ("PrometheusRule", "ServiceMonitor"):
        assert made[kind]["metadata"]["labels"]["release"] == "kube-prometheus-stack"
    (endpoint,) = made["ServiceMonitor"]["spec"]["endpoints"]
    assert {"targetLabel": "job", "replacement": "armwise"} in endpoint["relabelings"]
