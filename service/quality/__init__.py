"""Automatic quality heuristics: what a reply itself tells about its quality.

A heuristic is one function from an `Exchange` to a finding in words, or None when it has nothing against the reply.
Hard ones are definite failures and count as a label; soft ones are weak evidence. `service.quality.examine.HEURISTICS`
names them all.
"""

from collections.abc import Callable
from typing import Any

import msgspec


class CalledTool(msgspec.Struct, frozen=True, kw_only=True):
    """A tool call of the reply, pieces of a stream joined."""

    name: str
    arguments: str  # as the model wrote them: JSON, or free text for a custom tool


class Exchange(msgspec.Struct, frozen=True, kw_only=True):
    """A request and what came back, as far as quality can be read from it."""

    prompt: str  # the last user message
    system: str = ""  # the system prompt, if any
    reply: str = ""  # the text of the first choice
    tool_calls: tuple[CalledTool, ...] = ()
    tools: dict[str, dict[str, Any] | None] = {}  # name of each offered tool to its arguments' schema; None: free text
    json_wanted: bool = False  # response_format is json_object or json_schema
    json_schema: dict[str, Any] | None = None  # the schema of response_format, when one was given
    finish_reason: str | None = None  # "stop", "length", "content_filter", "tool_calls" ...
    refusal: str = ""  # OpenAI's refusal field
    max_output_tokens: int | None = None  # what the caller allowed: reaching it is the caller's doing
    failure: str = ""  # kind of the upstream's failure; empty when it answered


class Heuristic(msgspec.Struct, frozen=True, kw_only=True):
    """One heuristic: its name in settings and metrics, what it looks for, and its defaults."""

    name: str
    find: Callable[[Exchange], str | None]  # a finding in words without any of the prompt's or reply's text
    hard: bool = False  # a definite failure: counts as a label of value 0
    weight: float = 0.3  # of one label, when soft
    enabled: bool = True


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A heuristic that fired."""

    heuristic: str
    detail: str
    hard: bool
    weight: float


def heuristic_names() -> frozenset[str]:
    """Every name that `[quality.heuristics]` may hold, the user's own signals of `service.quality.repeats` included."""
    from service.quality.examine import HEURISTICS  # noqa: PLC0415 - it is written against this module
    from service.quality.repeats import SIGNALS  # noqa: PLC0415 - likewise

    return frozenset({*(heuristic.name for heuristic in HEURISTICS), *SIGNALS})
