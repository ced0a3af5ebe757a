"""Can difficulty be told from a prompt? `python benchmarks/difficulty_signal.py --data FOLDER`.

Difficulty is the share of models that failed a prompt of ZeroEval, ParetoBandit or RouterBench. A ridge regression on
what the classifiers see predicts its rank within the set, every benchmark by a model that saw none of that benchmark.
"""

import argparse
import gzip
import json
import math
import os
from collections import defaultdict
from pathlib import Path

import numpy as np
from scipy.stats import rankdata, spearmanr

from service.classifiers.keywords import CONSTRAINT_WORDS, REASONING_WORDS, RULES
from service.classifiers.reading import SIGNS, read

SETS = ("zeroeval", "paretobandit", "routerbench11")
RIDGE = 300.0
LEAST_PROMPTS = 55  # a rank correlation within fewer says little


def outcomes(folder, name):
    """(prompt, benchmark, difficulty) of one set."""
    scores, about = defaultdict(list), {}
    with gzip.open(folder / f"{name}.train.jsonl.gz", "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            if isinstance(row["prompt"], str) and row.get("score") is not None:
                scores[row["prompt_id"]].append(row["score"])
                about[row["prompt_id"]] = row["prompt"], row.get("benchmark") or row["category"]
    return [(*about[key], 1 - float(np.mean(found))) for key, found in scores.items()]


def features(text):
    reading = read(text)
    words, rules = set(reading.tokens), {rule for rule, _ in reading.fired}
    counts = [
        math.log(1 + len(text)), len(words & REASONING_WORDS), len(words & CONSTRAINT_WORDS),
        sum(map(str.isdigit, reading.tokens)), text.count("\\"), text.count("\n"), text.count("="),
    ]  # fmt: skip
    return (
        counts + [sign in reading.signs for sign in range(len(SIGNS))] + [rule in rules for rule in range(len(RULES))]
    )


def predicted(matrix, target, benchmarks):
    result = np.zeros(len(target))
    for benchmark in np.unique(benchmarks):
        test = benchmarks == benchmark
        train = matrix[~test]
        mean = target[~test].mean()
        fitted = np.linalg.solve(train.T @ train + RIDGE * np.eye(train.shape[1]), train.T @ (target[~test] - mean))
        result[test] = matrix[test] @ fitted + mean
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("ARMWISE_DATA"))
    folder = parser.parse_args().data
    if folder is None:
        parser.error("name the folder of the data with --data or ARMWISE_DATA")
    rows = [(name, *row) for name in SETS for row in outcomes(Path(folder), name)]
    sets, benchmarks = np.array([row[0] for row in rows]), np.array([row[2] for row in rows])
    difficulty = np.array([row[3] for row in rows])
    matrix = np.array([features(row[1]) for row in rows], dtype=float)
    matrix = (matrix - matrix.mean(0)) / (matrix.std(0) + 1e-9)
    target = np.concatenate([rankdata(difficulty[sets == name]) / (sets == name).sum() for name in SETS])
    found = predicted(matrix, target, benchmarks)
    print(f"{len(rows)} prompts; rank correlation with difficulty: model, length")
    for name in SETS:
        chosen = sets == name
        print(f"{name}: {spearmanr(found[chosen], difficulty[chosen])[0]:.2f} over all its benchmarks")
    within = []
    for name in SETS:
        for benchmark in np.unique(benchmarks[sets == name]):
            chosen = (sets == name) & (benchmarks == benchmark)
            if chosen.sum() >= LEAST_PROMPTS:
                pair = [spearmanr(values[chosen], difficulty[chosen])[0] for values in (found, matrix[:, 0])]
                within.append(pair)
                print(f"  {name} {benchmark}: {pair[0]:.2f}, {pair[1]:.2f} ({chosen.sum()} prompts)")
    low, middle, high = np.quantile(within, [0, 0.5, 1], axis=0)
    print(f"within benchmarks: lowest {low.round(2)}, median {middle.round(2)}, highest {high.round(2)}")


if __name__ == "__main__":
    main()
