"""The command `armwise`. Each command imports only what it runs."""

import asyncio
import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from service.cli.classifier import classifier, classify
from service.cli.completion import completion
from service.cli.db import db
from service.cli.evaluate import evaluate, replay, report
from service.cli.experiment import experiment
from service.cli.experiment_report import experiment_report
from service.cli.imports import import_settings
from service.cli.options import Number, Words, config_option, echo_json, json_option, migrated
from service.cli.posterior import posterior
from service.cli.prior import prior
from service.cli.quiz import quiz
from service.cli.route import route
from service.errors import ArmwiseError, ConfigurationError, NotFound

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from service.auth import Scope
    from service.settings import Settings

T = TypeVar("T")


class Commands(click.Group):
    """Says what went wrong as sentences and ends with 1; a traceback is for faults of ours.

    Click itself ends with 2 for a wrong use, and with 1 and no traceback at Ctrl-C and when nobody reads on.
    """

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        if sys.stdout is None:  # closed by who started us
            sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - until the process ends
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show a character is no fault
        try:
            return super().invoke(ctx)
        except ConfigurationError as error:
            count = len(error.mistakes)
            click.echo(f"The settings have {count} mistake{'s' if count > 1 else ''}:", err=True)
            for mistake in error.mistakes:
                click.echo(f"  - {mistake}", err=True)
        except ArmwiseError as error:
            click.echo(f"armwise: {error}", err=True)
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            where = f"{error.filename}: " if error.filename else ""
            click.echo(f"armwise: {where}{error.strerror or error}", err=True)
        except Exception as error:
            from sqlalchemy.exc import DBAPIError

            if not isinstance(error, DBAPIError):
                raise
            found = next(iter(str(error.orig).splitlines()), type(error.orig).__name__)
            click.echo(f"armwise: The database failed: {found}. `armwise check` shows which one it is.", err=True)
        raise SystemExit(1)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="armwise")
def main() -> None:
    """Route OpenAI chat calls to the right model, and learn from feedback which that is."""


main.add_command(classify)
main.add_command(classifier)
main.add_command(prior)
main.add_command(quiz)
main.add_command(posterior)
main.add_command(evaluate)
experiment.add_command(experiment_report)
main.add_command(experiment)
main.add_command(replay)
main.add_command(report)
main.add_command(import_settings)
main.add_command(route)
main.add_command(completion)
main.add_command(db)


def read(config: Path | None) -> "Settings":
    """The settings."""
    from service.configuration import read_settings

    return read_settings(config, os.environ)


def with_database(config: Path | None, work: "Callable[[Connection], T]") -> T:
    """Do `work` in one transaction on the configured, migrated database."""
    from service.storage.database import Database

    settings = read(config)
    url = migrated(settings)

    async def run() -> T:
        database = Database(url, settings.database.pool_size)
        try:
            return await database.write(work)
        finally:
            await database.close()

    return asyncio.run(run())


@main.command()
@config_option
@click.option("--host", help="Address to listen on. Default: server.host, 127.0.0.1.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on. Default: server.port, 8402.")
@click.option("--workers", type=click.IntRange(1), help="Worker processes. Default: server.workers, 1.")
def serve(config: Path | None, host: str | None, port: int | None, workers: int | None) -> None:
    """Migrate the database and serve. Ctrl-C stops it, when the requests under way are answered."""
    from service.configuration import settings_file
    from service.serving import serve as run

    config = settings_file(config)  # the same one at every reload: without it the defaults would serve
    with contextlib.suppress(KeyboardInterrupt):
        run(read(config), config, host=host, port=port, workers=workers)


@main.command()
@config_option
@json_option
def check(config: Path | None, *, as_json: bool) -> None:
    """Read the settings; print what was understood, or every mistake at once."""
    from service.configuration import describe, presentable
    from service.terminal import show

    settings = read(config)
    if as_json:
        echo_json(presentable(settings))
    else:
        show(describe(settings).split("\n"))


@main.command()
@click.option(
    "--url",
    help="Where Armwise runs. Default: http://127.0.0.1:8402; when nothing runs there, one is started for the demo.",
)
@click.option("--own", is_flag=True, help="Start one for the demo, whatever runs.")
@click.option("--seconds", default=60.0, show_default=True, type=Number(0.0, min_open=True), help="How long it takes.")
@click.option("--rounds", type=click.IntRange(1), help="Instead of --seconds: how often all prompts are sent.")
@click.option("--feedback/--no-feedback", default=True, show_default=True, help="Post thumbs on the replies.")
@json_option
def demo(url: str | None, **given: Any) -> None:
    """Send prompts of every task type, watch the shares move, and say what routing gained.

    The demo's own service has simulated models and a database that is thrown away.
    """
    from service.demo.demo import demonstrate

    if url and given["own"]:
        raise click.UsageError("Give --url or --own, one of both.")
    key, as_json = os.environ.get("ARMWISE_API_KEY"), given.pop("as_json")
    summary = asyncio.run(demonstrate(url, **given, api_key=key, quiet=as_json))
    if as_json:
        echo_json(summary)


@main.command()
@config_option
@click.argument("decision_id")
def explain(config: Path | None, decision_id: str) -> None:
    """Tell one decision step by step as JSON, and derive the choice again."""
    from service.evaluation.explain import explain as told

    echo_json(with_database(config, lambda connection: told(connection, decision_id)))


@main.command()
@config_option
def migrate(config: Path | None) -> None:
    """Bring the database to the newest schema. `armwise serve` does this by itself."""
    with_database(config, lambda _: None)
    click.echo("The database has the newest schema.")


@main.command()
@config_option
def rebuild(config: Path | None) -> None:
    """Fold all rewards again into the posterior cells, and the log into its sums by hour; say what differed."""
    import time
    from functools import partial

    from service.cli.options import look
    from service.learning import calibrations, raters
    from service.storage import store
    from service.traffic import sums, sums_of_log

    settings = read(config)
    wrong, pairs = look(settings, store.compare_fold), look(settings, calibrations.missing)
    opinions = look(settings, raters.missing)
    kept_from = time.time() - 86_400.0 * settings.retention.decisions_days
    counted = look(settings, partial(sums_of_log.missing, since=kept_from))
    of_days = look(settings, sums_of_log.missing_of_days)

    def correct(connection: "Connection") -> None:
        store.correct_cells(connection, wrong, time.time())
        calibrations.add(connection, pairs, time.time())
        raters.add(connection, opinions)
        sums.add(connection, counted)
        sums.add_to_days(connection, of_days)

    with_database(config, correct)
    click.echo(f"Rebuilt. {len(wrong)} cells had differed from the rewards.")
    if pairs:
        click.echo(f"{len(pairs)} calibrations had differed, too.")
    if opinions:
        click.echo(f"{len(opinions)} sums of what users say had differed, too.")
    if counted:
        click.echo(f"{len(counted)} sums of an hour's traffic had differed, too.")
    if of_days:
        click.echo(f"{len(of_days)} sums of a day's traffic had differed from its hours', too.")


@main.group()
def key() -> None:
    """Make, list and revoke API keys."""


@key.command("create")
@config_option
@click.option("--name", required=True, type=Words(1, 128), help="What the key is for.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(["chat", "feedback", "read", "admin"]),
    help="What it may do; give several. Default: chat and feedback.",
)
@json_option
def create_key(config: Path | None, name: str, scopes: "tuple[Scope, ...]", *, as_json: bool) -> None:
    """Make a key. Its secret is printed once and kept only as a digest."""
    import time

    from service.auth import key_row, new_key, new_secret
    from service.storage import store

    secret = new_secret()
    made = new_key(secret, name, scopes or ("chat", "feedback"), time.time())
    with_database(config, lambda connection: store.insert_key(connection, key_row(made)))
    if as_json:
        echo_json({"id": made.id, "name": name, "scopes": sorted(made.scopes), "secret": secret})
        return
    click.echo(f"Key {made.id} ({name}: {', '.join(sorted(made.scopes))}). Shown once, keep it:", err=True)
    click.echo(secret)


@key.command("list")
@config_option
@json_option
def list_keys(config: Path | None, *, as_json: bool) -> None:
    """List the keys, without secrets."""
    import time

    from service.auth import key_from_row
    from service.storage import store
    from service.terminal import show, table

    keys = [key_from_row(row) for row in with_database(config, store.list_keys)]
    rows = [
        {
            "id": key.id,
            "state": "revoked" if key.revoked_at else "active",
            "created": time.strftime("%Y-%m-%d", time.gmtime(key.created_at)),
            "scopes": sorted(key.scopes),
            "name": key.name,
        }
        for key in keys
    ]
    if as_json:
        echo_json(rows)
        return
    show(table([(*map(str, row.values()),) for row in ({**row, "scopes": ",".join(row["scopes"])} for row in rows)]))
    if not keys:
        click.echo("There is no key: the service answers loopback clients only.")


@key.command("revoke")
@config_option
@click.argument("key_id")
def revoke_key(config: Path | None, key_id: str) -> None:
    """End a key. Running services refuse it within a second."""
    import time

    from service.storage import store

    if not with_database(config, lambda connection: store.revoke_key(connection, key_id, time.time())):
        raise NotFound(f"No active key has the id {key_id}. `armwise key list` shows them.")
    click.echo(f"Key {key_id} is revoked.")
