"""What an experiment compares, on whom, and by what: the owner's words, checked when it is made."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from bandit import experiments
from bandit.designs import LARGEST_HORIZON, LEAST_UNITS
from bandit.experiments import Guardrail, Metric
from bandit.vocabulary import TaskType
from service.errors import NotFound, Unprocessable
from service.mistakes import suggestion
from service.setup import Setup

UnitKind = Literal["user", "session", "key", "request"]
Mode = Literal["own", "shared", "frozen"]

# What is measured of every decision, beside the kinds of feedback that the settings name.
MEASURED = ("failure", "cost_usd", "late", "refusal", "feedback")

BUCKETS = 10_000
_FEEDBACK_TOLERANCE = 0.1  # share of its rate by which feedback may differ between variants
_DAY_S = 86_400.0

Name = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z",
        description="a name: a letter or digit, then at most 63 letters, digits or any of ._-",
    ),
]
Note = Annotated[
    str, Meta(max_length=1_000, pattern=r"^[^\x00]*\Z", description="at most 1,000 characters, none of them NUL")
]  # Postgres stores no NUL
VariantName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,47}\Z",
        description="a name: a letter or digit, then at most 47 letters, digits or any of ._-",
    ),
]


class _Said(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of what the owner says."""


class Variant(_Said, frozen=True, kw_only=True):
    """One side: a policy of the settings, and the share of the population that it decides for."""

    name: VariantName
    policy: str
    share: Annotated[float, Meta(gt=0.0, lt=1.0)]


class Population(_Said, frozen=True, kw_only=True):
    """Whose requests take part: of one of these task types and with all of these tags; empty: all."""

    task_types: tuple[TaskType, ...] = ()
    tags: dict[str, Annotated[str, Meta(max_length=256)]] = {}

    def holds(self, task_type: str, tags: Mapping[str, str]) -> bool:
        """Whether a request is one of them."""
        if self.task_types and task_type not in self.task_types:
            return False
        return all(tags.get(name) == value for name, value in self.tags.items())

    def meets(self, other: "Population") -> bool:
        """Whether some request can be of both: a tag has one value, so two values of it keep them apart."""
        if self.task_types and other.task_types and not set(self.task_types) & set(other.task_types):
            return False
        return all(other.tags.get(name, value) == value for name, value in self.tags.items())


class Design(_Said, frozen=True, kw_only=True):
    """An experiment as it is asked for. It never changes: another design is another experiment."""

    name: Name
    variants: Annotated[tuple[Variant, ...], Meta(min_length=2, max_length=10)]
    control: str = ""  # the variant that the others are held against; empty: the first
    unit: UnitKind = "user"
    primary: Metric
    guardrails: Annotated[tuple[Guardrail, ...], Meta(max_length=10)] = ()
    minimum_s: Annotated[float, Meta(ge=0.0)] = 7 * _DAY_S  # it is not shipped before
    maximum_s: Annotated[float, Meta(gt=0.0)] = 28 * _DAY_S  # it is stopped then
    # Closed units per variant at which it is to end; intervals are sharpest there.
    horizon: Annotated[int, Meta(ge=LEAST_UNITS, le=LARGEST_HORIZON)] = 5_000
    window_s: Annotated[float, Meta(gt=0.0)] = 3 * _DAY_S  # outcomes count for so long after a unit's first request
    # How long after its window every unit waits to be closed, so that requests that still run come to an end.
    grace_s: Annotated[float, Meta(ge=5.0)] = 600.0
    late_after_s: Annotated[float, Meta(gt=0.0)] = 10.0  # a reply that took longer counts as `late`
    population: Population = Population()
    mode: Mode = "own"  # whose posteriors the variants read and teach
    salt: Annotated[str, Meta(max_length=64)] = ""  # empty: drawn at random
    note: Note = ""

    @property
    def control_name(self) -> str:
        """The variant that the others are held against."""
        return self.control or self.variants[0].name

    def variant(self, name: str) -> Variant:
        """The variant of that name.

        Raises:
            NotFound: there is none.
        """
        found = next((one for one in self.variants if one.name == name), None)
        if found is None:
            names = [one.name for one in self.variants]
            raise NotFound(
                f"The experiment `{self.name}` has no variant `{name[:48]}`{suggestion(name, names)}.",
                param="ship",
            )
        return found

    def plan(self) -> experiments.Design:
        """The experiment as its statistics see it; shares are those of the units that take part.

        Who gives feedback matters only where the primary metric is made of feedback.

        Raises:
            ValueError: the numbers make no plan.
        """
        shares, before = {}, 0
        for end, variant in self.places():
            shares[variant.name], before = float(end - before), end
        return experiments.Design(
            variants={name: share / before for name, share in shares.items()},
            control=self.control_name,
            primary=self.primary,
            guardrails=self.guardrails,
            minimum_s=self.minimum_s,
            maximum_s=self.maximum_s,
            horizon=self.horizon,
            feedback_tolerance=None if self.primary.name in MEASURED else _FEEDBACK_TOLERANCE,
        )

    def places(self) -> tuple[tuple[int, Variant], ...]:
        """Each variant with the bucket before which it ends; units of later buckets are in none."""
        total, places = 0.0, []
        for variant in self.variants:
            total += variant.share
            places.append((round(BUCKETS * total), variant))
        return tuple(places)


def namespace_of(design: Design, variant: Variant) -> str:
    """Where a variant with posteriors of its own learns. No policy can have such a name: it begins with an @."""
    return f"@{design.name}/{variant.name}"


def snapshot_of(design: Design) -> str:
    """The namespace of what was believed when an experiment with frozen posteriors started; nothing teaches it."""
    return f"@{design.name}"


def check(design: Design, setup: Setup) -> None:
    """Stop a design that cannot be meant, or measured.

    Raises:
        NotFound: a policy that is not configured.
        Unprocessable: names, shares, metrics or times that do not fit together.
    """
    _variants(design, setup)
    known = (*(metric.name for metric in setup.settings.rewards.metrics), *MEASURED)
    _measured([design.primary.name], known, "primary")
    _measured([guardrail.metric for guardrail in design.guardrails], known, "guardrails")
    if design.maximum_s < design.minimum_s:
        raise Unprocessable(
            f"`maximum_s` is {design.maximum_s:g}, `minimum_s` {design.minimum_s:g}: expected an experiment that may "
            "last at least as long as it must.",
            param="maximum_s",
        )
    for param, part in (("primary", replace(design, guardrails=())), ("guardrails", design)):
        try:
            part.plan()
        except ValueError as error:
            raise Unprocessable(f"These numbers make no experiment: {error}.", param=param) from None
    kept_s = setup.settings.retention.decisions_days * _DAY_S
    needed_s = design.maximum_s + design.window_s + design.grace_s
    if needed_s > kept_s:
        raise Unprocessable(
            f"`maximum_s`, `window_s` and `grace_s` are {needed_s / _DAY_S:g} days together, but "
            f"decisions are kept for {kept_s / _DAY_S:g}: shorten the experiment or raise retention.decisions_days.",
            param="maximum_s",
        )


def _variants(design: Design, setup: Setup) -> None:
    names = [variant.name for variant in design.variants]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise Unprocessable(f"Two variants are named `{twice[0]}`: give each a name of its own.", param="variants")
    if design.control and design.control not in names:
        raise Unprocessable(
            f"`control` is `{design.control[:48]}`, which is no variant{suggestion(design.control, names)}.",
            param="control",
        )
    for variant in design.variants:
        if variant.policy not in setup.policies:
            hint = suggestion(variant.policy, setup.policies)
            raise NotFound(
                f"The policy `{variant.policy[:128]}` of the variant `{variant.name}` does not exist{hint}.",
                param="variants",
                code="policy_not_found",
            )
    before = 0
    for end, variant in design.places():
        if end <= before:
            raise Unprocessable(
                f"The variant `{variant.name}` has a share of {variant.share:g}; expected at least {1 / BUCKETS:g}, "
                "in whole steps of as much.",
                param="variants",
            )
        before = end
    total = sum(variant.share for variant in design.variants)
    if total > 1.0 + 1e-9:
        raise Unprocessable(
            f"The shares add up to {total:g}; expected at most 1. What is left over takes no part.", param="variants"
        )


def _measured(names: Iterable[str], known: tuple[str, ...], param: str) -> None:
    for name in names:
        if name not in known:
            raise Unprocessable(f"`{name[:128]}` is not measured{suggestion(name, known)}.", param=param)
