"""The settings made ready for use: one immutable value, replaced whole when the settings are read again."""

from collections.abc import Mapping
from dataclasses import dataclass

from bandit.fitted import FittedPolicy
from bandit.policies import Fixed, Policy, StaticTier
from bandit.vocabulary import Arm
from service.configuration import settings_content, settings_version
from service.settings import AnyModel, Settings
from service.settings import Database as DatabaseSettings

_BASELINE, _HOLDOUT = "(baseline)", "(holdout)"  # no names that the settings take: they stand for nothing else


@dataclass(frozen=True, slots=True)
class Setup:
    """What a request needs of the settings. A request uses the same one from its start to its end."""

    settings: Settings
    version: str  # names the content of the settings; stored with every decision
    content: str  # the settings as JSON, without secrets
    models: dict[str, AnyModel]  # the enabled ones, by name
    arms: tuple[Arm, ...]
    policies: dict[str, Policy]
    default_policy: Policy
    safe_policy: Policy  # decides when learning cannot, or may not
    shadow_policy: Policy | None  # decides beside the one that serves; None: there is none
    holdout_policy: Fixed | None  # serves the permanent holdout; None: there is none
    budgeted: bool  # some policy or API key has a budget, of money or of late replies


def database_url(settings: DatabaseSettings, environ: Mapping[str, str]) -> str:
    """The database's URL: from the environment when the settings name a variable, else as written."""
    return environ[settings.url_env] if settings.url_env else settings.url


def safe_policy_of(settings: Settings) -> Policy:
    """What serves when learning cannot: the baseline, else the static tiers as configured, else at their defaults."""
    if settings.safety.baseline:
        return Fixed(name=_BASELINE, arm=settings.safety.baseline)
    configured = (policy for policy in settings.policies if isinstance(policy, StaticTier))
    return next(configured, StaticTier(name="static_tier"))


def holdout_policy_of(model: str) -> Fixed:
    """What serves the permanent holdout."""
    return Fixed(name=_HOLDOUT, arm=model)


def create_setup(settings: Settings) -> Setup:
    """Make settings ready."""
    enabled = {model.name: model for model in settings.models if model.enabled}
    policies: dict[str, Policy] = {policy.name: policy for policy in settings.policies}
    return Setup(
        settings=settings,
        version=settings_version(settings),
        content=settings_content(settings),
        models=enabled,
        arms=tuple(model.arm() for model in enabled.values()),
        policies=policies,
        default_policy=policies[settings.default_policy],
        safe_policy=safe_policy_of(settings),
        shadow_policy=policies[settings.routing.shadow] if settings.routing.shadow else None,
        holdout_policy=holdout_policy_of(settings.holdout.model) if settings.holdout.share else None,
        budgeted=bool(settings.budgets.usd_per_key_day)
        or any(isinstance(policy, FittedPolicy) and policy.limited for policy in settings.policies),
    )
