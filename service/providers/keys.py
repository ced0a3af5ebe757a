"""The secrets of providers: read from the environment, and cleaned from all that is shown."""

import os
import re
from collections.abc import Collection

from service.errors import UpstreamFailure

_SHORTEST_SECRET = 4  # shorter keys are placeholders that local servers ask for; cleaning them would garble words
_LOOKS_SECRET = re.compile(
    r"\bbearer\s+[\w.~+/=*-]{8,}"
    r"|\b(?:sk|pk|rk|gsk|xai|hf|key)[-_][\w*.-]{6,}"
    r"|\bAIza[\w*-]{10,}"
    r"|(?<=[?&])(?:api[-_]?key|key|access_token|token)=[^&\s\"'<>]+",
    re.IGNORECASE,
)


def key_named(variable: str, model: str) -> str:
    """The secret in an environment variable that the settings of a model name.

    Raises:
        UpstreamFailure: of kind "credentials", when it is not set or cannot be sent in a header.
    """
    value = os.environ.get(variable, "").strip()
    if value and value.isprintable():
        return value
    found = "holds a line break or another control character" if value else "is not set"
    raise UpstreamFailure(
        "credentials",
        f"The environment variable {variable}, named in the settings of model {model}, {found}. "
        "Set it to the provider's key and start again.",
    )


def likely_keys() -> frozenset[str]:
    """Values of the environment that are keys by the names of their variables, whoever uses them."""
    endings = ("_KEY", "_TOKEN", "_SECRET", "_PASSWORD")
    return frozenset(value for name, value in os.environ.items() if name.endswith(endings) and len(value) >= 8)


def scrub(text: str, secrets: Collection[str]) -> str:
    """The text without the given secrets and without anything that looks like a key.

    >>> scrub("Incorrect key hunter2-hunter2, not Bearer abcdefgh1234", ["hunter2-hunter2"])
    'Incorrect key [secret], not [secret]'
    """
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, "[secret]")
    return _LOOKS_SECRET.sub("[secret]", text)
