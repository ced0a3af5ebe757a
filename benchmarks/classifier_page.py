"""Writes the tables of docs/classifier.md from docs/classifier-figures.json: `python -m benchmarks.classifier_page`."""

import json
import re
from pathlib import Path

from bandit.vocabulary import TASK_TYPES

DOCS = Path(__file__).parent.parent / "docs"
PAGE, FIGURES = DOCS / "classifier.md", DOCS / "classifier-figures.json"
_BLOCK = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

ROWS = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "accuracy_unknown_is_wrong": "accuracy, `Unknown` counted as wrong",
    "macro_f1_unknown_is_wrong": "macro-F1, `Unknown` counted as wrong",
    "accuracy_at_most_800_a_source": "accuracy, at most 800 prompts a source",
    "macro_f1_at_most_800_a_source": "macro-F1, at most 800 prompts a source",
    "mean_accuracy_over_sources": "mean accuracy over sources",
    "accuracy_english": "accuracy, English",
    "accuracy_chinese": "accuracy, Chinese",
    "named": "share that gets a type (not `Unknown`)",
    "accuracy_of_named": "accuracy of these",
    "calibration_error": "calibration error (10 bins)",
}
SHORT = {name: "".join(word[0] for word in name.split()) if " " in name else name[:4] for name in TASK_TYPES}


def table(header, rows):
    """Lines of a Markdown table."""
    cells = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in cells) + "\n"


def _overall(figures):
    columns = ["embedded", "embedded_families_left_out", "rules"]
    found = [figures[column] for column in columns]
    if "unseen" in figures:
        found += [figures["unseen"]["embedded"], figures["unseen"]["rules"]]
    header = ["", "`embedded`", "families left out together", "`rules`", "Dolly, `embedded`", "Dolly, `rules`"]
    rows = [[label, *(f"{one[key]:.3f}" if key in one else "" for one in found)] for key, label in ROWS.items()]
    return table(header[: 1 + len(found)], rows)


def _types(figures):
    return table(
        ["type", "prompts", "F1 `embedded`", "F1 `rules`"],
        [
            [name, f"{count:,}", *(f"{figures[kind]['f1_per_type'][name]:.2f}" for kind in ("embedded", "rules"))]
            for name, count in figures["prompts_per_type"].items()
        ],
    )


def _sources(figures):
    rows = []
    for source, one in figures["embedded"]["per_source"].items():
        by_rules = figures["rules"]["per_source"][source]["accuracy"]
        licence = figures["licences"][source]
        rows.append(
            [source, f"{one['prompts']:,}", f"{one['accuracy']:.2f}", f"{one['named']:.2f}", f"{by_rules:.2f}", licence]
        )
    return table(["source, left out", "prompts", "`embedded`", "gets a type", "`rules`", "from, licence"], rows)


def _confusion(figures):
    header = ["asked for / said", *(SHORT[name] for name in TASK_TYPES)]
    return table(
        header, [[name, *counts] for name, counts in zip(TASK_TYPES, figures["embedded"]["confusion"], strict=False)]
    )


def _reliability(figures):
    return table(
        ["probability of the likeliest type", "prompts", "mean probability", "were right"],
        [
            [f"{b['from']:.1f} to {b['from'] + 0.1:.1f}", f"{b['prompts']:,}", f"{b['mean_probability']:.3f}",
             f"{b['accuracy']:.3f}"]
            for b in figures["embedded"]["reliability"]
        ],
    )  # fmt: skip


def _languages(figures):
    embedded, by_rules = figures["languages"].values()
    rows = []
    for language, one in embedded.items():
        sure = one["mean_probability_of_wrong"]
        rows.append(
            [language, one["prompts"], one["right"], one["unknown"], one["wrong"],
             "" if sure is None else f"{sure:.2f}", by_rules[language]["right"]]
        )  # fmt: skip
    header = [
        "language",
        "prompts",
        "right",
        "`Unknown`",
        "wrong",
        "mean probability of the wrong ones",
        "`rules` right",
    ]
    return table(header, rows)


def _latency(figures):
    first, second = figures["latency_ms"].values()
    rows = [
        [length, *(f"{one[f'{language} {length}']['p50']:.3f} / {one[f'{language} {length}']['p99']:.3f}"
                   for one in (first, second) for language in ("english", "chinese"))]
        for length in (30, 100, 300, 2_000, 8_000)
    ]  # fmt: skip
    names = [f"{name}, {language}" for name in figures["latency_ms"] for language in ("English", "Chinese")]
    return table(["characters", *names], rows)


def _vector(figures):
    vector = figures["vector"]
    errors = vector["outcomes"]["squared_error"]
    same = vector["neighbours_of_other_sources_of_the_same_type"]
    return table(
        ["what the vector says", "figure"],
        [
            ["of the ten nearest prompts of other sources, share of the same type", f"{same:.3f}"],
            ["the same by chance", f"{vector['by_chance']:.3f}"],
            *([f"squared error of a model's score, told by {name}", f"{error:.4f}"] for name, error in errors.items()),
        ],
    )


def _difficulty(figures):
    return table(
        ["told by", "median within benchmarks", "benchmarks above 0", "median over whole sets"],
        [
            [name, f"{one['median_within_benchmarks']:.2f}", f"{one['share_of_benchmarks_above_0']:.0%}",
             f"{one['median_over_sets']:.2f}"]
            for name, one in figures["difficulty"]["told_by"].items()
        ],
    )  # fmt: skip


def _complexity(figures):
    names = list(figures["complexity"])
    shares = figures["complexity"][names[0]]["quantiles"]
    rows = [[name, *(f"{value:.2f}" for value in figures["complexity"][name]["quantiles"].values())] for name in names]
    return table(["", *(f"{float(share):.0%}" for share in shares)], rows)


TABLES = {
    "complexity": _complexity,
    "difficulty": _difficulty,
    "overall": _overall,
    "types": _types,
    "sources": _sources,
    "confusion": _confusion,
    "reliability": _reliability,
    "languages": _languages,
    "latency": _latency,
    "vector": _vector,
}


def page_with_tables(page, figures):
    """The page, its tables written anew."""
    return _BLOCK.sub(lambda block: block[1] + TABLES[block[2]](figures) + block[3], page)


def write_tables():
    """Write the tables of the page from the figures beside it."""
    figures = json.loads(FIGURES.read_text(encoding="utf-8"))
    PAGE.write_text(page_with_tables(PAGE.read_text(encoding="utf-8"), figures), encoding="utf-8")


if __name__ == "__main__":
    write_tables()
