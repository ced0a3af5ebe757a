"""The database behind everything: connections for writing and reading, and migrations.

Work is a plain function of a SQLAlchemy `Connection`, run in one transaction: `await database.write(work)`. On
Postgres its statements are awaited one by one. On SQLite every awaited statement would cost several hops to the
driver's thread (measured: 0.6 ms of CPU for one insert instead of 0.2 ms), so there the whole function makes one hop.
Reading never runs in the caller's thread: twenty thousand rows of Postgres would hold its event loop for 150 ms.
"""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import URL, Connection, StaticPool, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

import service
from service.errors import ConfigurationError, StorageUnavailable, UnknownSchema

Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")
Work = Callable[[Connection], Result]

_PRAGMAS = ("busy_timeout=5000", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON")
_MIGRATION_LOCK = 7_283_046  # any number, the same in every process: Postgres locks by number
_CONNECT_TIMEOUT_S = 5.0
_JOB_FAULTS = ("22", "23", "42")  # SQLSTATE classes: a value, a constraint, a statement is wrong
_ROLLED_BACK = "40"  # SQLSTATE class: deadlock, serialisation


def driver_url(url: str) -> URL:
    """The URL with the driver we use: aiosqlite or asyncpg.

    Raises:
        ConfigurationError: not the URL of a SQLite file or a Postgres database.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ConfigurationError(
            ["database.url cannot be read as a URL; expected sqlite:///PATH or postgresql://USER@HOST/NAME"]
        ) from None
    match parsed.get_backend_name():
        case "sqlite" if parsed.database and parsed.database != ":memory:":
            return parsed.set(drivername="sqlite+aiosqlite")
        case "postgresql" | "postgres":
            query = dict(parsed.query)
            if "sslmode" in query:
                query["ssl"] = query.pop("sslmode")
            return parsed.set(drivername="postgresql+asyncpg", query=query)
    expected = "expected sqlite:///PATH (a file, not memory) or postgresql://USER@HOST/NAME"
    raise ConfigurationError([f"database.url is {_shown(parsed)!r}; {expected}"])


def _shown(url: URL) -> str:
    """The URL for messages: without password and driver, and of its options only the host."""
    host = {key: value for key, value in url.query.items() if key == "host"}
    return url.set(drivername=url.get_backend_name(), query=host).render_as_string()


def is_storage_fault(error: BaseException) -> bool:
    """True when the database is to blame (gone, full, locked, read-only), false when what was asked of it is."""
    if isinstance(error, DBAPIError):
        sqlstate = getattr(error.orig, "sqlstate", None)
        if sqlstate is not None:
            return not str(sqlstate).startswith((*_JOB_FAULTS, _ROLLED_BACK))
        return error.connection_invalidated or isinstance(error, OperationalError)
    return isinstance(error, OSError | TimeoutError | StorageUnavailable)


def is_conflict(error: BaseException) -> bool:
    """True when another process wrote at the same moment, so that the same transaction may succeed on another try."""
    if isinstance(error, IntegrityError):
        return True
    return isinstance(error, DBAPIError) and str(getattr(error.orig, "sqlstate", "")).startswith(_ROLLED_BACK)


class Database:
    """One database: one connection for writing, `pool_size` for reading. Nothing connects before it is used.

    A statement that Postgres does not answer within `command_timeout_s` fails; None: waits for ever.
    """

    def __init__(self, url: str, pool_size: int = 4, *, command_timeout_s: float | None = 10.0) -> None:
        self._url = driver_url(url)
        self.dialect = self._url.get_backend_name()
        if self.dialect == "sqlite":
            _open_once(self._url)
            self._writing = _sqlite_engine(self._url, 1, _PRAGMAS)
            self._reading = _sqlite_engine(self._url, pool_size, (*_PRAGMAS, "query_only=ON"))
        else:
            self._writing = _postgres_engine(self._url, 1, command_timeout_s, check=False)  # its caller tries again
            self._reading = _postgres_engine(self._url, pool_size, command_timeout_s, check=True)
        self._aside: _Aside | None = None
        self._kept: AsyncConnection | None = None
        self._opening = asyncio.Lock()

    @cached_property
    def name(self) -> str:
        """The URL without its password, for messages."""
        return _shown(self._url)

    async def write(self, work: Work[Result]) -> Result:
        """Run `work` in one transaction and commit it; roll back when it raises.

        Raises:
            StorageUnavailable: the database cannot be reached.
        """
        if self.dialect == "sqlite":
            return await self._write_kept(work)
        return await self._run(self._writing, work)

    async def _write_kept(self, work: Work[Result]) -> Result:
        """Write on one connection that stays open: to take it from the pool costs as much as a small insert."""
        async with self._opening:
            if self._kept is None:
                self._kept = await _open(self._writing, self.name)
            connection = self._kept
        try:
            return await _in_one_hop(connection, work, "BEGIN IMMEDIATE")
        finally:
            if connection.invalidated and self._kept is connection:
                self._kept = None
                await connection.close()

    async def read(
        self,
        work: Callable[Concatenate[Connection, Arguments], Result],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result:
        """Run `work`, which only reads, on one consistent view of the database.

        Raises:
            StorageUnavailable: the database cannot be reached.
        """
        reading = self._run(self._reading, lambda connection: work(connection, *args, **kwargs))
        if self.dialect == "sqlite":
            return await reading
        if self._aside is None:
            self._aside = _Aside()
        return await self._aside.run(reading)

    async def close(self) -> None:
        """Close all connections."""
        if self._kept is not None:
            await self._kept.close()
            self._kept = None
        await self._writing.dispose()
        if self._aside is None:
            await self._reading.dispose()
        else:
            aside, self._aside = self._aside, None
            await aside.end(self._reading.dispose())

    async def _run(self, engine: AsyncEngine, work: Work[Result]) -> Result:
        async with _connected(engine, self.name) as connection:
            if self.dialect == "sqlite":
                return await _in_one_hop(connection, work, "BEGIN")
            if engine is self._reading:
                await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            try:
                async with connection.begin():
                    return await connection.run_sync(work)
            except DBAPIError as error:
                error.args = tuple(str(part).partition("\n")[0] for part in error.args)  # below: the row, with its data
                raise error from None


class _Aside:
    """An event loop in a thread of its own, where what would hold the caller's is run."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="armwise-reading", daemon=True)
        self._thread.start()

    async def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run `work` there and wait for it; when the caller is cancelled, `work` is."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    async def end(self, last: Coroutine[Any, Any, None]) -> None:
        """Cancel what still runs, run `last`, and end the thread."""
        await self.run(_cancel_others())
        await self.run(last)
        self._loop.call_soon_threadsafe(self._loop.stop)
        await asyncio.to_thread(self._thread.join)
        self._loop.close()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


@asynccontextmanager
async def _connected(engine: AsyncEngine, name: str) -> AsyncGenerator[AsyncConnection, None]:
    connection = await _open(engine, name)
    try:
        yield connection
    finally:
        await connection.close()


async def _open(engine: AsyncEngine, name: str) -> AsyncConnection:
    connection = engine.connect()
    try:
        await connection.start()
    except (DBAPIError, OSError, TimeoutError) as error:
        found = error.orig if isinstance(error, DBAPIError) else error
        reason = str(found).strip().splitlines()[0] if str(found).strip() else type(found).__name__
        todo = "Start it, or correct database.url."
        if name.startswith("sqlite"):
            todo = "Expected an SQLite file in a folder, both of which can be written; correct database.url."
        raise StorageUnavailable(f"The database {name} cannot be reached ({reason}). {todo}") from None
    return connection


def _sqlite_engine(url: URL, pool_size: int, pragmas: tuple[str, ...]) -> AsyncEngine:
    engine = create_async_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        hide_parameters=True,  # an error's text must not show anybody's data
        pool_reset_on_return=None,  # our one hop has ended its transaction itself
        connect_args={"isolation_level": None},
    )

    @event.listens_for(engine.sync_engine, "connect")
    def set_up(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        for pragma in pragmas:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    return engine


def _postgres_engine(url: URL, pool_size: int, command_timeout_s: float | None, *, check: bool) -> AsyncEngine:
    try:
        engine = create_async_engine(
            url,
            pool_size=pool_size,
            max_overflow=0,
            hide_parameters=True,
            pool_pre_ping=check,
            connect_args={
                "timeout": _CONNECT_TIMEOUT_S,
                "command_timeout": command_timeout_s,
                # A plan made while a table was empty is kept otherwise, and scans it when it no longer is.
                "server_settings": {"plan_cache_mode": "force_custom_plan"},
            },
        )
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        raise ConfigurationError(
            [f"database.url needs a driver that is not installed ({error}); run: pip install 'armwise[postgres]'"]
        ) from None

    @event.listens_for(engine.sync_engine, "before_cursor_execute", retval=True)
    def without_nul(*told: Any) -> tuple[str, Any]:
        _, _, statement, values, _, many = told
        return statement, [_without_nul(row) for row in values] if many else _without_nul(values)

    return engine


def _without_nul(values: Any) -> Any:
    """A statement's values without the one character that Postgres does not take: no request fails for it."""
    if any(type(value) is str and "\0" in value for value in values):
        return tuple(value.replace("\0", "\ufffd") if isinstance(value, str) else value for value in values)
    return values


async def _in_one_hop(connection: AsyncConnection, work: Work[Result], begin: str) -> Result:
    """Run `work` in the thread of aiosqlite's connection, on a plain SQLAlchemy connection over the same handle.

    aiosqlite offers no public way to run a function in its thread; its two names used here are pinned by version.
    """
    pooled = connection.sync_connection.connection if connection.sync_connection is not None else None
    if pooled is None:
        raise StorageUnavailable("The connection to the database was closed.")
    driver: Any = pooled.driver_connection
    shared: dict[Any, Any] = pooled.info

    def run() -> Result:
        handle: sqlite3.Connection = driver._conn  # noqa: SLF001
        if "twin" not in shared:
            engine = create_engine(
                "sqlite://",
                creator=lambda: handle,
                poolclass=StaticPool,
                pool_reset_on_return=None,
                hide_parameters=True,
            )
            shared["twin"] = engine.connect()
            shared["twin"].begin()  # for SQLAlchemy one endless transaction: we begin and end the real ones here
        handle.execute(begin)
        try:
            result = work(shared["twin"])
            handle.execute("COMMIT")
        except BaseException:
            if handle.in_transaction:
                handle.execute("ROLLBACK")
            raise
        return result

    hop: asyncio.Future[Result] = asyncio.ensure_future(driver._execute(run))  # noqa: SLF001
    try:
        return await asyncio.shield(hop)
    except asyncio.CancelledError:
        # The thread goes on; only when it is done may the connection be given back.
        await asyncio.wait([hop])
        raise
    except sqlite3.Error as error:
        await connection.invalidate()
        raise OperationalError(None, None, error, hide_parameters=True) from error
    except OperationalError:
        await connection.invalidate()  # the file may have been moved or its disk may have failed: open it anew
        raise


def _open_once(url: URL) -> None:
    """Make the folder and see that the file can be opened, before anything depends on it."""
    path = Path(str(url.database))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sqlite3.connect(path).close()
    except (OSError, sqlite3.Error) as error:
        expected = "expected a file in a folder that can be written"
        raise ConfigurationError([f"database.url is {path}, which cannot be opened ({error}); {expected}"]) from None


def migrate(url: str) -> None:
    """Bring the database to the newest schema; create it when it is empty. Safe when several processes start at once.

    Synchronous and with its own event loop: call it before serving.

    Raises:
        ConfigurationError: wrong URL, or a folder that cannot be written.
        StorageUnavailable: the server cannot be reached.
        UnknownSchema: a newer version of Armwise has migrated it.
    """
    _with_alembic(url, lambda config: command.upgrade(config, "head"))


def downgrade(url: str, revision: str) -> None:
    """Take the schema back to `revision`; "base" removes everything."""
    _with_alembic(url, lambda config: command.downgrade(config, revision))


def migrations_folder() -> Path:
    """Where the migrations are: in the installed package, or in the repository beside it."""
    package = Path(service.__file__).parent
    inside = package / "migrations"
    return inside if inside.is_dir() else package.parent / "migrations"


def _with_alembic(url: str, step: Callable[[Config], None]) -> None:
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))

    def work(connection: Connection) -> None:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _MIGRATION_LOCK})
        config.attributes["connection"] = connection
        step(config)

    async def run() -> None:
        database = Database(url, 1, command_timeout_s=None)
        try:
            await database.write(work)
        except CommandError as error:
            raise UnknownSchema(
                f"The schema of {database.name} is none that this version of Armwise knows ({error}): a newer version "
                "has migrated it. Start that one, or go back to a copy from before."
            ) from None
        except DBAPIError as error:
            if not is_storage_fault(error):
                raise
            raise StorageUnavailable(
                f"The schema of {database.name} cannot be brought up to date: {error.orig}. Expected a database that "
                "can be written; check its rights and free space."
            ) from None
        finally:
            await database.close()

    asyncio.run(run())
