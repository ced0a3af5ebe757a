"""`armwise route`: which model a prompt would get, and why, without calling any."""

import asyncio
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from service.cli.options import config_option, echo_json, json_option, look
from service.errors import ArmwiseError
from service.terminal import interval_bar, plots, show, table

_TIMEOUT_S = 30.0


class NotRouted(ArmwiseError):
    """The service at --url did not say; the message has its answer."""


@click.command()
@click.argument("prompt")
@config_option
@click.option("--url", help="Ask the service that runs there; its key is read from ARMWISE_API_KEY.")
@click.option("--model", default="auto", show_default=True, help="auto, or auto:POLICY.")
@click.option("--user", help="Whose request it is: users keep to their side of an experiment.")
@click.option("--sensitive", is_flag=True, help="Only local models may see it.")
@json_option
def route(prompt: str, config: Path | None, url: str | None, *, as_json: bool, **given: Any) -> None:
    """Say which model would answer PROMPT, and why. No model is called and nothing is stored.

    Without --url it is decided here, on the settings and what the database holds; experiments and the price of a
    budget's money are then left out: a running service knows them. PROMPT - is read from standard input.
    """
    wishes = {"user": given["user"], "sensitive": given["sensitive"] or None}
    chat = {
        "model": given["model"],
        "messages": [{"role": "user", "content": readable(sys.stdin.buffer.read() if prompt == "-" else prompt)}],
        "router": {name: value for name, value in wishes.items() if value is not None},
    }
    found = asyncio.run(_asked(url, chat)) if url else _decided(config, chat)
    if as_json:
        echo_json(found)
    else:
        show(told(found))


def readable(said: str | bytes) -> str:
    r"""The text of an argument or of standard input, which is UTF-8 also where the locale says otherwise.

    >>> readable("\udce4\udcbd\udca0"), readable(b"a")
    ('你', 'a')
    """
    return os.fsencode(said).decode("utf-8", errors="replace")


async def _asked(url: str, chat: Mapping[str, Any]) -> dict[str, Any]:
    """What the service says."""
    import aiohttp
    import msgspec

    key = os.environ.get("ARMWISE_API_KEY")
    headers = {"authorization": f"Bearer {key}"} if key else {}
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(headers=headers, timeout=timeout) as session,
            session.post(f"{url.rstrip('/')}/v1/route", json=chat) as response,
        ):
            body = await response.read()
            if response.status == 200:
                return msgspec.json.decode(body, type=dict[str, Any])
            try:
                said = str(msgspec.json.decode(body)["error"]["message"])
            except (msgspec.DecodeError, KeyError, TypeError):
                said = "what answers there is not Armwise"
            raise NotRouted(f"{url} answered with HTTP {response.status}: {said}")
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise NotRouted(f"Nothing answers at {url} ({type(error).__name__}). Is Armwise running there?") from error


def _decided(config: Path | None, chat: Mapping[str, Any]) -> dict[str, Any]:
    """What is decided here."""
    import msgspec

    from bandit.costs import expected_cost
    from service.api.chat import routing_of
    from service.classifiers.classifying import Classifying
    from service.classifiers.models import plan_of
    from service.configuration import read_settings
    from service.decide import Circumstances, decide, wanted_policy
    from service.learning.control_actions import knowledge_of
    from service.metrics.catalogue import Metrics
    from service.profiles import text_to_classify
    from service.setup import create_setup
    from service.wire import Wishes, decode_request

    setup, now = create_setup(read_settings(config, os.environ)), time.time()
    request, _ = decode_request(msgspec.json.encode(chat))
    wanted_policy(setup, request.model, request.router or Wishes())  # a wrong name is refused before any work
    knowledge = look(setup.settings, lambda connection: knowledge_of(connection, setup, now))
    settings = setup.settings.classifier

    async def classified() -> Any:
        classifying = Classifying(Metrics())
        try:
            classifying.take_over(plan_of(settings))
            while classifying.loading:  # noqa: ASYNC110 - a service answers with the small one meanwhile, and goes on
                await asyncio.sleep(0.02)
            return await classifying.classify(text_to_classify(request, settings), settings)
        finally:
            await classifying.close()

    off = knowledge.controls.off is not None
    decision = decide(setup, knowledge, request, asyncio.run(classified()), Circumstances(now=now, off=off))
    costs = {arm.name: expected_cost(arm, decision.profile) for arm in setup.arms if arm.name in decision.choice.arms}
    answer = {**routing_of(decision), "expected_cost_usd": costs, "prompt_tokens": decision.profile.prompt_tokens}
    del answer["decision_id"]
    return answer


def told(found: Mapping[str, Any]) -> Iterator[str]:
    """A decision that was not made, in words."""
    why = f": {found['reason']}" if found["reason"] else ""
    yield f"{found['model']}, drawn with probability {found['propensity']:.3f} by {found['policy']}{why}"
    yield (
        f"task type {found['task_type']}, {found['tier']} (complexity {found['complexity_score']:.2f}, "
        f"by {found['classifier']}); about {found['prompt_tokens']:,} tokens"
    )
    if found["experiment"]:
        yield f"in the experiment {found['experiment']}, on the side {found['variant']}"
    yield ""
    likely = sorted(found["eligible"].items(), key=lambda pair: -pair[1])
    rows = [("model", "probability", "expected USD", *([""] if plots() else []))]
    for name, chance in likely:
        cost = found["expected_cost_usd"].get(name)
        bar = [interval_bar(0.0, chance, chance)] if plots() else []
        rows.append((name, f"{chance:.3f}", "-" if cost is None else f"{cost:.6f}", *bar))
    yield from table(rows, right=(1, 2))
    for name, reason in found["excluded"].items():
        yield f"not {name}: {reason}"
    if len(found["plan"]) > 1:
        yield f"When it fails: {', '.join(found['plan'][1:])}."
