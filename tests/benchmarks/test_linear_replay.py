"""The linear policy in replays: it sees what is known of each prompt, and its table finds its place."""

import numpy as np
import pytest

from bandit.linear import PLAIN
from benchmarks.compare_policies import checked, parser
from benchmarks.linear import replay_linear, seen
from benchmarks.linear_table import BEGIN, END, between, measured, table
from benchmarks.outcomes import Outcomes
from benchmarks.streams import stream


def outcomes(n=200):
    """Two models; the first is good where complexity is low, the second where it is high. One task."""
    features = np.zeros((n, PLAIN + 32))
    features[:, 13] = np.linspace(0, 1, n)
    good = features[:, 13] < 0.5
    return Outcomes(
        name="two", models=("a", "b"), prompt_ids=tuple(map(str, range(n))), prompts=("",) * n,
        quality=np.column_stack([good, ~good]).astype(float), cost_usd=np.zeros((n, 2)), tasks=("one",),
        task=np.zeros(n, dtype=int), tier=np.ones(n, dtype=int), left_out=0, features=features,
    )  # fmt: skip


def test_it_learns_which_model_is_good_at_which_prompts():
    """A cell knows only that both are right half of the time. 4,000 requests, 20 % rated; 30 other seeds: over .9."""
    given = stream(outcomes(), 4_000, 0.2, 20.0, seed=1)
    arms = replay_linear(given, np.full((2, 1, 3), 0.5), 0).arms
    assert given.quality[np.arange(2_000, 4_000), arms[2_000:]].mean() > 0.8


def test_it_learns_nothing_before_it_is_told():
    """Ratings come after the last request: both models serve alike, as the prior has them (of 1,000 draws, 6 sd)."""
    given = stream(outcomes(), 1_000, 1.0, 1e6, seed=1)
    arms = replay_linear(given, np.full((2, 1, 3), 0.5), 0).arms
    assert abs(arms.mean() - 0.5) < 0.1


def test_outcomes_without_features_leave_the_tasks():
    given = stream(outcomes()._replace(features=None), 10, 0.2, 20.0, seed=1)
    assert seen(given, 32).tolist() == [[1.0, 1.0]] * 200


@pytest.mark.parametrize("words", [("--budget", "0.001"), ("--shock", "new-model")])
def test_what_it_cannot_do_is_refused(words, capsys):
    made = parser()
    with pytest.raises(SystemExit):
        checked(made.parse_args(["--data", "x", "--policy", "linear_thompson", *words]), made)
    assert "linear_thompson is replayed without budgets and new models" in capsys.readouterr().err


def test_the_table_goes_between_its_markers():
    found = measured(
        ("simulated_zeroeval",), ("--requests", "200", "--models", "gpt-4o-2024-08-06", "Phi-3.5-mini-instruct")
    )
    told = table(found)
    assert told.count("\n") == 1 + len(found) == 4
    assert between(f"a\n{BEGIN}\nold\n{END}\nb", told) == f"a\n{BEGIN}\n\n{told}\n\n{END}\nb"
    with pytest.raises(ValueError, match="no place"):
        between("nothing", told)
