"""Write every dashboard as JSON: `python -m deploy.grafana.make_dashboards`. A test holds the files to this code."""

import json
from collections.abc import Mapping
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.grafana.cost import COST
from deploy.grafana.experiments import EXPERIMENTS
from deploy.grafana.overview import OVERVIEW
from deploy.grafana.reliability import RELIABILITY
from deploy.grafana.routing import ROUTING

FOLDER = Path(__file__).with_name("dashboards")

DASHBOARDS = {
    "overview": OVERVIEW,
    "routing": ROUTING,
    "cost": COST,
    "reliability": RELIABILITY,
    "experiments": EXPERIMENTS,
}


def texts() -> Mapping[str, str]:
    """The text of every file, by its name."""
    return {
        f"{name}.json": json.dumps(made, cls=JSONEncoder, indent=1, sort_keys=True) + "\n"
        for name, made in DASHBOARDS.items()
    }


def main() -> None:
    """Write the files, and remove those of dashboards that are no more."""
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.glob("*.json"):
        old.unlink()
    for name, text in texts().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
