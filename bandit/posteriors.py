"""What was learned: additive counts, the Beta posterior they give, and the immutable snapshot of both.

Counts are integers in millionths of a label, so adding and taking back is exact in any order: replicas, corrections and
a rebuild from the reward log all end in the same numbers.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from bandit.vocabulary import EXPLICIT_CHANNELS, TASK_TYPES, Channel, PromptTier, Reward, TaskType

_EDGE = 0.001  # an expected quality stays so far from 0 and 1
_WIDEST = 10.0  # standard deviation: wider ones say nothing either
_LEAST_LABELS = 0.1  # that an estimate is worth, however wide

MICRO = 1_000_000  # counts are stored in millionths of a label


class CellKey(NamedTuple):
    """Where a reward is counted. `namespace` keeps the posteriors of experiments apart; "" is the common one."""

    namespace: str
    arm: str
    task_type: TaskType
    tier: PromptTier
    hour: int  # of the decision, in hours since 1970-01-01 UTC
    channel: Channel


class Counts(NamedTuple):
    """Sums over rewards, in millionths: weights, weight times value, weight times value squared."""

    n: int = 0
    s: int = 0
    s2: int = 0

    def plus(self, other: "Counts") -> "Counts":
        """Both together."""
        return Counts(self.n + other.n, self.s + other.s, self.s2 + other.s2)

    def minus(self, other: "Counts") -> "Counts":
        """This without the other: how a corrected rating is taken back."""
        return Counts(self.n - other.n, self.s - other.s, self.s2 - other.s2)


def counts_of(reward: Reward) -> Counts:
    """What one reward adds to its cell.

    >>> counts_of(Reward(value=0.5, weight=1.0))
    Counts(n=1000000, s=500000, s2=250000)
    """
    return Counts(
        round(reward.weight * MICRO),
        round(reward.weight * reward.value * MICRO),
        round(reward.weight * reward.value * reward.value * MICRO),
    )


def fold(rewards: Iterable[tuple[CellKey, Reward]]) -> dict[CellKey, Counts]:
    """The cells that a log of rewards adds up to. Order does not matter."""
    cells: dict[CellKey, Counts] = {}
    for key, reward in rewards:
        cells[key] = cells.get(key, Counts()).plus(counts_of(reward))
    return cells


class Evidence(msgspec.Struct, frozen=True, array_like=True):
    """All that was measured of one arm on one task type, in labels; people's word and heuristics kept apart."""

    explicit_n: float = 0.0  # labels: thumbs, scores and hard failures
    explicit_sum: float = 0.0  # of their values
    heuristic_n: float = 0.0  # weak readings, already weighted
    heuristic_sum: float = 0.0


NO_EVIDENCE = Evidence()


class Estimate(msgspec.Struct, frozen=True, array_like=True, cache_hash=True):
    """Quality of one arm in one cell, informed by all others; normal. Worked out in the background."""

    mean: float
    sd: float
    output_tokens: float = 0.0  # of its replies to such prompts; 0: not known
    late: float = 0.0  # chance that a reply is later than the policy's limit
    new: bool = False  # hardly anything was said of the arm yet, while much was of others


class Regression(msgspec.Struct, frozen=True, array_like=True):
    """Weights of one arm's quality on what is known of a prompt; normal. Worked out in the background."""

    mean: tuple[float, ...]  # (n_features,)
    factor: bytes  # lower triangle of the covariance's Cholesky factor, row by row: float16, least byte first
    new: bool = False  # hardly anything was said of the arm yet, while much was of others
    output_tokens: tuple[float, ...] = ()  # (n_tasks,): as of an estimate, in the order of TASK_TYPES
    late: tuple[float, ...] = ()  # likewise


class Usage(NamedTuple):
    """What a reply is expected to be like, beside its quality."""

    output_tokens: float  # 0: not known
    late: float  # chance that it is later than the policy's limit


class Beta(msgspec.Struct, frozen=True):
    """Beta(alpha, beta) over an arm's quality in [0, 1]."""

    alpha: float
    beta: float

    @property
    def mean(self) -> float:
        """Expected quality."""
        return self.alpha / (self.alpha + self.beta)

    @property
    def sd(self) -> float:
        """Standard deviation."""
        total = self.alpha + self.beta
        return float((self.alpha * self.beta / (total + 1.0)) ** 0.5 / total)


def beta_of(estimates: Sequence[Estimate], weights: Sequence[float] = ()) -> Beta:
    """The Beta with the mean and the variance of some normal estimates: how people read them.

    `weights`, above 0, say how much each counts; without them they count alike.

    >>> beta_of([Estimate(0.5, 0.125)])
    Beta(alpha=7.5, beta=7.5)
    """
    weights = weights or [1.0] * len(estimates)
    shares = [weight / sum(weights) for weight in weights]
    mean = min(max(sum(share * one.mean for share, one in zip(shares, estimates, strict=True)), _EDGE), 1.0 - _EDGE)
    variance = sum(share * min(one.sd, _WIDEST) ** 2 for share, one in zip(shares, estimates, strict=True))
    n = max(mean * (1.0 - mean) / max(variance, 1e-12) - 1.0, _LEAST_LABELS)
    return Beta(n * mean, n * (1.0 - mean))


def posterior(prior_mean: float, prior_strength: float, evidence: Evidence, heuristic_cap: float) -> Beta:
    """Beta posterior from a prior worth `prior_strength` labels, labels, and weak readings worth at most a cap.

    The fractional update a += w r, b += w (1 - r) is a quasi-likelihood: conservative for scores that vary less than a
    coin. Weak readings count `heuristic_cap` labels at most, so a biased heuristic cannot outvote people however many
    calls there are.

    >>> posterior(0.5, 2.0, Evidence(3.0, 2.0), 0.0)
    Beta(alpha=3.0, beta=2.0)
    """
    scale = min(1.0, heuristic_cap / evidence.heuristic_n) if evidence.heuristic_n > 0 else 0.0
    good = evidence.explicit_sum + scale * evidence.heuristic_sum
    n = evidence.explicit_n + scale * evidence.heuristic_n
    return Beta(prior_strength * prior_mean + good, prior_strength * (1.0 - prior_mean) + n - good)


class Beliefs(msgspec.Struct, frozen=True):
    """Immutable snapshot of what a decision is taken on, by arm name: the evidence of one task type in one namespace.

    For policies whose cells inform each other it holds estimates of one cell instead, for linear ones the weights of a
    regression. `version` names the content: equal content has an equal version, on every replica.
    """

    version: str = ""
    evidence: Mapping[str, Evidence] = msgspec.field(default_factory=dict)
    estimates: Mapping[str, Estimate] = msgspec.field(default_factory=dict)
    regressions: Mapping[str, Regression] = msgspec.field(default_factory=dict)

    def usage(self, arm: str, task_type: TaskType) -> Usage:
        """How long the arm's replies to such prompts are, and how often late."""
        if (known := self.estimates.get(arm)) is not None:
            return Usage(known.output_tokens, known.late)
        weights = self.regressions.get(arm)
        if weights is None or not weights.output_tokens:
            return Usage(0.0, 0.0)
        task = TASK_TYPES.index(task_type)
        return Usage(weights.output_tokens[task], weights.late[task])

    def of(self, arm: str) -> Evidence:
        """Evidence for `arm`; nothing for an arm never measured."""
        return self.evidence.get(arm, NO_EVIDENCE)


def evidence_from(counts: Mapping[Channel, Counts]) -> Evidence:
    """Evidence from the counts of each channel; readings are for policies that know how far to trust them."""
    explicit, heuristic = Counts(), Counts()
    for channel, count in counts.items():
        if channel in EXPLICIT_CHANNELS:
            explicit = explicit.plus(count)
        elif channel == "heuristic":
            heuristic = heuristic.plus(count)
    return Evidence(explicit.n / MICRO, explicit.s / MICRO, heuristic.n / MICRO, heuristic.s / MICRO)
