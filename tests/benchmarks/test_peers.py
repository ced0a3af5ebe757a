import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers import PEERS, NotInstalled, PeerArm, Request
from benchmarks.peers.install import REQUIREMENTS, peers_folder
from benchmarks.peers.remote import WorkerFailed

ARMS = (
    PeerArm("weak", "small", 2, 0.0001),
    PeerArm("fair", "medium", 1, 0.001),
    PeerArm("best", "large", 0, 0.01),
)
COSTS = tuple(arm.cost_usd for arm in ARMS)


def request(number=0, prompt="Tell me a story", task_type="Text Generation"):
    return Request(number, task_type, "medium", prompt, COSTS)


def started(name, seed=1, budget_usd=None):
    return PEERS[name](ARMS, seed, budget_usd)


def shares(peer, prompt="Tell me a story", requests=400):
    chosen = [peer.choose(request(number, prompt)) for number in range(requests)]
    return [chosen.count(arm) / requests for arm in range(len(ARMS))]


def taught(peer, means, requests, prompt="Tell me a story"):
    """The peer after rewards of 0 or 1 with the given means, and how often each arm was chosen of the last quarter."""
    chance, chosen = random.Random(5), []
    for number in range(requests):
        asked = request(number, prompt)
        chosen.append(peer.choose(asked))
        peer.learn(number, asked, chosen[-1], float(chance.random() < means[chosen[-1]]))
    last = chosen[-requests // 4 :]
    return [last.count(arm) / len(last) for arm in range(len(ARMS))]


def test_litellm_starts_from_the_tiers():
    cells = [started("litellm_quality")._router.cell("general", arm.name) for arm in ARMS]
    assert [cell.alpha for cell in cells] == pytest.approx([3, 5, 7])
    assert [cell.beta for cell in cells] == pytest.approx([7, 5, 3])
    weak, fair, best = shares(started("litellm_quality"))
    assert best > 0.6 > fair > weak


def test_litellm_weighs_cost_by_default_and_not_with_weight_0():
    assert "weight 0.3" in started("litellm_default").name
    # The cheapest gains 0.3 by cost; a Beta of ten samples has a standard deviation near 0.15.
    assert shares(started("litellm_default"))[0] > 2 * shares(started("litellm_quality"))[0]


def test_litellm_learns_by_its_own_request_types():
    peer = started("litellm_quality")
    code, story = "Write a Python function that sorts", "Tell me a story"
    for number in range(50):
        peer.learn(number, request(number, code), 2, 0.0)
        peer.learn(number, request(number, code), 0, 1.0)
    assert shares(peer, code)[0] > 0.9  # alpha 53 of 60 against 5 of 10 and 7 of 60
    assert shares(peer, story)[2] > 0.6


def test_litellm_takes_fractions_and_stops_learning_at_200_samples():
    peer = started("litellm_quality")
    peer.learn(0, request(), 1, 0.25)
    cell = peer._router.cell("general", "fair")
    assert (cell.alpha, cell.beta) == (5.25, 5.75)
    for number in range(300):
        peer.learn(number, request(), 1, 0.25)
    cell = peer._router.cell("general", "fair")
    assert cell.alpha + cell.beta == 200


def test_what_stops_litellm_is_served_by_the_fallback_and_counted():
    peer = started("litellm_quality")
    peer.learn(0, request(), 0, -3.0)  # leaves alpha at 0
    assert shares(peer, requests=5)[2] == 1
    peer.learn(0, request(), 0, 5.0)  # is not learned, so that nothing is repaired
    assert shares(peer, requests=5)[2] == 1
    assert peer.fallbacks == 10


def test_litellm_finds_the_better_model():
    # A gap of .5 after 2,000 labels: the wrong arm in more than a tenth has a chance far below 1e-6.
    assert taught(started("litellm_quality"), (0.9, 0.4, 0.3), 2_000)[0] > 0.9


def test_the_same_seed_chooses_the_same():
    def chosen(seed):
        peer = started("litellm_quality", seed)
        return [peer.choose(request(number)) for number in range(100)]

    assert chosen(1) == chosen(1) != chosen(2)


# A package of the shape of bayesian-router, which says what it was told.
FAKE = """
from types import SimpleNamespace
class ModelConfig:
    def __init__(self, *values): pass
class CompositeReward:
    def __init__(self, **weights): pass
class Router:
    def __init__(self, models, **how):
        print("printed where answers go")
        self.names, self.rewards = list(models), []
    def select(self):
        if self.rewards and self.rewards[-1] < 0:
            raise ValueError("cannot choose")
        return SimpleNamespace(model=self.names[len(self.rewards) % len(self.names)])
    def update(self, model, *, latency_ms, validity_score, retry_count):
        if validity_score > 1:
            raise ValueError("no such reward")
        self.rewards.append(validity_score)
"""


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """An environment with `FAKE` in place of bayesian-router."""
    monkeypatch.setenv("ARMWISE_CACHE", str(tmp_path))
    folder = peers_folder() / "bayesian_router"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "bayesian_router.py").write_text(FAKE, encoding="utf-8")
    (packages / "ours.pth").write_text(str(Path(np.__file__).parents[1]), encoding="utf-8")
    (folder / "installed.json").write_text(json.dumps(REQUIREMENTS["bayesian_router"]), encoding="utf-8")
    return folder


def test_rewards_and_choices_reach_the_worker_in_their_order(environment):
    peer = started("bayesian_router")
    seen = []
    for number in range(50):
        asked = request(number, prompt="é\n\ud800" * 1_000)
        seen.append(peer.choose(asked))
        peer.learn(number, asked, seen[-1], 1.0)
        peer.learn(number, asked, seen[-1], 0.5)
    assert seen == [2 * number % 3 for number in range(50)]
    assert peer.fallbacks == 0
    assert peer.decision_s > 0
    peer.close()


def test_a_choice_that_fails_in_the_worker_is_the_fallback_and_counted(environment):
    peer = started("bayesian_router")
    peer.learn(0, request(), 0, -1.0)
    assert [peer.choose(request(number)) for number in range(1, 4)] == [2, 2, 2]
    peer.learn(3, request(3), 2, 1.0)  # is not learned: else it would choose again
    assert peer.choose(request(4)) == 2
    assert peer.fallbacks == 4
    peer.close()


def test_a_worker_that_ends_says_why(environment):
    peer = started("bayesian_router")
    peer.learn(0, request(), 0, 2.0)
    with pytest.raises(WorkerFailed, match="no such reward"):
        peer.choose(request())
    peer.close()


@pytest.mark.parametrize("name", sorted(set(PEERS) - {"litellm_quality", "litellm_default"}))
def test_a_peer_that_is_missing_names_the_command_that_gets_it(name, tmp_path, monkeypatch):
    monkeypatch.setenv("ARMWISE_CACHE", str(tmp_path))
    with pytest.raises(NotInstalled, match=r"^not installed: run `python -m benchmarks\.peers\.install \w+`$"):
        started(name)


def test_an_environment_of_other_versions_is_missing(environment):
    (environment / "installed.json").write_text('["bayesian-router==0.1.0"]', encoding="utf-8")
    with pytest.raises(NotInstalled, match="install bayesian_router"):
        started("bayesian_router")


def test_only_known_environments_are_made():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.peers.install", "none"],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "no such environment: none" in done.stderr


def test_versions_are_pinned():
    assert all("==" in requirement for needed in REQUIREMENTS.values() for requirement in needed)


def installed(name, budget_usd=None):
    """A peer from its real package, where its environment was made."""
    try:
        return started(name, budget_usd=budget_usd)
    except NotInstalled as error:
        pytest.skip(str(error))


@pytest.mark.peers
@pytest.mark.parametrize("name", ["mabwiser", "bayesian_router_no_breakers"])
def test_the_real_ones_find_the_better_model(name):
    peer = installed(name)
    # bayesian-router forgets 5 % of everything each 50 rewards, so that it never knows more than 1,000 labels; a gap of
    # .5 leaves the wrong arms under a fifth all but surely.
    assert taught(peer, (0.9, 0.4, 0.3), 600)[0] > 0.8
    assert peer.fallbacks == 0
    peer.close()


@pytest.mark.peers
def test_the_real_breakers_leave_only_the_fallback():
    peer = installed("bayesian_router")
    for number in range(5):
        peer.learn(number, request(), 0, 0.0)
        peer.learn(number, request(), 1, 0.0)
    assert shares(peer, requests=50) == [0, 0, 1]
    peer.close()


@pytest.mark.peers
def test_paretobandit_keeps_off_the_dearest_model_under_a_budget():
    chosen = []
    for budget_usd in (None, 0.001):
        peer = installed("paretobandit", budget_usd)
        chosen.append(taught(peer, (0.5, 0.6, 0.9), 200)[2])
        peer.close()
    free, paced = chosen
    assert free > 0.8
    assert paced < 0.3
