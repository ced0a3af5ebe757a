"""Decide: profile, eligible arms, one draw, a plan. Synchronous; touches no network and no database.

`redecide` does the same from what was stored, to show that a decision can be repeated bit for bit.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import msgspec

from bandit.costs import expected_cost
from bandit.eligibility import BREAKER_OPEN, SWITCHED_OFF, split
from bandit.policies import Policy
from bandit.posteriors import Beliefs
from bandit.selection import choose, seed_of, uniform
from bandit.vocabulary import FREE, Arm, Choice, Limits, PromptProfile, Terms
from service.classifiers.classifying import Classified, Trace
from service.errors import NoEligibleModel, NotFound
from service.experiments.assigning import Assignment, Missed, Standing, Unit, assign, held_out
from service.learning.knowledge import Knowledge
from service.profiles import needs_of, profile_of
from service.setup import Setup
from service.wire import NAME_CHARACTERS, ChatRequest, Wishes, limits_of

log = logging.getLogger("armwise")

USER_SPECIFIED = "user_specified"
KILL_SWITCH = "kill_switch"
HOLDOUT = "holdout"


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks."""

    key_id: str = ""
    session: str = ""
    user: str = ""
    tags: dict[str, str] = {}


class Shadow(msgspec.Struct, frozen=True, kw_only=True):
    """What a policy decided that did not serve."""

    policy: str
    arm: str  # empty: it failed
    probabilities: tuple[float, ...]  # of the arms of the choice that served, in their order


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """One routing decision: everything needed to explain, repeat and evaluate it. Holds no text of the prompt."""

    id: str
    created_at: float  # seconds since 1970 UTC
    method: str  # auto, user_specified, static_fallback (learning failed), degraded (no database), kill_switch, holdout
    caller: Caller
    profile: PromptProfile
    limits: Limits
    choice: Choice
    excluded: dict[str, str]  # arm name to the reason it was not eligible
    plan: tuple[str, ...]  # arms in the order they are tried; the drawn one first
    breakers_ignored: tuple[str, ...] = ()  # arms that were eligible though their breaker is open: no other one was
    namespace: str = ""  # whose posteriors it teaches
    assigned: Assignment | None = None  # its place in an experiment
    left_out: Missed | None = None  # of which experiment it would have been, and why it is not
    shadow: Shadow | None = None
    config_version: str = ""
    max_explore: float = 1.0  # ceiling of the probability of all arms but the likeliest
    expected_usd: float = 0.0  # of the drawn arm
    expected_late: float = 0.0  # its chance of a late reply
    ask_feedback: bool = False  # drawn at random for the user to be asked
    classified: Trace | None = None  # how the prompt was; decisions of older versions do not say
    classify_s: float = 0.0
    decide_s: float = 0.0

    @property
    def propensity(self) -> float:
        """The exact probability with which the arm was drawn."""
        return self.choice.propensity


def new_id(now: float) -> str:
    """A decision id: looks like OpenAI's completion ids, sorts by time, cannot be guessed (80 random bits)."""
    return f"chatcmpl-{int(now * 1000):012x}{_random_hex()}"


def is_asked(decision_id: str, share: float) -> bool:
    """Whether the user is to be asked: drawn with probability `share`, independently of the model that was drawn."""
    return share > 0.0 and uniform(seed_of(f"ask {decision_id}")) < share


_RANDOM_BYTES = 10
_unused = bytearray()


def _random_hex() -> str:
    """80 bits nobody can guess. The system is asked for many at once: a call of its own costs as much as the draw."""
    if not _unused:
        _unused.extend(os.urandom(400 * _RANDOM_BYTES))
    found = _unused[-_RANDOM_BYTES:].hex()
    del _unused[-_RANDOM_BYTES:]
    return found


def made_at(decision_id: str, default: float) -> float:
    """When a decision was made, in seconds since 1970 UTC, read from its id; `default` for a foreign id."""
    try:
        return int(decision_id[9:21], 16) / 1000
    except ValueError:
        return default


def wanted_policy(setup: Setup, model: str | None, wishes: Wishes) -> Policy | None:
    """The policy that decides; None when `model` names a configured model.

    Raises:
        NotFound: no model, or no policy, of that name.
    """
    name = wishes.policy
    if model and model != "auto":
        if not model.startswith("auto:"):
            if model in setup.models:
                return None
            known = ", ".join(["auto", *setup.models])
            message = f"The model `{model[:128]}` does not exist. Known models: {known}."
            raise NotFound(message, param="model", code="model_not_found")
        name = model.removeprefix("auto:")
    if not name:
        return setup.default_policy
    if name not in setup.policies:
        known = ", ".join(setup.policies)
        param = "model" if name != wishes.policy else "router.policy"
        message = f"The policy `{name[:128]}` does not exist. Known: {known}."
        raise NotFound(message, param=param, code="policy_not_found")
    return setup.policies[name]


def leaves_policy_open(model: str | None, wishes: Wishes) -> bool:
    """Whether the caller named neither a model nor a policy."""
    return (not model or model == "auto") and not wishes.policy


class Circumstances(msgspec.Struct, frozen=True, kw_only=True):
    """When and for whom is decided, and what holds at that moment beside settings and beliefs."""

    now: float  # seconds since 1970 UTC
    key_id: str = ""
    key_name: str = ""
    degraded: bool = False  # the database cannot be written: learning is left out and the safe policy decides
    off: bool = False  # the owner's kill switch: the safe policy decides
    open_breakers: frozenset[str] = frozenset()  # models that get no call at this moment
    terms_of: Callable[[Policy, str], Terms] = lambda *_: FREE  # what money costs a policy's, or account's, next one
    standing: Standing = Standing()  # experiments


def decide(
    setup: Setup, knowledge: Knowledge, request: ChatRequest, classified: Classified, circumstances: Circumstances
) -> Decision:
    """Decide which model answers `request`, which was classified as `classified`.

    Raises:
        NotFound: the model or policy asked for does not exist.
        NoEligibleModel: every model is excluded; carries the reasons.
    """
    started, now = time.perf_counter(), circumstances.now
    wishes = request.router or Wishes()
    policy = wanted_policy(setup, request.model, wishes)
    found, trace = classified.classification, classified.trace
    profile = profile_of(request, found, trace.tiers, setup.settings.classifier)
    profiled = time.perf_counter()
    decision_id = new_id(now)
    caller = Caller(
        key_id=circumstances.key_id,
        session=wishes.session or "",
        user=wishes.user or (request.user or "")[:NAME_CHARACTERS],
        tags=wishes.tags,
    )
    limits = _limits(request, knowledge, circumstances.open_breakers)
    seed = seed_of(decision_id)
    excluded: dict[str, str] = {}
    max_explore = 1.0
    assigned: Assignment | None = None
    left_out: Missed | None = None
    shadow: Shadow | None = None
    breakers_ignored: tuple[str, ...] = ()
    if policy is None:
        beliefs = knowledge.beliefs("", profile.task_type, now)
        choice = named_choice(setup.models[request.model or ""].arm(), limits, seed, beliefs.version)
        method, plan = USER_SPECIFIED, plan_of(choice, 0)
    else:
        eligible, excluded, limits, breakers_ignored = _eligible(setup.arms, profile, limits)
        method = "auto"
        if circumstances.degraded or circumstances.off:
            method, policy = "degraded" if circumstances.degraded else KILL_SWITCH, setup.safe_policy
        elif leaves_policy_open(request.model, wishes):
            unit = Unit(user=caller.user, session=caller.session, key_id=caller.key_id, request=decision_id)
            method, policy, place = placed(setup, circumstances.standing, unit, profile.task_type, caller.tags)
            assigned = place if isinstance(place, Assignment) else None
            left_out = place if isinstance(place, Missed) else None
        reads, account = ("", "") if assigned is None else (assigned.reads, assigned.account)
        max_explore = setup.settings.safety.ceiling(profile.task_type, caller.tags, circumstances.key_name)
        try:
            beliefs = knowledge.believed(policy, reads, profile, now)
        except Exception:
            log.exception("what is believed cannot be read; policy %s decides without", policy.name)
            beliefs = knowledge.nothing()
        try:
            terms = circumstances.terms_of(policy, account)
            choice = choose(
                policy, profile, eligible, beliefs, seed, explore=limits.explore, terms=terms, max_explore=max_explore
            )
        except Exception:  # learning may never break serving, whatever is in a cell
            log.exception("policy %s failed; the safe policy decides", policy.name)
            method = "static_fallback"
            choice = choose(setup.safe_policy, profile, eligible, beliefs, seed)
        if setup.shadow_policy is not None and method == "auto":
            shadow = shadow_of(
                setup.shadow_policy, profile, knowledge, circumstances,
                partial(
                    choose, profile=profile, arms=eligible, seed=seed_of(f"shadow {decision_id}"),
                    explore=limits.explore, max_explore=max_explore,
                ),
            )  # fmt: skip
        plan = plan_of(choice, setup.settings.routing.fallbacks)
    expected = beliefs.usage(choice.arm, profile.task_type)
    return Decision(
        id=decision_id,
        created_at=now,
        method=method,
        caller=caller,
        profile=profile,
        limits=limits,
        choice=choice,
        excluded=excluded,
        plan=plan,
        breakers_ignored=breakers_ignored,
        namespace=assigned.teaches if assigned is not None else "",
        assigned=assigned,
        left_out=left_out,
        shadow=shadow,
        config_version=setup.version,
        max_explore=max_explore,
        expected_usd=expected_cost(setup.models[choice.arm].arm(), profile, expected.output_tokens),
        expected_late=expected.late,
        ask_feedback=is_asked(decision_id, setup.settings.rewards.ask_share),
        classified=trace,
        classify_s=classified.seconds + profiled - started,
        decide_s=time.perf_counter() - profiled,
    )


def shadow_of(
    policy: Policy, profile: PromptProfile, knowledge: Knowledge, circumstances: Circumstances,
    choosing: Callable[..., Choice],
) -> Shadow:  # fmt: skip
    """What a policy decides on a request that another one serves. When it fails, the request does not."""
    try:
        beliefs = knowledge.believed(policy, "", profile, circumstances.now)
        choice = choosing(policy, beliefs=beliefs, terms=circumstances.terms_of(policy, ""))
    except Exception:
        log.exception("policy %s failed in the shadow; the request is served as ever", policy.name)
        return Shadow(policy=policy.name, arm="", probabilities=())
    return Shadow(policy=policy.name, arm=choice.arm, probabilities=choice.probabilities)


def placed(
    setup: Setup, standing: Standing, unit: Unit, task_type: str, tags: Mapping[str, str]
) -> tuple[str, Policy, Assignment | Missed | None]:
    """Method and policy of a request that leaves the policy open, and its place in an experiment.

    The permanent holdout comes first, so that no experiment overlaps with it; then experiments in the order in which
    they began; then what was decided of earlier ones; then the policy of the settings.
    """
    if setup.holdout_policy is not None and held_out(unit, setup.settings.holdout.share):
        return HOLDOUT, setup.holdout_policy, None
    place = assign(standing.running, unit, task_type, tags, setup.policies)
    if isinstance(place, Assignment):
        return "auto", setup.policies[place.policy], place
    for shipped in standing.shipped:
        if shipped.policy in setup.policies and shipped.population.holds(task_type, tags):
            return "auto", setup.policies[shipped.policy], place
    return "auto", setup.default_policy, place


def _limits(request: ChatRequest, knowledge: Knowledge, open_breakers: frozenset[str]) -> Limits:
    """What a request allows, and the owner, and providers that fail."""
    limits, disabled = limits_of(request, needs_of(request)), knowledge.controls.disabled
    if not (disabled or open_breakers):
        return limits
    return msgspec.structs.replace(limits, switched_off=disabled, open_breakers=open_breakers)


def _eligible(
    arms: Sequence[Arm], profile: PromptProfile, limits: Limits
) -> tuple[list[Arm], dict[str, str], Limits, tuple[str, ...]]:
    """Arms that may serve, the reason for each other one, the limits that say so, and those let in all the same.

    Raises:
        NoEligibleModel: there is none.
    """
    eligible, excluded = split(arms, profile, limits)
    ignored: tuple[str, ...] = ()
    if not eligible and BREAKER_OPEN in excluded.values():  # a call that may fail is better than none
        ignored = tuple(arm for arm, reason in excluded.items() if reason == BREAKER_OPEN)
        limits = msgspec.structs.replace(limits, open_breakers=frozenset())
        eligible, excluded = split(arms, profile, limits)
    if not eligible:
        raise NoEligibleModel(excluded)
    return eligible, excluded, limits, ignored


def named_choice(arm: Arm, limits: Limits, seed: int, beliefs_version: str) -> Choice:
    """The choice that the caller made by naming a model.

    Raises:
        NoEligibleModel: the owner switched the model off; or the prompt is sensitive and the model is not local. These
            rules hold for everyone.
    """
    if arm.name in limits.switched_off:
        raise NoEligibleModel({arm.name: SWITCHED_OFF})
    if limits.sensitive and not arm.local:
        raise NoEligibleModel({arm.name: "the request is sensitive and this model is not local"})
    return Choice(
        arm=arm.name,
        propensity=1.0,
        arms=(arm.name,),
        probabilities=(1.0,),
        policy=USER_SPECIFIED,
        beliefs_version=beliefs_version,
        seed=seed,
        reason="the caller named this model",
    )


def plan_of(choice: Choice, fallbacks: int) -> tuple[str, ...]:
    """The drawn arm, then at most `fallbacks` others, the likelier first."""
    likely = sorted(zip(choice.arms, choice.probabilities, strict=True), key=lambda pair: -pair[1])
    others = [name for name, _ in likely if name != choice.arm]
    return (choice.arm, *others[:fallbacks])


class Repeated(msgspec.Struct, frozen=True, kw_only=True):
    """A stored decision, taken again from its stored inputs."""

    choice: Choice
    eligible: tuple[str, ...]
    excluded: dict[str, str]
    same: bool  # arm, probabilities and propensity are equal to the last bit


def redecide(decision: Decision, arms: Mapping[str, Arm], policies: Mapping[str, Policy], beliefs: Beliefs) -> Repeated:
    """Take a stored decision again from its own settings and beliefs."""
    seed = seed_of(decision.id)
    if decision.method == USER_SPECIFIED:
        choice = named_choice(arms[decision.choice.arm], decision.limits, seed, beliefs.version)
        return Repeated(choice=choice, eligible=choice.arms, excluded={}, same=choice == decision.choice)
    eligible, excluded = split(list(arms.values()), decision.profile, decision.limits)
    policy = policies[decision.choice.policy]
    explore, terms, max_explore = decision.limits.explore, decision.choice.terms, decision.max_explore
    choice = choose(
        policy, decision.profile, eligible, beliefs, seed, explore=explore, terms=terms, max_explore=max_explore
    )
    same = choice == decision.choice and excluded == decision.excluded
    return Repeated(choice=choice, eligible=choice.arms, excluded=excluded, same=same)
