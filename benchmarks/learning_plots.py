"""The plots of docs/learning.md, from benchmarks/results/learning.json.

Run with python -m benchmarks.learning_plots. Needs matplotlib (pip install -e '.[bench]'). The same results give the
same bytes. Backgrounds are transparent and all colours are of middling lightness, so that a light and a dark page show
them alike.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "learning.json"
FOLDER = ROOT / "docs" / "img"

_GREY = "#7d7d7d"  # a contrast of 4 to white and of 4.7 to near black
# Okabe and Ito's colours, which the colour-blind can tell apart, the darkest and the lightest left out.
_LOOKS = {
    "pooled_thompson": ("pooled", "#d55e00", "-"),
    "thompson": ("Beta per task", "#0086c9", "-"),
    "thompson_global": ("Beta per model", "#009e73", "-"),
    "pooled_unwatched": ("pooled, without detectors", "#cc79a7", "-"),
    "static_prior": ("static prior", "#0086c9", "o"),
    "best mix within budget": ("best mix of two, hindsight", "#009e73", "--"),
    "best per task within budget": ("best per task, hindsight (linear programme)", _GREY, "--"),
    "paretobandit": ("ParetoBandit", "#cc79a7", "-"),
}
_STYLE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "learning", "font.size": 10, "font.family": "sans-serif",
    "text.color": _GREY, "axes.labelcolor": _GREY, "axes.edgecolor": _GREY, "xtick.color": _GREY,
    "ytick.color": _GREY, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.color": _GREY, "grid.alpha": 0.25, "legend.frameon": False, "lines.linewidth": 2.0,
}  # fmt: skip


def regret_curves(curves: Sequence[dict[str, Any]], axes: Sequence["Axes"]) -> None:
    """Quality lost against the best per task, one panel per data set."""
    chosen = [one for one in curves if one["curve"] == "regret"]
    names = list(dict.fromkeys(one["data"] for one in chosen))
    for panel, name in zip(axes, names, strict=False):
        for one in chosen:
            if one["data"] == name:
                _line(panel, one["policy"], one["at"], one["value"])
        panel.set(title=name, xlabel="requests", ylabel="quality lost")


def money(rows: Sequence[dict[str, Any]], axes: Sequence["Axes"]) -> None:
    """Quality reached at each budget."""
    chosen = [one for one in rows if one["section"] == "Budget, 1,824 requests" and "quality" in one]
    priors = list(dict.fromkeys(one["prior"] for one in chosen))
    for panel, prior in zip(axes, priors, strict=False):
        for policy in _LOOKS:
            mine = (one for one in chosen if (one["policy"], one["prior"]) == (policy, prior))
            reached = sorted({one["budget_usd"]: one["quality"] for one in mine}.items())
            if reached:
                _line(panel, policy, [at for at, _ in reached], [one for _, one in reached], marker="o")
        panel.set(xscale="log", title=f"{prior} prior", xlabel="USD a request", ylabel="quality")
        budgets = sorted({one["budget_usd"] for one in chosen})
        panel.set_xticks(budgets, labels=[f"{budget:.1e}".replace("e-0", "e-") for budget in budgets])
        panel.set_xticks([], minor=True)


def adaptation(curves: Sequence[dict[str, Any]], axes: Sequence["Axes"]) -> None:
    """Share of the model that drops half way, one panel per rate of feedback."""
    chosen = [one for one in curves if one["curve"] == "share"]
    first = [one for one in chosen if one["data"] == chosen[0]["data"]]
    rates = sorted({one["feedback_rate"] for one in first}, reverse=True)
    for panel, rate in zip(axes, rates, strict=False):
        for one in first:
            if one["feedback_rate"] == rate:
                _line(panel, one["policy"], one["at"], one["value"])
        panel.axvline((first[0]["at"][-1] + first[0]["at"][0]) / 2, color=_GREY, linestyle=":", linewidth=1.2)
        panel.set(title=f"{first[0]['data']}, {rate:.0%} rated", xlabel="requests", ylabel="share", ylim=(0, 1))


def _line(panel: "Axes", policy: str, across: Sequence[float], up: Sequence[float], marker: str | None = None) -> None:
    label, colour, kind = _LOOKS[policy]
    panel.plot(across, up, color=colour, linestyle="none" if kind == "o" else kind, marker=marker, label=label)


def draw(results: dict[str, Any], folder: Path) -> list[Path]:
    """Write the three plots as SVG; returns their paths."""
    import matplotlib as mpl  # noqa: PLC0415 - of the extra `bench` alone

    mpl.use("svg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - likewise

    folder.mkdir(parents=True, exist_ok=True)
    panels = len({one["data"] for one in results["curves"] if one["curve"] == "regret"})
    written = []
    with mpl.rc_context(_STYLE):
        for name, draw_on, width, source in (
            ("learning-regret", regret_curves, panels, results["curves"]),
            ("learning-budget", money, 2, results["rows"]),
            ("learning-drop", adaptation, 3, results["curves"]),
        ):
            figure, axes = plt.subplots(1, width, figsize=(3.9 * width, 3.6), squeeze=False, layout="constrained")
            draw_on(source, axes[0])
            found = dict(zip(*axes[0][0].get_legend_handles_labels()[::-1], strict=True))
            figure.legend(
                found.values(), found.keys(), loc="outside lower center", ncols=min(len(found), max(width, 2))
            )
            path = folder / f"{name}.svg"
            figure.savefig(path, transparent=True, metadata={"Date": None, "Creator": None})
            plt.close(figure)
            written.append(path)
    return written


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--results", type=Path, default=RESULTS, help="file to draw from (default: the published one)")
    made.add_argument("--out", type=Path, default=FOLDER, help="folder for the plots (default: docs/img)")
    arguments = made.parse_args()
    for path in draw(msgspec.json.decode(arguments.results.read_bytes()), arguments.out):
        print(path)


if __name__ == "__main__":
    main()
