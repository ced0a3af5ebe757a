"""The command line, as its user types it."""

import os
import subprocess
import sys

import pytest

from service.serving import listen


@pytest.fixture
def armwise(tmp_path):
    """Run the command in an empty folder; its exit status and output."""

    def run(*arguments, text=None, **environ):
        command = [sys.executable, "-m", "service", *arguments]
        done = subprocess.run(
            command,
            cwd=tmp_path,
            input=text,
            text=True,
            capture_output=True,
            check=False,
            env={**os.environ, **environ},
        )
        return done.returncode, done.stdout, done.stderr

    return run


def test_check_prints_what_it_understood(armwise):
    status, out, _ = armwise("check")
    assert status == 0
    assert "small" in out
    assert "thompson" in out


def test_check_tells_every_mistake_at_once(armwise, tmp_path):
    (tmp_path / "armwise.toml").write_text(
        'colour = 1\n[server]\nport = "x"\n[[models]]\nname = "a"\nprovider = "none"\n'
    )
    status, _, err = armwise("check")
    assert status == 1
    assert "colour" in err
    assert "server.port" in err
    assert "models[0]" in err


def test_keys_are_made_listed_and_revoked(armwise):
    status, secret, err = armwise("key", "create", "--name", "ci", "--scope", "chat")
    assert status == 0
    assert secret.startswith("aw-")
    key_id = err.splitlines()[-1].split()[1]
    status, listed, _ = armwise("key", "list")
    assert key_id in listed
    assert "active" in listed
    assert secret.strip() not in listed
    assert armwise("key", "revoke", key_id)[0] == 0
    assert "revoked" in armwise("key", "list")[1]
    status, _, err = armwise("key", "revoke", "none")
    assert status == 1
    assert "armwise key list" in err


def test_the_secret_is_not_in_the_database(armwise, tmp_path):
    _, secret, _ = armwise("key", "create", "--name", "ci")
    stored = b"".join(path.read_bytes() for path in (tmp_path / "data").iterdir())
    assert secret.strip().encode() not in stored


def test_a_taken_port_is_a_clear_sentence(armwise):
    with listen("127.0.0.1", 0) as taken:
        status, _, err = armwise("serve", "--port", str(taken.getsockname()[1]))
    assert status == 1
    assert "is taken" in err
    assert "--port" in err
    assert "Traceback" not in err


def test_rebuild_and_migrate_work_on_an_empty_folder(armwise):
    assert armwise("migrate")[0] == 0
    status, out, _ = armwise("rebuild")
    assert status == 0
    assert "0 cells" in out


def test_explain_of_an_unknown_id_is_a_clear_sentence(armwise):
    status, _, err = armwise("explain", "chatcmpl-none")
    assert status == 1
    assert "No decision has the id" in err


def test_a_missing_file_is_a_clear_sentence(armwise):
    status, _, err = armwise("serve", "--config", "nowhere.toml")
    assert status != 0
    assert "nowhere.toml" in err
    assert "Traceback" not in err
