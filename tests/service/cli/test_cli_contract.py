"""One way of help, exit codes, JSON and plain output, held by every command there is."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time

import click
import httpx
import pytest
from click.testing import CliRunner

from service.cli.main import main
from service.terminal import cut, interval_plot, show, table

# Commands that do something and say so in a sentence, or print JSON or a script in any case.
WITHOUT_JSON = {
    "serve": "serves until it is stopped",
    "classify": "prints JSON lines",
    "explain": "prints JSON",
    "migrate": "acts",
    "rebuild": "acts",
    "completion": "prints a script for the shell",
    "db backup": "acts",
    "db migrate": "acts",
    "import litellm": "prints TOML",
    "key revoke": "acts",
    "prior import": "writes a file",
    "posterior freeze": "acts",
    "posterior unfreeze": "acts",
    "posterior reset": "acts",
    "posterior rollback": "acts",
    "posterior disable": "acts",
    "posterior enable": "acts",
    "posterior close-breaker": "acts",
    "posterior off": "acts",
    "posterior on": "acts",
    "experiment create": "acts",
    "experiment start": "acts",
    "experiment pause": "acts",
    "experiment stop": "acts",
    "experiment decide": "acts",
    "experiment archive": "acts",
    "classifier fetch": "writes files",
    "classifier export": "writes files",
}


def commands(group=main, words=()):
    """Every command with its words, groups too."""
    for name, command in group.commands.items():
        yield (*words, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*words, name))


EVERY = {" ".join(words): command for words, command in commands()}
LEAVES = {name: command for name, command in EVERY.items() if not isinstance(command, click.Group)}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a command in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def invoke(*words):
        return CliRunner().invoke(main, words)

    return invoke


@pytest.mark.parametrize("name", EVERY)
def test_every_command_and_option_says_what_it_is(name, run):
    command = EVERY[name]
    assert command.help, name
    assert command.help.split("\n\n")[0].strip().endswith("."), name
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, f"{name} {option.opts[0]}"
    for flag in ("--help", "-h"):
        done = run(*name.split(), flag)
        assert done.exit_code == 0, done.output
        assert done.output.startswith("Usage: ")


@pytest.mark.parametrize("name", EVERY)
def test_a_wrong_use_ends_with_2_and_says_how_to_ask_for_help(name, run):
    done = run(*name.split(), "--no-such-option")
    assert done.exit_code == 2
    assert "No such option" in done.stderr
    assert "--help" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("name", LEAVES)
def test_what_a_program_would_read_comes_as_json(name):
    options = {word for option in LEAVES[name].params for word in option.opts}
    assert ("--json" in options) != (name in WITHOUT_JSON), name


def test_only_commands_that_exist_are_excused():
    assert WITHOUT_JSON.keys() <= LEAVES.keys()


@pytest.mark.parametrize(
    "words",
    ["check", "key list", "posterior list", "experiment list", "replay", "route Hello", "key create --name ci"],
)  # fmt: skip
def test_json_is_all_that_standard_output_has(words, run):
    done = run(*words.split(), "--json")
    assert done.exit_code == 0, done.output
    json.loads(done.stdout)


def test_json_of_the_settings_shows_no_secret(run, tmp_path):
    (tmp_path / "armwise.toml").write_text(
        '[[models]]\nname = "a"\nprovider = "openai_compatible"\n'
        'base_url = "http://127.0.0.1:1/v1"\n[models.headers]\nx-team = "geheim"\n'
    )
    done = run("check", "--json")
    assert done.exit_code == 0, done.output
    assert "geheim" not in done.output
    assert json.loads(done.stdout)["models"][0]["name"] == "a"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("explain", "chatcmpl-none"), "No decision has the id"),
        (("posterior", "list", "--model", "larg"), "did you mean `large`?"),
        (("key", "revoke", "none"), "armwise key list"),
        (("experiment", "show", "none"), "none"),
        (("prior", "show", "nowhere.json"), "nowhere.json"),
    ],
)
def test_a_mistake_is_a_line_and_ends_with_1(words, told, run):
    done = run(*words)
    assert done.exit_code == 1
    assert told in done.stderr
    assert "Traceback" not in done.output
    assert isinstance(done.exception, SystemExit)


def test_a_damaged_database_is_a_line_and_ends_with_1(run, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "armwise.db").write_bytes(b"this is no database " * 500)
    done = run("key", "list")
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit), done.exception
    assert len(done.stderr.strip().splitlines()) == 1


def started(tmp_path, *words, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "service", *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}, **options,
    )  # fmt: skip


def test_a_database_of_a_newer_version_is_a_line_and_ends_with_1(run, tmp_path):
    assert run("migrate").exit_code == 0
    with sqlite3.connect(tmp_path / "data/armwise.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    for words in (["posterior", "list"], ["db", "check"], ["migrate"], ["experiment", "report", "a"]):
        done = run(*words)
        assert done.exit_code == 1, done.output
        assert "a newer version has migrated it" in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert done.stdout == ""


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["key", "create", "--name", ""], "found 0 characters; expected 1 to 128"),
        (["key", "create", "--name", "a" * 129], "found 129 characters"),
        (["key", "create", "--name", "two\nlines"], "in one line"),
        (["demo", "--seconds", "nan"], "'nan' is no number"),
        (["posterior", "list", "--days", "nan"], "'nan' is no number"),
        (["posterior", "list", "--limit", "9" * 30], "is not in the range"),
        (["posterior", "off", "--note", "a" * 1001], "found 1,001 characters; expected 0 to 1,000"),
    ],
)
def test_what_the_database_would_not_take_is_refused(words, found, run, tmp_path):
    done = run(*words)
    assert done.exit_code == 2
    assert found in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_database_that_had_to_be_made_is_told_once(run):
    first = run("key", "list", "--json")
    assert "There was no database at data/armwise.db" in first.stderr
    assert json.loads(first.stdout) == []
    assert run("key", "list", "--json").stderr == ""


def test_a_prompt_is_read_as_utf_8_whatever_the_locale_says(tmp_path):
    environ = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    words = [sys.executable, "-m", "service", "route", "把这句话翻译成英文", "--json"]
    done = subprocess.run(words, cwd=tmp_path, env=environ, capture_output=True, check=True)
    assert json.loads(done.stdout)["prompt_tokens"] == 12
    words[4] = "-"
    piped = subprocess.run(
        words, cwd=tmp_path, env=environ, capture_output=True, check=True, input="把这句话翻译成英文".encode()
    )
    assert json.loads(piped.stdout)["prompt_tokens"] == 12


def test_the_help_of_completion_keeps_its_lines(run):
    lines = [line.strip() for line in run("completion", "--help").stdout.splitlines()]
    assert "bash: armwise completion bash > ~/.local/share/bash-completion/completions/armwise" in lines


def test_a_demo_is_at_an_address_or_of_its_own(run):
    done = run("demo", "--own", "--url", "http://127.0.0.1:1")
    assert done.exit_code == 2
    assert "one of both" in done.stderr


@pytest.mark.parametrize("url", ["notaurl", "http://", "http://[::1"])
@pytest.mark.parametrize("words", ["demo", "route Hello"])
def test_what_is_no_address_is_a_line(words, url, run):
    done = run(*words.split(), "--url", url)
    assert done.exit_code == 1
    assert len(done.stderr.splitlines()) == 1
    assert url in done.stderr


def test_ctrl_c_ends_without_a_traceback(tmp_path):
    process = started(tmp_path, "classify", "--classifier", "rules", stdin=subprocess.PIPE)
    process.stdin.write('{"id": 1, "prompt": "Write a poem."}\n')
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["id"] == 1
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in err
    assert "Aborted!" in err


def test_ctrl_c_is_how_a_server_is_stopped(tmp_path, unused_tcp_port):
    process = started(tmp_path, "serve", "--port", str(unused_tcp_port))
    for line in process.stderr:
        if "serves:" in line:  # the classifier: requests are taken
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Aborted" not in err
    assert "Traceback" not in err


def test_a_settings_file_that_went_away_does_not_bring_the_defaults_back(tmp_path, unused_tcp_port):
    file = tmp_path / "armwise.toml"
    file.write_text('[[models]]\nname = "own"\nprovider = "simulated"\n[[policies]]\nname = "p"\nkind = "random"\n')
    process = started(tmp_path, "serve", "--port", str(unused_tcp_port))
    for line in process.stderr:
        if "serves:" in line:
            break
    file.unlink()
    answer = httpx.post(f"http://127.0.0.1:{unused_tcp_port}/admin/reload", timeout=60)
    process.terminate()
    process.communicate(timeout=60)
    assert answer.status_code == 400
    assert "armwise.toml: there is no such file" in answer.text


def test_a_terminal_that_lacks_characters_is_no_fault(tmp_path):
    environ = {**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}

    def armwise(*words):
        done = subprocess.run(
            [sys.executable, "-m", "service", *words], cwd=tmp_path, env=environ, capture_output=True, check=True
        )
        return done.stdout.decode("latin-1")

    armwise("key", "create", "--name", "钥匙")
    assert armwise("key", "list").endswith("??\n")
    assert json.loads(armwise("key", "list", "--json"))[0]["name"] == "钥匙"
    variants = ("--variant", "a=thompson:0.5", "--variant", "b=random:0.5")
    armwise("experiment", "create", "e", *variants, "--note", "钥匙")
    assert json.loads(armwise("experiment", "show", "e", "--json"))["log"][0]["note"] == "钥匙"
    said = terminal(tmp_path, "demo", "--own", "--rounds", "1", columns=60, PYTHONIOENCODING="latin-1")
    assert "Traceback" not in said
    assert "routing against" in said


def test_nowhere_to_write_to_is_no_fault(tmp_path):
    line = f"exec {sys.executable} -m service check >&-"
    done = subprocess.run(["sh", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_reader_that_goes_away_is_no_fault(tmp_path):
    process = started(tmp_path, "check")
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 1
    assert "Traceback" not in err
    assert "Exception" not in err


def terminal(tmp_path, *words, columns, **environ):
    """Run a command on a terminal of so many columns; what stood on it."""
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES", "NO_COLOR"}}
    process = subprocess.Popen(
        [sys.executable, "-m", "service", *words], cwd=tmp_path, stdout=theirs, stderr=theirs, stdin=subprocess.DEVNULL,
        env={**kept, "TERM": "xterm", **environ},
    )  # fmt: skip
    os.close(theirs)
    said, deadline = b"", time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            more = os.read(ours, 65536)
        except OSError:  # how Linux says that the other end was closed
            break
        if not more:
            break
        said += more
    os.close(ours)
    process.wait(timeout=60)
    return said.decode().replace("\r\n", "\n")


def test_on_a_terminal_lines_are_cut_to_its_width_and_posteriors_are_drawn(tmp_path):
    subprocess.run([sys.executable, "-m", "service", "migrate"], cwd=tmp_path, capture_output=True, check=True)
    said = terminal(tmp_path, "posterior", "list", "--task", "Rewrite", columns=60)
    assert max(len(line) for line in said.splitlines()) == 60
    assert "…" in said
    assert "├" in terminal(tmp_path, "posterior", "list", "--task", "Rewrite", columns=120)


def test_elsewhere_nothing_is_cut_or_drawn(run):
    done = run("posterior", "list", "--task", "Rewrite")
    assert "Beta(" in done.stdout
    assert not {"…", "├", "\x1b"} & set(done.stdout)


def test_a_table_aligns_chinese_names_too():
    lines = list(table([["模型", "1"], ["model", "22"]], right=[1]))
    assert lines == ["模型    1", "model  22"]
    assert cut("模型模型", 5) == "模型…"


def test_intervals_stand_on_one_scale_with_its_ends_named():
    low, high, ends = interval_plot([("a", 0.0, 0.5, 1.0), ("better", 0.5, 0.75, 1.0)])
    assert low.index("┤") == high.index("┤")
    assert low.index("●") < high.index("●")
    assert ends.split() == ["-0.05", "1.05"]


def test_lines_are_cut_to_the_terminal(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "30")
    show(["x" * 50])
    assert capsys.readouterr().out == "x" * 29 + "…\n"


def test_a_report_draws_what_can_be_told_where_a_person_looks(monkeypatch):
    from service.cli.evaluate import told_report

    told = {"value": 0.1, "low": -0.1, "high": 0.2}
    found = {
        "decisions": 5, "labelled": 3, "labelled_share": 0.6, "feedback_rate": 0.5, "failures": 0, "metric": "quality",
        "left_out": {}, "live": told, "best_fixed": {"refused": "too little"}, "bills_usd": {}, "savings_usd": {},
        "against": {"small": told, "large": {"refused": "too little"}}, "live_usd": 1.0, "paid_usd": 1.0,
    }  # fmt: skip
    assert not any("●" in line for line in told_report(found))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    (drawn,) = (line for line in told_report(found) if "●" in line)
    assert drawn.split()[0] == "small"
