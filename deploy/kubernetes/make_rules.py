"""Write Prometheus' rules as the object that its operator reads: `python -m deploy.kubernetes.make_rules`."""

from pathlib import Path

import yaml

FILE = Path(__file__).with_name("rules.yaml")

_RULES = Path(__file__).parents[1] / "prometheus"
_HEAD = "# Made of deploy/prometheus by `python -m deploy.kubernetes.make_rules`: change the rules there.\n"


def text() -> str:
    """What the file holds."""
    files = [yaml.safe_load((_RULES / name).read_text(encoding="utf-8")) for name in ("rules.yml", "alerts.yml")]
    made = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "armwise"},
        "spec": {"groups": [group for file in files for group in file["groups"]]},
    }
    dumped: str = yaml.safe_dump(made, sort_keys=False, width=120)
    return _HEAD + dumped


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
