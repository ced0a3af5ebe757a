"""Train and judge the packaged classifier: `python benchmarks/train_embedded.py --data FOLDER`.

Reads `tasktypes2.train.jsonl.gz` from FOLDER (or the folder that ARMWISE_DATA names). Writes the weights and
docs/classifier-figures.json. Judged by leaving whole sources out: prompts of one source resemble each other, so a
random split flatters. Deterministic.
"""

import argparse
import gzip
import json
import os
import statistics
import time
from collections import Counter
from pathlib import Path

import numpy as np

from bandit.vocabulary import TASK_TYPES
from service.classifiers import embedded, rules
from service.classifiers.embedded_training import (
    N_TYPES,
    common_features,
    examples_of,
    fit,
    fitted_of,
    logits_of,
    temperature_of,
    threshold_of,
    write_weights,
)

ROOT = Path(__file__).parent.parent
FIGURES = ROOT / "docs" / "classifier-figures.json"
SOURCE_POWER = 0.25  # a source of n prompts weighs n ** SOURCE_POWER
TYPE_BALANCE = 0.7  # 0: types weigh by their prompts; 1: all the same
MIN_SOURCES = 3  # a feature must occur in as many sources
WRONG_SHARE_UNDER_THRESHOLD = 3 / 4
PER_SOURCE = 800  # of larger sources, the capped figures count as many prompts

# Sources that share their tasks are also judged together: both left out at once.
FAMILIES = {"natural_instructions_v1": "ni2", "belle_seed": "selfinstruct"}
LICENCES = {
    "arena_hard_v2": "lmarena/arena-hard-auto, Apache-2.0",
    "belle_eval": "LianjiaTech/BELLE evaluation set, ODC-By 1.0",
    "belle_seed": "LianjiaTech/BELLE seed tasks, Apache-2.0",
    "cargo": "AmineBarrak/CARGO-Routing_LLMs, MIT",
    "codealpaca": "sahil280114/codealpaca, Apache-2.0",
    "gsm8k_test": "openai/grade-school-math, MIT",
    "headlines": "stanford-futuredata/FrugalGPT, Apache-2.0",
    "humaneval": "HumanEval through ulab-uiuc/FusionFactory, MIT",
    "llmzoo_zh": "FreedomIntelligence/LLMZoo, Apache-2.0",
    "mbpp": "MBPP through nlpxucan/WizardLM, CC BY 4.0",
    "mt_bench": "lm-sys/FastChat, Apache-2.0",
    "natural_instructions_v1": "allenai/natural-instructions-v1, Apache-2.0",
    "ni2": "natural-instructions v2 through luukkonenr and circle-hit/SAPT, Apache-2.0",
    "own_templates": "written for this purpose",
    "p3": "P3 templates through yizhongw/self-instruct, Apache-2.0; filled-in texts keep their data sets' terms",
    "roleplay": "07/awesome-chatgpt-prompts, CC0-1.0, and PlexPt/awesome-chatgpt-prompts-zh, MIT",
    "selfinstruct": "yizhongw/self-instruct, Apache-2.0",
    "vicuna_bench": "lm-sys/FastChat, Apache-2.0",
}


class Prompts:
    """The prompts of one file as features, labels and sources."""

    def __init__(self, path: Path) -> None:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        self.texts = [row["prompt"] for row in rows]
        self.labels = np.array([TASK_TYPES.index(row["task_type"]) for row in rows])
        self.chinese = np.array([row["lang"] == "zh" for row in rows])
        self.sources = np.array([row["dataset"] for row in rows])
        self.examples = examples_of(self.texts)
        self.readable, self.votes = self.examples.readable, self.examples.votes


def prompt_weights(prompts, train):
    """So that neither row counts of sources nor those of types decide; sums to 1 over `train`."""
    weights = np.zeros(len(train))
    for source in np.unique(prompts.sources[train]):
        rows = train & (prompts.sources == source)
        weights[rows] = rows.sum() ** (SOURCE_POWER - 1)
    for label in range(N_TYPES):
        rows = train & (prompts.labels == label)
        if rows.any():
            weights[rows] *= weights[rows].sum() ** -TYPE_BALANCE
    return weights / weights.sum()


def fitted_to(prompts, train):
    """The model of the prompts that `train` marks."""
    examples = prompts.examples.chosen(train)
    used = common_features(examples, prompts.sources[train], MIN_SOURCES)
    targets = np.eye(N_TYPES)[prompts.labels[train]]
    return fit(examples, targets, prompt_weights(prompts, train)[train], used)


def left_out_logits(prompts, groups):
    """Logits (prompts, types) of every prompt from a model that saw none of its group."""
    logits = np.zeros((len(prompts.labels), N_TYPES))
    for group in np.unique(groups):
        test = groups == group
        logits[test] = logits_of(prompts.examples.chosen(test), fitted_to(prompts, ~test))
        print(f"  {group}: {(logits[test].argmax(1) == prompts.labels[test]).mean():.3f}", flush=True)
    return logits


def f1_per_type(labels, found):
    scores = {}
    for number in np.unique(labels):
        right = ((labels == number) & (found == number)).sum()
        scores[TASK_TYPES[number]] = float(2 * right / max(1, (labels == number).sum() + (found == number).sum()))
    return scores


def figures_of(prompts, probabilities, threshold):
    """All figures of one classifier from its probabilities (prompts, 11) for prompts of sources it did not see."""
    labels, found = prompts.labels, probabilities.argmax(1)
    right, highest = found == labels, probabilities.max(1)
    answered = (highest >= threshold) & prompts.readable
    order = np.random.default_rng(0).permutation(len(labels))
    capped = np.concatenate(
        [order[prompts.sources[order] == source][:PER_SOURCE] for source in np.unique(prompts.sources)]
    )
    per_source = {
        str(source): {
            "prompts": int((prompts.sources == source).sum()),
            "accuracy": float(right[prompts.sources == source].mean()),
            "named": float(answered[prompts.sources == source].mean()),
        }
        for source in np.unique(prompts.sources)
    }
    bins = np.minimum((highest * 10).astype(int), 9)
    return {
        "accuracy": float(right.mean()),
        "macro_f1": float(np.mean(list(f1_per_type(labels, found).values()))),
        "accuracy_at_most_800_a_source": float(right[capped].mean()),
        "macro_f1_at_most_800_a_source": float(np.mean(list(f1_per_type(labels[capped], found[capped]).values()))),
        "mean_accuracy_over_sources": statistics.fmean(source["accuracy"] for source in per_source.values()),
        **{
            f"accuracy_{language}": float(right[rows].mean())
            for language, rows in (("english", ~prompts.chinese), ("chinese", prompts.chinese))
            if rows.any()
        },
        "named": float(answered.mean()),
        "accuracy_of_named": float(right[answered].mean()),
        "calibration_error": float(
            sum(abs(right[bins == b].mean() - highest[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins))
        ),
        "f1_per_type": f1_per_type(labels, found),
        "per_source": per_source,
    }


def temperature_on(prompts, logits):
    """The temperature under which sources are told best, each source weighing the same as in training."""
    everything = np.ones(len(prompts.labels), dtype=bool)
    return temperature_of(logits, np.eye(N_TYPES)[prompts.labels], prompt_weights(prompts, everything))


def rule_figures(prompts):
    """The keyword rules as they are; also the sharpness and threshold that this data would choose."""
    sharpness = 1 / temperature_on(prompts, prompts.votes)
    probabilities = embedded.softmax(prompts.votes * sharpness)
    threshold = threshold_of(probabilities, probabilities.argmax(1) == prompts.labels, WRONG_SHARE_UNDER_THRESHOLD)
    print(f"rules: this data would choose sharpness {sharpness:.2f}, threshold {threshold}")
    probabilities = embedded.softmax(prompts.votes * rules.KeywordRules.sharpness)
    return figures_of(prompts, probabilities, rules.KeywordRules.threshold)


def latency_ms(classifier):
    """Median and 99th percentile of one call on one core, for made-up texts of some lengths."""
    english = "Please write a short note about the harvest in our village and explain why the barley came late. "
    chinese = "请写一段关于我们村里收成的短文，并解释今年大麦为什么晚熟。"
    result = {}
    for name, text in (("english", english), ("chinese", chinese)):
        for length in (30, 100, 300, 2_000):
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
    found = np.array([classifier.classify(text).complexity for text in prompts.texts])
    quantiles = {f"{share:.2f}": float(np.quantile(found, share)) for share in (0.05, 0.33, 0.5, 0.67, 0.95, 0.99)}
    return {
        "quantiles": quantiles,
        "mean_per_type": {TASK_TYPES[n]: float(found[prompts.labels == n].mean()) for n in range(N_TYPES)},
    }


def rounded(value):
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("ARMWISE_DATA"))
    parser.add_argument(
        "--unseen", type=Path, help="a file of the same form on which the result is judged, never trained"
    )
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("name the folder of the data with --data or ARMWISE_DATA")
    prompts = Prompts(Path(arguments.data) / "tasktypes2.train.jsonl.gz")
    print(f"{len(prompts.labels)} prompts, {(~prompts.readable).sum()} in a language that is not read")

    logits = left_out_logits(prompts, prompts.sources)
    temperature = temperature_on(prompts, logits)
    probabilities = embedded.softmax(logits / temperature)
    threshold = threshold_of(probabilities, probabilities.argmax(1) == prompts.labels, WRONG_SHARE_UNDER_THRESHOLD)
    print("families left out together")
    families = np.array([FAMILIES.get(source, source) for source in prompts.sources])
    together = figures_of(prompts, embedded.softmax(left_out_logits(prompts, families) / temperature), threshold)

    fitted = fitted_to(prompts, np.ones(len(prompts.labels), dtype=bool))
    sources = {str(source): LICENCES[source] for source in np.unique(prompts.sources)}
    about = {"licence": "Apache-2.0", "sources": sources}
    digest = write_weights(embedded.WEIGHTS, fitted, temperature=temperature, threshold=threshold, about=about)
    embedded.WEIGHTS_SHA256 = digest
    figures = {
        "prompts": len(prompts.labels),
        "prompts_per_type": {TASK_TYPES[n]: count for n, count in sorted(Counter(prompts.labels.tolist()).items())},
        "temperature": temperature,
        "threshold": threshold,
        "weights_bytes": embedded.WEIGHTS.stat().st_size,
        "weights_sha256": digest,
        "embedded": figures_of(prompts, probabilities, threshold),
        "embedded_families_left_out": together,
        "rules": rule_figures(prompts),
        "latency_ms": {c.name: latency_ms(c) for c in (embedded.Embedded(), rules.KeywordRules())},
        "complexity": {c.name: complexity_quantiles(c, prompts) for c in (embedded.Embedded(), rules.KeywordRules())},
    }
    if arguments.unseen is not None:
        unseen = Prompts(arguments.unseen)
        found = logits_of(unseen.examples, fitted_of(embedded.load_weights(embedded.WEIGHTS)))
        figures["unseen"] = {
            "embedded": figures_of(unseen, embedded.softmax(found / temperature), threshold),
            "rules": figures_of(
                unseen, embedded.softmax(unseen.votes * rules.KeywordRules.sharpness), rules.KeywordRules.threshold
            ),
        }
    FIGURES.write_text(json.dumps(rounded(figures), indent=1) + "\n")
    print(json.dumps(rounded(figures), indent=1))
    print(f'Set WEIGHTS_SHA256 = "{digest}" in service/classifiers/embedded.py')


if __name__ == "__main__":
    main()
