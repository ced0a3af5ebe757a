"""Figures by which task type classifiers are judged."""

import gzip
import json
import statistics
import time
from collections import defaultdict
from functools import cache

import numpy as np

from bandit.vocabulary import TASK_TYPES
from benchmarks.task_templates import FOLDER

N_TYPES = len(TASK_TYPES) - 1
PER_SOURCE = 800  # of larger sources, the capped figures count as many prompts
OUTCOMES = "paretobandit"
NEIGHBOURS = 10


def f1_per_type(labels, found):
    """By name, for every type among the labels."""
    scores = {}
    for number in np.unique(labels):
        right = ((labels == number) & (found == number)).sum()
        scores[TASK_TYPES[number]] = float(2 * right / max(1, (labels == number).sum() + (found == number).sum()))
    return scores


def figures_of(prompts, probabilities, threshold):
    """All figures of one classifier from its probabilities (prompts, 11) for prompts of sources it did not see."""
    labels, sources, chinese = (array[prompts.real] for array in (prompts.labels, prompts.sources, prompts.chinese))
    found, highest = probabilities.argmax(1), probabilities.max(1)
    right = found == labels
    answered = (highest >= threshold) & prompts.readable[prompts.real]
    named = np.where(answered, found, N_TYPES)
    order = np.random.default_rng(0).permutation(len(labels))
    capped = np.concatenate([order[sources[order] == source][:PER_SOURCE] for source in np.unique(sources)])
    per_source = {
        str(source): {
            "prompts": int((sources == source).sum()),
            "accuracy": float(right[sources == source].mean()),
            "named": float(answered[sources == source].mean()),
        }
        for source in np.unique(sources)
    }
    return {
        "accuracy": float(right.mean()),
        "macro_f1": float(np.mean(list(f1_per_type(labels, found).values()))),
        "accuracy_unknown_is_wrong": float((right & answered).mean()),
        "macro_f1_unknown_is_wrong": float(np.mean(list(f1_per_type(labels, named).values()))),
        "accuracy_at_most_800_a_source": float(right[capped].mean()),
        "macro_f1_at_most_800_a_source": float(np.mean(list(f1_per_type(labels[capped], found[capped]).values()))),
        "mean_accuracy_over_sources": statistics.fmean(source["accuracy"] for source in per_source.values()),
        **{
            f"accuracy_{language}": float(right[rows].mean())
            for language, rows in (("english", ~chinese), ("chinese", chinese))
            if rows.any()
        },
        "named": float(answered.mean()),
        "accuracy_of_named": float(right[answered].mean()),
        **_calibration(highest, right),
        "f1_per_type": f1_per_type(labels, found),
        "confusion": [[int(((labels == row) & (named == column)).sum()) for column in range(len(TASK_TYPES))]
                      for row in range(N_TYPES)],
        "per_source": per_source,
    }  # fmt: skip


def _calibration(highest, right):
    bins = np.minimum((highest * 10).astype(int), 9)
    rows = [
        {
            "from": b / 10,
            "prompts": int((bins == b).sum()),
            "mean_probability": float(highest[bins == b].mean()),
            "accuracy": float(right[bins == b].mean()),
        }
        for b in np.unique(bins).tolist()
    ]
    error = sum(abs(row["accuracy"] - row["mean_probability"]) * row["prompts"] for row in rows) / len(right)
    return {"calibration_error": error, "reliability": rows}


@cache
def probes():
    """By language: the type asked for and the prompt, of benchmarks/templates/probes.txt."""
    found = defaultdict(list)
    for line in (FOLDER / "probes.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            language = line.strip("[]")
        elif line and not line.startswith("#"):
            task_type, prompt = line.split(": ", 1)
            found[language].append((task_type, prompt.replace("\\n", "\n")))
    return dict(found)


def language_figures(classifier):
    """Of every language of the probes: how many were told right, called Unknown, and called something else."""
    result = {}
    for language, prompts in probes().items():
        found = [(task_type, classifier.classify(prompt)) for task_type, prompt in prompts]
        wrong = [max(said.task_probabilities) for asked, said in found if said.task_type not in {asked, "Unknown"}]
        result[language] = {
            "prompts": len(found),
            "right": sum(said.task_type == asked for asked, said in found),
            "unknown": sum(said.task_type == "Unknown" for _, said in found),
            "wrong": len(wrong),
            "mean_probability_of_wrong": statistics.fmean(wrong) if wrong else None,
        }
    return result


def vector_figures(classifier, prompts, folder):
    """What the vector says of the type of other sources' prompts, and of which models fail a prompt."""
    labels, sources = prompts.labels[prompts.real], prompts.sources[prompts.real]
    texts = prompts.texts[: len(labels)]
    vectors = np.array([classifier.classify(text).vector for text in texts])
    alike = vectors @ vectors.T
    alike[sources[:, None] == sources] = -1  # only neighbours of other sources
    nearest = np.argpartition(-alike, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
    shares = np.bincount(labels, minlength=N_TYPES) / len(labels)
    return {
        "neighbours_of_other_sources_of_the_same_type": float((labels[nearest] == labels[:, None]).mean()),
        "by_chance": float((shares**2).sum()),
        "outcomes": _outcome_figures(classifier, folder),
    }


def _outcome_figures(classifier, folder):
    """Squared error of the predicted scores of four models on a third of the prompts of one outcome set."""
    scores, texts = defaultdict(dict), {}
    with gzip.open(folder / f"{OUTCOMES}.train.jsonl.gz", "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            scores[row["prompt_id"]][row["model"]] = row["score"]
            texts[row["prompt_id"]] = row["prompt"]
    models = sorted({model for answers in scores.values() for model in answers})
    ids = sorted(key for key, answers in scores.items() if len(answers) == len(models))
    target = np.array([[scores[key][model] for model in models] for key in ids])
    said = [classifier.classify(texts[key]) for key in ids]
    test = np.random.default_rng(0).permutation(len(ids)) % 3 == 0
    types = np.array([one.task_probabilities for one in said])
    both = np.hstack([types, [one.vector for one in said]])
    error = {name: _ridge_error(matrix, target, test) for name, matrix in (("task type", types), ("and vector", both))}
    mean = float(((target[test] - target[~test].mean(0)) ** 2).mean())
    return {"set": OUTCOMES, "prompts": int(test.sum()), "squared_error": {"mean of each model": mean, **error}}


def _ridge_error(matrix, target, test, penalty=3.0):
    middle = target[~test].mean(0)
    train = matrix[~test] - matrix[~test].mean(0)
    learned = np.linalg.solve(train.T @ train + penalty * np.eye(train.shape[1]), train.T @ (target[~test] - middle))
    found = (matrix[test] - matrix[~test].mean(0)) @ learned + middle
    return float(((target[test] - found) ** 2).mean())


def latency_ms(classifier):
    """Median and 99th percentile of one call on one core, for made-up texts of some lengths."""
    english = "Please write a short note about the harvest in our village and explain why the barley came late. "
    chinese = "请写一段关于我们村里收成的短文，并解释今年大麦为什么晚熟。"
    result = {}
    for name, text in (("english", english), ("chinese", chinese)):
        for length in (30, 100, 300, 2_000, 8_000):
            sample = (text * (length // len(text) + 1))[:length]
            times = []
            for _ in range(1_000):
                started = time.perf_counter()
                classifier.classify(sample)
                times.append(1_000 * (time.perf_counter() - started))
            low, high = np.percentile(times, [50, 99])
            result[f"{name} {length}"] = {"p50": round(float(low), 4), "p99": round(float(high), 4)}
    return result


def complexity_quantiles(classifier, prompts):
    """Quantiles of the complexity over all prompts, and the mean of each labelled type."""
    labels = prompts.labels[prompts.real]
    found = np.array([classifier.classify(text).complexity for text in prompts.texts[: len(labels)]])
    shares = (0.05, 1 / 3, 0.5, 2 / 3, 0.95, 0.99)
    return {
        "quantiles": {f"{share:.2f}": float(np.quantile(found, share)) for share in shares},
        "mean_per_type": {TASK_TYPES[n]: float(found[labels == n].mean()) for n in range(N_TYPES)},
    }


def rounded(value):
    """All figures to four decimals."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return round(value, 4) if isinstance(value, float) else value
