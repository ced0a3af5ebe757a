"""The demo: prompts of every task type sent to an Armwise, with honest thumbs, to watch the shares move.

For simulated models only: they tell how good each reply truly was, so the thumbs are right. The requests are ordinary
chat calls; only their `simulate` object, which tells a simulated model the task type, is special.
"""

import asyncio
import contextlib
import itertools
import json
import math
import secrets
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from bandit.vocabulary import PROMPT_TIERS, PromptTier, TaskType
from service.demo.gain import SIMULATED_WORLD, Gains, World, gains_of, told, truths
from service.demo.service import answers, own_service, own_world
from service.demo.table import Cell, Posteriors, Round, Tally, course_table, known_best, posteriors_table, shares_table
from service.errors import ArmwiseError
from service.terminal import cut, plots, width

AT_ONCE = 8  # calls in flight
STREAMED_EVERY = 4  # one call in so many is streamed
GOOD = 0.5  # quality from which a reader gives a thumb up
TIMEOUT_S = 120.0
USUAL_URL = "http://127.0.0.1:8402"
SHOWN_ROUNDS = 5  # the newest ones; all of them are in the course below

_PROMPTS = Path(__file__).with_name("prompts.json")


class DemoFailed(ArmwiseError):
    """The demo cannot go on; the message says what to do."""


class DemoSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What a demo did, and what was learned by its end."""

    models: tuple[str, ...]
    rounds: tuple[Round, ...]
    answered: int
    failed: int
    thumbs_up: int
    thumbs_down: int
    mean_quality: float
    cost_usd: float
    cells: tuple[Cell, ...]
    gains: Gains | None = None  # None: only of simulated models is known what they are worth
    gains_late: Gains | None = None  # of the second half of the rounds, when more was known


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What one call brought."""

    decision_id: str
    model: str
    quality: float | None
    cost_usd: float


@cache
def prompts() -> dict[TaskType, tuple[str, ...]]:
    """The demo's prompts by task type, English and Chinese; read once."""
    return msgspec.json.decode(_PROMPTS.read_bytes(), type=dict[TaskType, tuple[str, ...]])


async def run_demo(
    base_url: str,
    *,
    rounds: int = 3,
    seconds: float | None = None,
    feedback: bool = True,
    world: World = SIMULATED_WORLD,
    api_key: str | None = None,
    echo: Callable[[str], Any] = print,
) -> DemoSummary:
    """Send all prompts `rounds` times, give thumbs, and show the shares of the models as they move.

    With `seconds`, instead of rounds, as often as that time allows, one round at least begun. The result is told of
    the models of `world`. The key, if Armwise asks for one, must be allowed to chat, give feedback and read.

    Raises:
        DemoFailed: nothing answers there, it refuses what the demo does, or its models are real.
    """
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:
        demo = _Demo(session, base_url.rstrip("/"), echo, feedback=feedback)
        try:
            return await demo.run(rounds, seconds, world)
        except aiohttp.ClientConnectionError as error:
            message = f"Nothing answers at {base_url}. Start Armwise with `make run`, or give its address with --url."
            raise DemoFailed(message) from error
        except aiohttp.InvalidURL as error:
            message = f"{base_url} is no address of a service; expected one such as {USUAL_URL}."
            raise DemoFailed(message) from error
        except TimeoutError as error:
            raise DemoFailed(f"{base_url} did not answer within {TIMEOUT_S:g} s. Look at its log.") from error


async def demonstrate(
    url: str | None, *, own: bool, seconds: float, rounds: int | None, feedback: bool, api_key: str | None, quiet: bool
) -> DemoSummary:
    """The demo at `url`, else on what runs at the usual address, else, or with `own`, on a service of its own.

    Raises:
        DemoFailed: nothing answers there, it refuses what the demo does, or its models are real.
        NotStarted: its own service did not come up.
    """
    echo: Callable[[str], Any] = _silent if quiet else print
    given: dict[str, Any] = {"feedback": feedback, "api_key": api_key, "echo": echo}
    given |= {"seconds": seconds} if rounds is None else {"rounds": rounds}
    if url is None and not own and await answers(USUAL_URL):
        url = USUAL_URL
    async with contextlib.AsyncExitStack() as stack:
        if url is None:
            echo("A service with simulated models is started for the demo.")
            echo("They are made up so that each is best at some tasks; nobody tells the service at which.")
            url, given["world"] = await stack.enter_async_context(own_service()), own_world()
        echo(f"Watch it at {url}/dashboard, too.\n")
        return await run_demo(url, **given)


def _silent(text: str) -> None:
    """Say nothing."""


class _Demo:
    """One run."""

    def __init__(
        self, session: aiohttp.ClientSession, base_url: str, echo: Callable[[str], Any], *, feedback: bool
    ) -> None:
        self.session = session
        self.base_url = base_url
        self.echo = echo
        self.feedback = feedback
        self.run_id = secrets.token_hex(4)
        self.models: list[str] = []
        self.rounds: list[Round] = []
        self.failures: list[str] = []
        self.thumbs = {True: 0, False: 0}
        self.redrawn_lines = 0

    async def run(self, rounds: int, seconds: float | None, world: World) -> DemoSummary:
        """All rounds, then what was learned."""
        now = asyncio.get_running_loop().time
        ends = math.inf if seconds is None else now() + seconds
        cells = await self.posteriors()
        self.models = list(dict.fromkeys(cell.model for cell in cells))
        todo = [(task_type, prompt) for task_type, texts in prompts().items() for prompt in texts]
        for number in itertools.count(1) if seconds is not None else range(1, rounds + 1):
            self.rounds.append({})
            for batch in _batches(todo):
                calls = (self.one(number, task_type, prompt, position) for position, task_type, prompt in batch)
                for outcome in await asyncio.gather(*calls, return_exceptions=True):
                    if isinstance(outcome, BaseException):
                        raise outcome
                self.show(round_ended=False)
                if now() >= ends:
                    break
            if not self.rounds[-1]:
                raise DemoFailed(f"No call was answered. The last one failed so: {self.failures[-1]}")
            self.show(round_ended=True)
            if now() >= ends:
                break
        cells = known_best([await self.posteriors(tier) for tier in PROMPT_TIERS])
        tallies = [tally for found in self.rounds for tally in found.values()]
        qualities = [quality for tally in tallies for quality in tally.qualities]
        truth = truths(prompts(), world.models)
        summary = DemoSummary(
            models=tuple(self.models),
            rounds=tuple(self.rounds),
            answered=sum(tally.calls.total() for tally in tallies),
            failed=len(self.failures),
            thumbs_up=self.thumbs[True],
            thumbs_down=self.thumbs[False],
            mean_quality=sum(qualities) / len(qualities),
            cost_usd=sum(tally.cost_usd for tally in tallies),
            cells=cells,
            gains=gains_of(self.rounds, truth, world.cost_weight),
            gains_late=gains_of(self.rounds[len(self.rounds) // 2 :], truth, world.cost_weight),
        )
        self.conclude(summary)
        return summary

    async def one(self, number: int, task_type: TaskType, prompt: str, position: int) -> None:
        """One prompt: the call, its tally, its thumb."""
        answer = await self.ask(number, task_type, prompt, streamed=position % STREAMED_EVERY == STREAMED_EVERY - 1)
        if answer is None:
            return
        if answer.quality is None:
            raise DemoFailed(
                f"{answer.model} at {self.base_url} is no simulated model: prompts cost money there, and nobody knows "
                "how good its replies are. With --own the demo starts a service of its own."
            )
        tally = self.rounds[-1].setdefault(task_type, Tally())
        tally.calls[answer.model] += 1
        tally.cost_usd += answer.cost_usd
        if answer.model not in self.models:
            self.models.append(answer.model)
        tally.qualities.append(answer.quality)
        if self.feedback:
            await self.give_thumb(answer.decision_id, up=answer.quality >= GOOD)

    async def ask(self, number: int, task_type: TaskType, prompt: str, *, streamed: bool) -> Answer | None:
        """Send one chat call; None when no model answered it."""
        body = {
            "model": "auto",
            "messages": [{"role": "user", "content": prompt}],
            "seed": number,  # another round, another draw
            "stream": streamed,
            "simulate": {"task_type": task_type},
            # A user of its own for each round: nobody here asks the same again because the reply was bad.
            "router": {"user": f"demo-{self.run_id}-{number}"},
        }
        async with self.session.post(f"{self.base_url}/v1/chat/completions", json=body) as response:
            try:
                text = await response.text()
            except aiohttp.ClientPayloadError:
                text = ""  # cut off on its way
            if response.status != 200:
                self.note_failure(response.status, text)
                return None
            reply, broken = _last_of_stream(text) if streamed else _plain_reply(text)
            if broken is not None:
                self.note_failure(502, broken)
                return None
            simulated = reply.get("simulated", {})
            return Answer(
                decision_id=response.headers.get("x-armwise-decision-id") or reply["id"],
                model=response.headers.get("x-armwise-model") or reply["model"],
                quality=simulated.get("quality"),
                cost_usd=simulated.get("cost_usd") or float(response.headers.get("x-armwise-cost-usd", 0)),
            )

    async def give_thumb(self, decision_id: str, *, up: bool) -> None:
        """Post one thumb."""
        body = {"decision_id": decision_id, "value": up}
        async with self.session.post(f"{self.base_url}/feedback", json=body) as response:
            if response.status == 200:
                self.thumbs[up] += 1
            else:
                self.note_failure(response.status, await response.text())

    async def posteriors(self, tier: PromptTier = "medium") -> tuple[Cell, ...]:
        """What is known now of prompts of a tier."""
        async with self.session.get(f"{self.base_url}/v1/posteriors", params={"tier": tier}) as response:
            text = await response.text()
            if response.status != 200:
                self.note_failure(response.status, text)
                raise DemoFailed(f"{self.base_url} has no posteriors to show: {self.failures[-1]}")
            try:
                return msgspec.json.decode(text, type=Posteriors).cells
            except msgspec.DecodeError as error:
                message = (
                    f"What answers at {self.base_url} is not Armwise: its /v1/posteriors cannot be read ({error})."
                )
                raise DemoFailed(message) from error

    def note_failure(self, status: int, text: str) -> None:
        """Keep what went wrong, in words.

        Raises:
            DemoFailed: the key is missing or may not do this, so that nothing else would work either.
        """
        message = f"HTTP {status}: {_error_message(text)}"
        if status in {401, 403}:
            raise DemoFailed(f"{message} Set ARMWISE_API_KEY to a key that may chat, give feedback and read.")
        self.failures.append(message)

    def show(self, *, round_ended: bool) -> None:
        """The table so far: redrawn in place on a terminal, else written once a round."""
        live = self.echo is print and sys.stdout.isatty()
        if not live and not round_ended:
            return
        lines = [f"round {len(self.rounds)}", *shares_table(self.rounds, self.models, list(prompts()), SHOWN_ROUNDS)]
        lines = [cut(line, width()) for line in [*lines, "", *course_table(self.rounds, self.models), ""]]
        up = f"\x1b[{self.redrawn_lines}A\x1b[J" if live and self.redrawn_lines else ""
        self.echo(up + "\n".join(lines))
        self.redrawn_lines = len(lines)

    def conclude(self, summary: DemoSummary) -> None:
        """The last words."""
        lines = [
            *posteriors_table(summary.cells, summary.models),
            "",
            f"{summary.answered} replies, mean quality {summary.mean_quality:.3f}, ${summary.cost_usd:.4f}.",
        ]
        if self.feedback:
            lines.append(f"{summary.thumbs_up} thumbs up, {summary.thumbs_down} down.")
        if self.failures:
            lines.append(f"{summary.failed} calls failed; the last one so: {self.failures[-1]}")
        if summary.gains is not None:
            lines += ["", *told(summary.gains, summary.gains_late, drawn=self.echo is print and plots())]
        self.echo("\n".join(cut(line, width() if self.echo is print else None) for line in lines))


Batch = list[tuple[int, TaskType, str]]


def _batches(todo: list[tuple[TaskType, str]]) -> Iterator[Batch]:
    """The prompts, numbered, in groups that are sent at once; task types mixed, as in real traffic.

    The first one goes alone: when a real model answers it, no more money is spent.
    """
    numbered = [(position, *one) for position, one in enumerate(todo)]
    steps = -(-len(numbered) // AT_ONCE)
    yield numbered[:1]
    yield numbered[steps::steps]
    yield from (numbered[start::steps] for start in range(1, steps))


def _plain_reply(text: str) -> tuple[dict[str, Any], str | None]:
    """A plain reply; and what broke it, if anything did."""
    try:
        return msgspec.json.decode(text, type=dict[str, Any]), None
    except msgspec.DecodeError as error:
        return {}, f"the reply is no JSON object: {error}"


def _last_of_stream(text: str) -> tuple[dict[str, Any], str | None]:
    """Id, model and `simulated` of a stream, joined; and what broke it, if anything did."""
    joined: dict[str, Any] = {}
    *events, _ = text.replace("\r\n", "\n").split("\n\n")  # what follows the last mark is no whole event
    for event in events:
        payload = event.removeprefix("data:").strip()
        if not event.startswith("data:"):  # a comment that keeps the connection alive
            continue
        if payload == "[DONE]":
            return joined, None
        chunk = json.loads(payload)
        if "error" in chunk:
            return joined, str(chunk["error"].get("message", chunk["error"]))
        joined |= {name: chunk[name] for name in ("id", "model", "simulated") if name in chunk}
    return joined, "the stream ended before its [DONE]"


def _error_message(text: str) -> str:
    """The message of an OpenAI error body; the text itself, shortened, when it is none."""
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return text[:200]
