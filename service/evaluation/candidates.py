"""Files of candidates: policies to be judged, and other prices, read and checked against the configured models."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from bandit.catalogue import AnyPolicy
from bandit.policies import Policy
from service.checks import check
from service.configuration import read_text, with_priors
from service.errors import ConfigurationError
from service.mistakes import build
from service.settings import NotNegative, Section, Settings


class PolicyFile(Section, frozen=True, kw_only=True):
    """A file of candidates."""

    policies: tuple[AnyPolicy, ...] = ()


class Price(Section, frozen=True, kw_only=True):
    """Other prices of a model; those left out stay as they are."""

    name: str
    price_in: NotNegative | None = None
    price_out: NotNegative | None = None
    price_cached_in: NotNegative | None = None


class PriceFile(Section, frozen=True, kw_only=True):
    """A file of prices."""

    models: tuple[Price, ...] = ()


def read_policies(path: Path, settings: Settings, environ: Mapping[str, str]) -> tuple[Policy, ...]:
    """The policies in a file of `[[policies]]`, checked against the configured models.

    Raises:
        ConfigurationError: with every mistake in it.
    """
    mistakes: list[str] = []
    found = with_priors(build(PolicyFile, _toml(path), "", mistakes).policies, mistakes)
    if not found and not mistakes:
        mistakes.append("holds no [[policies]]; expected at least one, as in armwise.toml")
    if not mistakes:
        routing = msgspec.structs.replace(settings.routing, policy="")
        mistakes = check(msgspec.structs.replace(settings, policies=found, routing=routing), environ)
    if mistakes:
        raise ConfigurationError([f"{path}: {mistake}" for mistake in mistakes])
    return found


def read_prices(path: Path, settings: Settings) -> dict[str, dict[str, float]]:
    """By configured model, its prices in a file of `[[models]]` that differ from its own.

    Raises:
        ConfigurationError: with every mistake in it.
    """
    mistakes: list[str] = []
    found = build(PriceFile, _toml(path), "", mistakes).models
    known = {model.name for model in settings.models}
    if not found and not mistakes:
        mistakes.append("holds no [[models]]; expected at least one, with `name` and prices")
    mistakes += [f"no model `{price.name}` is configured" for price in found if price.name not in known]
    if mistakes:
        raise ConfigurationError([f"{path}: {mistake}" for mistake in mistakes])
    return {
        price.name: {
            name: value for name, value in msgspec.structs.asdict(price).items() if name != "name" and value is not None
        }
        for price in found
    }


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError([f"{path}: is not TOML: {error}"]) from None
