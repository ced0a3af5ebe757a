"""`armwise db`: check the database, its size, what is past its retention, a copy of it while it serves."""

import asyncio
import os
import sqlite3
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from service.cli.options import config_option, echo_json, json_option, look, migrated
from service.errors import ArmwiseError
from service.terminal import show, table

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from service.settings import Settings

_PAGES = 1_000  # copied at once; others write between
_PAUSE_S = 0.01


class Damaged(ArmwiseError):
    """The database does not hold what it should; the message says what differs."""


@click.group()
def db() -> None:
    """Look after the database: check, size, prune, backup, migrate."""


@db.command()
@config_option
@json_option
def check(config: Path | None, *, as_json: bool) -> None:
    """Check that the file is whole and that what was learned follows from the rewards. Exit status 1 where not."""
    from service.storage.store import compare_fold

    settings = _settings(config)
    faults = look(settings, _faults)
    cells = look(settings, compare_fold) if not faults else []
    if as_json:
        echo_json({"faults": faults, "cells_that_differ": len(cells)})
    else:
        show(faults)
        click.echo("The database is whole." if not faults else f"{len(faults)} faults.")
    if faults:
        raise Damaged("The database is damaged: stop the service and go back to a backup (docs/cli.md).")
    if cells:
        raise Damaged(f"{len(cells)} posterior cells differ from the rewards. `armwise rebuild` folds them again.")


@db.command()
@config_option
@json_option
def size(config: Path | None, *, as_json: bool) -> None:
    """Say how many rows each table has and how much room all of it takes."""
    found = look(_settings(config), _size)
    if as_json:
        echo_json(found)
        return
    rows = [("table", "rows"), *((name, f"{count:,}") for name, count in found["rows"].items())]
    show(table(rows, right=(1,)))
    click.echo(f"{found['bytes'] / 1e6:,.1f} MB")


@db.command()
@config_option
@json_option
def prune(config: Path | None, *, as_json: bool) -> None:
    """Drop what is past its retention now; a running service does it each hour. What was learned stays."""
    dropped = asyncio.run(_prune(_settings(config), time.time()))
    if as_json:
        echo_json(dropped)
    else:
        click.echo(", ".join(f"{count:,} {what}" for what, count in dropped.items()) + " dropped.")


@db.command()
@config_option
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def backup(config: Path | None, file: Path) -> None:
    """Copy the SQLite database to FILE while the service runs: the copy is of one moment, and checked."""
    from sqlalchemy import make_url

    from service.setup import database_url

    url = make_url(database_url(_settings(config).database, os.environ))
    if url.get_backend_name() != "sqlite":
        raise ArmwiseError("`armwise db backup` is for SQLite. For Postgres take pg_dump (docs/postgres.md).")
    source = Path(str(url.database))
    if not source.exists():
        raise ArmwiseError(f"{source}: there is no database yet. `armwise migrate` or `armwise serve` makes it.")
    if file.exists():
        raise ArmwiseError(f"{file} is there already. Give the name of a new file.")
    _copy(source, file)
    click.echo(f"{file} holds the database ({file.stat().st_size / 1e6:,.1f} MB), checked.")


@db.command("migrate")
@config_option
def migrate_schema(config: Path | None) -> None:
    """Bring the database to the newest schema, as `armwise migrate` does."""
    look(_settings(config), lambda _: None)
    click.echo("The database has the newest schema.")


def _settings(config: Path | None) -> "Settings":
    from service.configuration import read_settings

    return read_settings(config, os.environ)


def _faults(connection: "Connection") -> list[str]:
    """What SQLite finds wrong in its file; Postgres checks its pages by itself."""
    if connection.dialect.name != "sqlite":
        return []
    found = [str(row[0]) for row in connection.exec_driver_sql("PRAGMA integrity_check")]
    orphans = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
    lost = [f"{row[0]}: row {row[1]} belongs to nothing in {row[2]}" for row in orphans]
    return [*(one for one in found if one != "ok"), *lost]


def _size(connection: "Connection") -> dict[str, Any]:
    from sqlalchemy import func, select

    from service.storage.tables import metadata

    rows = {
        name: int(connection.execute(select(func.count()).select_from(found)).scalar_one())
        for name, found in sorted(metadata.tables.items())
    }
    if connection.dialect.name == "sqlite":
        pages, page = (
            int(connection.exec_driver_sql(f"PRAGMA {word}").scalar_one()) for word in ("page_count", "page_size")
        )
        return {"rows": rows, "bytes": pages * page}
    room = connection.exec_driver_sql("SELECT pg_database_size(current_database())").scalar_one()
    return {"rows": rows, "bytes": int(room)}


async def _prune(settings: "Settings", now: float) -> dict[str, int]:
    """As the service does each hour."""
    from service.storage import retention
    from service.storage.database import Database

    url = await asyncio.to_thread(migrated, settings)
    steps = retention.steps(settings.retention, now)
    dropped = dict.fromkeys(steps, 0)
    database = Database(url, 1)
    try:
        for what, step in steps.items():
            while count := await database.write(step):
                dropped[what] += count
    finally:
        await database.close()
    return dropped


def _copy(source: Path, file: Path) -> None:
    """Copy page by page under a name of its own, check it, then give it its name: never half of a backup."""
    part = file.with_name(f"{file.name}.part")
    part.unlink(missing_ok=True)
    try:
        reading, writing = sqlite3.connect(f"{source.resolve().as_uri()}?mode=ro", uri=True), sqlite3.connect(part)
        try:
            with click.progressbar(length=1, label="Copying", file=sys.stderr) as bar:

                def note(_status: int, remaining: int, total: int) -> None:
                    bar.length = total
                    bar.update(total - remaining - bar.pos)

                reading.backup(writing, pages=_PAGES, progress=note, sleep=_PAUSE_S)
            writing.execute("PRAGMA journal_mode=DELETE")  # one file, nothing beside it
            found = writing.execute("PRAGMA integrity_check").fetchone()[0]
        finally:
            reading.close()
            writing.close()
        if found != "ok":
            raise Damaged(f"The copy is damaged, and so is {source}: {found}. `armwise db check` tells more.")
        part.replace(file)
    except sqlite3.Error as error:
        raise Damaged(
            f"{source} cannot be copied to {file}: {error}. Is that in a folder that can be written?"
        ) from error
    finally:
        part.unlink(missing_ok=True)
