import random

import pytest

from benchmarks.peers import PEERS, PeerArm, Request

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
    assert peer.fallbacks == 5


def test_litellm_finds_the_better_model():
    # A gap of .5 after 2,000 labels: the wrong arm in more than a tenth has a chance far below 1e-6.
    assert taught(started("litellm_quality"), (0.9, 0.4, 0.3), 2_000)[0] > 0.9


def test_the_same_seed_chooses_the_same():
    def chosen(seed):
        peer = started("litellm_quality", seed)
        return [peer.choose(request(number)) for number in range(100)]

    assert chosen(1) == chosen(1) != chosen(2)
