"""Draw the table of facts behind the simulated provider from public outcome data.

    python benchmarks/draw_facts.py --data DIR        (or with ARMWISE_DATA set)

Reads paretobandit and zeroeval (both Apache-2.0) and writes service/providers/facts.json: for each model the mean
quality and the mean tokens of a reply, over all prompts and per task type, with the number of prompts. Means only: no
prompt, no answer and no row goes in. The same data give the same bytes.

Left out: routerbench11, which counts no tokens and whose answers are mostly single letters, so that it says nothing of
the length of a usual reply; and every set whose licence does not allow it to be passed on.
"""

import argparse
import gzip
import json
import os
import re
import sys
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from bandit.vocabulary import TASK_TYPES

FACTS = Path(__file__).parent.parent / "service" / "providers" / "facts.json"
FEWEST = 20  # prompts; a task type with fewer has no mean of its own

PROFILES = {
    "small": "meta-llama/llama-3.1-8b-instruct",
    "medium": "mistralai/mistral-large-2512",
    "large": "google/gemini-2.5-pro",
}

# Which task type a benchmark's prompts are of, as a reader of the prompt alone would say. What is in doubt, such as
# puzzles, counting and sorting, is Other, as arithmetic is.
TASK_TYPE_OF_BENCHMARK = {
    "paretobandit": {
        "mmlu": "Open QA",
        "arc_challenge": "Open QA",
        "openbookqa": "Open QA",
        "truthful_qa": "Open QA",
        "winogrande": "Closed QA",  # the answer stands in the sentence that is given
        "bbh/disambiguation_qa": "Closed QA",
        "bbh/penguins_in_a_table": "Closed QA",
        "bbh/reasoning_about_colored_objects": "Closed QA",
        "bbh/temporal_sequences": "Closed QA",
        "bbh/tracking_shuffled_objects_three_objects": "Closed QA",
        "bbh/tracking_shuffled_objects_five_objects": "Closed QA",
        "bbh/snarks": "Classification",  # which of two sentences is sarcastic
        "bbh/sports_understanding": "Classification",  # plausible or not
        "bbh/hyperbaton": "Classification",  # which word order is right
        "bbh/ruin_names": "Classification",  # which change is humorous
        "bbh/salient_translation_error_detection": "Classification",
        "bbh/movie_recommendation": "Brainstorming",  # something like these
        "mbpp": "Code Generation",
        "hellaswag": "Text Generation",  # how a text goes on
        "gsm8k": "Other",
        "bbh/boolean_expressions": "Other",
        "bbh/causal_judgement": "Other",
        "bbh/date_understanding": "Other",
        "bbh/dyck_languages": "Other",
        "bbh/formal_fallacies": "Other",
        "bbh/logical_deduction_five_objects": "Other",
        "bbh/multistep_arithmetic_two": "Other",
        "bbh/navigate": "Other",
        "bbh/object_counting": "Other",
        "bbh/web_of_lies": "Other",
        "bbh/word_sorting": "Other",
    },
    "zeroeval": {
        "gsm8k": "Other",
        "math_level5": "Other",
        "cruxeval_output": "Code Generation",  # what a piece of Python returns: the only prompts with code
    },
}

SOURCES = {
    "paretobandit": {
        "from": "ParetoBandit/ParetoBandit at 72ccbefe5cb8, the 70 % of prompts that are not held out",
        "licence": "Apache-2.0",
        "quality": "composite reward of a judge LLM, 0..1",
        "tokens": "reply tokens from the recorded cost, the price it was recorded at, and the prompt's tokens as"
        " counted for gemini-2.5-flash; thinking included",
        "prices": "LiteLLM 1.106.2's list of prices, read 2026-11-21; llama-3.1-8b as sold by Novita",
    },
    "zeroeval": {
        "from": "WildEval/ZeroEval at 8c1485edf12c, graded again; the 70 % of prompts that are not held out",
        "licence": "Apache-2.0",
        "quality": "share of right answers",
        "tokens": "characters / 4 of the recorded replies",
        "prices": "public lists of about late 2024, as in the set's own costs",
    },
}

# USD per million tokens, in and out: today's list price, and the one paretobandit's costs were recorded at.
PARETOBANDIT_PRICES = {
    "google/gemini-2.5-flash": ((0.3, 2.5), (0.3, 2.5)),
    "google/gemini-2.5-pro": ((1.25, 10.0), (1.25, 10.0)),
    "meta-llama/llama-3.1-8b-instruct": ((0.02, 0.05), (0.1, 0.1)),
    "mistralai/mistral-large-2512": ((0.5, 1.5), (0.5, 1.5)),
}

LATENCY = (
    "ASSUMED, since no source records latency: 0.3 s to the first token and 150 tokens/s where a million reply tokens"
    " cost under $0.50, 0.5 s and 60 tokens/s under $5, 0.8 s and 80 tokens/s above"
)
ABOUT = (
    "Facts behind the simulated provider, drawn by benchmarks/draw_facts.py: means only. Scores of different sources"
    " are not comparable. A task type without a mean of its own takes the model's overall mean."
)

Row = dict[str, Any]


def read_rows(folder: Path, name: str) -> list[Row]:
    path = folder / f"{name}.train.jsonl.gz"
    if not path.exists():
        sys.exit(f"No {path.name} in {folder}. Give the folder of the outcome sets by --data or ARMWISE_DATA.")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def with_tokens(rows: list[Row]) -> list[Row]:
    """Paretobandit's rows with the tokens of prompt and reply; it counts them for one of its models only."""
    counted = {row["prompt_id"]: row["input_tokens"] for row in rows if "input_tokens" in row}
    filled: list[Row] = []
    for row in rows:
        price_in, price_out = PARETOBANDIT_PRICES[row["model"]][1]
        tokens_in = counted.get(row["prompt_id"], len(row["prompt"]) / 4)
        tokens_out = row.get("output_tokens", (row["cost_usd"] * 1e6 - tokens_in * price_in) / price_out)
        filled.append({**row, "input_tokens": tokens_in, "output_tokens": tokens_out})
    return filled


def recovered_prices(rows: list[Row]) -> tuple[float, float]:
    """The prices that turn a model's tokens into its costs; least squares are exact but for rounding."""
    tokens = np.array([[row["input_tokens"], row["output_tokens"]] for row in rows], dtype=float)
    costs = np.array([row["cost_usd"] for row in rows]) * 1e6
    price_in, price_out = np.linalg.lstsq(tokens, costs, rcond=None)[0]
    return round(float(price_in), 3), round(float(price_out), 3)


def fact(rows: list[Row]) -> dict[str, float]:
    return {
        "quality": round(fmean(row["score"] for row in rows), 4),
        "n": len(rows),
        "output_tokens": round(fmean(row["output_tokens"] for row in rows)),
    }


def latency(price_out: float) -> dict[str, float]:
    """The assumption that `LATENCY` states."""
    if price_out < 0.5:
        return {"first_token_s": 0.3, "tokens_per_s": 150}
    if price_out < 5:
        return {"first_token_s": 0.5, "tokens_per_s": 60}
    return {"first_token_s": 0.8, "tokens_per_s": 80}


def model_facts(source: str, model: str, rows: list[Row]) -> dict[str, Any]:
    mapping = TASK_TYPE_OF_BENCHMARK[source]
    by_type: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_type[mapping[row["category"]]].append(row)
    prices = PARETOBANDIT_PRICES[model][0] if source == "paretobandit" else recovered_prices(rows)
    return {
        "source": source,
        "price_in": prices[0],
        "price_out": prices[1],
        **latency(prices[1]),
        "overall": fact(rows),
        "task_types": {name: fact(by_type[name]) for name in TASK_TYPES if len(by_type[name]) >= FEWEST},
    }


def draw(folder: Path) -> dict[str, Any]:
    models: dict[str, Any] = {}
    sources: dict[str, Any] = {}
    for source, about in SOURCES.items():
        rows = read_rows(folder, source)
        by_model: dict[str, list[Row]] = defaultdict(list)
        for row in with_tokens(rows) if source == "paretobandit" else rows:
            by_model[row["model"]].append(row)
        drawn = {model: model_facts(source, model, by_model[model]) for model in sorted(by_model)}
        measured = {name for model in drawn.values() for name in model["task_types"]}
        sources[source] = {
            **about,
            "task_type_of_benchmark": TASK_TYPE_OF_BENCHMARK[source],
            "overall_mean_used_for": [name for name in TASK_TYPES if name not in measured],
        }
        models |= drawn
    return {"about": ABOUT, "latency": LATENCY, "profiles": PROFILES, "sources": sources, "models": models}


def as_text(table: dict[str, Any]) -> str:
    """The table as JSON with one model a line, so that a change is easy to see."""
    text = json.dumps({**table, "models": {}}, indent=1, ensure_ascii=False)
    lines = (f"  {json.dumps(name)}: {json.dumps(row, separators=(',', ':'))}" for name, row in table["models"].items())
    return re.sub(r'"models": \{\}', lambda _: '"models": {\n' + ",\n".join(lines) + "\n }", text) + "\n"


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("ARMWISE_DATA"), help="folder of the outcome sets")
    parser.add_argument("--out", type=Path, default=FACTS)
    arguments = parser.parse_args()
    if not arguments.data:
        sys.exit("Give the folder of the outcome sets by --data or ARMWISE_DATA.")
    table = draw(Path(arguments.data))
    arguments.out.write_text(as_text(table), encoding="utf-8")
    print(f"{len(table['models'])} models -> {arguments.out}")
    for profile, model in PROFILES.items():
        row = table["models"][model]
        print(f"{profile} = {model}: overall {row['overall']}")
        for name, cell in row["task_types"].items():
            print(f"  {name:16} {cell}")


if __name__ == "__main__":
    main()
