"""Logs of decisions whose true values are known: drawn by `choose`, rated by chance, in memory or in a database."""

from typing import Any

import msgspec
import numpy as np

from bandit.channels import Calibration
from bandit.linear import MOST_DIMS, PLAIN, Labelled, features
from bandit.policies import Policy
from bandit.posteriors import Beliefs, CellKey, counts_of
from bandit.selection import choose, seed_of
from bandit.vocabulary import PROMPT_TIERS, TASK_TYPES, Arm, Limits, PromptProfile, Reward
from service.decide import Caller, Decision
from service.evaluation.decision_log import Entry
from service.evaluation.past import Arrival, Past
from service.learn import Measurement, record
from service.learning.contexts import Dated
from service.parts import decision_row
from service.storage import store

START = 1_800_000_000.0
AT_ONCE = 100  # ratings that are stored together
STEP_S = 20.0  # between two decisions
DELAY_S = 900.0  # from a decision to its rating
ARMS = {
    "small": Arm(name="small", tier="small", price_in=1.0, price_out=2.0),
    "large": Arm(name="large", tier="large", price_in=10.0, price_out=20.0),
}
TASKS = ("Open QA", "Rewrite")
QUALITY = {("Open QA", "small"): 0.45, ("Open QA", "large"): 0.85, ("Rewrite", "small"): 0.8, ("Rewrite", "large"): 0.6}


def decided(number: int, policy: Policy, name: str = "d", **said: Any) -> Decision:
    """One decision; what a test does not say is usual."""
    decision_id = f"{name}-{number}"
    profile = PromptProfile(task_type=TASKS[number % 2], tier="medium", prompt_tokens=100)
    limits = said.pop("limits", Limits())
    usual: dict[str, Any] = {
        "id": decision_id,
        "created_at": START + number * STEP_S,
        "method": "auto",
        "caller": Caller(user=f"user-{number % 50}"),
        "profile": profile,
        "limits": limits,
        "choice": choose(policy, profile, list(ARMS.values()), Beliefs(), seed_of(decision_id), explore=limits.explore),
        "excluded": {},
        "plan": (),
    }
    return Decision(**{**usual, **said})


def quality(decision: Decision, arm: str) -> float:
    """The true quality of a model on a decision's prompt."""
    return QUALITY[decision.profile.task_type, arm]


def rated_log(policy: Policy, n: int, seed: int, rate: float = 0.7, fails: float = 0.0) -> list[Entry]:
    """Decisions by `policy`, of which a share is rated 0 or 1; of the replies a share fails, and is seen to."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(n):
        decision = decided(number, policy, f"log-{seed}")
        good = float(rng.random() < quality(decision, decision.choice.arm))
        rated, failed = rng.random() < rate, rng.random() < fails
        value = 0.0 if failed else good if rated else None
        found.append(Entry(decision, value, bool(failed), (100, 50, 0), 0.001, decision.choice.arm, 0.5))
    return found


def past_of(log: list[Entry]) -> Past:
    """What became known of a log, each rating a while after its decision."""
    arrivals = [
        Arrival(entry.decision.created_at + DELAY_S, cell_of(entry.decision), counts_of(Reward(value=entry.value)))
        for entry in log
        if entry.value is not None
    ]
    return Past({}, Calibration(), arrivals, (), (), prompts=prompts_of(log))


def prompts_of(log: list[Entry]) -> Dated:
    """The ratings of a log with their prompts, newest first."""
    rated = [(entry.decision, entry.value) for entry in reversed(log) if entry.value is not None]
    arms = sorted({decision.choice.arm for decision, _ in rated})
    at = np.array([decision.created_at + DELAY_S for decision, _ in rated])
    labelled = Labelled(
        arms=tuple(arms),
        arm=np.array([arms.index(decision.choice.arm) for decision, _ in rated], dtype=np.int64),
        x=np.array([features(decision.profile) for decision, _ in rated]).reshape(len(rated), PLAIN + MOST_DIMS),
        task=np.array([TASK_TYPES.index(decision.profile.task_type) for decision, _ in rated], dtype=np.int64),
        tier=np.array([PROMPT_TIERS.index(decision.profile.tier) for decision, _ in rated], dtype=np.int64),
        value=np.array([value for _, value in rated], dtype=np.float64),
        weight=np.ones(len(rated)),
        hour=np.array([int(decision.created_at // 3600) for decision, _ in rated], dtype=np.int64),
    )
    return Dated(labelled, at, at)


def cell_of(decision: Decision) -> CellKey:
    """Where a rating of the decision counts."""
    hour = int(decision.created_at // 3600)
    return CellKey("", decision.choice.arm, decision.profile.task_type, decision.profile.tier, hour, "thumb")


def truth(log: list[Entry], table: np.ndarray) -> float:
    """True mean quality of a policy with these probabilities, (n, n_arms), on the prompts of a log."""
    good = np.array([[quality(entry.decision, arm) for arm in ARMS] for entry in log])
    return float(np.mean(np.sum(table * good, axis=1)))


def rating(entry: Entry, **said: Any) -> Measurement:
    """The rating of a decision, as feedback brings it."""
    usual = {
        "decision_id": entry.decision.id,
        "metric": "quality",
        "source": "user",
        "user": entry.decision.caller.user,
        "value": entry.value,
        "at": entry.decision.created_at + DELAY_S,
    }
    return Measurement(**{**usual, **said})


def call(entry: Entry, **said: object) -> dict[str, object]:
    """The row of the call that answered a decision."""
    prompt, completion, cached = entry.tokens or (0, 0, 0)
    usual: dict[str, object] = {
        "decision_id": entry.decision.id,
        "step": 0,
        "arm": entry.decision.choice.arm,
        "outcome": "ok",
        "status": 200,
        "streamed": False,
        "started_at": entry.decision.created_at,
        "latency_s": 0.5,
        "first_token_s": None,
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "cached_tokens": cached,
        "cost_usd": entry.paid_usd,
        "error": "",
    }
    return {**usual, **said}


def stored(connection: Any, log: list[Entry]) -> None:
    """Write a log as the service does, many ratings at once: each counts as known when it was given."""
    store.insert_decisions(connection, [decision_row(entry.decision) for entry in log])
    store.insert_attempts(connection, [call(entry) for entry in log])
    ratings = [rating(entry) for entry in log if entry.value is not None]
    for first in range(0, len(ratings), AT_ONCE):
        some = ratings[first : first + AT_ONCE]
        record(connection, some, window_s=7 * 86_400.0, now=some[0].at)


def rate(connection: Any, measurement: Measurement) -> None:
    """Take in one rating at its time."""
    record(connection, [measurement], window_s=7 * 86_400.0, now=measurement.at)


def told_otherwise(entry: Entry, **changes: Any) -> Entry:
    """The same decision, changed."""
    return entry._replace(decision=msgspec.structs.replace(entry.decision, **changes))
