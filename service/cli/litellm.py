"""A LiteLLM proxy's config.yaml as an armwise.toml, and line by line what could not be taken along.

No value of theirs is executed or looked up, and no secret written out in their file comes into ours.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import msgspec

from service.errors import ArmwiseError

_PER = 1_000_000  # tokens that our prices are for
_ENVIRONMENT = "os.environ/"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPENAI_LIKE = ("openai/", "hosted_vllm/", "text-completion-openai/", "lm_studio/")
_OPENAI_MODELS = ("gpt-", "chatgpt-", "o1", "o3", "o4")  # names that LiteLLM takes without a vendor
_TIERS = {1: "small", 2: "medium", 3: "large"}
_KNOWN_PARAMS = {
    "model", "api_base", "base_url", "api_key", "timeout", "input_cost_per_token", "output_cost_per_token",
    "cache_read_input_token_cost",
}  # fmt: skip
_SECRETS = re.compile(r"key|token$|secret|password|credential|authorization", re.IGNORECASE)


class NotLiteLLM(ArmwiseError):
    """The file is no configuration of LiteLLM; the message says what was found."""


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    """Settings as TOML, and what the owner has to know of them."""

    toml: str
    remarks: tuple[str, ...]  # each with its path in their file


def imported(config: Any) -> Imported:
    """Translate the content of a config.yaml.

    Raises:
        NotLiteLLM: it has no model that could be taken along.
    """
    if not isinstance(config, Mapping) or not isinstance(config.get("model_list"), Sequence):
        raise NotLiteLLM("The file has no `model_list`; expected the config.yaml of a LiteLLM proxy.")
    remarks: list[str] = []
    aliases = _aliases(config, remarks)
    models: list[dict[str, Any]] = []
    for index, entry in enumerate(config["model_list"]):
        model = _model(f"model_list[{index}]", entry, remarks)
        if model is None:
            continue
        first, taken = model["name"], {one["name"] for one in models}
        if first in taken:
            model["name"] = next(name for n in itertools.count(2) if (name := f"{first}-{n}") not in taken)
            remarks.append(
                f"model_list[{index}]: `{first}` comes again; here it is a model of its own, `{model['name']}`, and "
                "the policy draws between them"
            )
        models.append(model)
    if not models:
        found = "; ".join(remarks) or "it is empty"
        raise NotLiteLLM(f"The `model_list` has no model that can be taken along: {found}.")
    fallbacks = _fallbacks(config, remarks)
    remarks += _rest(config)
    for alias, target in aliases.items():
        remarks.append(f"alias `{alias}`: call `{target}` by its name, or `auto`; there are no aliases here")
    return Imported(toml=_toml(models, fallbacks), remarks=tuple(remarks))


def _model(path: str, entry: Any, remarks: list[str]) -> dict[str, Any] | None:
    """One model in our words; None when it cannot be taken along."""
    params = entry.get("litellm_params") if isinstance(entry, Mapping) else None
    if not isinstance(params, Mapping) or not isinstance(params.get("model"), str) or not params["model"]:
        remarks.append(f"{path}: has no `litellm_params.model`; left out")
        return None
    info = entry.get("model_info")
    info = info if isinstance(info, Mapping) else {}
    upstream = params["model"]
    name = entry.get("model_name")
    if "*" in upstream or "*" in str(name):
        remarks.append(f"{path}: `{name}` is a pattern; name each model that is meant; left out")
        return None
    if info.get("mode", "chat") != "chat":
        remarks.append(f"{path}: `{name}` is for {info['mode']}, not for chat; left out")
        return None
    found: dict[str, Any] = {"name": _name(str(name or upstream))}
    base = params.get("api_base") or params.get("base_url")
    if isinstance(base, str) and base.startswith(_ENVIRONMENT):
        remarks.append(f"{path}.litellm_params.api_base: comes from {base}; write the address as `base_url`")
        base = None
    compatible = next((prefix for prefix in _OPENAI_LIKE if upstream.startswith(prefix)), None)
    if compatible is not None or upstream.startswith(_OPENAI_MODELS):
        found |= {"provider": "openai_compatible", "model": upstream.removeprefix(compatible or "")}
        default_key = "" if base else "OPENAI_API_KEY"
    else:
        found |= {"provider": "translated", "model": upstream}
        default_key = ""
    if base:
        found |= _address(path, str(base), remarks)
    found |= _key(path, params.get("api_key"), default_key, remarks)
    tier = info.get("quality_tier") or (info.get("adaptive_router_preferences") or {}).get("quality_tier")
    if tier in _TIERS:
        found["tier"] = _TIERS[tier]
    found |= _prices(path, params, info, remarks)
    window = info.get("max_input_tokens") or info.get("max_tokens")
    if isinstance(window, int) and window > 0:
        found["window"] = window
    if isinstance(params.get("timeout"), int | float) and params["timeout"] > 0:
        found["timeout_s"] = float(params["timeout"])
    remarks += [_untaken(f"{path}.litellm_params", other) for other in params if other not in _KNOWN_PARAMS]
    return found


def _address(path: str, base: str, remarks: list[str]) -> dict[str, str]:
    try:
        parts = urlsplit(base)
    except ValueError:
        remarks.append(f"{path}.litellm_params.api_base: is no address; write it as `base_url`")
        return {}
    if "@" in parts.netloc or parts.query:
        remarks.append(f"{path}.litellm_params.api_base: what may be a secret in the address was not copied")
    return {"base_url": urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))}


def _name(theirs: str) -> str:
    """A name that our settings take."""
    return re.sub(r"[^A-Za-z0-9._:/@+-]", "-", theirs).strip("._:/@+-")[:120] or "model"


def _key(path: str, key: Any, default: str, remarks: list[str]) -> dict[str, str]:
    where = f"{path}.litellm_params.api_key"
    if key is None:
        if default:
            remarks.append(f"{where}: is not there; {default} is read, as LiteLLM does")
        return {"api_key_env": default} if default else {}
    if isinstance(key, str) and key.startswith(_ENVIRONMENT):
        variable = key.removeprefix(_ENVIRONMENT)
        if _VARIABLE.fullmatch(variable):
            return {"api_key_env": variable}
    remarks.append(f"{where}: is written out and was not copied; put it into a variable and name that in `api_key_env`")
    return {}


def _prices(path: str, params: Mapping[Any, Any], info: Mapping[Any, Any], remarks: list[str]) -> dict[str, float]:
    theirs = {
        "price_in": "input_cost_per_token",
        "price_out": "output_cost_per_token",
        "price_cached_in": "cache_read_input_token_cost",
    }
    found = {}
    for ours, name in theirs.items():
        price = params.get(name, info.get(name))
        try:
            amount = None if price is None or isinstance(price, bool) else float(price) * _PER
        except (TypeError, ValueError):
            amount = None
        if amount is not None and 0.0 <= amount < float("inf"):
            found[ours] = round(amount, 9)
    if not {"price_in", "price_out"} <= found.keys():
        remarks.append(
            f"{path}: has no price; write `price_in` and `price_out` (USD per million tokens), or it is free"
        )
    return found


def _aliases(config: Mapping[Any, Any], remarks: list[str]) -> dict[str, str]:
    router = config.get("router_settings")
    found = router.get("model_group_alias") if isinstance(router, Mapping) else None
    if not isinstance(found, Mapping):
        return {}
    return {str(name): str(to.get("model") if isinstance(to, Mapping) else to) for name, to in found.items()}


def _fallbacks(config: Mapping[Any, Any], remarks: list[str]) -> int | None:
    """How many other models may be tried: as many as their longest list has; None where none is written."""
    lists: list[int] = []
    for section in ("router_settings", "litellm_settings"):
        settings = config.get(section)
        for name in ("fallbacks", "default_fallbacks", "context_window_fallbacks", "content_policy_fallbacks"):
            written = settings.get(name) if isinstance(settings, Mapping) else None
            if not isinstance(written, Sequence) or isinstance(written, str):
                continue
            ways = [one for one in written if isinstance(one, Mapping)]
            lists += [len(to) for one in ways for to in one.values() if isinstance(to, Sequence)]
            if not ways and written:
                lists.append(len(written))
            remarks.append(
                f"{section}.{name}: which model follows which is not written here: the next likelier ones are tried, "
                "as many as your longest list has"
            )
    return max(lists, default=None) if lists else None


def _rest(config: Mapping[Any, Any]) -> Iterator[str]:
    """What stands in the sections that have no counterpart."""
    taken = {
        "fallbacks",
        "default_fallbacks",
        "context_window_fallbacks",
        "content_policy_fallbacks",
        "model_group_alias",
    }
    for section, found in config.items():
        if section == "model_list":
            continue
        if not isinstance(found, Mapping):
            yield _untaken("", section)
            continue
        for name in found:
            if section not in {"router_settings", "litellm_settings"} or name not in taken:
                yield _untaken(str(section), name)


_ADVICE = {
    "rpm": "limits of requests are not kept here",
    "tpm": "limits of tokens are not kept here",
    "max_parallel_requests": "limits of requests are not kept here",
    "routing_strategy": "a policy decides; the default one learns",
    "num_retries": "the next model is tried instead",
    "master_key": "make keys with `armwise key create`",
    "database_url": "name its variable in `database.url_env`",
    "callbacks": "see docs/monitoring.md for metrics",
    "success_callback": "see docs/monitoring.md for metrics",
    "max_budget": "see docs/budgets.md",
    "weight": "shares are learned",
}


def _untaken(path: str, name: Any) -> str:
    advice = _ADVICE.get(str(name)) or (
        "secrets are not copied" if _SECRETS.search(str(name)) else "has no counterpart"
    )
    return f"{path}{'.' if path else ''}{name}: {advice}; left out"


def _toml(models: Sequence[Mapping[str, Any]], fallbacks: int | None) -> str:
    lines = [
        "# Made from a LiteLLM configuration by `armwise import litellm`. `armwise check` says how it is understood."
    ]
    if fallbacks is not None:
        lines += ["", "[routing]", f"fallbacks = {fallbacks}"]
    for model in models:
        lines += ["", "[[models]]", *(f"{name} = {_value(value)}" for name, value in model.items())]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    """A TOML value: JSON writes strings and numbers alike, but for the delete character."""
    return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")
