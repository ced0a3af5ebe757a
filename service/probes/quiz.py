"""A quiz: questions asked of a model before any traffic, or beside it. Each answer is marked, and each mark is a label.

An answer in a quiz is no decision: it stands in no log, is charged to no budget and is part of no evaluation. Its mark
is a reward that no decision stands behind, keyed by model and question, so asking again replaces it.
"""

import asyncio
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection

from bandit.costs import DEFAULT_OUTPUT_TOKENS, call_cost, expected_cost
from bandit.posteriors import CellKey, Counts, fold
from bandit.vocabulary import Reward, TaskType
from service.complete import decode_reply
from service.errors import UnusableData, UpstreamFailure
from service.learning.usage import ByModel
from service.probes.judging import TEMPLATE, verdict_on
from service.probes.quiz_questions import Posed, Question
from service.profiles import estimated_tokens
from service.providers import Providers
from service.replies import said_in_reply
from service.settings import AnyModel, Judge, Settings
from service.storage import store
from service.storage.writer import Writer
from service.wire import Usage

QUIZ_SOURCE = "quiz"

_AT_ONCE = 4  # questions under way
_VERDICT_TOKENS = 16


class Marking(msgspec.Struct, frozen=True, kw_only=True):
    """How answers are marked, and what the marks are worth."""

    metric: str
    judge: Judge  # its `model` is the one that judges; empty: none does
    model: AnyModel | None  # the one of that name
    weight: float | None = None  # of every mark; None: 1 for what a question expects, the judge's own for a judge's

    def weight_of(self, question: Question) -> float:
        """What a mark is worth, of one label."""
        if self.weight is not None:
            return self.weight
        return 1.0 if question.expects else self.judge.weight

    def by(self, question: Question) -> str:
        """What marks the answer to a question. A mark by anything else is replaced."""
        if question.expects:
            return f"expects {blake2b(question.expects.encode(), digest_size=4).hexdigest()}"
        return f"judge {self.judge.model}"


def marking_of(settings: Settings, judge: str | None, weight: float | None) -> Marking:
    """Marking by the named judge, else by the configured one, if there is one."""
    named = judge or settings.judge.model
    return Marking(
        metric=settings.rewards.metrics[0].name,
        judge=msgspec.structs.replace(settings.judge, model=named),
        model=next((model for model in settings.models if model.name == named), None),
        weight=weight,
    )


class Asked(NamedTuple):
    """A question for one model."""

    model: AnyModel
    posed: Posed

    @property
    def id(self) -> str:
        """Stands where other rewards name their decision. What is expected of the answer is no part of it."""
        content = msgspec.json.encode([self.model.name, self.posed.question.messages])
        return f"quiz-{blake2b(content, digest_size=16).hexdigest()}"

    @property
    def task_type(self) -> TaskType:
        """The kind of question."""
        return self.posed.profile.task_type


# In the database


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer was found worth."""

    value: float  # [0, 1]
    weight: float  # (0, 1]: of one label
    by: str
    cost_usd: float  # of the answer
    judge_cost_usd: float = 0.0


class _Detail(msgspec.Struct):
    by: str = ""


def _key(asked: Asked, metric: str) -> store.RewardKey:
    return asked.id, metric, QUIZ_SOURCE, ""


def marks_of(connection: Connection, every: Sequence[Asked], marking: Marking) -> dict[str, float]:
    """By id, the marks that are stored already and were given as they would be now."""
    by = {asked.id: marking.by(asked.posed.question) for asked in every}
    rows: Sequence[Mapping[str, Any]] = store.rewards_of(connection, sorted(by))
    ours = [row for row in rows if (row["metric"], row["source"]) == (marking.metric, QUIZ_SOURCE)]
    return {row["decision_id"]: row["value"] for row in ours if _by(row["detail"]) == by[row["decision_id"]]}


def _by(detail: str) -> str:
    return msgspec.json.decode(detail, type=_Detail).by


def store_mark(connection: Connection, *, asked: Asked, mark: Mark, metric: str, now: float) -> None:
    """Keep a mark and count it in the cell of this hour. One of the same question from before is taken back.

    Raises:
        IntegrityError: another process stored it at the same moment; the transaction must be repeated.
    """
    key = _key(asked, metric)
    detail = {
        "by": mark.by,
        "cost_usd": mark.cost_usd,
        "judge_cost_usd": mark.judge_cost_usd,
        "profile": asked.posed.profile,  # as in a decision: `service.learning.contexts` reads it there
    }
    row: store.RowDict = {
        **dict(zip(("decision_id", "metric", "source", "user"), key, strict=True)),
        "value": mark.value,
        "weight": mark.weight,
        "channel": "score",
        "namespace": "",
        "arm": asked.model.name,
        "task_type": asked.task_type,
        "tier": asked.posed.profile.tier,
        "hour": int(now // 3600),
        "comment": "",
        "detail": msgspec.json.encode(detail).decode(),
        "created_at": now,
        "updated_at": now,
    }
    before = store.rewards_by_key(connection, [key]).get(key)
    if before is None:
        store.insert_rewards(connection, [row])
    else:
        store.replace_rewards(connection, [row])
    new, old = fold([_counted(row)]), fold([_counted(before)] if before is not None else [])
    deltas = {cell: new.get(cell, Counts()).minus(old.get(cell, Counts())) for cell in new.keys() | old.keys()}
    store.add_to_cells(connection, deltas, now)


def _counted(row: Mapping[str, Any]) -> tuple[CellKey, Reward]:
    cell = CellKey(row["namespace"], row["arm"], row["task_type"], row["tier"], row["hour"], row["channel"])
    return cell, Reward(value=row["value"], weight=row["weight"], channel=row["channel"])


# What is to be done, and what was


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a quiz will ask."""

    asked: list[Asked]
    marked: list[tuple[Asked, float]]  # already, with their marks
    sensitive: Counter[str]  # by model, questions that it, or the judge, may not see
    answers_usd: float  # expected
    verdicts_usd: float  # likewise


def check(models: Iterable[AnyModel], questions: Iterable[Question], marking: Marking) -> None:
    """Refuse what nobody could mark.

    Raises:
        UnusableData: a question expects nothing, and there is no judge, or it would mark its own answers.
    """
    if all(question.expects for question in questions):
        return
    if marking.model is None:
        raise UnusableData(
            "Some questions do not say what answer they expect, and there is no judge. Name one with --judge or as "
            "`model` under [judge], or give every question `expects`, a regular expression."
        )
    if marking.model in models:
        raise UnusableData(
            f"{marking.model.name} would mark its own answers. Name another judge with --judge, or give every "
            "question `expects`, a regular expression."
        )


def plan_of(
    every: Sequence[Asked], marking: Marking, marks: Mapping[str, float], output_tokens: ByModel
) -> Plan:  # fmt: skip
    """What is still to be asked, when `marks` are there already, and what it would cost at today's prices."""
    asked, marked, sensitive = [], [], Counter[str]()
    for one in every:
        if one.id in marks:
            marked.append((one, marks[one.id]))
        elif _may_be_seen(one, marking):
            asked.append(one)
        else:
            sensitive[one.model.name] += 1
    costs = [_expected(one, marking, output_tokens.get((one.model.name, one.task_type), 0.0)) for one in asked]
    return Plan(
        asked=asked,
        marked=marked,
        sensitive=sensitive,
        answers_usd=sum(answer for answer, _ in costs),
        verdicts_usd=sum(verdict for _, verdict in costs),
    )


def _may_be_seen(asked: Asked, marking: Marking) -> bool:
    question = asked.posed.question
    if not question.sensitive:
        return True
    return asked.model.local and (bool(question.expects) or (marking.model is not None and marking.model.local))


def _expected(asked: Asked, marking: Marking, output_tokens: float) -> tuple[float, float]:
    """USD of the answer, and of the verdict on it."""
    profile = asked.posed.profile
    answer = expected_cost(asked.model.arm(), profile, output_tokens)
    if asked.posed.question.expects or marking.model is None:
        return answer, 0.0
    shown = estimated_tokens(TEMPLATE) + profile.prompt_tokens + round(output_tokens or DEFAULT_OUTPUT_TOKENS)
    return answer, call_cost(marking.model.arm(), shown, marking.judge.max_tokens or _VERDICT_TOKENS)


class TaskMarks(msgspec.Struct, kw_only=True):
    """The marks of one model on one task type."""

    marks: int
    mean: float


class Result(msgspec.Struct, kw_only=True):
    """What became of one model's questions."""

    model: str
    marked: int = 0
    marked_before: int = 0
    sensitive: int = 0  # not asked: it, or the judge, may not see them
    failed: Counter[str] = msgspec.field(default_factory=Counter)  # answers that did not come, by kind of failure
    unmarked: Counter[str] = msgspec.field(default_factory=Counter)  # answers without a mark, by why
    answers_usd: float = 0.0
    verdicts_usd: float = 0.0
    task_types: dict[TaskType, TaskMarks] = {}  # of all marks, those from before too

    @property
    def mean(self) -> float | None:
        """Over all marks."""
        every = sum(one.marks for one in self.task_types.values())
        return sum(one.mean * one.marks for one in self.task_types.values()) / every if every else None


class Quiz:
    """Asks what a plan says, a few questions at a time, and stores each mark as soon as it is there."""

    def __init__(self, plan: Plan, marking: Marking, providers: Providers, writer: Writer) -> None:
        self._plan = plan
        self._marking = marking
        self._providers = providers
        self._writer = writer
        self._room = asyncio.Semaphore(_AT_ONCE)
        self._results = {name: Result(model=name, sensitive=count) for name, count in plan.sensitive.items()}
        self._values: dict[tuple[str, TaskType], list[float]] = defaultdict(list)

    async def run(self, tick: Callable[[], object] = lambda: None) -> list[Result]:
        """Ask; a result for each model. `tick` is called after each question.

        Raises:
            StorageUnavailable: the database takes no marks; those before are stored.
        """
        for asked, value in self._plan.marked:
            self._result(asked).marked_before += 1
            self._values[asked.model.name, asked.task_type].append(value)
        tasks = [asyncio.create_task(self._ask(asked, tick)) for asked in self._plan.asked]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for (name, task_type), values in sorted(self._values.items()):
            marks = TaskMarks(marks=len(values), mean=sum(values) / len(values))
            result = self._results[name]
            result.task_types = {**result.task_types, task_type: marks}
        return list(self._results.values())

    def _result(self, asked: Asked) -> Result:
        return self._results.setdefault(asked.model.name, Result(model=asked.model.name))

    async def _ask(self, asked: Asked, tick: Callable[[], object]) -> None:
        async with self._room:
            result = self._result(asked)
            answer = await self._answer(asked, result)
            mark = await self._mark(asked, answer, result) if answer is not None else None
            if mark is not None:
                await self._writer.call(partial(self._store, asked, mark))
                result.marked += 1
                self._values[asked.model.name, asked.task_type].append(mark.value)
            tick()

    def _store(self, asked: Asked, mark: Mark, connection: Connection) -> None:
        store_mark(connection, asked=asked, mark=mark, metric=self._marking.metric, now=time.time())

    async def _answer(self, asked: Asked, result: Result) -> "_Answer | None":
        model, question = asked.model, asked.posed.question
        body = {"model": model.upstream_model, "messages": msgspec.Raw(question.messages)}
        try:
            async with asyncio.timeout(model.timeout_s):
                raw = await self._providers.of(model).complete(model, msgspec.json.encode(body))
            said = said_in_reply(decode_reply(raw))
        except (TimeoutError, UpstreamFailure) as error:
            result.failed[_kind(error)] += 1
            return None
        usage = said.usage or Usage(asked.posed.profile.prompt_tokens, estimated_tokens(said.text))
        cost = call_cost(model.arm(), usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)
        result.answers_usd += cost
        return _Answer(said.text or said.refusal, cost)

    async def _mark(self, asked: Asked, answer: "_Answer", result: Result) -> Mark | None:
        """None when there is none that can be read."""
        question, marking = asked.posed.question, self._marking
        by, weight = marking.by(question), marking.weight_of(question)
        if question.expects:
            right = await asyncio.to_thread(re.search, question.expects, answer.text)
            return Mark(value=float(right is not None), weight=weight, by=by, cost_usd=answer.cost_usd)
        if not answer.text.strip():
            return Mark(value=0.0, weight=weight, by=by, cost_usd=answer.cost_usd)
        if marking.model is None:
            result.unmarked["no judge"] += 1
            return None
        try:
            async with asyncio.timeout(marking.model.timeout_s):
                verdict = await verdict_on(
                    self._providers, marking.model, marking.judge, question.request, answer.text
                )  # fmt: skip
        except (TimeoutError, UpstreamFailure) as error:
            result.unmarked[f"judge: {_kind(error)}"] += 1
            return None
        result.verdicts_usd += verdict.cost_usd
        if verdict.mark is None:
            result.unmarked["unreadable"] += 1
            return None
        return Mark(
            value=verdict.mark, weight=weight, by=by, cost_usd=answer.cost_usd, judge_cost_usd=verdict.cost_usd
        )  # fmt: skip


class _Answer(NamedTuple):
    text: str
    cost_usd: float


def _kind(error: TimeoutError | UpstreamFailure) -> str:
    return error.kind if isinstance(error, UpstreamFailure) else "timeout"
