"""The simulation of who labels: its rules do what they say, and its finding holds in the world where it is largest."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.who_labels import ASKED, REMEDIES, SIGNALS, WORLDS, World, label_weights, main, run, simulated

UNEVEN = next(world for world in WORLDS if world.name == "bad x 3, the best two x 6")


def test_label_weights_by_hand():
    """Rates .1 and .5 over 100 calls each, smoothed by 10 calls at .3: 13/110 and 53/110."""
    strata = np.repeat([0, 1], 100)
    labelled = np.arange(200) % 100 < np.where(strata == 0, 10, 50)
    found = label_weights(labelled, strata)
    mean = (10 * 110 / 13 + 50 * 110 / 53) / 60
    assert found[0] == pytest.approx(110 / 13 / mean)
    assert found[-1] == pytest.approx(110 / 53 / mean)


def test_weighted_labels_undo_a_selection():
    """Bad replies read low and are labelled eight times as often: .26 instead of .6, and .56 again; 3 is the limit."""
    rng = np.random.default_rng(9)
    y = rng.binomial(1, 0.6, 100_000)
    h = rng.binomial(1, np.where(y, 0.9, 0.1))
    labelled = rng.random(len(y)) < np.where(h, 0.05, 0.4)
    weight = label_weights(labelled, h)[labelled]
    assert y[labelled].mean() < 0.3
    assert np.average(y[labelled], weights=weight) == pytest.approx(0.56, abs=0.02)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), min_size=1, max_size=60))
def test_label_weights_stay_within_their_limits(log):
    labelled, strata = np.array(log).T
    found = label_weights(labelled.astype(bool), strata)
    assert ((found >= 1 / 3) & (found <= 3)).all()


def test_replies_are_rated_by_the_rule_of_the_world():
    """Of 20,000 replies 5 % are rated, 1,000 +- 31, where models are drawn evenly; and six to one by anger."""
    log, _, _ = run(UNEVEN, "none", SIGNALS["weak"], 0.05, 0, even=True)
    assert log.label.sum() == pytest.approx(1_000, abs=4 * 31)
    best = log.arm < 2
    good, bad = (log.label[best & (log.y == value)].mean() for value in (1, 0))
    assert bad / good == pytest.approx(6, rel=0.35)  # about 100 ratings of good replies: 10 % a standard error
    asked, _, _ = run(UNEVEN, "asked", SIGNALS["weak"], 0.05, 0, even=True)
    assert asked.label.mean() == pytest.approx(ASKED, abs=4 * (ASKED / 20_000) ** 0.5)


def test_remedies_of_one_seed_meet_the_same_replies():
    """Drawn evenly, all but what each remedy changes is the same."""
    first, *others = [run(UNEVEN, remedy, SIGNALS["rare"], 0.01, 3, even=True) for remedy in REMEDIES]
    for log, truth, _ in others:
        assert np.array_equal(log.y, first[0].y)
        assert np.array_equal(truth, first[1])


def test_weights_help_where_readings_tell_and_not_where_they_are_rare():
    """Means of six seeds, of differences whose standard deviations are 11 and 3: wrong once in a thousand."""

    def change(signal):
        pairs = [
            [simulated(UNEVEN, remedy, SIGNALS[signal], 0.05, seed).error for remedy in ("none", "model, reading")]
            for seed in range(6)
        ]
        return 1000 * float(np.mean([weighed - plain for plain, weighed in pairs]))

    assert change("strong") < -10
    assert abs(change("rare")) < 5


def test_a_world_in_which_nobody_is_angry_is_estimated_without_bias():
    log, truth, found = run(World("at random"), "none", SIGNALS["weak"], 1.0, 1, even=True)
    assert log.label.all()
    assert found.mean.reshape(truth.shape) == pytest.approx(truth, abs=0.12)
    assert (found.mean.reshape(truth.shape) - truth).mean() == pytest.approx(0.0, abs=0.02)


def test_the_rows_are_written(tmp_path, capsys):
    main(["--seeds", "2", "--world", "at random", "--rate", "0.05", "--json", str(tmp_path / "rows.json")])
    written = json.loads((tmp_path / "rows.json").read_text())
    assert [row["remedy"] for row in written["rows"][:2]] == list(REMEDIES[:2])
    assert len(written["rows"]) == len(REMEDIES) * len(SIGNALS)
    assert "at random | strong | 0.05 | repeats" in capsys.readouterr().out
