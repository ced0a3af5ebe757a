"""How good people say each model's replies are: by labels alone, with the readings of all replies, and at equal length.

For reports; nothing is learned from it. The sums are added up by the database, so that few rows are read.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import reduce
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import ColumnElement, Connection, Float, Subquery, and_, case, cast, func, or_, select

from bandit.channels import Rated, Unrated, ppi
from service.learning.calibrations import JUDGE, MACHINES, PEOPLES
from service.storage.tables import attempts, rewards

ASKED_SOURCE = "asked"  # of the labels of people who were drawn to be asked
FEWEST_FOR_LENGTH = 100  # rated replies; with fewer, what length does to ratings is noise

_GOOD = 0.5  # from this rating on, a reply was rated good


class Mean(msgspec.Struct, frozen=True, kw_only=True):
    """A mean rating, in [0, 1]."""

    replies: int  # that were rated
    mean: float
    standard_error: float | None  # None: of a single one it is not known


class Lengths(msgspec.Struct, frozen=True, kw_only=True):
    """How long a model's rated replies were, in tokens."""

    rated_good: float | None  # mean tokens of those rated .5 or better; None: there were none
    rated_bad: float | None
    correlation: float | None  # of rating and length, in [-1, 1]; None: all are alike in one of both


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a model's newest replies."""

    model: str
    replies: int  # that the heuristics read
    by_labels: Mean | None  # by all who rated; None: nobody did
    by_asked: Mean | None  # by those alone who were drawn to be asked, and said so by the source "asked"
    by_judge: Mean | None  # by the configured judge, of the replies that it was shown at random
    with_readings: Mean | None  # by labels, corrected by how the rated replies read beside all
    lengths: Lengths
    at_equal_length: float | None  # the mean rating, were its replies as long as those of all models


class LengthSums(NamedTuple):
    """Sums over rated replies of known length: a rating y in [0, 1], t tokens."""

    n: float = 0.0
    y: float = 0.0
    t: float = 0.0
    yy: float = 0.0
    yt: float = 0.0
    tt: float = 0.0
    good: float = 0.0  # how many were rated good
    good_t: float = 0.0

    def plus(self, other: "LengthSums") -> "LengthSums":
        """Both together."""
        return LengthSums(*(a + b for a, b in zip(self, other, strict=True)))


class Sums(NamedTuple):
    """What is added up for one model on one task type."""

    labels: Rated
    others: Unrated
    asked: Rated
    lengths: LengthSums
    judged: Rated = Rated()  # by the judge, of replies drawn at random

    def sound(self) -> "Sums":
        """The same without parts that hold a number that is not finite: they count as nothing."""
        parts = (part if all(map(math.isfinite, part)) else type(part)() for part in self)
        return Sums(*parts)  # type: ignore[arg-type]


BySubject = dict[tuple[str, str], Sums]  # by model and task type


def sums(connection: Connection, newest: int) -> BySubject:
    """The sums over the newest replies that were read, by model and task type."""
    read = (
        select(rewards.c.decision_id, rewards.c.arm, rewards.c.task_type, rewards.c.value.label("h"))
        .where(rewards.c.channel == "reading")
        .order_by(rewards.c.created_at.desc())
        .limit(newest)
        .subquery()
    )
    said = _said(read)
    ok = and_(attempts.c.outcome == "ok", attempts.c.completion_tokens > 0)
    same_call = and_(attempts.c.decision_id == said.c.decision_id, attempts.c.arm == said.c.arm, ok)
    h, y, asked, judged = said.c.h, said.c.y, said.c.asked, said.c.judged
    t = case((y.is_not(None), cast(attempts.c.completion_tokens, Float)))
    measured, good = case((t.is_not(None), y)), case((and_(t.is_not(None), y >= _GOOD), 1.0))
    wanted = (
        select(
            said.c.arm,
            said.c.task_type,
            *_moments(y, case((y.is_not(None), h))),
            func.count(case((y.is_(None), h))),
            *(_sum(part) for part in (case((y.is_(None), h)), case((y.is_(None), h * h)))),
            *_moments(asked, case((asked.is_not(None), h))),
            func.count(measured),
            *(_sum(part) for part in (measured, t, measured * measured, measured * t, t * t, good, good * t)),
            *_moments(judged, case((judged.is_not(None), h))),
        )
        .select_from(said.outerjoin(attempts, same_call))
        .group_by(said.c.arm, said.c.task_type)
    )
    return {
        (row[0], row[1]): Sums(
            Rated(*row[2:8]), Unrated(*row[8:11]), Rated(*row[11:17]), LengthSums(*row[17:25]), Rated(*row[25:31])
        )
        for row in connection.execute(wanted)
    }


def _said(read: Subquery) -> Subquery:
    """The mean rating of each reply, by the weights of those who rated it.

    Of all people, of those who were asked, and of the judge where it was shown the reply at random. Rows are looked up
    by decision: Postgres joins two grouped tables row by row when it has no statistics yet.
    """
    of_people = rewards.c.source.not_in(MACHINES)
    at_random = and_(rewards.c.source == JUDGE, rewards.c.detail.contains('"drawn":"random"', autoescape=True))
    of_reply = and_(
        rewards.c.decision_id == read.c.decision_id,
        rewards.c.arm == read.c.arm,
        rewards.c.channel.in_(PEOPLES),
        or_(of_people, at_random),
        rewards.c.weight > 0.0,
    )
    return (
        select(
            *read.c,
            _weighed(of_people).label("y"),
            _weighed(rewards.c.source == ASKED_SOURCE).label("asked"),
            _weighed(rewards.c.source == JUDGE).label("judged"),
        )
        .select_from(read.outerjoin(rewards, of_reply))
        .group_by(*read.c)
        .subquery()
    )


def _weighed(who: ColumnElement[bool]) -> ColumnElement[Any]:
    """The mean value of these ratings; NULL without any."""
    weight = case((who, rewards.c.weight))
    return func.sum(weight * rewards.c.value) / func.sum(weight)


def _moments(y: ColumnElement[float], h: ColumnElement[float]) -> list[ColumnElement[Any]]:
    return [func.count(y), *(_sum(part) for part in (y, h, y * y, y * h, h * h))]


def _sum(part: ColumnElement[float]) -> ColumnElement[float]:
    return func.coalesce(func.sum(part), 0.0)


def qualities(found: Mapping[tuple[str, str], Sums]) -> list[Quality]:
    """What the sums say of each model, by name."""
    by_model: dict[str, list[Sums]] = defaultdict(list)
    for (model, _), of_task in found.items():
        by_model[model].append(of_task.sound())
    lengths = [one.lengths for parts in by_model.values() for one in parts]
    everything, effect = reduce(LengthSums.plus, lengths, LengthSums()), length_effect(lengths)
    return [_quality(model, by_model[model], everything, effect) for model in sorted(by_model)]


def length_effect(parts: Iterable[LengthSums]) -> float | None:
    """How much one token more changes a rating, within a model and task type; None with fewer than 100 rated replies.

    One slope for all of them: good models, and hard tasks, are not to look like an effect of length.
    """
    n = across = along = 0.0
    for one in parts:
        if one.n > 0:
            n += one.n
            across += one.yt - one.y * one.t / one.n
            along += one.tt - one.t * one.t / one.n
    return across / along if n >= FEWEST_FOR_LENGTH and along > 0.0 else None


def _quality(model: str, parts: list[Sums], everything: LengthSums, effect: float | None) -> Quality:
    labels, asked, judged = (_together(of) for of in zip(*((p.labels, p.asked, p.judged) for p in parts), strict=True))
    others = Unrated(*map(sum, zip(*(one.others for one in parts), strict=True)))
    lengths = reduce(LengthSums.plus, (one.lengths for one in parts))
    corrected = ppi(labels, others)
    at_equal_length = None
    if effect is not None and lengths.n > 0:
        moved = lengths.y / lengths.n - effect * (lengths.t / lengths.n - everything.t / everything.n)
        at_equal_length = min(max(moved, 0.0), 1.0)
    return Quality(
        model=model,
        replies=round(labels.n + others.n),
        by_labels=_mean(labels),
        by_asked=_mean(asked),
        by_judge=_mean(judged),
        with_readings=_shown(labels.n, *corrected) if labels.n > 0 else None,
        lengths=_lengths(lengths),
        at_equal_length=at_equal_length,
    )


def _together(parts: Iterable[Rated]) -> Rated:
    return Rated(*map(sum, zip(*parts, strict=True)))


def _mean(labels: Rated) -> Mean | None:
    return _shown(labels.n, *ppi(labels, Unrated())) if labels.n > 0 else None


def _shown(replies: float, mean: float, variance: float) -> Mean:
    error = math.sqrt(variance) if math.isfinite(variance) else None
    return Mean(replies=round(replies), mean=min(max(mean, 0.0), 1.0), standard_error=error)


def _lengths(one: LengthSums) -> Lengths:
    bad = one.n - one.good
    spread = (one.n * one.yy - one.y**2) * (one.n * one.tt - one.t**2)
    correlation = (one.n * one.yt - one.y * one.t) / math.sqrt(spread) if spread > 1e-9 else None
    return Lengths(
        rated_good=one.good_t / one.good if one.good > 0 else None,
        rated_bad=(one.t - one.good_t) / bad if bad > 0 else None,
        correlation=None if correlation is None else min(max(correlation, -1.0), 1.0),
    )
