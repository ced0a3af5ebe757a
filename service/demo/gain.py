"""What routing gained in the demo: against each model alone, against chance, and what there was to gain.

All by the simulated models' own facts: their true quality and cost on each task type are known, so nothing has to be
estimated but how much it depends on this run. Rounds are taken as the independent pieces.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec
from scipy.special import stdtrit

from bandit.costs import call_cost
from bandit.vocabulary import TaskType
from service.demo.table import Round
from service.providers.facts import facts_of
from service.settings import SIMULATED_MODELS, AnyModel, SimulatedModel
from service.terminal import interval_plot, table


class World(NamedTuple):
    """What is known of the service that the demo runs on."""

    models: Sequence[AnyModel]
    cost_weight: float  # quality that a dollar is worth there


SIMULATED_WORLD = World(SIMULATED_MODELS, 0.0)
ROUTING, CHANCE, CEILING = "routing", "random", "the best model for each task"
_CHARACTERS_A_TOKEN = 4


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """What all calls are worth when one way of choosing answers them."""

    name: str
    quality: float
    usd_per_1000: float
    value: float  # quality - cost_weight * USD of a call


class Gain(msgspec.Struct, frozen=True, kw_only=True):
    """Routing's mean value over another way of choosing, with its 95 % interval."""

    against: str
    value: float
    low: float | None  # None: there were fewer than two rounds
    high: float | None
    saved: float | None  # share of the other's bill; negative: routing cost more; None: the other costs nothing


class Gains(msgspec.Struct, frozen=True, kw_only=True):
    """The demo's result."""

    cost_weight: float  # quality that a dollar is worth
    sides: tuple[Side, ...]
    best_single: Gain
    random: Gain
    most: float  # value of the best model for each task type over the best single one: no routing by task gains more


Truth = Mapping[str, tuple[float, float]]  # model -> quality and USD of a call


def truths(
    prompts: Mapping[TaskType, Sequence[str]], models: Sequence[AnyModel] = SIMULATED_MODELS
) -> dict[TaskType, Truth]:
    """What is true of simulated models on each task type, with these prompts; other models are left out."""
    simulated = [model for model in models if isinstance(model, SimulatedModel)]
    found: dict[TaskType, Truth] = {}
    for task, texts in prompts.items():
        tokens = 1 + round(sum(map(len, texts)) / len(texts) / _CHARACTERS_A_TOKEN)
        facts = [(model, facts_of(model.profile or model.tier).on(task)) for model in simulated]
        found[task] = {
            model.name: (model.quality.get(task, fact.quality), call_cost(model.arm(), tokens, fact.output_tokens))
            for model, fact in facts
        }
    return found


def gains_of(rounds: Sequence[Round], truth: Mapping[TaskType, Truth], cost_weight: float) -> Gains | None:
    """What was gained; None when nothing was answered, or by models whose truth is not known."""
    calls = [(n, task, model, count) for n, one in enumerate(rounds) for task, tally in one.items()
             for model, count in tally.calls.items()]  # fmt: skip
    if not calls or any(model not in truth[task] for _, task, model, _ in calls):
        return None
    names = list(next(iter(truth.values())))
    sums = {name: [(0.0, 0.0)] * len(rounds) for name in (ROUTING, *names, CHANCE, CEILING)}
    counts = [0] * len(rounds)
    for n, task, model, count in calls:
        counts[n] += count
        known = truth[task]
        chance = tuple(sum(known[name][part] for name in names) / len(names) for part in (0, 1))
        ceiling = max(known.values(), key=lambda found: found[0] - cost_weight * found[1])
        for name, (quality, usd) in {**known, ROUTING: known[model], CHANCE: chance, CEILING: ceiling}.items():
            before = sums[name][n]
            sums[name][n] = (before[0] + count * quality, before[1] + count * usd)
    total = sum(counts)

    def side(name: str) -> Side:
        quality, usd = (sum(of_round[part] for of_round in sums[name]) / total for part in (0, 1))
        return Side(name=name, quality=quality, usd_per_1000=1000 * usd, value=quality - cost_weight * usd)

    sides = {name: side(name) for name in sums}

    def gain(name: str) -> Gain:
        differences = [
            (ours[0] - theirs[0]) - cost_weight * (ours[1] - theirs[1])
            for ours, theirs in zip(sums[ROUTING], sums[name], strict=True)
        ]
        value = sum(differences) / total
        half = _half_width(differences, counts, value)
        low, high = (None, None) if half is None else (value - half, value + half)
        bill = sides[name].usd_per_1000
        saved = 1 - sides[ROUTING].usd_per_1000 / bill if bill else None
        return Gain(against=name, value=value, low=low, high=high, saved=saved)

    best = max(names, key=lambda name: sides[name].value)
    return Gains(
        cost_weight=cost_weight,
        sides=tuple(sides.values()),
        best_single=gain(best),
        random=gain(CHANCE),
        most=sides[CEILING].value - sides[best].value,
    )


def _half_width(sums: Sequence[float], counts: Sequence[int], mean: float) -> float | None:
    """Half of the 95 % interval of a mean over calls, with rounds as clusters (the ratio's linearised variance)."""
    pieces = [(found, count) for found, count in zip(sums, counts, strict=True) if count]
    n = len(pieces)
    if n < 2:
        return None
    spread = sum((found - count * mean) ** 2 for found, count in pieces) * n / (n - 1)
    return float(stdtrit(n - 1, 0.975)) * math.sqrt(spread) / sum(counts)


def told(gains: Gains, late: Gains | None, *, drawn: bool) -> Iterator[str]:
    """The result of all rounds and of the second half of them in words; `drawn` with its intervals as a plot."""
    worth = f"quality - {gains.cost_weight:g} x USD" if gains.cost_weight else "quality"
    rows = [("had every call been answered by", "quality", "USD per 1,000", f"value: {worth}")]
    rows += [(one.name, f"{one.quality:.3f}", f"{one.usd_per_1000:.3f}", f"{one.value:.4f}") for one in gains.sides]
    yield from table(rows, right=(1, 2, 3))
    yield ""
    shown = [("all rounds", gain) for gain in (gains.best_single, gains.random)]
    shown += [("second half", gain) for gain in (late.best_single, late.random)] if late is not None else []
    yield from table([("routing against", "in", "value", "95 % interval", "bill"), *(_row(*one) for one in shown)])
    yield "Which single model is best, nobody knew beforehand: routing had to find out meanwhile."
    yield f"The best model for each task, known beforehand, is worth {gains.most:+.4f} over it: more was not to gain."
    if drawn:
        known = [(when, gain, gain.low, gain.high) for when, gain in shown]
        yield ""
        yield from interval_plot([
            (f"{gain.against}, {when}", low, gain.value, high)
            for when, gain, low, high in known if low is not None and high is not None
        ])  # fmt: skip


def _row(when: str, gain: Gain) -> tuple[str, ...]:
    name = gain.against if gain.against == CHANCE else f"{gain.against}, the best single model"
    interval = "too few rounds" if gain.low is None or gain.high is None else f"{gain.low:+.4f} to {gain.high:+.4f}"
    bill = "it is free"
    if gain.saved is not None:
        bill = f"{gain.saved:.0%} less" if gain.saved >= 0 else f"{1 - gain.saved:.1f} times"
    return name, when, f"{gain.value:+.4f}", interval, bill
