"""What types cannot say of the settings: names that must exist, numbers that must fit together, secrets in place."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from msgspec.structs import fields

from bandit.catalogue import AnyPolicy
from bandit.fitted import FittedPolicy
from bandit.linear import MOST_DIMS, LinearThompson
from bandit.policies import Fixed, Policy, Random, Rules, StaticTier
from bandit.pooled import PooledThompson
from bandit.thompson import PriorMeans, Thompson
from bandit.vocabulary import MODEL_TIERS, TASK_TYPES
from service.classifiers.choice import embedding_lacks, nvidia_lacks
from service.logs import unknown_modules
from service.mistakes import listed, suggestion
from service.settings import (
    AnyModel,
    ClassifierSettings,
    Cues,
    Database,
    Drift,
    OpenAICompatibleModel,
    Settings,
    SimulatedModel,
    TranslatedModel,
)
from service.tracing.tracing import mistakes_of

AUTO = "auto"  # the model name that means: route
DATABASES = ("sqlite", "postgresql")
_POLICY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET_HEADER = re.compile(r"authorization|cookie|key|token|secret|password", re.IGNORECASE)
_PER_TOKEN, _PER_BILLION = 1e-4, 1e4  # no price per million tokens lies below or above


def check(settings: Settings, environ: Mapping[str, str]) -> list[str]:
    """Every mistake that is not one of type, one sentence each, with its path. Names that are empty are passed over."""
    return [
        *_database(settings.database, environ),
        *_names("models", [model.name for model in settings.models]),
        *_models(settings.models, environ),
        *_names("policies", [policy.name for policy in settings.policies]),
        *_policies(settings),
        *_routing(settings),
        *_classifier(settings.classifier, environ),
        *_heuristics(settings),
        *_rewards(settings),
        *_safety(settings),
        *_holdout(settings),
        *_drift(settings.drift, environ),
        *_judge(settings, environ),
        *unknown_modules(settings.logging.levels),
        *mistakes_of(settings.tracing, environ),
    ]


def holds_password(url: str) -> bool:
    """Whether a URL has a password in it."""
    parts = urlsplit(url)
    return bool(parts.password) or "password" in parse_qs(parts.query)


def _database(database: Database, environ: Mapping[str, str]) -> Iterator[str]:
    if database.url_env:
        yield from _variable("database.url_env", database.url_env, environ, "the database's URL")
        return
    try:
        scheme, secret = urlsplit(database.url).scheme, holds_password(database.url)
    except ValueError as error:
        yield f"`database.url` is not a URL: {error}"
        return
    if scheme.partition("+")[0] not in DATABASES:
        yield f"`database.url` must start with one of {listed(f'{name}://' for name in DATABASES)}"
    if secret:
        yield (
            "`database.url` holds a password: put the whole URL into an environment variable and name that in "
            "`database.url_env`"
        )


def _names(path: str, names: list[str]) -> Iterator[str]:
    for name, count in Counter(filter(None, names)).items():
        if count > 1:
            yield f"`{path}` has {count} entries named `{name}`: names must differ"
    for index, name in enumerate(names):
        if name == AUTO:
            yield f"`{path}[{index}].name` must not be `{AUTO}`: by that name callers ask for routing"


def _models(models: tuple[AnyModel, ...], environ: Mapping[str, str]) -> Iterator[str]:
    if not any(model.enabled for model in models):
        yield "`models` has no enabled model: at least one is needed to answer anything"
    for index, model in enumerate(models):
        path = f"models[{index}]"
        yield from _prices(path, model)
        if isinstance(model, SimulatedModel):
            yield from _profile(f"{path}.profile", model)
        else:
            yield from _address(f"{path}.base_url", model)
            if model.api_key_env and model.enabled:
                yield from _variable(f"{path}.api_key_env", model.api_key_env, environ, "the provider's key")
        if isinstance(model, OpenAICompatibleModel):
            yield from _headers(f"{path}.headers", model, environ)


def _prices(path: str, model: AnyModel) -> Iterator[str]:
    for name in ("price_in", "price_out", "price_cached_in"):
        price = getattr(model, name) or 0.0
        if 0.0 < price < _PER_TOKEN or price > _PER_BILLION:
            yield f"`{path}.{name}` is {price:g}, which makes no sense as US dollars per million tokens"
    if model.price_cached_in is not None and model.price_cached_in > model.price_in:
        yield (
            f"`{path}.price_cached_in` ({model.price_cached_in:g}) is above `price_in` ({model.price_in:g}): cached "
            "tokens never cost more than fresh ones"
        )


def _profile(path: str, model: SimulatedModel) -> Iterator[str]:
    if model.profile:
        from service.providers.facts import profiles  # noqa: PLC0415 - the table is read only when the file names a row

        if model.profile not in profiles():
            yield f"`{path}` is `{model.profile}`, which is no row of facts{suggestion(model.profile, profiles())}"


def _address(path: str, model: OpenAICompatibleModel | TranslatedModel) -> Iterator[str]:
    if isinstance(model, TranslatedModel) and not model.base_url:
        return
    try:
        parts = urlsplit(model.base_url)
        port_is_fine, secret = parts.port != 0, parts.password is not None
    except ValueError:
        parts, port_is_fine, secret = urlsplit(""), False, False
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_fine:
        yield f"`{path}` must be a URL such as `http://127.0.0.1:8000/v1`"
    elif secret:
        yield f"`{path}` holds a password: name an environment variable in `api_key_env` or `headers` instead"


def _headers(path: str, model: OpenAICompatibleModel, environ: Mapping[str, str]) -> Iterator[str]:
    for name, value in model.headers.items():
        if value.startswith("$"):
            if model.enabled:
                yield from _variable(f"{path}.{name}", value[1:], environ, "the header's value")
        elif _SECRET_HEADER.search(name):
            yield f'`{path}.{name}` looks like a secret: put it into an environment variable and write "$NAME" here'
        elif "\n" in value or "\r" in value:
            yield f"`{path}.{name}` must be one line"


def _variable(path: str, name: str, environ: Mapping[str, str], meaning: str) -> Iterator[str]:
    if not _VARIABLE.fullmatch(name):
        yield f"`{path}` must be the name of an environment variable that holds {meaning}, not {meaning} itself"
    elif not environ.get(name):
        # a name in small letters may be a key that was written here by mistake: not shown
        shown = f" `{name}`" if name.isupper() else ""
        yield f"`{path}` names the environment variable{shown}, which is not set: it must hold {meaning}"


def _policies(settings: Settings) -> Iterator[str]:
    if not settings.policies:
        yield "`policies` is empty: at least one is needed"
    models = {model.name for model in settings.models}
    for index, policy in enumerate(settings.policies):
        path = f"policies[{index}]"
        if policy.name and not _POLICY_NAME.fullmatch(policy.name):
            yield f"`{path}.name` must be a letter or digit, then at most 127 letters, digits or any of ._:/@+-"
        for arm in policy.named_arms():
            if arm and arm not in models:
                yield f"`{path}` names the model `{arm}`, which is not configured{suggestion(arm, models)}"
        yield from (f"`{path}.{mistake}" for mistake in _numbers(policy))


def _numbers(policy: AnyPolicy) -> Iterator[str]:
    """Mistakes in a policy's numbers, each from the name of the setting on."""
    match policy:
        case Thompson():
            yield from _outside(policy, ["floor"], low=0.0, high=1.0)
            yield from _outside(policy, ["heuristic_cap", "cost_weight"], low=0.0)
            yield from _prior(policy)
        case PooledThompson():
            yield from _pooled(policy)
        case LinearThompson():
            yield from _linear(policy)
        case StaticTier():
            yield from _outside(policy, ["simple_below", "medium_below"], low=0.0)
            yield from _order(policy)
        case Rules():
            counts = ("large_over_characters", "medium_over_characters", "medium_over_output_tokens")
            yield from _outside(policy, [*counts, "short_characters"], low=0)
            known = [field.name for field in fields(Cues)]
            for name in ("hard_cue", "reasoning_cue", "simple_cue"):
                cue = getattr(policy, name)
                if cue not in known:
                    yield f"{name}` is `{cue}`, which is no list of `classifier.cues`{suggestion(cue, known)}"
        case Fixed() | Random():
            pass


def _fitted(policy: FittedPolicy) -> Iterator[str]:
    yield from _outside(policy, ["floor", "certainty", "late_share", "nursery", "gate", "credit"], low=0.0, high=1.0)
    yield from _outside(policy, ["boldness", "cost_weight", "within", "nursery_labels"], low=0.0)
    yield from _outside(policy, ["usd_per_request", "usd_per_day", "late_after_s"], low=0.0)
    yield from _outside(policy, ["active"], low=1)
    yield from _budget(policy)
    yield from _unheard(policy)
    yield from _means(policy.prior_means)


def _pooled(policy: PooledThompson) -> Iterator[str]:
    yield from _fitted(policy)
    for name in ("arm", "task", "tier", "cell"):
        if not 0.0 < getattr(policy.spread, name) <= 1.0:
            yield f"spread.{name}` must be more than 0 and at most 1, found {getattr(policy.spread, name):g}"


def _budget(policy: FittedPolicy) -> Iterator[str]:
    if policy.objective == "budget" and (policy.usd_per_request > 0.0) == (policy.usd_per_day > 0.0):
        yield 'objective` is "budget": set one of `usd_per_request` and `usd_per_day`'


def _unheard(policy: FittedPolicy) -> Iterator[str]:
    """Settings that the objective "floor" does not hear: it asks for cost alone."""
    if policy.objective != "floor":
        return
    for name in ("late_after_s", "baseline", "cost_weight"):
        if getattr(policy, name):
            yield f'{name}` has no effect with `objective = "floor"`, which takes the cheapest good enough: remove one'


def _linear(policy: LinearThompson) -> Iterator[str]:
    yield from _fitted(policy)
    yield from _outside(policy, ["vector_dims"], low=0, high=MOST_DIMS)
    yield from _outside(policy, ["strength"], low=1.0, high=1e6)


def _prior(policy: Thompson) -> Iterator[str]:
    if not policy.prior_strength > 0.0:
        yield f"prior_strength` must be more than 0, found {policy.prior_strength:g}"
    yield from _means(policy.prior_means)


def _means(means: PriorMeans) -> Iterator[str]:
    for tier in MODEL_TIERS:
        for column, mean in enumerate(getattr(means, tier)):
            if not 0.0 < mean < 1.0:
                yield f"prior_means.{tier}[{column}]` must be more than 0 and less than 1, found {mean:g}"


def _outside(policy: Policy, names: Iterable[str], *, low: float, high: float | None = None) -> Iterator[str]:
    for name in names:
        value = getattr(policy, name)
        if value < low or (high is not None and value > high):
            wanted = f"at least {low:g}" if high is None else f"between {low:g} and {high:g}"
            yield f"{name}` must be {wanted}, found {value:g}"


def _order(thresholds: Any) -> Iterator[str]:
    if thresholds.simple_below > thresholds.medium_below:
        yield (
            f"simple_below` ({thresholds.simple_below:g}) is above `medium_below` ({thresholds.medium_below:g}): "
            "no prompt could be medium"
        )


def _routing(settings: Settings) -> Iterator[str]:
    names = dict.fromkeys(policy.name for policy in settings.policies if policy.name)
    if names and settings.default_policy not in names:
        chosen = settings.default_policy
        yield f"`routing.policy` is `{chosen}`, which is not among `policies`{suggestion(chosen, names)}"
    shadow = settings.routing.shadow
    if shadow and names and shadow not in names:
        yield f"`routing.shadow` is `{shadow}`, which is not among `policies`{suggestion(shadow, names)}"


def _classifier(classifier: ClassifierSettings, environ: Mapping[str, str]) -> Iterator[str]:
    if (classifier.simple_below is None) != (classifier.medium_below is None):
        yield "`classifier.simple_below` and `medium_below` go together: set both, or none for the classifier's own"
    elif classifier.simple_below is not None:
        yield from (f"`classifier.{mistake}" for mistake in _order(classifier))
    runs = {"int8": "onnx", "bf16": "torch"}
    backend = runs.get(classifier.precision, classifier.backend)
    if backend != classifier.backend:
        yield f'`classifier.precision` is "{classifier.precision}", which needs `backend = "{backend}"`'
    if classifier.device != "cpu" and classifier.backend != "torch":
        yield f'`classifier.device` is "{classifier.device}", which needs `backend = "torch"`'
    if classifier.embedded_weights and not Path(classifier.embedded_weights).is_file():
        yield f"`classifier.embedded_weights`: there is no file {classifier.embedded_weights}"
    if classifier.embedded == "embedding" and classifier.kind != "rules" and (lacking := embedding_lacks()):
        yield f'`classifier.embedded` is "embedding", but {lacking}'
    if classifier.kind == "nvidia" and (lacking := nvidia_lacks(classifier, environ)):
        yield f'`classifier.kind` is "nvidia", but {lacking}'


def _safety(settings: Settings) -> Iterator[str]:
    safety, models = settings.safety, {model.name for model in settings.models}
    if safety.baseline and safety.baseline not in models:
        hint = suggestion(safety.baseline, models)
        yield f"`safety.baseline` names the model `{safety.baseline}`, which is not configured{hint}"
    for task_type in safety.task_types:
        if task_type not in TASK_TYPES:
            yield f"`safety.task_types.{task_type}` is no task type{suggestion(task_type, TASK_TYPES)}"
    for tag in safety.tags:
        if not tag.partition("=")[1]:
            yield f'`safety.tags.{tag}` must be a tag and its value, such as [safety.tags."team=billing"]'


def _holdout(settings: Settings) -> Iterator[str]:
    enabled = [model.name for model in settings.models if model.enabled]
    model = settings.holdout.model
    if settings.holdout.share and not model:
        yield "`holdout.share` is set: name the model that serves the holdout in `holdout.model`"
    if model and model not in enabled:
        hint = suggestion(model, enabled)
        yield f"`holdout.model` names the model `{model}`, which is not configured and enabled{hint}"


def _heuristics(settings: Settings) -> Iterator[str]:
    if settings.quality.heuristics:
        from service.quality import heuristic_names  # noqa: PLC0415 - they are loaded only when the file names some

        known = list(heuristic_names())
        for name in settings.quality.heuristics:
            if name not in known:
                yield f"`quality.heuristics.{name}` is no heuristic{suggestion(name, known)}"


def _rewards(settings: Settings) -> Iterator[str]:
    metrics = settings.rewards.metrics
    if not metrics:
        yield "`rewards.metrics` is empty: feedback needs at least one metric to be about"
    yield from _names("rewards.metrics", [metric.name for metric in metrics])


def _drift(drift: Drift, environ: Mapping[str, str]) -> Iterator[str]:
    if drift.webhook_url_env:
        yield from _variable("drift.webhook_url_env", drift.webhook_url_env, environ, "the webhook's URL")
    yield from _names("drift.canaries", [canary.name for canary in drift.canaries])
    for index, canary in enumerate(drift.canaries):
        try:
            re.compile(canary.expects)
        except (re.error, RecursionError, OverflowError) as error:
            yield f"`drift.canaries[{index}].expects` is no regular expression: {error}"


def _judge(settings: Settings, environ: Mapping[str, str]) -> Iterator[str]:
    judge, models = settings.judge, {model.name for model in settings.models}
    if judge.model and judge.model not in models:
        hint = suggestion(judge.model, models)
        yield f"`judge.model` names the model `{judge.model}`, which is not configured{hint}"
    for index, model in enumerate(settings.models):
        if model.name != judge.model or model.enabled or isinstance(model, SimulatedModel):
            continue  # of enabled models the key is looked for in any case
        if model.api_key_env:
            yield from _variable(f"models[{index}].api_key_env", model.api_key_env, environ, "the provider's key")
    for name in ("question", "answer"):
        if judge.prompt and f"{{{name}}}" not in judge.prompt:
            yield f"`judge.prompt` must hold {{{name}}} where the judge is to read it"
