"""`armwise experiment report`: the verdict in a sentence, then the numbers behind it."""

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from service.cli.options import config_option, echo_json, json_option, migrated

if TYPE_CHECKING:
    from service.experiments.reporting import Told


@click.command("report")
@config_option
@click.argument("name")
@json_option
def experiment_report(config: Path | None, name: str, *, as_json: bool) -> None:
    """Say what the experiment NAME shows: what to do, then the variants, the differences and how they went."""
    from service.experiments.reporting import answer, course, table
    from service.terminal import show, width

    told = _told(config, name)
    if as_json:
        echo_json(answer(told))
        return
    show(table(told, width()))
    if lines := course(told.looks):
        show(["", "The interval at earlier looks:", *lines])


def _told(config: Path | None, name: str) -> "Told":
    """The report after what is due was counted: it does not need a running service."""
    from service.cli.main import read
    from service.experiments.lifecycle import current, named
    from service.experiments.measuring import close_due
    from service.experiments.reporting import tell
    from service.storage.database import Database

    url = migrated(read(config))

    async def run() -> "Told":
        database = Database(url, 1, command_timeout_s=None)
        try:
            now = time.time()
            await close_due(database, named(await database.read(current), name), now)
            return await tell(database, name, now)
        finally:
            await database.close()

    return asyncio.run(run())
