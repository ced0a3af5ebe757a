"""Train and judge the packaged classifier: `python benchmarks/train_embedded.py --data FOLDER`.

Reads `tasktypes2.train.jsonl.gz` from FOLDER (or the folder that ARMWISE_DATA names). Writes the weights and
docs/classifier-figures.json. Judged by leaving whole sources out: prompts of one source resemble each other, so a
random split flatters. Deterministic.
"""

import argparse
import gzip
import hashlib
import json
import os
import statistics
import time
from collections import Counter
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from scipy import sparse
from scipy.optimize import minimize, minimize_scalar
from scipy.special import logsumexp

from bandit.vocabulary import TASK_TYPES
from service.classifiers import embedded, rules
from service.classifiers.reading import read

ROOT = Path(__file__).parent.parent
FIGURES = ROOT / "docs" / "classifier-figures.json"
N_TYPES = len(TASK_TYPES) - 1  # `Unknown` is not learned

VOTES_FACTOR = 0.5
DENSE_VALUE = 0.3  # of a rule or sign in training, so that the penalty binds them less than hashed rows
PENALTY = 1e-3
ITERATIONS = 40
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
        self.readings = [read(text) for text in self.texts]
        self.readable = np.array([reading.readable for reading in self.readings])
        self.votes = np.array([rules.votes(reading)[:N_TYPES] for reading in self.readings])
        self.features = self._matrix()

    def _matrix(self):
        indices, values, ends = [], [], [0]
        for reading in self.readings:
            groups = embedded.hashed_rows(reading.tokens)
            dense = np.array(embedded.dense_rows(reading), dtype=np.int64) + embedded.BUCKETS
            parts = [*groups, dense]
            indices += parts
            values += [np.full(len(rows), 1 / np.sqrt(len(rows))) for rows in groups] + [
                np.full(len(dense), DENSE_VALUE)
            ]
            ends.append(ends[-1] + sum(map(len, parts)))
        shape = (len(self.readings), embedded.BUCKETS + embedded.DENSE_ROWS)
        matrix = sparse.csr_matrix(
            (np.concatenate(values), np.concatenate(indices).astype(np.int64), ends), shape=shape
        )
        matrix.sum_duplicates()
        return matrix


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


def fit(prompts, train):
    """Table (rows, types) and bias of a multinomial logistic regression on top of the rules' votes."""
    names = np.unique(prompts.sources[train])
    members = sparse.csr_matrix((prompts.sources[train] == names[:, None]).astype(np.float64))
    in_sources = ((members @ prompts.features[train]) > 0).astype(int).sum(axis=0)
    used = np.flatnonzero(np.asarray(in_sources).ravel() >= MIN_SOURCES)
    features, labels = prompts.features[train][:, used].tocsr(), prompts.labels[train]
    transposed = features.T.tocsr()
    offset = prompts.votes[train] * VOTES_FACTOR
    weights = prompt_weights(prompts, train)[train][:, None]
    rows = np.arange(len(labels))
    target = np.zeros_like(offset)
    target[rows, labels] = 1

    def loss(flat):
        table = flat.reshape(-1, N_TYPES)
        scores = offset + features @ table[:-1] + table[-1]
        normaliser = logsumexp(scores, axis=1, keepdims=True)
        residual = weights * (np.exp(scores - normaliser) - target)
        gradient = np.vstack([transposed @ residual, residual.sum(axis=0)]) + PENALTY * table
        value = (weights[:, 0] * (normaliser[:, 0] - scores[rows, labels])).sum() + PENALTY / 2 * (table**2).sum()
        return value, gradient.ravel()

    start = np.zeros((len(used) + 1) * N_TYPES)
    best = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": ITERATIONS})
    fitted = best.x.reshape(-1, N_TYPES)
    table = np.zeros((prompts.features.shape[1], N_TYPES))
    table[used] = fitted[:-1]
    return table, fitted[-1]


def left_out_logits(prompts, groups):
    """Logits (prompts, types) of every prompt from a model that saw none of its group."""
    logits = np.zeros((len(prompts.labels), N_TYPES))
    for group in np.unique(groups):
        test = groups == group
        table, bias = fit(prompts, ~test)
        logits[test] = prompts.votes[test] * VOTES_FACTOR + prompts.features[test] @ table + bias
        print(f"  {group}: {(logits[test].argmax(1) == prompts.labels[test]).mean():.3f}", flush=True)
    return logits


def negative_log_likelihood(logits, labels, weights):
    return float((weights * (logsumexp(logits, axis=1) - logits[np.arange(len(labels)), labels])).sum())


def temperature_of(logits, prompts):
    """The temperature under which sources are told best, each source weighing the same as in training."""
    weights = prompt_weights(prompts, np.ones(len(prompts.labels), dtype=bool))
    found = minimize_scalar(
        lambda log_t: negative_log_likelihood(logits / np.exp(log_t), prompts.labels, weights),
        bounds=(-2, 2),
        method="bounded",
    )
    return float(np.exp(found.x))


def threshold_of(probabilities, labels):
    """The highest threshold under which still three of four answers would be wrong, in steps of 0.01."""
    highest, right = probabilities.max(1), probabilities.argmax(1) == labels
    best = 0.0
    for threshold in np.arange(0.1, 0.6, 0.01):
        under = highest < threshold
        if under.sum() >= 20 and 1 - right[under].mean() >= WRONG_SHARE_UNDER_THRESHOLD:
            best = float(threshold)
    return round(best, 2)


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


def rule_figures(prompts):
    """The keyword rules as they are; also the sharpness and threshold that this data would choose."""
    sharpness = 1 / temperature_of(prompts.votes, prompts)
    threshold = threshold_of(embedded.softmax(prompts.votes * sharpness), prompts.labels)
    print(f"rules: this data would choose sharpness {sharpness:.2f}, threshold {threshold}")
    probabilities = embedded.softmax(prompts.votes * rules.KeywordRules.sharpness)
    return figures_of(prompts, probabilities, rules.KeywordRules.threshold)


def write_weights(path, table, bias, temperature, threshold, sources):
    """Hashed rows as int8 in units of a scale per type; the rest as float32."""
    hashed, dense = table[: embedded.BUCKETS], table[embedded.BUCKETS :] * DENSE_VALUE
    scale = np.abs(hashed).max(axis=0) / 127

    def with_unknown(values, fill=0.0):
        return np.append(values, np.full((*values.shape[:-1], 1), fill), axis=-1)

    tensors = {
        "hashed": with_unknown(np.round(hashed / scale)).astype(np.int8),
        "scale": with_unknown(scale).astype(np.float32),
        "dense": with_unknown(dense).astype(np.float32),
        "bias": with_unknown(bias, -np.inf).astype(np.float32),
    }
    metadata = {
        "version": embedded.VERSION,
        "features": embedded.features_digest(),
        "votes_factor": VOTES_FACTOR,
        "temperature": round(temperature, 4),
        "threshold": threshold,
        "licence": "Apache-2.0",
        "sources": {str(source): LICENCES[source] for source in sources},
    }
    path.parent.mkdir(exist_ok=True)
    # One key: the order of several is not fixed, and the digest should be.
    save_file(tensors, path, {"armwise": json.dumps(metadata)})
    return hashlib.sha256(path.read_bytes()).hexdigest()


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
    temperature = temperature_of(logits, prompts)
    probabilities = embedded.softmax(logits / temperature)
    threshold = threshold_of(probabilities, prompts.labels)
    print("families left out together")
    families = np.array([FAMILIES.get(source, source) for source in prompts.sources])
    together = figures_of(prompts, embedded.softmax(left_out_logits(prompts, families) / temperature), threshold)

    table, bias = fit(prompts, np.ones(len(prompts.labels), dtype=bool))
    digest = write_weights(embedded.WEIGHTS, table, bias, temperature, threshold, np.unique(prompts.sources))
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
        weights = embedded.load_weights(embedded.WEIGHTS)
        found = np.array([embedded.logits(reading, weights)[:N_TYPES] for reading in unseen.readings])
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
