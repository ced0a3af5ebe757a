"""What several commands share: options, and a look at the configured database."""

import asyncio
import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from service.terminal import encodable

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from service.settings import Settings

T = TypeVar("T")

_UNITS_S = {"m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}

config_option = click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="The settings file. Default: armwise.toml in this folder; without one, three simulated models.",
)


class Words(click.ParamType[str]):
    """Text of so many characters in one line, as the database takes it."""

    name = "text"

    def __init__(self, least: int, most: int) -> None:
        self._least, self._most = least, most

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text as it is."""
        if not self._least <= len(value) <= self._most or not value.isprintable():
            expected = f"{self._least} to {self._most:,} characters in one line"
            self.fail(f"found {len(value):,} characters; expected {expected}.", param, ctx)
        return value


class Number(click.FloatRange):
    """A number in a range: Click takes "nan" for one in every range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value!r} is no number.", param, ctx)
        return number


note_option = click.option("--note", default="", type=Words(0, 1_000), help="Why; kept in the audit log.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for a program to read.")


def echo_json(value: Any) -> None:
    """Print a value as JSON that people can read, too."""
    import msgspec

    text = msgspec.json.format(msgspec.json.encode(value)).decode()
    click.echo(text if encodable(text) else json.dumps(json.loads(text), indent=2))


def seconds(_ctx: click.Context, _param: click.Parameter, value: str | None) -> float | None:
    """How long ago, written like `7d`, `12h`; None where nothing is said."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([mhdw])", value)
    if not found:
        raise click.BadParameter(f"{value!r} is no time: expected a number with m, h, d or w, such as 7d.")
    return float(found[1]) * _UNITS_S[found[2]]


def migrated(settings: "Settings") -> str:
    """The URL of the configured database, which has the newest schema; says so where it had to be made.

    A folder without one is more often the wrong folder than a new beginning.
    """
    from sqlalchemy import make_url

    from service.setup import database_url
    from service.storage.database import migrate

    url = database_url(settings.database, os.environ)
    file = Path(str(make_url(url).database)) if url.startswith("sqlite") else None
    new = file is not None and not file.exists()
    migrate(url)
    if new:
        click.echo(f"There was no database at {file}: a new, empty one was made.", err=True)
    return url


def look(settings: "Settings", work: "Callable[[Connection], T]") -> T:
    """Do `work`, which only reads and may take long, on one view of the configured, migrated database.

    A service may write meanwhile.
    """
    from service.storage.database import Database

    url = migrated(settings)

    async def run() -> T:
        database = Database(url, 1, command_timeout_s=None)
        try:
            return await database.read(work)
        finally:
            await database.close()

    return asyncio.run(run())
