"""Who is in which variant: a salted hash of the unit, the same on every replica for as long as the experiment stands.

The unit is what was chosen: a user, a session, an API key, or single requests. A conversation never switches: requests
that name a session go with it where single requests are drawn, and a user or key carries all its conversations along.
"""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Literal

import msgspec

from service.experiments.design import BUCKETS, Design, Population, Variant, namespace_of, snapshot_of
from service.experiments.lifecycle import Experiment

LeftOut = Literal["no unit", "no policy"]
_DIGEST = 32  # hexadecimal digits: 128 bits


class Unit(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks, as far as assignment goes."""

    user: str = ""
    session: str = ""
    key_id: str = ""
    request: str = ""  # id of the decision


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """A request's place in an experiment."""

    experiment: str
    variant: str
    unit: str  # salted digest
    policy: str
    teaches: str = ""  # the namespace of its decision
    reads: str = ""  # the namespace that it is decided on
    account: str = ""  # whose budget it counts in; empty: its policy's


class Missed(msgspec.Struct, frozen=True, kw_only=True):
    """A request that belongs to an experiment's population and still takes no part."""

    experiment: str
    why: LeftOut


class Shipped(msgspec.Struct, frozen=True, kw_only=True):
    """A policy that an experiment's owner decided for, until the settings name it."""

    experiment: str
    population: Population
    policy: str


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """What all experiments together mean now."""

    mark: int = 0  # the last step it was made of
    experiments: Mapping[str, Experiment] = {}
    running: tuple[Experiment, ...] = ()  # in the order in which they began
    shipped: tuple[Shipped, ...] = ()  # the latest first
    broken: frozenset[str] = frozenset()  # what these began with cannot be read: nobody takes part
    unreadable: int = 0  # steps that cannot be read

    @property
    def kept(self) -> tuple[Experiment, ...]:
        """Experiments whose posteriors are in use: they run, or may run on."""
        return tuple(one for one in self.experiments.values() if one.standing and one.name not in self.broken)


def standing(
    experiments: Mapping[str, Experiment], mark: int = 0, unreadable: int = 0, broken: frozenset[str] = frozenset()
) -> Standing:
    """What experiments mean together."""
    running = [one for one in experiments.values() if one.state == "running" and one.name not in broken]
    decided = [one for one in experiments.values() if one.state == "decided"]
    shipped = [
        Shipped(
            experiment=one.name,
            population=one.design.population,
            policy=one.design.variant(one.decided.ship).policy,
        )
        for one in sorted(decided, key=lambda one: (-(one.decided_at or 0.0), one.name))
        if one.decided is not None and one.decided.ship
    ]
    return Standing(
        mark=mark,
        experiments=experiments,
        running=tuple(sorted(running, key=lambda one: (one.started_at or 0.0, one.name))),
        shipped=tuple(shipped),
        broken=broken,
        unreadable=unreadable,
    )


def assign(
    running: Sequence[Experiment], unit: Unit, task_type: str, tags: Mapping[str, str], policies: Mapping[str, object]
) -> Assignment | Missed | None:
    """The place of a request among the running experiments; None when it is of none's population, or of no variant.

    `policies` are those of the settings: while one of a variant's is missing, nobody takes part, as else the variants
    would differ in whom they have.
    """
    one = next((one for one in running if one.design.population.holds(task_type, tags)), None)
    if one is None:
        return None
    design = one.design
    said = said_unit(design, unit)
    if not said:
        return Missed(experiment=one.name, why="no unit")
    if any(variant.policy not in policies for variant in design.variants):
        return Missed(experiment=one.name, why="no policy")
    digest = digest_of(one.salt, one.name, said)
    bucket = bucket_of(digest)
    variant = next((variant for end, variant in design.places() if bucket < end), None)
    if variant is None:
        return None
    teaches, reads, account = _namespaces(design, variant)
    return Assignment(
        experiment=one.name, variant=variant.name, unit=digest.hex()[:_DIGEST], policy=variant.policy,
        teaches=teaches, reads=reads, account=account,
    )  # fmt: skip


def _namespaces(design: Design, variant: Variant) -> tuple[str, str, str]:
    """What a variant teaches, what it is decided on, and whose budget it has."""
    own = namespace_of(design, variant)
    match design.mode:
        case "own":
            return own, own, own
        case "frozen":
            return "", snapshot_of(design), own
        case "shared":
            return "", "", ""


def said_unit(design: Design, unit: Unit) -> str:
    """The unit's id as the request gave it; empty when it did not."""
    match design.unit:
        case "user":
            return unit.user
        case "session":
            return unit.session
        case "key":
            return unit.key_id
        case "request":
            return unit.session or unit.request


def digest_of(salt: str, experiment: str, unit: str) -> bytes:
    """The salted hash of a unit: its place, and its name where it is written down."""
    return sha256(f"{salt}|{experiment}|{unit}".encode("utf-8", "surrogatepass")).digest()


def bucket_of(digest: bytes) -> int:
    """One of 10,000 places of equal size."""
    return int.from_bytes(digest, "big") % BUCKETS


def held_out(unit: Unit, share: float) -> bool:
    """Whether a request is of the permanent holdout: by its user, else by its session; without either it is not."""
    said = unit.user or unit.session
    return bool(said) and share > 0.0 and bucket_of(digest_of("holdout", "", said)) < round(BUCKETS * share)
