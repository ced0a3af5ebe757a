"""The settings file: read and checked as a whole, named by its content, described, compared."""

import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec.structs import fields

from bandit.catalogue import AnyPolicy
from bandit.fitted import FittedPolicy
from bandit.policies import Policy
from bandit.priors import PriorTable
from service.checks import check
from service.classifiers.choice import wanted_classifier
from service.errors import ConfigurationError
from service.learning.priors import read_prior
from service.mistakes import build
from service.settings import (
    AnyModel,
    ClassifierSettings,
    Database,
    ModelSection,
    Retention,
    Section,
    Settings,
    Tracing,
)
from service.tracing.tracing import endpoint_of

DEFAULT_FILE = Path("armwise.toml")
# Sections and settings that are read once, at start.
NEEDS_RESTART = ("server.", "database.", "logging.", "tracing.")


def settings_file(path: Path | None) -> Path | None:
    """The file that is meant: `path`, else `armwise.toml` in the working folder; None where there is none."""
    return DEFAULT_FILE if path is None and DEFAULT_FILE.exists() else path


def read_settings(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """Settings from a file, checked; `environ` is where the secrets it names must be.

    With `path` None: `armwise.toml` in the working folder if there is one, else defaults, which serve three simulated
    models.

    Raises:
        ConfigurationError: with every mistake in the file.
    """
    path = settings_file(path)
    if path is None:
        return Settings()
    return settings_from_toml(read_text(path), environ, name=str(path))


def settings_from_toml(text: str, environ: Mapping[str, str], name: str = "armwise.toml") -> Settings:
    """Settings from the text of a file called `name`, checked.

    Raises:
        ConfigurationError: with every mistake in it.
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError([_syntax(name, text, str(error))]) from None
    mistakes: list[str] = []
    settings = build(Settings, raw, "", mistakes)
    settings = msgspec.structs.replace(settings, policies=with_priors(settings.policies, mistakes))
    mistakes += check(settings, environ)
    if mistakes:  # each in one line, whatever a key is called
        raise ConfigurationError([one if one.isprintable() else repr(one)[1:-1] for one in mistakes])
    return settings


def with_priors(policies: Sequence[AnyPolicy], mistakes: list[str]) -> tuple[AnyPolicy, ...]:
    """Policies with the prior files in them that they name: a decision is repeated from the settings alone.

    What is wrong in a prior file is added to `mistakes`.
    """
    found = list(policies)
    for index, policy in enumerate(policies):
        if isinstance(policy, FittedPolicy) and policy.prior_file:
            try:
                prior = read_prior(Path(policy.prior_file))
            except ConfigurationError as error:
                mistakes += [f"`policies[{index}].prior_file`: {mistake}" for mistake in error.mistakes]
            else:
                found[index] = msgspec.structs.replace(policy, prior=prior)
    return tuple(found)


def read_text(path: Path) -> str:
    """The text of a settings file.

    Raises:
        ConfigurationError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigurationError([f"{path}: there is no such file; give the path of a settings file"]) from None
    except OSError as error:
        raise ConfigurationError([f"{path}: cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError as error:
        raise ConfigurationError([f"{path}: is not UTF-8 text (byte {error.start})"]) from None


def _syntax(name: str, text: str, message: str) -> str:
    """Say where a TOML error is: "armwise.toml, line 3, column 5: ..."."""
    what, _, where = message.rpartition(" (at ")
    if found := re.fullmatch(r"line (\d+), column (\d+)\)", where):
        line, column = int(found[1]), int(found[2])
    else:
        lines = text.split("\n")
        line, column = len(lines), len(lines[-1]) + 1
    return f"{name}, line {line}, column {column}: {what or message}"


def settings_content(settings: Settings) -> str:
    """All settings as JSON, the same for equal settings. Holds no secret: they are only named."""
    return msgspec.json.encode(settings, order="deterministic").decode()


def settings_version(settings: Settings) -> str:
    """The name of the settings' content: 16 hexadecimal digits, equal for equal settings."""
    return blake2b(settings_content(settings).encode(), digest_size=8).hexdigest()


def describe(settings: Settings, environ: Mapping[str, str] = os.environ) -> str:
    """A readable summary of what would be served on this machine."""
    server, database, quality = settings.server, settings.database, settings.quality
    off = sorted(name for name, heuristic in quality.heuristics.items() if not heuristic.enabled)
    heuristics = "off" if not quality.enabled else f"on, without {', '.join(off)}" if off else "on"
    classifier = settings.classifier
    metrics = ", ".join(f"{metric.name} ({metric.weight:g})" for metric in settings.rewards.metrics)
    lines = [
        f"server      http://{server.host}:{server.port}, {_counted(server.workers, 'worker')}",
        f"database    {_database_shown(database)}",
        f"classifier  {_classifier_shown(classifier, environ)}",
        f"tiers       {_tiers_shown(classifier)}",
        f"routing     policy {settings.default_policy}, {_counted(settings.routing.fallbacks, 'fallback')}",
        f"quality     heuristics {heuristics}",
        f"rewards     {metrics}; taken for {settings.rewards.window_days:g} days",
        f"logging     {settings.logging.level}, {settings.logging.format}; prompts are never logged",
        *_tracing_shown(settings.tracing, environ),
        f"retention   decisions for {settings.retention.decisions_days:g} days; {_prompts_shown(settings.retention)}",
        "",
        *_table([_MODEL_COLUMNS, *(_model_row(model) for model in settings.models)]),
        "",
        *_table([("policy", "kind", "settings"), *(_policy_row(policy) for policy in settings.policies)]),
    ]
    if settings.simulated_only:
        lines += ["", "Only simulated models are configured: replies are made up. Add [[models]] for real ones."]
    return "\n".join(lines)


def presentable(settings: Settings) -> dict[str, Any]:
    """All settings in plain values, without what may be a secret: passwords in URLs, headers written out."""
    found: dict[str, Any] = msgspec.to_builtins(settings)
    found["database"]["url"] = _without_password(settings.database.url)
    for model in found["models"]:
        headers = model.get("headers", {})
        model.update(headers={name: value if value.startswith("$") else "***" for name, value in headers.items()})
    return found


def _classifier_shown(classifier: ClassifierSettings, environ: Mapping[str, str]) -> str:
    wanted = wanted_classifier(classifier, environ)
    reads = f"reads {classifier.reads}"
    if wanted.kind == "nvidia":
        how = f"{classifier.precision} precision on {classifier.backend}, {_counted(classifier.workers, 'worker')}"
        return f"nvidia, {how}, {reads} ({wanted.why})"
    return f"{wanted.kind}, {reads}, at most {classifier.max_characters:,} characters ({wanted.why})"


def _tiers_shown(classifier: ClassifierSettings) -> str:
    if classifier.simple_below is None or classifier.medium_below is None:
        return "the classifier's own boundaries"
    return f"simple below {classifier.simple_below:g}, medium below {classifier.medium_below:g}, else complex"


def _tracing_shown(tracing: Tracing, environ: Mapping[str, str]) -> Iterator[str]:
    if endpoint := endpoint_of(tracing, environ):
        prompts = "; PROMPTS ARE SENT, but those of sensitive requests" if tracing.capture_prompts else ""
        yield f"tracing     {tracing.sample:.0%} of chats to {_without_password(endpoint)}{prompts}"


def _prompts_shown(retention: Retention) -> str:
    if not retention.prompts:
        return "prompts are never stored"
    return f"PROMPTS ARE STORED for {retention.prompts_days:g} days, but those of sensitive requests"


_MODEL_COLUMNS = (
    "model", "provider", "upstream", "tier", "USD/M in", "USD/M out", "USD/M cached", "window", "abilities", "",
)  # fmt: skip


def _model_row(model: AnyModel) -> tuple[str, ...]:
    cached = model.price_in if model.price_cached_in is None else model.price_cached_in
    notes = [*(["local"] if model.local else []), *([] if model.enabled else ["disabled"])]
    return (
        model.name,
        str(model.__struct_config__.tag),
        model.upstream_model,
        model.tier,
        f"{model.price_in:g}",
        f"{model.price_out:g}",
        f"{cached:g}",
        f"{model.window:,}",
        ", ".join(sorted(model.abilities)) or "-",
        ", ".join(notes),
    )


def _policy_row(policy: Policy) -> tuple[str, ...]:
    defaults = {field.name: field.default for field in fields(policy)}
    own = [name for name in policy.__struct_fields__ if name != "name" and getattr(policy, name) != defaults[name]]
    shown = ", ".join(f"{name} {_shown(getattr(policy, name))}" for name in own)
    return policy.name, str(policy.__struct_config__.tag), shown or "defaults"


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _database_shown(database: Database) -> str:
    return f"URL from ${database.url_env}" if database.url_env else _without_password(database.url)


def _without_password(url: str) -> str:
    """A URL fit for the screen.

    >>> _without_password("postgresql://me:secret@host/name?password=secret")
    'postgresql://me:***@host/name?password=***'
    """
    password = urlsplit(url).password
    shown = url.replace(f":{password}@", ":***@", 1) if password else url
    return re.sub(r"(password=)[^&]*", r"\1***", shown)


def difference(old: Settings, new: Settings) -> list[str]:
    """What taking over `new` changes, one sentence each; says which changes only take effect after a restart."""
    changes = [*_entries("model", old.models, new.models), *_entries("policy", old.policies, new.policies)]
    for field in fields(Settings):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if isinstance(before, Section):
            changes += [f"{change}{_when(change)}." for change in _changed(field.name, before, after)]
    return changes


def _when(change: str) -> str:
    return " (takes effect after a restart)" if change.strip("`").startswith(NEEDS_RESTART) else ""


def _entries(noun: str, old: tuple[Any, ...], new: tuple[Any, ...]) -> Iterator[str]:
    """What changes among models, or among policies: they are told apart by name."""
    before, after = {entry.name: entry for entry in old}, {entry.name: entry for entry in new}
    yield from (f"The {noun} `{name}` is new." for name in after if name not in before)
    yield from (f"The {noun} `{name}` is gone." for name in before if name not in after)
    kept = [name for name in after if name in before]
    for name in kept:
        if type(before[name]) is type(after[name]):
            yield from (f"The {noun} `{name}`: {change}." for change in _changed("", before[name], after[name]))
        else:
            config = before[name].__struct_config__
            kinds = f"{config.tag} -> {after[name].__struct_config__.tag}"
            yield f"The {noun} `{name}`: {config.tag_field} {kinds}, with other settings."
    if kept != [name for name in before if name in after]:
        yield f"The order of {noun} entries is another one: between equals the first wins."


def _changed(path: str, old: msgspec.Struct, new: msgspec.Struct) -> Iterator[str]:
    """Each setting that differs, with its old and new value."""
    for name in old.__struct_fields__:
        before, after = getattr(old, name), getattr(new, name)
        where = f"{path}.{name}" if path else name
        if before == after:
            continue
        if isinstance(before, Section) and isinstance(after, Section):
            yield from _changed(where, before, after)
        elif isinstance(old, ModelSection) and name == "headers":
            yield f"`{where}` changed"
        else:
            yield f"`{where}` {_shown(before)} -> {_shown(after)}"


def _shown(value: Any) -> str:
    if isinstance(value, str) and "://" in value:
        value = _without_password(value)
    if isinstance(value, PriorTable):
        return f"of {_counted(len(value.quality), 'model')}"
    return msgspec.json.encode(value, order="deterministic").decode()
