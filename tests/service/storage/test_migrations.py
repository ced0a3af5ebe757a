import asyncio
import multiprocessing

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text

from service.errors import ConfigurationError, StorageUnavailable
from service.storage.database import Database, downgrade, migrate
from service.storage.tables import metadata

FIRST_TABLES = (
    "alembic_version", "attempts", "beliefs", "cells", "configs", "decisions", "keys", "rewards",
)  # fmt: skip


def inside(url, work, *, write=False):
    async def run():
        database = Database(url, 1)
        try:
            return await (database.write(work) if write else database.read(work))
        finally:
            await database.close()

    return asyncio.run(run())


def differences(connection):
    return compare_metadata(MigrationContext.configure(connection), metadata)


def test_an_empty_database_gets_exactly_our_tables(empty_url):
    migrate(empty_url)
    assert inside(empty_url, differences) == []
    names = set(inside(empty_url, lambda connection: inspect(connection).get_table_names()))
    assert names == {*metadata.tables, "alembic_version"}


def test_migrating_again_changes_nothing(empty_url):
    migrate(empty_url)
    statement = text("INSERT INTO configs (version, content, created_at) VALUES ('v', 'kept', 1)")
    inside(empty_url, lambda connection: connection.execute(statement) and None, write=True)
    migrate(empty_url)
    assert inside(empty_url, lambda connection: connection.scalar(text("SELECT content FROM configs"))) == "kept"


def test_down_with_data_in_place_and_up_again(empty_url):
    migrate(empty_url)
    statement = text("INSERT INTO configs (version, content, created_at) VALUES ('v', 'gone', 1)")
    inside(empty_url, lambda connection: connection.execute(statement) and None, write=True)
    downgrade(empty_url, "base")
    names = inside(empty_url, lambda connection: inspect(connection).get_table_names())
    assert names == ["alembic_version"]
    migrate(empty_url)
    assert inside(empty_url, differences) == []
    assert inside(empty_url, lambda connection: connection.scalar(text("SELECT count(*) FROM configs"))) == 0


def test_taking_the_alarms_away_leaves_the_rest(empty_url):
    migrate(empty_url)
    for statement in (
        "INSERT INTO alarms (id, at, event, arm, hour, note) VALUES ('a', 1, 'version', 'small', 1, '')",
        "INSERT INTO configs (version, content, created_at) VALUES ('v', 'kept', 1)",
    ):
        inside(empty_url, lambda connection, said=statement: connection.execute(text(said)) and None, write=True)
    downgrade(empty_url, "0002")
    names = inside(empty_url, lambda connection: inspect(connection).get_table_names())
    assert set(names) == {*FIRST_TABLES, "prompts"}
    migrate(empty_url)
    assert inside(empty_url, differences) == []
    assert inside(empty_url, lambda connection: connection.scalar(text("SELECT count(*) FROM alarms"))) == 0
    assert inside(empty_url, lambda connection: connection.scalar(text("SELECT content FROM configs"))) == "kept"


def test_taking_the_prompts_away_leaves_the_rest(empty_url):
    migrate(empty_url)
    for statement in (
        "INSERT INTO prompts (decision_id, created_at, text) VALUES ('d', 1, 'gone')",
        "INSERT INTO configs (version, content, created_at) VALUES ('v', 'kept', 1)",
    ):
        inside(empty_url, lambda connection, said=statement: connection.execute(text(said)) and None, write=True)
    downgrade(empty_url, "0001")
    names = inside(empty_url, lambda connection: inspect(connection).get_table_names())
    assert set(names) == set(FIRST_TABLES)
    migrate(empty_url)
    assert inside(empty_url, differences) == []
    assert inside(empty_url, lambda connection: connection.scalar(text("SELECT count(*) FROM prompts"))) == 0
    assert inside(empty_url, lambda connection: connection.scalar(text("SELECT content FROM configs"))) == "kept"


def migrate_with_others(url, barrier):
    barrier.wait(60)
    migrate(url)


def test_several_processes_may_migrate_at_once(empty_url):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(3)
    processes = [context.Process(target=migrate_with_others, args=(empty_url, barrier)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert inside(empty_url, differences) == []


def test_the_folder_of_a_new_file_is_made(tmp_path):
    migrate(f"sqlite:///{tmp_path / 'new' / 'deep' / 'armwise.db'}")
    assert (tmp_path / "new" / "deep" / "armwise.db").exists()


def test_a_folder_that_cannot_be_made_is_a_mistake_of_the_settings(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be opened"):
        migrate(f"sqlite:///{tmp_path / 'file' / 'armwise.db'}")


def test_a_path_that_is_a_folder_is_a_mistake_of_the_settings(tmp_path):
    with pytest.raises(ConfigurationError, match="cannot be opened"):
        migrate(f"sqlite:///{tmp_path}")


@pytest.mark.parametrize("url", ["mysql://host/name", "sqlite://", "sqlite:///:memory:", "no url"])
def test_other_databases_are_refused(url):
    with pytest.raises(ConfigurationError, match="expected sqlite:///PATH"):
        migrate(url)


def test_an_unreachable_server_is_told_without_the_password():
    with pytest.raises(StorageUnavailable) as caught:
        migrate("postgresql://somebody:hush-hush@127.0.0.1:1/name")
    assert "127.0.0.1:1/name" in str(caught.value)
    chain, error = "", caught.value
    while error is not None:
        chain, error = chain + str(error) + repr(error), error.__context__
    assert "hush-hush" not in chain


def test_a_password_in_a_wrong_url_is_not_shown():
    with pytest.raises(ConfigurationError) as caught:
        migrate("mysql://somebody:hush-hush@host/name")
    assert "hush-hush" not in str(caught.value)
