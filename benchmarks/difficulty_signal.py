"""Can difficulty be told from a prompt? `python -m benchmarks.difficulty_signal --data FOLDER`.

Difficulty is the share of models that failed a prompt of five outcome sets that may be shipped. What is told is its
rank, within the set or within the benchmark; every benchmark by a model that saw none of that benchmark, in any set.
Writes "difficulty" of docs/classifier-figures.json and the tables of docs/classifier.md.
"""

import argparse
import gzip
import json
import math
import os
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
from scipy.stats import rankdata, spearmanr

from benchmarks.classifier_page import FIGURES, write_tables
from service.classifiers.embedded import Embedded
from service.classifiers.keywords import CONSTRAINT_WORDS, REASONING_WORDS, RULES
from service.classifiers.reading import SIGNS, read

SETS = ("zeroeval", "paretobandit", "routerbench11", "routellm_mmlu", "routellm_gsm8k")
SAME = {"grade-school-math": "gsm8k", "arc-challenge": "arc_challenge"}  # one benchmark under two names
LEAST_PROMPTS = 55  # a rank correlation within fewer says little
RIDGES = (300.0, 3_000.0)
_NUMBER = re.compile(r"\d+(?:[.,]\d+)?")
_CHOICE = re.compile(r"(?m)^\s*\(?[A-Ea-e1-5][).:]")


def outcomes(folder, name):
    """(prompt, benchmark, difficulty) of one set."""
    scores, about = defaultdict(list), {}
    with gzip.open(folder / f"{name}.train.jsonl.gz", "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            if isinstance(row["prompt"], str) and row.get("score") is not None:
                scores[row["prompt_id"]].append(row["score"])
                benchmark = (row.get("benchmark") or row["category"]).removeprefix("mmlu-")
                about[row["prompt_id"]] = row["prompt"], SAME.get(benchmark, benchmark)
    return [(*about[key], 1 - float(np.mean(found))) for key, found in scores.items()]


def shape(text):
    """Counts that do not name a topic: length, numbers, sentences, choices, formulas, steps."""
    numbers = _NUMBER.findall(text)
    words = text.split()
    return [
        math.log(1 + len(text)), math.log(1 + len(words)), math.log(1 + len(numbers)),
        math.log(1 + len({*numbers})), max((len(number) for number in numbers), default=0),
        math.log(1 + len(_CHOICE.findall(text))), math.log(1 + text.count("\n")), math.log(1 + text.count("\\")),
        math.log(1 + text.count("=")), sum(map(len, words)) / (1 + len(words)),
        math.log(1 + sum(text.count(mark) for mark in ".?!。？！")),
    ]  # fmt: skip


def words_and_signs(text):
    """Word lists and signs of shape, as both classifiers see them."""
    reading = read(text)
    words, fired = set(reading.tokens), {rule for rule, _ in reading.fired}
    return [
        len(words & REASONING_WORDS), len(words & CONSTRAINT_WORDS), sum(map(str.isdigit, reading.tokens)),
        *(sign in reading.signs for sign in range(len(SIGNS))), *(rule in fired for rule in range(len(RULES))),
    ]  # fmt: skip


def told(matrix, target, benchmarks, ridge):
    """Predictions of a ridge regression, every benchmark by a model that saw none of it."""
    result = np.zeros(len(target))
    for benchmark in np.unique(benchmarks):
        test = benchmarks == benchmark
        train, mean = matrix[~test], target[~test].mean()
        learned = np.linalg.solve(train.T @ train + ridge * np.eye(train.shape[1]), train.T @ (target[~test] - mean))
        result[test] = matrix[test] @ learned + mean
    return result


def ranks_within(difficulty, groups):
    """Ranks in (0, 1] within each group."""
    result = np.zeros(len(difficulty))
    for group in np.unique(groups):
        rows = groups == group
        result[rows] = rankdata(difficulty[rows]) / rows.sum()
    return result


def summary(values, difficulty, sets, benchmarks):
    """Rank correlation with difficulty: median over benchmarks, share of them above 0, median over sets as a whole."""
    within, whole = [], []
    for name in np.unique(sets):
        chosen = sets == name
        whole.append(spearmanr(values[chosen], difficulty[chosen])[0])
        for benchmark in np.unique(benchmarks[chosen]):
            rows = chosen & (benchmarks == benchmark)
            if rows.sum() >= LEAST_PROMPTS and np.ptp(difficulty[rows]) > 0 and np.ptp(values[rows]) > 0:
                within.append(spearmanr(values[rows], difficulty[rows])[0])
    return {
        "median_within_benchmarks": float(np.median(within)),
        "share_of_benchmarks_above_0": float(np.mean(np.array(within) > 0)),
        "median_over_sets": float(np.median(whole)),
        "benchmarks": len(within),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("ARMWISE_DATA"))
    folder = parser.parse_args().data
    if folder is None:
        parser.error("name the folder of the data with --data or ARMWISE_DATA")
    rows = [(name, *row) for name in SETS for row in outcomes(Path(folder), name)]
    sets, benchmarks = np.array([row[0] for row in rows]), np.array([row[2] for row in rows])
    texts, difficulty = [row[1] for row in rows], np.array([row[3] for row in rows])
    classifier = Embedded()
    said = [classifier.classify(text) for text in texts]
    blocks = {
        "shape": np.array([shape(text) for text in texts]),
        "shape, word lists, signs": np.array([[*shape(text), *words_and_signs(text)] for text in texts], dtype=float),
    }
    blocks["all, task type, vector"] = np.hstack(
        [blocks["shape, word lists, signs"], [[*one.task_probabilities, *one.vector] for one in said]]
    )
    targets = {
        "rank in the set": ranks_within(difficulty, sets),
        "rank in the benchmark": ranks_within(difficulty, np.char.add(np.char.add(sets, "/"), benchmarks)),
    }
    found = {
        "the formula (shipped)": summary(np.array([one.complexity for one in said]), difficulty, sets, benchmarks),
        "length alone": summary(np.array([len(text) for text in texts]), difficulty, sets, benchmarks),
    }
    for name, matrix in blocks.items():
        standard = (matrix - matrix.mean(0)) / (matrix.std(0) + 1e-9)
        for aim, target in targets.items():
            for ridge in RIDGES:
                values = told(standard, target, benchmarks, ridge)
                found[f"{name}; {aim}; ridge {ridge:g}"] = summary(values, difficulty, sets, benchmarks)
    figures = json.loads(FIGURES.read_text(encoding="utf-8"))
    figures["difficulty"] = {
        "prompts": len(rows),
        "told_by": {name: {key: round(value, 3) for key, value in one.items()} for name, one in found.items()},
    }
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    write_tables()
    print(json.dumps(figures["difficulty"], indent=1))


if __name__ == "__main__":
    main()
