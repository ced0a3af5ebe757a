"""Posteriors as an owner reads them."""

import pytest

from bandit.posteriors import CellKey, Counts, Estimate, beta_of
from bandit.vocabulary import PROMPT_TIERS
from service.learning.beliefs import encode_estimates
from service.learning.knowledge import Knowledge
from service.learning.posteriors import posterior_cells
from service.settings import Settings
from service.setup import create_setup

SETUP = create_setup(Settings())
TASK = "Open QA"
MICRO = 1_000_000
SHARP, WIDE = Estimate(0.9, 0.02), Estimate(0.5, 0.3)


@pytest.fixture
def knowledge():
    """Little is known of any tier but the simple one."""
    made = Knowledge()
    fit = {
        (TASK, tier): encode_estimates({arm.name: SHARP if tier == "simple" else WIDE for arm in SETUP.arms})
        for tier in PROMPT_TIERS
    }
    made.take_fit("", SETUP.default_policy.name, fit)
    return made


def shown(knowledge, tier=None):
    first = posterior_cells(SETUP, knowledge, task_type=TASK, tier=tier)[0]
    return first["alpha"], first["beta"]


def of(*weights):
    beta = beta_of([SHARP, WIDE, WIDE], weights)
    return pytest.approx((beta.alpha, beta.beta), rel=1e-4)


def test_without_a_tier_each_counts_by_what_was_measured_on_it(knowledge):
    assert shown(knowledge) == of(1, 1, 1)
    label = Counts(300 * MICRO, 270 * MICRO, 270 * MICRO)
    knowledge.fold({CellKey("", SETUP.arms[0].name, TASK, "simple", 1, "explicit"): label})
    knowledge.fold({CellKey("", SETUP.arms[1].name, TASK, "medium", 1, "explicit"): Counts(9 * MICRO, 0, 0)})
    knowledge.fold({CellKey("", SETUP.arms[1].name, "Chatbot", "complex", 1, "explicit"): label})  # another task
    assert shown(knowledge) == of(301, 10, 1)
    assert sum(shown(knowledge)) > 5 * sum(of(1, 1, 1).expected)


def test_a_tier_is_shown_alone(knowledge):
    alone = beta_of([SHARP])
    assert shown(knowledge, "simple") == pytest.approx((alone.alpha, alone.beta), rel=1e-4)


def test_poisoned_sums_keep_nobody_from_reading(knowledge):
    knowledge.fold({CellKey("", "gone", TASK, "simple", 1, "explicit"): Counts(-(10**15), 0, 0)})
    knowledge.fold({CellKey("", "gone", TASK, "no tier", 1, "explicit"): Counts(10**15, 0, 0)})
    assert shown(knowledge) == of(1, 1, 1)
