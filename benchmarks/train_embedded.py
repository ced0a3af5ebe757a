"""Train and judge the packaged classifier: `python -m benchmarks.train_embedded --data FOLDER`.

Reads `tasktypes2.train.jsonl.gz` from FOLDER (or the folder that ARMWISE_DATA names) and the wordings of
benchmarks/templates. Writes the weights, docs/classifier-figures.json and the tables of docs/classifier.md. Judged by
leaving whole sources out: prompts of one source resemble each other, so a random split flatters. Deterministic.
"""

import argparse
import gzip
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np

from bandit.vocabulary import TASK_TYPES
from benchmarks import classifier_figures as judged
from benchmarks.classifier_page import write_tables
from benchmarks.task_templates import made_up
from service.classifiers import embedded, rules
from service.classifiers.embedded_training import (
    N_TYPES,
    common_features,
    examples_of,
    fit,
    fitted_of,
    logits_of,
    projection_of,
    temperature_of,
    threshold_of,
    write_weights,
)

ROOT = Path(__file__).parent.parent
FIGURES = ROOT / "docs" / "classifier-figures.json"

PENALTY = 4e-4
SOURCE_POWER = 0.25  # a source of n prompts weighs n ** SOURCE_POWER
TYPE_BALANCE = 0.7  # 0: types weigh by their prompts; 1: all the same
MIN_SOURCES = 3  # a feature must occur in as many sources
PER_WORDING = 24
WORDING_PARTS = 3  # the made-up prompts of a form and language count as so many sources, by wording
WRONG_SHARE_UNDER_THRESHOLD = 4 / 5
LEAST_THRESHOLD = 0.15  # in a prompt whose likeliest type is unlikelier than this, hardly anything is known

# Sources that share their tasks are also judged together: both left out at once.
FAMILIES = {"natural_instructions_v1": "ni2", "belle_seed": "selfinstruct", "vicuna_bench": "llmzoo_zh"}
MADE_UP = "wordings"
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
    MADE_UP: "benchmarks/templates, written for this purpose",
}


class Prompts:
    """Prompts as features, labels and sources; made-up ones, which are only learned from, come last."""

    def __init__(self, path: Path, *, per_wording: int = 0) -> None:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        self.texts = [row["prompt"] for row in rows]
        met = {text.strip().lower() for text in self.texts}
        extra = [prompt for prompt in made_up(per_wording) if prompt.text.lower() not in met]
        self.texts += [prompt.text for prompt in extra]
        labels = [row["task_type"] for row in rows] + [prompt.task_type for prompt in extra]
        self.labels = np.array([TASK_TYPES.index(label) for label in labels])
        self.chinese = np.array([row["lang"] == "zh" for row in rows] + [prompt.chinese for prompt in extra])
        self.sources = np.array([row["dataset"] for row in rows] + [_part(prompt) for prompt in extra])
        self.real = np.arange(len(self.texts)) < len(rows)
        self.examples = examples_of(self.texts)
        self.readable, self.votes = self.examples.readable, self.examples.votes


def _part(prompt):
    form = "with text" if prompt.with_text else "alone"
    language = "Chinese" if prompt.chinese else "English"
    return f"{MADE_UP}, {language}, {form}, {prompt.template % WORDING_PARTS}"


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
    return fit(examples, targets, prompt_weights(prompts, train)[train], used, penalty=PENALTY)


def left_out_logits(prompts, groups):
    """Logits (prompts, types) of every prompt that was not made up, from a model that saw none of its group."""
    logits = np.zeros((len(prompts.labels), N_TYPES))
    for group in np.unique(groups[prompts.real]):
        test = groups == group
        logits[test] = logits_of(prompts.examples.chosen(test), fitted_to(prompts, ~test))
        print(f"  {group}: {(logits[test].argmax(1) == prompts.labels[test]).mean():.3f}", flush=True)
    return logits[prompts.real]


def temperature_on(prompts, logits):
    """The temperature under which sources are told best, between each weighing the same and each prompt."""
    labels, sources = prompts.labels[prompts.real], prompts.sources[prompts.real]
    _, source, counts = np.unique(sources, return_inverse=True, return_counts=True)
    weights = counts[source] ** -0.5
    return temperature_of(logits, np.eye(N_TYPES)[labels], weights / weights.sum())


def rule_figures(prompts):
    """The keyword rules as they are; also the sharpness and threshold that this data would choose."""
    votes, labels = prompts.votes[prompts.real], prompts.labels[prompts.real]
    sharpness = 1 / temperature_on(prompts, votes)
    probabilities = embedded.softmax(votes * sharpness)
    threshold = threshold_of(probabilities, probabilities.argmax(1) == labels, WRONG_SHARE_UNDER_THRESHOLD)
    print(f"rules: this data would choose sharpness {sharpness:.2f}, threshold {threshold}")
    probabilities = embedded.softmax(votes * rules.KeywordRules.sharpness)
    return judged.figures_of(prompts, probabilities, rules.KeywordRules.threshold)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("ARMWISE_DATA"))
    parser.add_argument(
        "--unseen", type=Path, help="a file of the same form on which the result is judged, never trained"
    )
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("name the folder of the data with --data or ARMWISE_DATA")
    folder = Path(arguments.data)
    prompts = Prompts(folder / "tasktypes2.train.jsonl.gz", per_wording=PER_WORDING)
    real = prompts.real
    print(f"{real.sum()} prompts, {(~prompts.readable[real]).sum()} in a language that is not read")

    logits = left_out_logits(prompts, prompts.sources)
    temperature = temperature_on(prompts, logits)
    probabilities = embedded.softmax(logits / temperature)
    right = probabilities.argmax(1) == prompts.labels[real]
    threshold = max(LEAST_THRESHOLD, threshold_of(probabilities, right, WRONG_SHARE_UNDER_THRESHOLD))
    print("families left out together")
    families = np.array([FAMILIES.get(source, source) for source in prompts.sources])
    together = judged.figures_of(prompts, embedded.softmax(left_out_logits(prompts, families) / temperature), threshold)

    everything = np.ones(len(real), dtype=bool)
    fitted = fitted_to(prompts, everything)
    projection = projection_of(prompts.examples, common_features(prompts.examples, prompts.sources, MIN_SOURCES))
    sources = {str(source): LICENCES[source] for source in (*np.unique(prompts.sources[real]), MADE_UP)}
    about = {"licence": "Apache-2.0", "sources": sources}
    digest = write_weights(
        embedded.WEIGHTS, fitted, temperature=temperature, threshold=threshold, about=about, projection=projection
    )
    embedded.WEIGHTS_SHA256 = digest
    classifiers = (embedded.Embedded(), rules.KeywordRules())
    figures = {
        "prompts": int(real.sum()),
        "made_up_prompts": int((~real).sum()),
        "prompts_per_type": {
            TASK_TYPES[n]: count for n, count in sorted(Counter(prompts.labels[real].tolist()).items())
        },
        "temperature": temperature,
        "threshold": threshold,
        "weights_bytes": embedded.WEIGHTS.stat().st_size,
        "weights_sha256": digest,
        "embedded": judged.figures_of(prompts, probabilities, threshold),
        "embedded_families_left_out": together,
        "rules": rule_figures(prompts),
        "languages": {c.name: judged.language_figures(c) for c in classifiers},
        "vector": judged.vector_figures(classifiers[0], prompts, folder),
        "latency_ms": {c.name: judged.latency_ms(c) for c in classifiers},
        "complexity": {c.name: judged.complexity_quantiles(c, prompts) for c in classifiers},
        "licences": LICENCES,
        "difficulty": json.loads(FIGURES.read_text()).get("difficulty"),  # of benchmarks/difficulty_signal.py
    }
    if arguments.unseen is not None:
        unseen = Prompts(arguments.unseen)
        found = logits_of(unseen.examples, fitted_of(embedded.packaged_weights()))
        votes = embedded.softmax(unseen.votes * rules.KeywordRules.sharpness)
        figures["unseen"] = {
            "embedded": judged.figures_of(unseen, embedded.softmax(found / temperature), threshold),
            "rules": judged.figures_of(unseen, votes, rules.KeywordRules.threshold),
        }
    FIGURES.write_text(json.dumps(judged.rounded(figures), indent=1) + "\n")
    write_tables()
    print({key: figures["embedded"][key] for key in ("accuracy", "macro_f1", "calibration_error")})
    print(f'Set WEIGHTS_SHA256 = "{digest}" in service/classifiers/embedded.py')


if __name__ == "__main__":
    main()
