"""Thompson sampling over one linear regression per arm: quality on what the classifier says of the prompt.

Quality of an arm is its prior mean in the prompt's cell, plus the prompt's difficulty, which all arms share, plus what
this arm is better or worse; the latter two are linear in the features. Weights are normal around 0, so their posterior
has a closed form. Difficulty is estimated together with the arms, so an arm that is used mostly on hard prompts does
not look bad for it.

Source: Bayesian linear regression, Bishop, "Pattern Recognition and Machine Learning", 2006, section 3.3; as a policy,
Agrawal and Goyal, "Thompson Sampling for Contextual Bandits with Linear Payoffs", 2013.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import product
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from bandit.budget import affordable_within
from bandit.costs import expected_cost
from bandit.drift import kept
from bandit.fitted import FittedPolicy
from bandit.history import ArmRestart, History, Integers, Memory
from bandit.policies import Probabilities
from bandit.posteriors import Beliefs, Estimate, Regression
from bandit.vocabulary import FREE, TASK_TYPES, Arm, PromptProfile, PromptTier, TaskType, Terms, Trade
from bandit.weighing import cheapest, newcomers, thrift_of, trades, weigh

Array = NDArray[np.float64]

MOST_DIMS = 32  # of a classifier's vector
_SCORES = ("creativity", "reasoning", "contextual_knowledge", "domain_knowledge", "constraints")
_MOST_SHOTS = 5.0  # `few_shots` is a count up to this
PLAIN = 1 + len(TASK_TYPES) + 1 + len(_SCORES) + 1  # features without the vector
_TASK = {name: index for index, name in enumerate(TASK_TYPES)}

_COIN, _COIN_LABELS, _LEAST_NOISE = 0.2, 10.0, 0.05  # variance of one label; labels' worth of belief in it; the least
_SLOPE = 0.25  # variance of any other weight, as part of the intercept's
_DIFFICULTY = 0.05  # variance of the weights that all arms share
_INTERCEPT_SCALES, _SLOPE_SCALES = (0.25, 1.0, 4.0, 16.0), (0.05, 0.25, 1.0, 4.0, 16.0)
_FEWEST_LABELS = 30.0  # with fewer, how much arms differ is not asked
_HOURS_PER_DAY = 24.0
_DIGITS = 6  # of a weight: equal to the eye is equal in content


class Labelled(NamedTuple):
    """Labels with what was known of their prompts, in columns of equal length."""

    arms: tuple[str, ...]
    arm: Integers  # (n,): index in `arms`
    x: Array  # (n, PLAIN + MOST_DIMS): features
    task: Integers  # (n,): index in TASK_TYPES
    tier: Integers  # (n,): index in PROMPT_TIERS
    value: Array  # (n,), in [0, 1]
    weight: Array  # (n,), in [0, 1]: labels that it is worth
    hour: Integers  # (n,): of the decision, since 1970-01-01 UTC


def features(profile: PromptProfile, dims: int = MOST_DIMS) -> list[float]:
    """What a regression sees of a prompt: 1, the task type (one-hot), complexity, six scores, the vector's beginning.

    Length PLAIN + dims; a shorter vector is filled up with 0.
    """
    task = [0.0] * len(TASK_TYPES)
    task[_TASK[profile.task_type]] = 1.0
    scores = profile.scores
    vector = profile.vector[:dims]
    return [
        1.0, *task, profile.complexity, *(getattr(scores, name) for name in _SCORES), scores.few_shots / _MOST_SHOTS,
        *vector, *[0.0] * (dims - len(vector)),
    ]  # fmt: skip


def typical(labelled: Labelled) -> dict[TaskType, Array]:
    """Mean features of the prompts of each task type, shape (PLAIN + MOST_DIMS,); without any, those of all prompts."""
    all_of_them = labelled.x.mean(axis=0) if len(labelled.x) else np.zeros(PLAIN + MOST_DIMS)
    found = {}
    for index, task in enumerate(TASK_TYPES):
        mine = labelled.task == index
        x = labelled.x[mine].mean(axis=0) if mine.any() else all_of_them.copy()
        x[: 1 + len(TASK_TYPES)] = 0.0
        x[[0, 1 + index]] = 1.0
        found[task] = x
    return found


def typical_of(known: Mapping[TaskType, Array], task_type: TaskType) -> Array:
    """The typical prompt of a task type, as `typical` found it; before that, one of which nothing else is said."""
    x = known.get(task_type)
    return np.array(features(PromptProfile(task_type=task_type, tier="medium"))) if x is None else x


def counted(
    labelled: Labelled, arms: Sequence[str], now: float, memory: Memory, restarts: Sequence[ArmRestart]
) -> Array:
    """Labels that each row counts as at `now` (hours since 1970 UTC): shape (n,); 0 for arms that are not in `arms`.

    Halved every half-life, less after a restart, and capped per arm and task type, like the counts of `faded`.
    """
    age = np.maximum(now - labelled.hour, 0.0)
    weight = labelled.weight * np.exp2(-age / (_HOURS_PER_DAY * memory.label_half_life_days))
    weight = np.where(np.isfinite(labelled.value) & np.isfinite(labelled.x).all(axis=1), weight, 0.0)
    wanted = np.array([name in arms for name in labelled.arms], dtype=bool)
    weight = weight * wanted[labelled.arm]
    for one in restarts:
        if one.arm in labelled.arms:
            mine = labelled.arm == labelled.arms.index(one.arm)
            if one.task_type is not None:
                mine &= labelled.task == _TASK[one.task_type]
            weight[mine] *= kept(labelled.hour[mine], [(one.hour, one.restart.label_keep)])
    total = np.zeros((len(labelled.arms), len(TASK_TYPES)))
    np.add.at(total, (labelled.arm, labelled.task), weight)
    scale = np.minimum(1.0, memory.most_labels / np.maximum(total, 1e-9))
    return np.asarray(weight * scale[labelled.arm, labelled.task])


class Regressions(NamedTuple):
    """Posterior of the weights of every arm; normal."""

    mean: Array  # (n_arms, n_features): the arm's own and the shared ones together
    covariance: Array  # (n_arms, n_features, n_features), beside what is uncertain of the shared ones
    evidence: float  # logarithm of how likely the residuals were, up to a term that does not depend on the variances


class Moments(NamedTuple):
    """What a regression needs of its rows; sums over them, each divided by the variance of one label."""

    xx: Array  # (n_arms, n_features, n_features)
    xy: Array  # (n_arms, n_features)
    yy: float


def moments(x: Array, residual: Array, weight: Array, arm: Integers, n_arms: int) -> Moments:
    """`x` has shape (n, n_features); `residual`, `weight` (labels that a row counts as) and `arm` (n,)."""
    size = x.shape[1]
    xx, xy = np.zeros((n_arms, size, size)), np.zeros((n_arms, size))
    root = np.sqrt(weight / _noise(residual, weight))
    for index in range(n_arms):
        mine = arm == index
        rows = x[mine] * root[mine, None]
        xx[index], xy[index] = rows.T @ rows, rows.T @ (residual[mine] * root[mine])
    return Moments(xx, xy, float((root * residual) @ (root * residual)))


def regress(known: Moments, variance: Array, shared: float = _DIFFICULTY) -> Regressions:
    """Posterior of the weights in `residual = x (shared + own of the arm) + noise`.

    `variance` (n_arms, n_features) is the prior's of own weights, `shared` that of shared ones; 0 leaves them out.
    """
    eye = np.eye(variance.shape[1])
    covariance = np.linalg.inv(known.xx + eye / variance[:, :, None])
    covariance = (covariance + covariance.swapaxes(1, 2)) / 2  # rounding leaves it a little lopsided
    # What each arm says of the shared weights, when its own are integrated out.
    through = known.xx @ covariance
    precise = known.xx - through @ known.xx
    says = known.xy - np.einsum("kij,kj->ki", through, known.xy)
    common = np.linalg.solve(eye + shared * precise.sum(axis=0), shared * says.sum(axis=0))
    left = known.xy - known.xx @ common
    own = np.einsum("kij,kj->ki", covariance, left)
    logs = np.linalg.slogdet(covariance)[1].sum() - np.log(variance).sum()
    missed = known.yy - common @ (known.xy + left).sum(axis=0)
    return Regressions(common + own, covariance, 0.5 * float(logs - missed + (left * own).sum()))


def regress_best(known: Moments, intercept: float, factor: Array) -> Regressions:
    """`regress` with the prior variances that the labels speak for, among multiples of the given ones.

    `intercept` is the variance of an arm's first weight, `factor` (n_arms,) multiplies all of an arm's. A multiple of 4
    costs half a unit of log evidence, as in `bandit.pooling.pool_best`.
    """

    def found(scales: tuple[float, float]) -> tuple[float, Regressions]:
        one = regress(known, variances(known.xy.shape[1], intercept, *scales) * factor[:, None])
        return one.evidence - 0.5 * sum((np.log(scale) / np.log(4.0)) ** 2 for scale in scales), one

    if known.xx[:, 0, 0].sum() * _COIN < _FEWEST_LABELS:
        return found((1.0, 1.0))[1]
    return max(map(found, product(_INTERCEPT_SCALES, _SLOPE_SCALES)), key=lambda scored: scored[0])[1]


def variances(size: int, intercept: float, first: float = 1.0, rest: float = 1.0) -> Array:
    """Prior variance of every weight of an arm: shape (size,)."""
    found = np.full(size, _SLOPE * intercept * rest)
    found[0] = intercept * first
    return found


def _noise(residual: Array, weight: Array) -> float:
    """Variance of one label: a coin's, or less when scores agree."""
    within = float(weight @ residual**2)
    return max((_COIN_LABELS * _COIN + within) / (_COIN_LABELS + float(weight.sum())), _LEAST_NOISE)


class LinearThompson(FittedPolicy, frozen=True, tag="linear_thompson"):
    """Choose an arm as often as it is likely to be the best one for this very prompt, by a linear regression.

    The regressions are worked out in the background from labels and their prompts' features; a decision multiplies.
    """

    strength: float = 50.0  # the prior mean of an arm's quality counts as many labels
    vector_dims: int = 0  # numbers of the classifier's vector that are features, at most 32

    @property
    def variance(self) -> float:
        """Of an arm's quality around its prior mean: as narrow as the labels say that the prior is worth."""
        return _COIN / (self.prior.mass if self.prior is not None and self.prior.mass else self.strength)

    def regressions(
        self, arms: Sequence[Arm], labelled: Labelled, weight: Array, history: History
    ) -> Mapping[str, Regression]:
        """Weights of every arm, by name. `weight` is as `counted` says; `history` tells what restarts do to priors."""
        prior = self.prior_means_of(arms)
        position = {arm.name: index for index, arm in enumerate(arms)}
        of_table = np.array([position.get(name, -1) for name in labelled.arms] + [-1], dtype=np.int64)
        rows = (weight > 0.0) & (of_table[labelled.arm] >= 0)
        arm, x = of_table[labelled.arm[rows]], labelled.x[rows, : PLAIN + self.vector_dims]
        expected = prior[arm, labelled.task[rows], labelled.tier[rows]] + history.mean_shift[arm]
        residual = labelled.value[rows] - expected
        known = moments(x, residual, weight[rows], arm, len(arms))
        found = regress_best(known, self.variance, history.variance_factor)
        mean = found.mean.copy()
        mean[:, 0] += history.mean_shift
        new = newcomers(history, self.nursery_labels)
        return {
            one.name: msgspec.structs.replace(
                regression(mean[k], found.covariance[k]),
                new=new[k],
                output_tokens=tuple(history.output_tokens.get((one.name, task), 0.0) for task in TASK_TYPES),
                late=tuple(history.late.get((one.name, task), 0.0) for task in TASK_TYPES),
            )
            for k, one in enumerate(arms)
        }

    def predicted(self, profile: PromptProfile, arms: Sequence[Arm], beliefs: Beliefs) -> tuple[Array, Array]:
        """Mean and standard deviation of every arm's quality on this prompt; of an arm never worked out, the prior."""
        return self.predicted_at(np.array(features(profile)), profile.task_type, profile.tier, arms, beliefs)

    def predicted_at(
        self, x: Array, task_type: TaskType, tier: PromptTier, arms: Sequence[Arm], beliefs: Beliefs
    ) -> tuple[Array, Array]:
        """`predicted` for a prompt of these features, shape (PLAIN + MOST_DIMS,)."""
        mean = np.array([self.prior_mean(arm, task_type, tier) for arm in arms])
        seen = x[: PLAIN + self.vector_dims]
        sd = np.full(len(arms), (seen * seen @ variances(len(seen), self.variance)) ** 0.5)
        by_size: dict[int, dict[int, Regression]] = {}  # held ones may know more of a prompt, or less
        for index, arm in enumerate(arms):
            if (one := beliefs.regressions.get(arm.name)) is not None:
                by_size.setdefault(len(one.mean), {})[index] = one
        for size, found in by_size.items():
            own, factor = _unpacked(tuple(found.values()))
            mine, seen = list(found), x[:size]
            mean[mine] += own @ seen
            sd[mine] = np.sqrt(((seen @ factor) ** 2).sum(axis=1))
        return mean, sd

    def estimates_at(
        self, x: Array, task_type: TaskType, tier: PromptTier, arms: Sequence[Arm], beliefs: Beliefs
    ) -> list[Estimate]:
        """What is known of every arm on a prompt of these features, shape (PLAIN + MOST_DIMS,)."""
        mean, sd = self.predicted_at(x, task_type, tier, arms, beliefs)
        known = beliefs.regressions
        return [
            Estimate(one, wide, *beliefs.usage(arm.name, task_type), arm.name in known and known[arm.name].new)
            for arm, one, wide in zip(arms, mean.tolist(), sd.tolist(), strict=True)
        ]

    def probabilities(
        self, profile: PromptProfile, arms: Sequence[Arm], beliefs: Beliefs, terms: Terms = FREE
    ) -> Probabilities:
        mean, sd = self.predicted(profile, arms, beliefs)
        usage = [beliefs.usage(arm.name, profile.task_type) for arm in arms]
        costs = np.array([expected_cost(arm, profile, one.output_tokens) for arm, one in zip(arms, usage, strict=True)])
        known = beliefs.regressions
        new = np.array([arm.name in known and known[arm.name].new for arm in arms])
        if self.objective == "floor":
            doubt = 1.0 - self.certainty
            return cheapest(
                mean, sd, costs, new, within=self.within, doubt=doubt, floor=self.floor, nursery=self.nursery
            )
        late = np.array([one.late for one in usage])
        utility = mean - (self.cost_weight + terms.usd_price) * costs - terms.late_price * late
        room = () if terms.room_usd is None else tuple(affordable_within(terms.room_usd, costs).tolist())
        return weigh(
            mean,
            sd,
            utility,
            new,
            room=room,
            thrift=thrift_of(costs.tolist(), terms),
            exploration=self.exploration,
            nursery=self.nursery,
            guard=self.guard(arms),
        )

    def trade(
        self, profile: PromptProfile, arms: Sequence[Arm], beliefs: Beliefs, terms: Terms = FREE
    ) -> tuple[Trade, ...]:
        known = self.estimates_at(np.array(features(profile)), profile.task_type, profile.tier, arms, beliefs)
        costs = [expected_cost(arm, profile, one.output_tokens) for arm, one in zip(arms, known, strict=True)]
        return trades(arms, known, costs, self.cost_weight, terms)


def regression(mean: Array, covariance: Array) -> Regression:
    """Weights as they are stored: the mean to six digits, the covariance's Cholesky factor in half precision."""
    factor = np.linalg.cholesky(covariance)[np.tril_indices(len(mean))]
    return Regression(tuple(np.round(mean, _DIGITS).tolist()), factor.astype("<f2").tobytes())


@lru_cache(maxsize=32)
def _unpacked(regressions: tuple[Regression, ...]) -> tuple[Array, Array]:
    """Means (n_arms, n_features) and Cholesky factors (n_arms, n_features, n_features), remembered between two fits."""
    mean = np.array([one.mean for one in regressions])
    rows, columns = np.tril_indices(mean.shape[1])
    stored = np.frombuffer(b"".join([one.factor for one in regressions]), dtype="<f2")
    factor = np.zeros((*mean.shape, mean.shape[1]))
    factor[:, rows, columns] = stored.reshape(len(mean), -1)
    return mean, factor
