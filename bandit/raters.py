"""Users whose labels cannot be explained by what others say of the same models: how surely, and what that is worth.

Honest people differ in taste, so a user is an outlier only far beyond that: somebody who votes against everything, or
one of many accounts that vote a model down.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

FEWEST_LABELS = 20  # with fewer, a few bad replies in a row look like a user who never likes anything
FEWEST_OTHERS = 5  # people; of fewer nobody could say who of them is the odd one
SPREAD = 0.2  # standard deviation of honest users' taste, as a shift of quality
LIMIT = 3.3  # standard deviations from which on somebody is an outlier
_RETURN = 2.7  # below which one is no outlier any more

_FEWEST, _MOST = 1e-6, 1e12  # what is outside of these was no count of labels


class Opinion(NamedTuple):
    """What one user said of one model on one kind of task, and what others did."""

    labels: float  # how many the user gave
    said: float  # sum of their values in [0, 1]
    others: float  # labels of others, by their weights
    others_said: float  # sum of weight times value
    people: float  # how many others there are


class Standing(NamedTuple):
    """How a user stands beside others."""

    labels: float  # those that can be compared
    said: float  # their mean value
    expected: float  # what others' labels let expect of it
    deviations: float  # standard deviations between them; positive: kinder than others


NOBODY = Standing(0.0, 0.5, 0.5, 0.0)


def standing(opinions: Iterable[Opinion]) -> Standing:
    """Hold a user's labels against what others say of the same models and tasks, S against the sum of m_i.

    z = (S - sum m_i) / sqrt(sum m_i (1 - m_i) + sum n_k^2 m_k (1 - m_k) / N_k + (spread n)^2): the noise of n labels,
    the error of m_k where others gave N_k labels, and honest taste, which is the same in all of one's labels. Where
    fewer than five others spoke, labels are left out, and so are numbers that are not finite.

    >>> round(standing([Opinion(20, 0, 1e6, 8e5, 100)]).deviations, 2)
    -3.65
    """
    n = said = expected = variance = 0.0
    for one in opinions:
        sound = all(map(math.isfinite, one)) and _FEWEST <= one.labels <= _MOST and 0.0 <= one.others <= _MOST
        if not sound or one.people < FEWEST_OTHERS:
            continue
        quality = min(max((one.others_said + 0.5) / (one.others + 1.0), 0.0), 1.0)
        spread = quality * (1.0 - quality)
        n += one.labels
        said += min(max(one.said, 0.0), one.labels)
        expected += one.labels * quality
        variance += spread * one.labels * (1.0 + one.labels / (one.others + 1.0))
    if n <= 0.0:
        return NOBODY
    deviations = (said - expected) / math.sqrt(variance + (SPREAD * n) ** 2)
    return Standing(n, said / n, expected / n, deviations)


def is_outlier(found: Standing, *, before: bool) -> bool:
    """Whether a user is an outlier; `before`: was one until now, and so stays one a little longer."""
    return found.labels >= FEWEST_LABELS and abs(found.deviations) > (_RETURN if before else LIMIT)
