"""The table of facts behind the simulated provider: how good, how long and how fast real models are.

Drawn from public outcome data by `benchmarks/draw_facts.py`, which states the sources; only means are in it.
"""

from functools import cache
from pathlib import Path

import msgspec

from bandit.vocabulary import TaskType

_TABLE = Path(__file__).with_name("facts.json")


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one model's replies, on one task type or on all."""

    quality: float  # [0, 1], the mean
    n: int  # prompts behind it
    output_tokens: int  # the mean; of thinking models, thinking included


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table."""

    source: str  # name in `Facts.sources`
    price_in: float  # USD per million prompt tokens
    price_out: float  # USD per million completion tokens
    first_token_s: float  # assumed, see `Facts.latency`
    tokens_per_s: float  # assumed likewise
    overall: Fact
    task_types: dict[TaskType, Fact]  # those with enough prompts

    def on(self, task_type: TaskType) -> Fact:
        """The fact for a task type; the overall one where that type has none of its own."""
        return self.task_types.get(task_type, self.overall)


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """Where rows come from, in words."""

    origin: str = msgspec.field(name="from")
    licence: str
    quality: str  # what was measured as quality
    tokens: str  # how tokens were counted
    prices: str  # whose list, of when
    task_type_of_benchmark: dict[str, TaskType]
    overall_mean_used_for: tuple[TaskType, ...]  # task types that none of its models has a fact for


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """The whole table."""

    about: str
    latency: str  # the assumption behind all latencies
    profiles: dict[str, str]  # small, medium, large to the model that stands for it
    sources: dict[str, Source]
    models: dict[str, ModelFacts]


@cache
def table() -> Facts:
    """The table, read once."""
    return msgspec.json.decode(_TABLE.read_bytes(), type=Facts)


def profiles() -> tuple[str, ...]:
    """Every name that `profile` of a simulated model may have."""
    return (*table().profiles, *table().models)


@cache
def facts_of(profile: str) -> ModelFacts:
    """The row for small, medium, large, or a model's own name.

    Raises:
        KeyError: no such row.
    """
    return table().models[table().profiles.get(profile, profile)]
