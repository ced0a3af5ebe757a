"""The heuristics' weights are learned again each hour, and what they are worth is told."""

import asyncio
import logging
import time

import msgspec
import numpy as np

from bandit.channels import ENOUGH_PER_TASK, TYPICAL_READING, Calibration, rate_alarms
from bandit.posteriors import MICRO
from bandit.vocabulary import TASK_TYPES
from service.learning import calibrations, rated, raters
from service.learning.calibrations import Answered
from service.parts import Parts
from service.quality.examine import HEURISTICS
from service.quality.readings import Weights, learned_weights, prior_weights
from service.quality.repeats import SIGNALS

log = logging.getLogger("armwise")

_LOOK_EVERY_S = 60.0
_REFIT_EVERY_S = 3600.0
EVERYBODY = "everybody"


class Fired(msgspec.Struct, frozen=True, kw_only=True):
    """One heuristic: how often it fired, and what a finding of it does to a reading."""

    name: str
    kind: str  # hard: a label of 0; soft: part of the reading; user: of the earlier reply, no part of the reading
    fired: int
    share: float | None  # of the replies looked at; None without any
    effect: float | None = None  # log-odds that a finding takes from the reading; None: no part of it
    prior_effect: float | None = None  # the same before any label


class TaskAccuracy(msgspec.Struct, frozen=True, kw_only=True):
    """How well readings tell good replies from bad ones on one task type."""

    task_type: str
    labelled_calls: float  # that have a label and a reading
    sensitivity: float  # expected reading of a good reply
    false_positive_rate: float  # expected reading of a bad one
    j: float  # the difference: 0 says nothing, 1 everything
    calibration: str  # own: from its own calls; everybody: from all calls, because its own are under 200


class LabelRate(msgspec.Struct, frozen=True, kw_only=True):
    """How often people rate a model's replies."""

    model: str
    calls: int
    labelled: int
    rate: float
    alarm: bool  # surely more than 20 % above or below the other models'


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What the heuristics are worth."""

    counted_at: float  # when the newest replies were added up, in seconds since 1970-01-01 UTC
    replies: int  # the newest ones, that `fired` was counted on
    heuristics: list[Fired]
    weights_version: str
    weights_learned_from: int  # labelled calls; 0: from the settings
    weights_learned_at: float | None  # seconds since 1970-01-01 UTC
    intercept: float
    prior_intercept: float
    accuracy: list[TaskAccuracy]
    label_rates: list[LabelRate]
    label_rate_alarms: list[str]  # models
    quality: list[rated.Quality]  # of each model's newest replies
    outliers: int  # users whose labels count in part, as others' cannot explain them
    outlier_users: list[raters.Outlier]  # the last hundred of them


async def refit(parts: Parts, now: float) -> Weights:
    """Learn the weights again and put them in force, here at once and on other replicas within a minute.

    Raises:
        StorageUnavailable: the database could not be read or written.
    """
    quality = parts.setup.settings.quality
    prior = prior_weights(quality)
    calls = await parts.database.read(calibrations.labelled_calls)
    if calls:
        weights = await asyncio.to_thread(learned_weights, calls, prior, now)
        await parts.writer.call(lambda connection: calibrations.store_weights(connection, weights))
        parts.reader.learned = weights
    return parts.reader.weights(quality)


async def take_newest(parts: Parts) -> None:
    """Put the weights that were learned last, by whichever replica, in force here."""
    parts.reader.learned = await parts.database.read(calibrations.newest_weights)


async def recalibrate(parts: Parts) -> None:
    """Each minute: the weights of other replicas. Each hour: learn them again, and see who is rated how often."""
    looked_at = 0.0  # by this process; reading all newest calls takes a second on a large database
    while True:
        try:
            await take_newest(parts)
            now, learned = time.time(), parts.reader.learned
            if now - looked_at >= _REFIT_EVERY_S:
                tell_rates(parts, label_rates((await parts.newest.read(now)).answered))  # first: a page may ask for it
                if learned is None or learned.fitted_at is None or now - learned.fitted_at >= _REFIT_EVERY_S / 2:
                    await refit(parts, now)
                looked_at = now
        except Exception:  # learning may never break serving; the next minute tries again
            log.exception("the weights of the heuristics could not be learned")
            parts.metrics.learner_error("recalibrate")
        await asyncio.sleep(_LOOK_EVERY_S)


def label_rates(found: dict[str, Answered]) -> list[LabelRate]:
    """How often each model's replies are rated, and whether that differs too much to compare them."""
    models = sorted(found)
    labelled = np.array([found[model].labelled for model in models], dtype=float)
    calls = np.array([found[model].calls for model in models], dtype=float)
    alarms = rate_alarms(labelled, calls)
    return [
        LabelRate(
            model=model,
            calls=found[model].calls,
            labelled=found[model].labelled,
            rate=found[model].labelled / found[model].calls,
            alarm=bool(alarm),
        )
        for model, alarm in zip(models, alarms, strict=True)
    ]


def tell_rates(parts: Parts, rates: list[LabelRate]) -> None:
    """Set the metric of each model that is configured."""
    ringing = {rate.model for rate in rates if rate.alarm}
    parts.metrics.label_rates({model: model in ringing for model in parts.setup.models})


async def report(parts: Parts, now: float) -> Report:
    """What the heuristics are worth, from the newest replies and all calibrations."""
    newest = await parts.newest.sums(now)
    calibration, outliers, users = await parts.database.read(
        lambda connection: (
            calibrations.calibration(connection),
            raters.outlier_count(connection),
            raters.newest_outliers(connection),
        )
    )
    rates = label_rates(newest.answered)
    tell_rates(parts, rates)
    quality = parts.setup.settings.quality
    weights, prior = parts.reader.weights(quality), prior_weights(quality)
    return Report(
        counted_at=newest.at,
        replies=newest.replies,
        heuristics=_fired(newest.replies, newest.fired, weights, prior),
        weights_version=weights.version,
        weights_learned_from=weights.labelled,
        weights_learned_at=weights.fitted_at,
        intercept=weights.intercept,
        prior_intercept=prior.intercept,
        accuracy=accuracies(calibration, _typical(parts)),
        label_rates=rates,
        label_rate_alarms=[rate.model for rate in rates if rate.alarm],
        quality=rated.qualities(newest.rated),
        outliers=outliers,
        outlier_users=users,
    )


def _fired(replies: int, counts: dict[str, int], weights: Weights, prior: Weights) -> list[Fired]:
    kinds = {heuristic.name: "hard" if heuristic.hard else "soft" for heuristic in HEURISTICS}
    kinds |= dict.fromkeys(sorted(SIGNALS), "user")
    return [
        Fired(
            name=name,
            kind=kind,
            fired=counts.get(name, 0),
            share=counts.get(name, 0) / replies if replies else None,
            effect=weights.effects.get(name),
            prior_effect=prior.effects.get(name),
        )
        for name, kind in kinds.items()
    ]


def accuracies(calibration: Calibration, typical: float) -> list[TaskAccuracy]:
    """The accuracy of readings over all task types, then on each that has labelled calls."""
    tasks = [EVERYBODY, *(task for task in TASK_TYPES if task in calibration.pairs)]
    rows = []
    for task in tasks:
        found = calibration.accuracy(task, typical)
        labelled = calibration.labelled() if task == EVERYBODY else calibration.pairs[task].n / MICRO
        own = task != EVERYBODY and labelled >= ENOUGH_PER_TASK
        rows.append(
            TaskAccuracy(
                task_type=task,
                labelled_calls=labelled,
                sensitivity=found.sensitivity,
                false_positive_rate=found.false_positive_rate,
                j=found.j,
                calibration="own" if own else EVERYBODY,
            )
        )
    return rows


def _typical(parts: Parts) -> float:
    """The mean reading of all replies, labelled or not."""
    sums = [counts for key, counts in parts.knowledge.cells().items() if key[4] == "reading"]
    n, s = sum(counts.n for counts in sums), sum(counts.s for counts in sums)
    return s / n if n > 0 else TYPICAL_READING
