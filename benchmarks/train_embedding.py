"""Train and judge the classifier with a sentence embedding: `python -m benchmarks.train_embedding --data FOLDER`.

Reads `tasktypes2.train.jsonl.gz` from FOLDER (or the folder that ARMWISE_DATA names) and our own wordings
(benchmarks/task_templates.py). Writes the weights and docs/embedding-figures.json. Judged by leaving whole groups of
related sources out, both for the encoder's head and for the text classifier that it is pooled with. Needs torch;
deterministic on one machine. `--cache FOLDER` keeps token states and left-out predictions between runs.
"""

import argparse
import hashlib
import json
import os
import random
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.numpy import save_file
from torch.nn import functional

from bandit.vocabulary import TASK_TYPES
from benchmarks import classifier_figures as judged
from benchmarks import train_embedded as text_training
from benchmarks.task_templates import made_up, made_up_text
from service.classifiers import embedding
from service.classifiers.embedded_training import temperature_of, threshold_of
from service.classifiers.encoder import HIDDEN, POSITIONS, Encoder, Head, position_buckets

ROOT = Path(__file__).parent.parent
FIGURES = ROOT / "docs" / "embedding-figures.json"
N_TYPES = embedding.N_TYPES

LAYERS = 4
WIDTH, QUERIES = 128, 8
SEEDS = (0,)  # one head each; their logits are averaged
EPOCHS, BATCH, RATE, DECAY = 3, 64, 2e-3, 0.05
SMOOTHING = 0.05
PER_WORDING, WORDINGS_SEED = 14, 1
MADE_UP_SHARE = 0.5  # of the weight in training, that prompts of our own wording have together
NO_REQUESTS, NO_REQUEST_SHARE = 400, 0.05  # texts in which nothing is asked for: every type is as likely
WRONG_SHARE_UNDER_THRESHOLD = 3 / 5
SHARES = tuple(round(0.1 * step, 1) for step in range(11))

# Sources that are alike are left out together.
GROUPS = (
    ("p3",),
    ("ni2", "natural_instructions_v1"),
    ("own_templates", "roleplay"),
    ("belle_eval", "belle_seed", "selfinstruct", "llmzoo_zh"),
    ("codealpaca", "mbpp", "humaneval", "gsm8k_test", "headlines"),
    ("arena_hard_v2", "cargo", "mt_bench", "vicuna_bench"),
)


class States(NamedTuple):
    """Token states of many texts, one after the other."""

    values: np.ndarray  # (tokens, 384) float16
    ends: np.ndarray  # (texts + 1,)

    @property
    def lengths(self):
        return np.diff(self.ends)


def states_of(texts):
    encoder = Encoder(LAYERS, [])
    found = [encoder.states(text).astype(np.float16) for text in texts]
    return States(np.concatenate(found), np.cumsum([0, *map(len, found)]))


def joined(*several):
    starts = np.cumsum([0, *(states.ends[-1] for states in several)])
    ends = [states.ends[1:] + start for states, start in zip(several, starts, strict=False)]
    return States(np.concatenate([states.values for states in several]), np.concatenate([[0], *ends]))


class Attention(torch.nn.Module):
    """The head that encoder.Head describes, in training."""

    def __init__(self):
        super().__init__()
        self.reduce = torch.nn.Linear(HIDDEN, WIDTH)
        self.queries = torch.nn.Linear(WIDTH, QUERIES, bias=False)
        self.from_head = torch.nn.Embedding(POSITIONS, QUERIES)
        self.from_tail = torch.nn.Embedding(POSITIONS, QUERIES)
        self.types = torch.nn.Linear(QUERIES * WIDTH, N_TYPES)
        for tensor in (self.from_head.weight, self.from_tail.weight, self.types.weight, self.types.bias):
            torch.nn.init.zeros_(tensor)

    def forward(self, states, from_head, from_tail, present):
        reduced = functional.gelu(self.reduce(functional.dropout(states, 0.1, self.training)))
        weights = self.queries(reduced) + self.from_head(from_head) + self.from_tail(from_tail)
        weights = weights.masked_fill(~present[:, :, None], -1e4).softmax(1)
        pooled = torch.einsum("btq,btw->bqw", weights, reduced).flatten(1)
        return self.types(functional.dropout(pooled, 0.3, self.training))

    def exported(self):
        """As the encoder's graph takes it."""

        def array(tensor):
            return tensor.detach().numpy().astype(np.float16).astype(np.float32)

        return Head(
            reduce=array(self.reduce.weight.T),
            reduce_bias=array(self.reduce.bias),
            queries=array(self.queries.weight.T),
            from_head=array(self.from_head.weight),
            from_tail=array(self.from_tail.weight),
            types=array(self.types.weight.T),
            types_bias=array(self.types.bias),
        )


_BUCKETS = position_buckets(np.arange(256))


def batch_of(states, rows):
    lengths = states.lengths[rows]
    shape = (len(rows), lengths.max())
    values = np.zeros((*shape, HIDDEN), np.float16)
    from_head, from_tail = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for place, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        values[place, :length] = states.values[states.ends[row] : states.ends[row + 1]]
        from_head[place, :length] = _BUCKETS[:length]
        from_tail[place, :length] = _BUCKETS[:length][::-1]
    present = np.arange(shape[1]) < lengths[:, None]
    return torch.from_numpy(values).float(), *map(torch.from_numpy, (from_head, from_tail, present))


def batches_of(states, rows, draw):
    """Batches of texts of about the same length, in random order."""
    rows = draw.permutation(rows)
    batches = []
    for start in range(0, len(rows), 30 * BATCH):
        chunk = rows[start : start + 30 * BATCH]
        chunk = chunk[np.argsort(states.lengths[chunk], kind="stable")]
        batches += [chunk[begin : begin + BATCH] for begin in range(0, len(chunk), BATCH)]
    return [batches[place] for place in draw.permutation(len(batches))]


def trained(states, targets, weights, seed):
    """A head for the texts whose weight is not 0."""
    torch.manual_seed(seed)
    draw = np.random.default_rng(seed)
    rows = np.flatnonzero(weights)
    weights = torch.from_numpy(weights / weights[rows].mean()).float()
    targets = torch.from_numpy(targets).float()
    head = Attention()
    optimizer = torch.optim.AdamW(head.parameters(), lr=RATE, weight_decay=DECAY)
    epochs = [batches_of(states, rows, draw) for _ in range(EPOCHS)]
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, total_steps=sum(map(len, epochs)) + 1, pct_start=0.15
    )
    for batches in epochs:
        for batch in batches:
            scores = head(*batch_of(states, batch))
            losses = functional.cross_entropy(scores, targets[batch], reduction="none", label_smoothing=SMOOTHING)
            optimizer.zero_grad()
            (losses * weights[batch]).mean().backward()
            optimizer.step()
            schedule.step()
    return head.eval()


@torch.no_grad()
def told(head, states, rows):
    """Logits (rows, types)."""
    order = rows[np.argsort(states.lengths[rows], kind="stable")]
    logits = np.zeros((len(states.lengths), N_TYPES))
    for start in range(0, len(order), 256):
        batch = order[start : start + 256]
        logits[batch] = head(*batch_of(states, batch)).numpy()
    return logits[rows]


def without_request():
    """Sentences, and a few words in a row, that ask for nothing."""
    draw = random.Random(WORDINGS_SEED)
    texts = [made_up_text(draw, chinese=number % 3 == 0) for number in range(NO_REQUESTS // 2)]
    for text in tuple(texts):
        parts = text.split() if " " in text else text
        start, count = draw.randrange(len(parts)), draw.choice((1, 1, 2, 2, 3, 5))
        texts.append((" " if " " in text else "").join(parts[start : start + count]))
    return list(dict.fromkeys(texts))


class Training:
    """Everything that heads are trained on: prompts of the sources, then those of our own wording, then no requests."""

    def __init__(self, prompts, cache):
        self.prompts = prompts
        made = list({prompt.text: prompt for prompt in made_up(PER_WORDING, WORDINGS_SEED)}.values())
        self.made = np.array([TASK_TYPES.index(prompt.task_type) for prompt in made])
        nothing = without_request()
        certain = np.eye(N_TYPES)
        uncertain = np.full((len(nothing), N_TYPES), 1 / N_TYPES)
        self.targets = np.concatenate([certain[prompts.labels], certain[self.made], uncertain])
        self.real = np.arange(len(self.targets)) < len(prompts.labels)
        texts = [*prompts.texts, *(prompt.text for prompt in made), *nothing]
        digest = hashlib.sha256(json.dumps([embedding.ENCODER, LAYERS, texts]).encode()).hexdigest()[:12]
        kept = cache / f"states-{digest}.npz" if cache else None
        if kept and kept.exists():
            self.states = States(**np.load(kept))
        else:
            self.states = states_of(texts)
            if kept:
                np.savez(kept, **self.states._asdict())

    def weights(self, train):
        """`train` marks prompts of the sources; those of our own wording are all learned from, types weighing alike."""
        sources = (1 - MADE_UP_SHARE - NO_REQUEST_SHARE) * text_training.prompt_weights(self.prompts, train)
        made = MADE_UP_SHARE / N_TYPES / np.bincount(self.made, minlength=N_TYPES)[self.made]
        nothing = len(self.targets) - len(sources) - len(made)
        return np.concatenate([sources, made, np.full(nothing, NO_REQUEST_SHARE / nothing)])

    def left_out(self, groups):
        """Logits (prompts, types) of heads that saw none of a prompt's group."""
        logits = np.zeros((len(self.prompts.labels), N_TYPES))
        for group in np.unique(groups):
            test = groups == group
            rows = np.flatnonzero(test)
            heads = [trained(self.states, self.targets, self.weights(~test), seed) for seed in SEEDS]
            logits[test] = np.mean([told(head, self.states, rows) for head in heads], axis=0)
            print(f"  {group}: {(logits[test].argmax(1) == self.prompts.labels[test]).mean():.3f}", flush=True)
        return logits


def log_softmax(logits):
    logits = logits - logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


class Pool(NamedTuple):
    """How two opinions become one. Found on left-out predictions."""

    temperature: float
    share: float
    share_chinese: float
    sharpness: float

    def probabilities(self, encoder, text, chinese):
        both = self.scores(encoder, text, chinese) * self.sharpness
        return np.exp(log_softmax(both))

    def scores(self, encoder, text, chinese):
        share = np.where(chinese, self.share_chinese, self.share)[:, None]
        return np.log(share * np.exp(log_softmax(encoder / self.temperature)) + (1 - share) * np.exp(text))


def pool_of(prompts, encoder, text, rows):
    """The pool under which the prompts that `rows` marks are told best; sources weigh as in training."""
    weights = text_training.prompt_weights(prompts, rows)[rows]
    targets = np.eye(N_TYPES)[prompts.labels[rows]]
    encoder, text, chinese = encoder[rows], text[rows], prompts.chinese[rows]
    temperature = temperature_of(encoder[~chinese], targets[~chinese], weights[~chinese])

    def best_share(some):
        def loss(share):
            pool = Pool(temperature, share, share, 1.0)
            scores = pool.scores(encoder[some], text[some], chinese[some])
            sharpness = 1 / temperature_of(scores, targets[some], weights[some])
            return -(weights[some] * (log_softmax(scores * sharpness) * targets[some]).sum(axis=1)).sum()

        return min(SHARES, key=loss)

    pool = Pool(temperature, best_share(~chinese), best_share(chinese), 1.0)
    # Every prompt alike: with the sources' weights, two whose prompts ask for several things at once would decide.
    alike = np.full(len(targets), 1 / len(targets))
    sharpness = 1 / temperature_of(pool.scores(encoder, text, chinese), targets, alike)
    return pool._replace(sharpness=sharpness)


def nested_probabilities(prompts, encoder, text, groups):
    """Of a pool that was found without the group in question."""
    probabilities = np.zeros((len(prompts.labels), N_TYPES))
    for group in np.unique(groups):
        test = groups == group
        pool = pool_of(prompts, encoder, text, ~test)
        probabilities[test] = pool.probabilities(encoder[test], text[test], prompts.chinese[test])
    return probabilities


def text_left_out(path, groups):
    """Log probabilities of the text classifier, calibrated, for prompts of groups it did not see."""
    prompts = text_training.Prompts(path, per_wording=text_training.PER_WORDING)
    made_up_too = np.concatenate([groups, np.full((~prompts.real).sum(), -1)])
    logits = text_training.left_out_logits(prompts, made_up_too)
    return log_softmax(logits / text_training.temperature_on(prompts, logits))


def projection_of(states, real):
    """Centre and principal components of the mean token states, scaled to a mean variance of 1."""
    means = np.add.reduceat(states.values.astype(np.float32), states.ends[:-1]) / states.lengths[:, None]
    means = means[real]
    centre = means.mean(axis=0)
    _, sizes, axes = np.linalg.svd(means - centre, full_matrices=False)
    axes = axes[: embedding.VECTOR] * np.sign(axes[: embedding.VECTOR].sum(axis=1, keepdims=True))
    spread = np.sqrt((sizes[: embedding.VECTOR] ** 2).mean() / len(means))
    return centre, (axes / spread).T


def write_weights(heads, centre, projection, pool, threshold, sources):
    tensors = {"centre": centre, "projection": projection}
    for number, head in enumerate(heads):
        tensors |= {f"{number}.{field}": value for field, value in head._asdict().items()}
    metadata = {
        "version": embedding.VERSION,
        "encoder": embedding.ENCODER,
        "layers": LAYERS,
        **{field: round(value, 4) for field, value in pool._asdict().items()},
        "threshold": threshold,
        "licence": "Apache-2.0",
        "sources": {str(source): text_training.LICENCES[source] for source in sources},
    }
    small = {name: np.ascontiguousarray(value, dtype=np.float16) for name, value in tensors.items()}
    save_file(small, embedding.WEIGHTS, {"armwise": json.dumps(metadata)})
    return hashlib.sha256(embedding.WEIGHTS.read_bytes()).hexdigest()


def cached(cache, name, compute):
    if cache is None:
        return compute()
    path = cache / f"{name}.npy"
    if not path.exists():
        np.save(path, compute())
    return np.load(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("ARMWISE_DATA"))
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--unseen", type=Path, help="a file of the same form for a last judgement, never trained on")
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("name the folder of the data with --data or ARMWISE_DATA")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    cache = arguments.cache
    path = Path(arguments.data) / "tasktypes2.train.jsonl.gz"
    prompts = text_training.Prompts(path)
    training = Training(prompts, cache)
    group_of = {source: number for number, group in enumerate(GROUPS) for source in group}
    groups = np.array([group_of[source] for source in prompts.sources])
    print(f"{training.real.sum()} prompts, {len(training.made)} of our own wording")
    print("encoder, groups left out")
    encoder = cached(cache, "encoder", lambda: training.left_out(groups))
    print("text classifier, groups left out")
    text = cached(cache, "text", lambda: text_left_out(path, groups))

    everything = np.ones(len(prompts.labels), dtype=bool)
    pool = pool_of(prompts, encoder, text, everything)
    probabilities = pool.probabilities(encoder, text, prompts.chinese)
    threshold = threshold_of(probabilities, probabilities.argmax(1) == prompts.labels, WRONG_SHARE_UNDER_THRESHOLD)
    nested = nested_probabilities(prompts, encoder, text, groups)
    alone = np.exp(log_softmax(encoder / pool.temperature))
    figures = {
        "prompts": int(training.real.sum()),
        "own_wording": len(training.made),
        "heads": len(SEEDS),
        "groups": [list(group) for group in GROUPS],
        "pool": {**pool._asdict(), "threshold": threshold},
        "embedding": judged.figures_of(prompts, nested, threshold),
        "embedding_pool_found_on_all": judged.figures_of(prompts, probabilities, threshold),
        "encoder_alone": judged.figures_of(prompts, alone, 0.0),
        "text_alone": judged.figures_of(prompts, np.exp(text), 0.0),
    }
    for name in ("embedding", "encoder_alone", "text_alone"):
        found = figures[name]
        print(name, {key: round(found[key], 3) for key in ("accuracy", "macro_f1", "calibration_error")})
    weights = training.weights(everything)
    heads = [trained(training.states, training.targets, weights, seed).exported() for seed in SEEDS]
    centre, projection = projection_of(training.states, training.real)
    digest = write_weights(heads, centre, projection, pool, threshold, np.unique(prompts.sources))
    embedding.WEIGHTS_SHA256 = digest
    figures |= {"weights_bytes": embedding.WEIGHTS.stat().st_size, "weights_sha256": digest}
    served = embedding.Embedding()
    figures["latency_ms"] = judged.latency_ms(served)
    if arguments.unseen is not None:
        unseen = text_training.Prompts(arguments.unseen)
        found = np.array([served.classify(text).task_probabilities[:N_TYPES] for text in unseen.texts])
        figures["unseen"] = judged.figures_of(unseen, found, threshold)
    FIGURES.write_text(json.dumps(judged.rounded(figures), indent=1) + "\n")
    print(f'Set WEIGHTS_SHA256 = "{digest}" in service/classifiers/embedding.py')


if __name__ == "__main__":
    main()
