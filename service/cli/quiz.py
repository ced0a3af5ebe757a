"""`armwise quiz`: questions that teach what a model is worth before it gets any traffic."""

import asyncio
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from service.cli.options import Number, config_option, echo_json, json_option
from service.errors import ArmwiseError

if TYPE_CHECKING:
    from collections import Counter

    from service.probes.quiz import Marking, Plan, Result
    from service.probes.quiz_questions import Posed, Question
    from service.settings import AnyModel, Settings

_TIMEOUT_S = 30.0  # of a commit: a service that runs meanwhile comes first


@click.command()
@config_option
@click.option(
    "--model",
    "names",
    multiple=True,
    required=True,
    help='Whom to ask; give several. Also one with "enabled = false".',
)
@click.option(
    "--prompts",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help='Lines {"prompt" or "messages"}, with or without "expects" (a regular expression), "task_type", "sensitive".',
)
@click.option("--stored", is_flag=True, help="Ask the newest prompts kept with `prompts = true` under [retention].")
@click.option(
    "--per-task", default=50, show_default=True, type=click.IntRange(1), help="Questions of one task type, at most."
)
@click.option("--judge", help="The model that marks where a question does not say what it expects. Default: [judge].")
@click.option(
    "--weight",
    type=Number(0.0, 1.0, min_open=True),
    help="Of a mark, in labels. Default: 1 for `expects`, judge.weight (0.5) for a judge's.",
)
@click.option("--again", is_flag=True, help="Ask what is marked already, too; the new mark replaces the old one.")
@json_option
@click.option("--yes", is_flag=True, help="Do not ask whether the calls may be made.")
def quiz(
    config: Path | None, names: tuple[str, ...], prompts: Path | None, per_task: int, *, stored: bool, **given: Any
) -> None:
    """Ask models questions, and let the marks of their answers teach like labels.

    Each mark is stored at once: a quiz that was interrupted goes on where it ended. Running services take the marks up
    within seconds. Exit status 1: a model got no mark.
    """
    from service.configuration import read_settings
    from service.probes.quiz import marking_of
    from service.probes.quiz_questions import questions_in

    if stored == (prompts is not None):
        raise click.UsageError("Give questions with --prompts FILE, or --stored, one of both.")
    settings = read_settings(config, os.environ)
    models = [_model(settings, name) for name in dict.fromkeys(names)]
    if given["judge"]:
        _model(settings, given["judge"])
    marking = marking_of(settings, given["judge"], given["weight"])
    questions = questions_in(prompts) if prompts is not None else None
    plan = asyncio.run(_planned(settings, models, marking, questions, per_task, again=given["again"]))
    for line in _announced(plan):
        click.echo(line, err=True)
    if plan.asked and not given["yes"]:
        click.confirm("Ask?", abort=True, err=True)
    results = asyncio.run(_run(settings, plan, marking))
    if given["as_json"]:
        echo_json(shown(results))
    else:
        for line in told(results):
            click.echo(line)
    _complain(results, plan)


def _model(settings: "Settings", name: str) -> "AnyModel":
    from service.mistakes import suggestion

    found = next((model for model in settings.models if model.name == name), None)
    if found is None:
        known = [model.name for model in settings.models]
        raise ArmwiseError(f"No model `{name}` is configured{suggestion(name, known)}.")
    return found


async def _planned(
    settings: "Settings", models: "Sequence[AnyModel]", marking: "Marking", questions: "list[Question] | None",
    per_task: int, *, again: bool,
) -> "Plan":  # fmt: skip
    from service.learning.usage import output_tokens
    from service.probes.quiz import Asked, check, marks_of, plan_of
    from service.probes.quiz_questions import first_of_each, posed, stored_questions
    from service.setup import database_url
    from service.storage.database import Database, migrate

    url = database_url(settings.database, os.environ)
    await asyncio.to_thread(migrate, url)
    database = Database(url, 1)
    try:
        if questions is None:
            questions = await database.read(stored_questions, per_task)
        check(models, questions, marking)
        with click.progressbar(length=len(questions), label="Classifying", file=sys.stderr) as bar:
            classified = await posed(questions, settings.classifier, lambda: bar.update(1))
        chosen = first_of_each(classified, per_task)
        _tell_left_out(classified, chosen, per_task)
        every = [Asked(model, one) for model in models for one in chosen]
        marks = {} if again else await database.read(marks_of, every, marking)
        return plan_of(every, marking, marks, await database.read(output_tokens))
    finally:
        await database.close()


def _tell_left_out(every: "Sequence[Posed]", chosen: "Sequence[Posed]", per_task: int) -> None:
    different = len({one.question.messages for one in every})
    if different < len(every):
        click.echo(f"{len(every) - different:,} questions come more than once; each is asked once.", err=True)
    if len(chosen) < different:
        click.echo(f"{different - len(chosen):,} questions are over --per-task {per_task} and left out.", err=True)


def _announced(plan: "Plan") -> Iterator[str]:
    """What is about to be done, and what it will cost."""
    for name, count in plan.sensitive.items():
        yield f"{name}: {count:,} sensitive questions are left out; they need `local = true` of it and of the judge."
    if plan.marked:
        yield f"{len(plan.marked):,} answers are marked already; --again asks for them anew."
    if plan.asked:
        models = ", ".join(dict.fromkeys(asked.model.name for asked in plan.asked))
        yield (
            f"{len(plan.asked):,} questions for {models}: about {plan.answers_usd + plan.verdicts_usd:.4f} USD "
            f"(answers {plan.answers_usd:.4f}, verdicts {plan.verdicts_usd:.4f})."
        )


async def _run(settings: "Settings", plan: "Plan", marking: "Marking") -> "list[Result]":
    import msgspec

    from service.probes.quiz import Quiz
    from service.providers import Providers
    from service.setup import database_url
    from service.storage.database import Database
    from service.storage.writer import Writer

    database = Database(database_url(settings.database, os.environ), 1)
    patient = msgspec.structs.replace(settings.database, timeout_s=_TIMEOUT_S)
    writer = Writer(database, patient, lambda _: None, window_s=0.0)
    providers = Providers()
    try:
        await providers.prepare([*(asked.model for asked in plan.asked), *([marking.model] if marking.model else [])])
        await writer.start()
        count = len(plan.asked)
        with click.progressbar(length=count, label="Asking", file=sys.stderr, hidden=not count) as bar:
            return await Quiz(plan, marking, providers, writer).run(lambda: bar.update(1))
    finally:
        await writer.close()
        await providers.close()
        await database.close()


def told(results: "Sequence[Result]") -> Iterator[str]:
    """Each model's marks by task type, and what they cost."""
    for result in results:
        before = f", {result.marked_before:,} before" if result.marked_before else ""
        mean = "" if result.mean is None else f"; mean {result.mean:.3f}"
        yield f"{result.model}: {result.marked:,} answers marked{before}{mean}"
        for task_type, marks in result.task_types.items():
            yield f"  {task_type:16} {marks.mean:.3f} ({marks.marks:,})"
        if result.failed:
            yield f"  no answer: {_counted(result.failed)}"
        if result.unmarked:
            yield f"  no mark: {_counted(result.unmarked)}"
    answers, verdicts = (sum(getattr(result, name) for result in results) for name in ("answers_usd", "verdicts_usd"))
    yield f"It cost {answers + verdicts:.4f} USD (answers {answers:.4f}, verdicts {verdicts:.4f})."


def _counted(counts: "Counter[str]") -> str:
    return ", ".join(f"{name} ({count:,})" for name, count in counts.most_common())


def shown(results: "Sequence[Result]") -> dict[str, Any]:
    """The results for a program."""
    import msgspec

    cost = sum(result.answers_usd + result.verdicts_usd for result in results)
    return {"models": [{**msgspec.to_builtins(result), "mean": result.mean} for result in results], "cost_usd": cost}


def _complain(results: "Sequence[Result]", plan: "Plan") -> None:
    """Fail when a model was asked in vain."""
    wanted = {asked.model.name for asked in plan.asked}
    in_vain = [result.model for result in results if result.model in wanted and not result.marked]
    if in_vain:
        raise ArmwiseError(f"Not one new answer of {' and '.join(in_vain)} could be marked; see above why.")
