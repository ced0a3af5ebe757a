"""What a linear policy learned: shown per task type and model, frozen, rolled back and let go, like that of others."""

import asyncio

import aiohttp
import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from bandit.linear import MOST_DIMS, PLAIN, Labelled, LinearThompson, features, regression, typical
from bandit.pooled import PooledThompson
from bandit.posteriors import Beliefs, Estimate, Regression, beta_of
from bandit.vocabulary import PROMPT_TIERS, TASK_TYPES, PromptProfile
from service.cli.main import main
from service.learning.beliefs import encode_estimates, encode_regressions, version
from service.learning.control_actions import Asked, believed_now
from service.learning.controls import Control, Saved, fold
from service.learning.knowledge import Knowledge
from service.learning.posteriors import posterior_cells
from service.settings import Learning, Quality, Settings
from service.setup import create_setup
from tests.api.asking import ask
from tests.api.conftest import Running, settings_for

POLICY = LinearThompson(name="linear")
SETUP = create_setup(Settings(policies=(POLICY,)))
TASK = "Open QA"


def weights(first, size=PLAIN):
    """A regression whose first weight is given."""
    mean = np.zeros(size)
    mean[0] = first
    return regression(mean, np.eye(size) * 0.01)


def fitted(**first):
    """The contents of a fit."""
    content = encode_regressions({arm: weights(value) for arm, value in first.items()})
    return {(task, tier): content for task in TASK_TYPES for tier in PROMPT_TIERS}


def control(action, number=1, saved=None, **more):
    content = msgspec.json.encode(saved or Saved()).decode()
    return Control(id=number, at=7200.0 + number, action=action, content=content, **more)


def means(knowledge, task=TASK):
    profile = PromptProfile(task_type=task, tier="medium")
    found = knowledge.believed(POLICY, "", profile, 0.0).regressions
    return {arm: one.mean[0] for arm, one in found.items()}


def frozen(**said):
    """Knowledge with one model held on a task type, and fitted again."""
    knowledge = Knowledge()
    knowledge.take_fit("", "linear", fitted(small=0.1, large=0.2))
    saved = believed_now(Asked(action="freeze", **said), SETUP, knowledge)
    row = control("freeze", saved=saved, task_type=said.get("task_type"), arm=said.get("model"))
    knowledge.control(fold([row]))
    knowledge.take_fit("", "linear", fitted(small=0.3, large=0.4))
    return knowledge, row


# In memory


def test_a_frozen_regression_stays_where_it_is_frozen_and_nowhere_else():
    knowledge, row = frozen(task_type=TASK, model="small")
    assert means(knowledge) == {"small": 0.1, "large": 0.4}
    assert means(knowledge, "Rewrite") == {"small": 0.3, "large": 0.4}
    now = knowledge.believed(POLICY, "", PromptProfile(task_type=TASK, tier="simple"), 0.0)
    assert version(knowledge.content(now.version)) == now.version  # what is decided on can be stored
    knowledge.control(fold([row, control("unfreeze", 2, arm="large")]))
    assert means(knowledge) == {"small": 0.1, "large": 0.4}
    knowledge.control(fold([row, control("unfreeze", 2, task_type=TASK)]))
    assert means(knowledge) == {"small": 0.3, "large": 0.4}


def test_whether_a_model_is_new_is_not_held():
    knowledge, _ = frozen(task_type=TASK, model="small")
    content = encode_regressions({"small": msgspec.structs.replace(weights(0.3), new=True), "large": weights(0.4)})
    knowledge.take_fit("", "linear", {(TASK, "medium"): content})
    found = knowledge.believed(POLICY, "", PromptProfile(task_type=TASK, tier="medium"), 0.0).regressions
    assert (found["small"].mean[0], found["small"].new, found["large"].new) == (0.1, True, False)


def test_a_whole_freeze_is_saved_once_and_shared_by_all_cells():
    knowledge, row = frozen()
    assert len(msgspec.json.decode(row.content, type=Saved).regressions) == 1
    fit = knowledge.fit("", "linear")
    assert len({id(beliefs) for beliefs in fit.values()}) == 1
    assert means(knowledge) == {"small": 0.1, "large": 0.2}


def test_held_weights_are_served_though_nothing_can_be_fitted():
    saved = Saved(regressions={"v": {"small": weights(0.7)}}, linear={"linear": {TASK: "v"}})
    knowledge = Knowledge()
    knowledge.control(fold([control("rollback", saved=saved)]))
    assert means(knowledge) == {"small": 0.7}
    assert means(knowledge, "Rewrite") == {}


def test_weights_held_for_a_name_that_another_kind_of_policy_took_do_not_concern_it():
    knowledge, _ = frozen()
    content = encode_estimates({"small": Estimate(0.5, 0.1)})
    knowledge.take_fit("", "linear", {(TASK, "medium"): content})
    pooled = PooledThompson(name="linear")
    found = knowledge.believed(pooled, "", PromptProfile(task_type=TASK, tier="medium"), 0.0)
    assert (found.estimates, found.regressions) == ({"small": Estimate(0.5, 0.1)}, {})


@pytest.mark.parametrize(
    "regressions",
    [
        {"v": {"small": Regression((0.1,) * PLAIN, b"")}},
        {"v": {"small": Regression((1e9, *(0.0,) * (PLAIN - 1)), weights(0.1).factor)}},
        {"v": {"small": Regression(weights(0.1).mean, b"\xff\xff" + weights(0.1).factor[2:])}},
        {"v": {"small": weights(0.1, PLAIN + MOST_DIMS + 1)}},
        {"another": {"small": weights(0.1)}},
    ],
)
def test_weights_that_are_none_are_passed_over_and_counted(regressions):
    row = control("rollback", saved=Saved(regressions=regressions, linear={"linear": {TASK: "v"}}))
    found = fold([row])
    assert (found.unreadable, found.regressions) == (1, {})


def test_held_weights_that_see_less_of_a_prompt_stand_beside_those_that_see_more():
    policy = LinearThompson(name="linear", vector_dims=2)
    arms = [arm for arm in SETUP.arms if arm.name in ("small", "large")]
    mixed = Beliefs(regressions={"small": weights(0.1), "large": weights(0.2, PLAIN + 2)})
    profile = PromptProfile(task_type=TASK, tier="medium", vector=(0.5, 0.5))
    mean, sd = policy.predicted(profile, arms, mixed)
    x = np.array(features(profile))
    prior = [policy.prior_mean(arm, TASK, "medium") for arm in arms]
    size = [PLAIN if arm.name == "small" else PLAIN + 2 for arm in arms]
    assert mean - prior == pytest.approx([0.1 if arm.name == "small" else 0.2 for arm in arms])
    assert sd == pytest.approx([0.1 * np.linalg.norm(x[:one]) for one in size], rel=1e-3)
    assert policy.probabilities(profile, arms, mixed).sum() == pytest.approx(1.0)


def test_each_cell_is_shown_on_the_typical_prompt_of_its_task_type():
    """By hand: the mean is the prior's plus the first weight, the standard deviation .1 times the features' length."""
    knowledge = Knowledge()
    knowledge.take_fit("", "linear", fitted(small=0.1, medium=0.0, large=-0.1))
    x = np.array(features(PromptProfile(task_type=TASK, tier="simple", complexity=0.5)))
    knowledge.typical = {TASK: x}
    cells = posterior_cells(SETUP, knowledge, task_type=TASK, tier="medium")
    for cell, arm, first in zip(cells, SETUP.arms, (0.1, 0.0, -0.1), strict=True):
        mean = POLICY.prior_mean(arm, TASK, "medium") + first
        wanted = beta_of([Estimate(mean, 0.1 * (1 + 1 + 0.25) ** 0.5)])
        assert (cell["alpha"], cell["beta"]) == pytest.approx((wanted.alpha, wanted.beta), rel=1e-3)
        assert cell["mean"] == pytest.approx(mean)
    assert sum(cell["p_best"] for cell in cells) == pytest.approx(1.0)


def test_before_any_fit_the_prior_is_shown():
    for cell, arm in zip(posterior_cells(SETUP, Knowledge(), task_type=TASK), SETUP.arms, strict=True):
        assert cell["mean"] == pytest.approx(POLICY.prior_means.of(arm.tier, None))


def test_the_typical_prompt_of_a_task_type_is_the_mean_of_its_own():
    profiles = [PromptProfile(task_type=task, tier="simple", complexity=c) for task, c in ((TASK, 0.2), (TASK, 0.4))]
    profiles.append(PromptProfile(task_type="Rewrite", tier="simple", complexity=0.9))
    x = np.array([features(one) for one in profiles])
    task = np.array([TASK_TYPES.index(one.task_type) for one in profiles])
    some = np.zeros(3, dtype=np.int64)
    found = typical(Labelled(("a",), some, x, task, some, np.ones(3), np.ones(3), some))
    place = 1 + len(TASK_TYPES)
    assert [found[name][place] for name in (TASK, "Rewrite", "Other")] == pytest.approx([0.3, 0.9, 0.5])
    for name, one in found.items():
        assert one[:place].tolist() == [1.0, *(float(other == name) for other in TASK_TYPES)]


# Through the service


async def get(http, path, **params):
    async with http.get(path, params=params) as reply:
        return await reply.json()


async def switch(http, **said):
    async with http.post("/v1/controls", json=said) as reply:
        assert reply.status == 200, await reply.text()
        return await reply.json()


async def rate(http, value, times=1, model="small"):
    for _ in range(times):
        reply = await ask(http, model=model)
        async with http.post("/feedback", json={"decision_id": reply["id"], "value": value}) as answer:
            assert answer.status == 200
    return reply["routing"]["task_type"]


async def mean_of(http, task, model="small"):
    found = (await get(http, "/v1/posteriors", task_type=task, tier="simple"))["cells"]
    return next(cell["mean"] for cell in found if cell["model"] == model)


def settings_of(url):
    return settings_for(url, policies=(POLICY,), quality=Quality(enabled=False), learning=Learning(fit_every_s=0.05))


async def test_freeze_rollback_and_reset_of_a_linear_policy_in_a_running_service(database_url):
    with Running(settings_of(database_url)) as service:
        async with aiohttp.ClientSession(service.url) as http:
            first = await ask(http)
            told = await get(http, f"/v1/decisions/{first['id']}")
            task = await rate(http, True, 10)
            learned = await mean_of(http, task)
            frozen = await switch(http, action="freeze", model="small", task_type=task)
            assert [(cell["task_type"], cell["model"]) for cell in frozen["held"]] == [(task, "small")]
            await rate(http, False, 20)
            assert await mean_of(http, task) == pytest.approx(learned, abs=2e-3)  # typical prompts may move a little
            after = await get(http, f"/v1/decisions/{(await ask(http))['id']}")
            assert (after["method"], after["repeated"]["same"]) == ("auto", True)
            await switch(http, action="unfreeze")
            assert await mean_of(http, task) < learned - 0.05

            await switch(http, action="rollback", to=told["choice"]["beliefs_version"])
            again = await get(http, f"/v1/decisions/{(await ask(http))['id']}")
            assert again["choice"]["probabilities"] == pytest.approx(told["choice"]["probabilities"])
            assert again["repeated"]["same"] is True
            await switch(http, action="unfreeze")
            await switch(http, action="reset", model="small")
            for _ in range(200):
                mean = await mean_of(http, task)
                if mean == pytest.approx(POLICY.prior_means.of("small", "simple"), abs=0.02):
                    break
                await asyncio.sleep(0.05)
            assert mean == pytest.approx(POLICY.prior_means.of("small", "simple"), abs=0.02)


def test_the_command_lists_and_freezes_what_a_linear_policy_learned(tmp_path, database_url):
    config = tmp_path / "armwise.toml"
    config.write_text(
        f'[database]\nurl = "{database_url}"\n[quality]\nenabled = false\n'
        '[[policies]]\nname = "linear"\nkind = "linear_thompson"\n'
    )

    async def learn():
        with Running(settings_of(database_url)) as service:
            async with aiohttp.ClientSession(service.url) as http:
                task = await rate(http, True, 10)
                return task, await mean_of(http, task)

    def armwise(*said):
        done = CliRunner().invoke(main, ["posterior", *said[:1], "--config", str(config), *said[1:]])
        assert done.exit_code == 0, done.output
        return done.output

    task, learned = asyncio.run(learn())
    listed = next(
        line for line in armwise("list", "--task", task, "--tier", "simple").splitlines() if " small " in line
    )
    assert f"mean {learned:.3f}" in listed
    assert "1 posteriors are held" in armwise("freeze", "--task", task, "--model", "small")

    async def shown():
        with Running(settings_of(database_url)) as service:
            assert set(service.parts.knowledge.controls.regressions) == {("linear", task)}
            async with aiohttp.ClientSession(service.url) as http:
                await rate(http, False, 20)
                return await mean_of(http, task)

    assert asyncio.run(shown()) == pytest.approx(learned, abs=2e-3)
    armwise("unfreeze")
    assert "held since" not in armwise("list")
