"""`armwise db`, `armwise route` and `armwise completion`."""

import json
import sqlite3
import subprocess
import time

import pytest
from click.testing import CliRunner

from service.cli.main import main


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a command in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def invoke(*words, **options):
        return CliRunner().invoke(main, words, **options)

    return invoke


def test_a_whole_database_is_checked_measured_and_pruned(run):
    assert run("db", "migrate").exit_code == 0
    assert "whole" in run("db", "check").stdout
    assert json.loads(run("db", "check", "--json").stdout) == {"faults": [], "cells_that_differ": 0}
    found = json.loads(run("db", "size", "--json").stdout)
    assert found["rows"]["decisions"] == 0
    assert found["bytes"] > 10_000
    assert "decisions" in run("db", "size").stdout
    assert set(json.loads(run("db", "prune", "--json").stdout).values()) == {0}


def test_on_postgres_it_is_the_same_but_for_the_copy(run, postgres_url, tmp_path, monkeypatch):
    (tmp_path / "armwise.toml").write_text('[database]\nurl_env = "THE_URL"\n')
    monkeypatch.setenv("THE_URL", postgres_url)
    assert "whole" in run("db", "check").stdout
    assert json.loads(run("db", "size", "--json").stdout)["bytes"] > 1_000_000
    assert run("db", "prune").exit_code == 0
    done = run("db", "backup", "copy.db")
    assert (done.exit_code, "pg_dump" in done.stderr) == (1, True)


def test_a_backup_holds_what_was_written_beside_it_and_never_replaces_a_file(run, tmp_path):
    assert run("db", "backup", "copy.db").exit_code == 1  # there is none yet
    assert run("db", "migrate").exit_code == 0
    writer = sqlite3.connect(tmp_path / "data" / "armwise.db")
    writer.execute("PRAGMA journal_mode=WAL")
    writer.execute("CREATE TABLE more (n INTEGER)")
    writer.executemany("INSERT INTO more VALUES (?)", [(n,) for n in range(5_000)])
    writer.commit()
    done = run("db", "backup", "copy.db")  # the writer is still connected
    writer.close()
    assert done.exit_code == 0, done.output
    copy = sqlite3.connect(tmp_path / "copy.db")
    assert copy.execute("SELECT COUNT(*), SUM(n) FROM more").fetchone() == (5_000, sum(range(5_000)))
    copy.close()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("copy")] == ["copy.db"]
    again = run("db", "backup", "copy.db")
    assert (again.exit_code, "is there already" in again.stderr) == (1, True)


def test_rows_that_belong_to_nothing_are_found(run, tmp_path):
    assert run("db", "migrate").exit_code == 0
    with sqlite3.connect(tmp_path / "data" / "armwise.db") as connection:
        connection.execute("CREATE TABLE mother (id INTEGER PRIMARY KEY)")
        connection.execute("CREATE TABLE child (mother INTEGER REFERENCES mother(id))")
        connection.execute("INSERT INTO child VALUES (7)")
    connection.close()
    done = run("db", "check")
    assert done.exit_code == 1
    assert "child: row 1 belongs to nothing in mother" in done.stdout
    assert "damaged" in done.stderr


def test_route_says_what_would_be_drawn_and_stores_nothing(run):
    done = run("route", "Write a Python function that reverses a list.", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert sum(found["eligible"].values()) == pytest.approx(1.0)
    assert found["task_type"] == "Code Generation"
    assert found["model"] in found["eligible"]
    assert found["expected_cost_usd"].keys() == found["eligible"].keys()
    said = run("route", "-", "--model", "auto:random", input="Hello").stdout
    assert "drawn with probability 0.333 by random" in said
    assert json.loads(run("db", "size", "--json").stdout)["rows"]["decisions"] == 0


def test_a_sensitive_prompt_goes_to_local_models_and_the_others_are_told(run):
    said = run("route", "My diary.", "--sensitive").stdout
    assert "small, drawn with probability 1.000" in said
    assert "not large: " in said


def test_what_cannot_be_routed_is_a_line(run, unused_tcp_port):
    done = run("route", "Hello", "--model", "auto:none")
    assert (done.exit_code, "does not exist" in done.stderr) == (1, True)
    done = run("route", "Hello", "--url", f"http://127.0.0.1:{unused_tcp_port}")
    assert (done.exit_code, "Nothing answers" in done.stderr) == (1, True)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_script(shell, run):
    done = run("completion", shell)
    assert done.exit_code == 0
    assert f"_ARMWISE_COMPLETE={shell}_complete" in done.stdout


def test_what_the_script_asks_for_is_answered(run):
    environ = {"_ARMWISE_COMPLETE": "bash_complete", "COMP_WORDS": "armwise db ba", "COMP_CWORD": "2"}
    said = CliRunner().invoke(main, [], env=environ, prog_name="armwise").stdout
    assert "backup" in said


def test_bash_reads_the_script(run, tmp_path):
    (tmp_path / "script").write_text(run("completion", "bash").stdout)
    subprocess.run(["bash", "-n", "script"], cwd=tmp_path, check=True)


def test_what_is_past_its_retention_is_dropped(run, tmp_path):
    assert run("db", "migrate").exit_code == 0
    with sqlite3.connect(tmp_path / "data" / "armwise.db") as connection:
        old = time.time() - 100 * 86_400.0
        columns = [row[1] for row in connection.execute("PRAGMA table_info(beliefs)")]
        values = {"version": "old", "created_at": old}
        connection.execute(
            f"INSERT INTO beliefs ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})",  # noqa: S608
            [values.get(name, "{}") for name in columns],
        )
    connection.close()
    assert run("db", "prune").stdout.startswith("1 decisions and beliefs")
