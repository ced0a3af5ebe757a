"""The price of money: what a dollar is worth in quality under a budget, how spending is kept to it, and the other
bargain, the cheapest arm that is good enough.

A budget is a mean cost per request. `dual_price` says at which price, in quality points per US dollar, a router that
takes the best `quality - price * cost` spends just that; a `Pacer` corrects the price by what was really spent and
never lets the debt exceed a small burst. Nothing in it knows of dollars: with the chance that an answer is later than a
limit as cost, and the allowed share of late answers as budget, the same functions price time.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]

CUSHION = 3.0  # calls of an arm that there must be room for, as one may cost several times the expected

_MOST_USD = 1_000.0  # no call costs more: a meter or a price list that says so is broken, and is not believed
_FARTHEST = 1e9  # a quality beyond this, in points, is broken too
_MOST_PRICE = 1e9  # quality points per USD: a billionth of a dollar outweighs the best answer
_LEAST_BUDGET, _MOST_BUDGET = 1e-12, 1e9  # USD per request; a budget of nothing is taken as the least


class Allocation(NamedTuple):
    """Who should serve what under a budget, and what a dollar more would bring."""

    price: float  # quality points per USD
    shares: Matrix  # (n_cells, n_arms), rows sum to 1; all 0 where a cell has no arm


class _Step(NamedTuple):
    """In one cell, giving up an arm for the next better one."""

    efficiency: float  # quality points gained per USD
    cell: int
    cheaper: int
    dearer: int
    cost_usd: float  # more per request of the whole traffic, when the cell takes the dearer arm


def dual_price(weights: Vector, quality: Matrix, cost_usd: Matrix, budget_usd: float) -> float:
    """Quality points that one more US dollar would bring: the dual of `allocation`.

    0 where every cell's best arm fits the budget; the steepest trade of all where even the cheapest arms do not.
    """
    return allocation(weights, quality, cost_usd, budget_usd).price


def allocation(weights: Vector, quality: Matrix, cost_usd: Matrix, budget_usd: float) -> Allocation:
    """Shares x that maximise sum w_c x_ck q_ck, the expected quality, while sum w_c x_ck c_ck is within the budget.

    `weights` (n_cells,) are shares of traffic, scaled to sum 1 here (equal ones where none is positive); `quality` in
    points and `cost_usd` per call have shape (n_cells, n_arms). An arm is left out of a cell where either is not finite
    or absurd. A budget below the cheapest arms' cost gives the cheapest arms.

    Solved exactly, as the relaxed multiple-choice knapsack: start at the cheapest arms, then take the steps along each
    cell's concave hull by efficiency until the money is spent (Kellerer, Pferschy, Pisinger, "Knapsack Problems", 2004,
    section 11.2).
    """
    shares = np.zeros(quality.shape)
    left = max(0.0, budget_usd)
    steps: list[_Step] = []
    for cell, weight in enumerate(_scaled(weights)):
        hull = _hull(quality[cell].tolist(), cost_usd[cell].tolist())
        if not hull:
            continue
        shares[cell, hull[0]] = 1.0
        left -= weight * float(cost_usd[cell, hull[0]])
        for cheaper, dearer in pairwise(hull):
            more = float(cost_usd[cell, dearer] - cost_usd[cell, cheaper])
            efficiency = min(float(quality[cell, dearer] - quality[cell, cheaper]) / more, _MOST_PRICE)
            steps.append(_Step(efficiency, cell, cheaper, dearer, weight * more))
    steps.sort(key=lambda step: -step.efficiency)  # stable: the steps of a cell stay in their order
    for step in steps:
        if step.cost_usd > max(left, 0.0):  # a cell without traffic costs nothing and sets no price
            part = max(left, 0.0) / step.cost_usd
            shares[step.cell, step.cheaper] = 1.0 - part
            shares[step.cell, step.dearer] = part
            return Allocation(step.efficiency, shares)
        left -= step.cost_usd
        shares[step.cell, step.cheaper] = 0.0
        shares[step.cell, step.dearer] = 1.0
    return Allocation(0.0, shares)


def _scaled(weights: Vector) -> list[float]:
    """The weights as shares of 1; broken ones count nothing, and without any good one all count the same."""
    good = np.where(np.isfinite(weights) & (weights > 0.0), weights, 0.0)
    largest = float(good.max(initial=0.0))
    good = good / largest if largest > 0.0 else np.ones(len(good))
    shares: list[float] = (good / good.sum()).tolist()
    return shares


def _hull(quality: Sequence[float], cost: Sequence[float]) -> list[int]:
    """Arms on the concave hull of quality over cost: the cheapest one first, then ever dearer and better ones."""
    arms = [
        arm for arm in range(len(quality)) if abs(quality[arm]) <= _FARTHEST and 0.0 <= cost[arm] <= _MOST_USD
    ]  # comparisons that a NaN fails
    hull: list[int] = []
    for arm in sorted(arms, key=lambda arm: (cost[arm], -quality[arm])):
        if hull and quality[arm] <= quality[hull[-1]]:
            continue
        while len(hull) > 1:
            before, last = hull[-2], hull[-1]
            gain, gain_now = quality[last] - quality[before], quality[arm] - quality[before]
            if gain * (cost[arm] - cost[before]) > gain_now * (cost[last] - cost[before]):
                break
            hull.pop()
        hull.append(arm)
    return hull


class Pacer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings that keep the mean cost of a request within a budget."""

    budget_usd: float  # mean cost per request
    margin: float = 0.997  # share of the budget that is aimed at
    horizon: float = 1_000.0  # requests in which a debt is paid back, and for which savings are kept
    gain: float = 0.05  # quality points by which a debt of `horizon` budgets makes one budget dearer
    requests: int | None = None  # how many there will be in all, where that is known

    @property
    def target_usd(self) -> float:
        """Mean cost per request that is aimed at."""
        return self.margin * min(max(_LEAST_BUDGET, self.budget_usd), _MOST_BUDGET)

    @property
    def burst(self) -> float:
        """Budgets that may be spent ahead: 20, but no more than the margin gives back over all requests."""
        return 20.0 if self.requests is None else min(20.0, 0.003 * self.requests)


class PacerState(msgspec.Struct, frozen=True, kw_only=True):
    """What was spent and what might have been. The first three are sums, so replicas' shares add up."""

    requests: int = 0
    granted_usd: float = 0.0  # what the requests so far were allowed to cost
    spent_usd: float = 0.0
    price0: float = 0.0  # quality points per USD, as last solved for

    @property
    def debt_usd(self) -> float:
        """Spent beyond the budget; negative when money was saved."""
        return self.spent_usd - self.granted_usd


def price(pacer: Pacer, state: PacerState) -> float:
    """Quality points that a US dollar costs the next request: an arm's utility is `quality - price * cost_usd`.

    The solved price plus, per budget, `gain` times the debt in budgets over the horizon; never below 0.
    """
    target = pacer.target_usd
    debt = state.debt_usd / target / pacer.horizon
    return min(max(state.price0 + pacer.gain * debt / target, 0.0), _MOST_PRICE)


def room_usd(pacer: Pacer, state: PacerState) -> float:
    """What the next call may cost: its own budget, what was saved and the burst. Negative while in deeper debt."""
    return pacer.target_usd * (1.0 + pacer.burst) - state.debt_usd


def affordable_within(room: float, cost_usd: Vector, cushion: float = CUSHION) -> NDArray[np.bool_]:
    """Which arms the next request may be sent to, by their expected costs (n_arms,), when `room` dollars are there.

    Those with room for `cushion` calls, and always the cheapest; where no cost is believable, all of them. With room
    for one call only, a dear call that turns out dearer would close the middling arms until its debt is paid.
    At the defaults an arm dearer than about 340 budgets is never open, as savings lapse.
    """
    known = _believed(cost_usd)
    return np.asarray((cushion * known <= room) | (known <= known.min(initial=np.inf)))


def _believed(cost_usd: Vector) -> Vector:
    """The costs, infinite where they are absurd."""
    return np.where((cost_usd >= 0.0) & (cost_usd <= _MOST_USD), cost_usd, np.inf)


def spent(pacer: Pacer, state: PacerState, usd: float) -> PacerState:
    """Count one more request of `usd`. A cost that is negative, not finite or absurd counts as 0.

    With requests in flight, count the expected cost when the arm is drawn and the rest with `corrected`. Savings beyond
    the horizon lapse, or a quiet month would pay for a reckless one.
    """
    total = state.spent_usd + (usd if 0.0 <= usd <= _MOST_USD else 0.0)
    granted = min(state.granted_usd + pacer.target_usd, total + pacer.target_usd * pacer.horizon)
    return msgspec.structs.replace(state, requests=state.requests + 1, granted_usd=granted, spent_usd=total)


def corrected(state: PacerState, difference_usd: float) -> PacerState:
    """A request counted before has cost so much more (or less, when negative) than was then expected."""
    difference = difference_usd if abs(difference_usd) <= _MOST_USD else 0.0
    return msgspec.structs.replace(state, spent_usd=state.spent_usd + difference)


def paced_budget(pacer: Pacer, state: PacerState) -> float:
    """USD per request to solve for, so that the debt is gone after the horizon: 0.3 to 1.5 times the target."""
    target = pacer.target_usd
    return min(max(target - state.debt_usd / pacer.horizon, 0.3 * target), 1.5 * target)


def repriced(pacer: Pacer, state: PacerState, weights: Vector, quality: Matrix, cost_usd: Matrix) -> PacerState:
    """Solve for the price again, with what is believed now; arguments as in `allocation`.

    Every 200 requests is often enough, and at once when a price or the set of arms changes.
    """
    solved = dual_price(weights, quality, cost_usd, paced_budget(pacer, state))
    return msgspec.structs.replace(state, price0=solved)


def within_window(
    pacer: Pacer, state: PacerState, window_usd: float, elapsed: float, requests_left: float
) -> tuple[Pacer, PacerState]:
    """The pacer and its state for a budget per window, such as dollars a day: money is granted as time passes.

    `elapsed` is the share of the window that is over (0..1), `requests_left` how many more are expected in it; `state`
    counts this window's requests only. Call it before `repriced` and `room_usd`; the other settings stay.
    """
    over, coming = min(max(0.0, elapsed), 1.0), max(1.0, requests_left)
    usable = min(max(0.0, window_usd), _MOST_BUDGET)
    budget = usable * (1.0 - over) / coming
    changed = msgspec.structs.replace(pacer, budget_usd=budget, horizon=min(pacer.horizon, coming))
    return changed, msgspec.structs.replace(state, granted_usd=pacer.margin * usable * over)


_NODES = np.linspace(-6.0, 6.0, 49)  # where distributions are looked at, in standard deviations from a mean
_LEAST_SD, _MOST_SD = 1e-9, 1e3


def probability_within(mean: Vector, sd: Vector, epsilon: float) -> Vector:
    """Chance that each arm's quality is at most `epsilon` below the best one's, for independent normal qualities.

    All of shape (n_arms,); the chances do not sum to 1. Arms whose mean or deviation is not finite are never good
    enough. P(k) is the integral of prod_{j != k} F_j(x + epsilon) over F_k(x), by the trapezoidal rule in F_k; absolute
    error below 0.002.
    """
    chances = np.zeros(len(mean))
    with np.errstate(invalid="ignore"):
        good = np.isfinite(sd) & (np.abs(mean) <= _FARTHEST)
    if not good.any():
        return chances
    centre, spread = mean[good], np.clip(sd[good], _LEAST_SD, _MOST_SD)
    worst_winner = (centre - _NODES[-1] * spread).max()
    hopeful = centre + _NODES[-1] * spread + epsilon >= worst_winner
    centre, spread = centre[hopeful], spread[hopeful]
    own = centre[:, None] + spread[:, None] * _NODES
    grid = np.unique(np.concatenate([own.ravel(), own.ravel() - epsilon]))
    below = ndtr((grid - centre[:, None]) / spread[:, None])  # (n_arms, n_nodes)
    logs = np.log(np.maximum(ndtr((grid + epsilon - centre[:, None]) / spread[:, None]), 1e-300))
    others = np.exp(logs.sum(axis=0) - logs)
    chances[np.flatnonzero(good)[hopeful]] = (np.diff(below, axis=1) * (others[:, 1:] + others[:, :-1]) / 2).sum(axis=1)
    return np.minimum(chances, 1.0)


def cheapest_good_enough(mean: Vector, sd: Vector, cost_usd: Vector, epsilon: float = 0.02, delta: float = 0.1) -> int:
    """Index of the cheapest arm that is within `epsilon` of the best one with a chance of at least 1 - `delta`.

    Where none is as sure as that, the surest one. Of equally cheap arms the surer one, then the first.
    """
    chances = probability_within(mean, sd, epsilon)
    known = _believed(cost_usd)
    sure = [arm for arm in range(len(chances)) if chances[arm] >= 1.0 - delta]
    if not sure:
        return int(chances.argmax())
    return min(sure, key=lambda arm: (known[arm], -chances[arm]))
