"""What a quiz asks: questions of a file, or prompts that the service kept, each classified as a request would be."""

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, func, select

from bandit.vocabulary import PromptProfile, TaskType
from service.classifiers.classifying import Classifying
from service.classifiers.models import plan_of
from service.errors import UnusableData
from service.metrics.catalogue import Metrics
from service.probes.judging import only_words
from service.profiles import profile_of, text_to_classify
from service.settings import ClassifierSettings
from service.storage.tables import decisions, prompts
from service.wire import ChatRequest

_TRAFFIC = 0.9  # the most frequent task types that together make up so much of the traffic are asked about
_ROWS_PER_QUESTION = 4  # kept prompts that are looked at for each one wanted: the same one comes again
_LOOK_S = 0.02
_PATIENCE_S = 60.0  # for a classification: nobody waits for a reply here


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked, and how the answer is marked."""

    messages: bytes  # JSON, as they are sent to the model
    request: ChatRequest  # the same, as we read it
    expects: str = ""  # a regular expression that a right answer matches somewhere; empty: the judge marks
    task_type: TaskType | None = None  # None: what the classifier says
    sensitive: bool = False  # only models with `local = true` may see it


class Posed(NamedTuple):
    """A question with what a policy would see of it."""

    question: Question
    profile: PromptProfile


def question_from(messages: list[dict[str, Any]], **more: Any) -> Question:
    """A question of these messages.

    Raises:
        msgspec.ValidationError: they are none of a chat.
    """
    content = msgspec.json.encode(messages, order="sorted")  # the same question is the same bytes
    request = msgspec.json.decode(b'{"messages":' + content + b"}", type=ChatRequest)
    return Question(messages=content, request=request, **more)


def _of_user(prompt: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": prompt}]


# Of a file


class _Line(msgspec.Struct, frozen=True):
    """The fields that are read of a line; others may stand beside them."""

    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    expects: str = ""
    task_type: TaskType | None = None
    sensitive: bool = False


_line = msgspec.json.Decoder(_Line)


def questions_in(path: Path) -> list[Question]:
    """The questions of a file of JSON lines.

    Raises:
        UnusableData: a line is no question, or there is none; names file and line, never a prompt.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise UnusableData(f"{path}: cannot be read: {error.strerror}.") from None
    questions = [_question(raw, f"{path}, line {number}") for number, raw in enumerate(lines, 1) if raw.strip()]
    if not questions:
        raise UnusableData(f'{path} holds no question; expected lines such as {{"prompt": "...", "expects": "..."}}.')
    return questions


def _question(raw: bytes, where: str) -> Question:
    try:
        line = _line.decode(raw)
        if (line.prompt is None) == (line.messages is None):
            raise UnusableData(f"{where}: expected either `prompt` or `messages`.")
        messages = line.messages if line.messages is not None else _of_user(line.prompt or "")
        question = question_from(
            messages, expects=line.expects, task_type=line.task_type, sensitive=line.sensitive
        )  # fmt: skip
        re.compile(line.expects)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnusableData(f"{where}: not a question: {error}.") from None
    except re.error as error:
        raise UnusableData(f"{where}: `expects` is no regular expression: {error}.") from None
    if not question.request.last_user_text.strip():
        raise UnusableData(f"{where}: the question has no words of a user.")
    if not line.expects and not only_words(question.request):
        raise UnusableData(f"{where}: a judge reads words only; an answer about anything else needs `expects`.")
    return question


# Kept by the service


def stored_questions(connection: Connection, per_task: int) -> list[Question]:
    """The newest different prompts that were kept, at most `per_task` of each of the most frequent task types.

    Sensitive prompts are never kept, so none is among them.

    Raises:
        UnusableData: none is kept.
    """
    kept = prompts.join(decisions, decisions.c.id == prompts.c.decision_id)
    counted = select(decisions.c.task_type, func.count()).select_from(kept).group_by(decisions.c.task_type)
    traffic = {str(task): int(count) for task, count in connection.execute(counted)}
    if not traffic:
        raise UnusableData(
            "No prompts are kept. `prompts = true` under [retention] keeps those that come from then on; "
            "or give a file with --prompts."
        )
    texts: dict[str, None] = {}
    for task in _most_frequent(traffic):
        newest = (
            select(prompts.c.text)
            .select_from(kept)
            .where(decisions.c.task_type == task)
            .order_by(prompts.c.created_at.desc(), prompts.c.decision_id.desc())
            .limit(per_task * _ROWS_PER_QUESTION)
        )
        texts |= dict.fromkeys(list(dict.fromkeys(connection.scalars(newest)))[:per_task])
    return [question_from(_of_user(text)) for text in texts]


def _most_frequent(traffic: dict[str, int]) -> list[str]:
    """The fewest task types that make up nine tenths of the traffic."""
    found, covered = [], 0
    for task, count in sorted(traffic.items(), key=lambda pair: (-pair[1], pair[0])):
        if covered >= _TRAFFIC * sum(traffic.values()):
            break
        found.append(task)
        covered += count
    return found


# Classified


async def posed(
    questions: Iterable[Question], settings: ClassifierSettings, tick: Callable[[], object] = lambda: None
) -> list[Posed]:
    """The questions as a policy would see them, by the classifier that would serve. `tick` is called after each.

    Raises:
        ConfigurationError: what the settings name is not there.
    """
    patient = msgspec.structs.replace(settings, deadline_s=_PATIENCE_S)
    classifying = Classifying(Metrics())
    try:
        classifying.take_over(plan_of(patient))
        while classifying.loading:  # noqa: ASYNC110 - a thread loads it, and tells nobody else
            await asyncio.sleep(_LOOK_S)
        found = []
        for question in questions:
            said = await classifying.classify(text_to_classify(question.request, patient), patient)
            profile = profile_of(question.request, said.classification, said.trace.tiers, patient)
            if question.task_type is not None:
                profile = msgspec.structs.replace(profile, task_type=question.task_type)
            found.append(Posed(question, profile))
            tick()
        return found
    finally:
        await classifying.close()


def first_of_each(every: Sequence[Posed], per_task: int) -> list[Posed]:
    """Each question once, and at most so many of a task type: those that stand first."""
    different: dict[bytes, Posed] = {}
    for one in every:
        different.setdefault(one.question.messages, one)
    counts: Counter[TaskType] = Counter()
    found = []
    for one in different.values():
        counts[one.profile.task_type] += 1
        if counts[one.profile.task_type] <= per_task:
            found.append(one)
    return found
