"""What follows a reply, or the lack of one."""

import re
from types import SimpleNamespace

import pytest

from bandit.vocabulary import Choice, Limits, PromptProfile
from service.complete import Attempt
from service.decide import Caller, Decision
from service.metrics.catalogue import Metrics
from service.money.budgets import Budgets
from service.quality.readings import Reader
from service.replies import Said
from service.settings import Settings
from service.settle import Ended, measured, settle
from service.setup import create_setup
from service.wire import ChatRequest, Message


@pytest.fixture
def parts():
    """What these functions use of a service."""
    return SimpleNamespace(metrics=Metrics(), reader=Reader(), budgets=Budgets())


@pytest.fixture
def ended():
    """Makes a request that is over after these attempts."""
    setup = create_setup(Settings())
    choice = Choice(
        arm="small", propensity=1.0, arms=("small",), probabilities=(1.0,), policy="thompson", beliefs_version="",
        seed=0,
    )  # fmt: skip
    decision = Decision(
        id="1", created_at=0.0, method="auto", caller=Caller(), limits=Limits(), choice=choice, excluded={},
        profile=PromptProfile(task_type="Open QA", tier="simple"), plan=("small",),
    )  # fmt: skip
    request = ChatRequest(messages=[Message(role="user", content="hello")])
    return lambda *attempts: Ended(setup, request, decision, list(attempts), stored=True)


def attempt(outcome):
    return Attempt(step=0, arm="small", started_at=0.0, streamed=False, outcome=outcome)


async def test_a_request_that_was_cancelled_before_its_first_attempt_is_no_error(parts, ended):
    await settle(parts, ended(), Said())
    errors = re.findall(rb"armwise_learner_errors_total\{.*\} (.*)", parts.metrics.exposition()[0])
    assert {float(count) for count in errors} == {0.0}


@pytest.mark.parametrize("outcome", ["cancelled", "credentials", "unknown_model", "rejected", "unsupported"])
async def test_what_is_not_the_models_fault_teaches_nothing(parts, ended, outcome):
    assert await measured(parts, ended(attempt(outcome)), Said()) == []


async def test_a_failure_of_the_model_is_a_label_against_it(parts, ended):
    [learned] = await measured(parts, ended(attempt("server_error")), Said())
    assert (learned.value, learned.weight, learned.arm) == (0.0, 1.0, "small")
