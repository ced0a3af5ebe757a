"""The guides' own code runs against the real service, their settings are understood, their figures were measured."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from service.cli.main import main
from service.configuration import settings_from_toml
from tests.api.conftest import Running, settings_for

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
GUIDES = {path.name: path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.md"))}
HERE = "http://127.0.0.1:8402"
NODE = shutil.which("node")
RUN = re.compile(r"^<!-- ci: run -->[ \t]*\n+```(\w+)[^\n]*\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
COMMANDS = {
    "bash": ["bash", "-euo", "pipefail", "-c"],
    "python": [sys.executable, "-W", "error", "-c"],
    "javascript": [NODE, "--input-type=module", "-e"],
}
BLOCKS = [(name, number, *block) for name, text in GUIDES.items() for number, block in enumerate(RUN.findall(text))]
WHOLE_FILES = ("start.md", "objective.md", "migrating.md", "postgres.md")  # whose TOML can be used as it stands


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with Running(settings_for(f"sqlite:///{tmp_path_factory.mktemp('guides') / 'armwise.db'}")) as running:
        yield running


def test_every_mark_stands_above_a_block_that_can_be_run():
    assert len(BLOCKS) >= 10
    assert sum(text.count("<!-- ci: run -->") for text in GUIDES.values()) == len(BLOCKS)
    assert {language for _, _, language, _ in BLOCKS} <= set(COMMANDS)


@pytest.mark.parametrize(
    ("language", "code"), [pytest.param(*block, id=f"{name}-{number}") for name, number, *block in BLOCKS]
)
def test_the_code_runs(service, language, code):
    if language == "javascript" and NODE is None:
        pytest.skip("node is not installed")
    assert HERE in code
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    done = subprocess.run(
        [*COMMANDS[language], code.replace(HERE, service.url)],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
        env={**environment, "ARMWISE_API_KEY": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("name", WHOLE_FILES)
def test_its_settings_are_understood(name):
    blocks = re.findall(r"```toml\n(.*?)```", GUIDES[name], re.DOTALL)
    assert blocks
    keys = dict.fromkeys(("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "ARMWISE_DATABASE_URL"), "postgresql://a@b/c")
    for block in blocks:
        settings_from_toml(block, keys)


def test_what_is_imported_from_litellm_is_what_the_guide_shows(tmp_path):
    page = GUIDES["migrating.md"]
    (tmp_path / "config.yaml").write_text(re.search(r"```yaml\n(.*?)```", page, re.DOTALL)[1], encoding="utf-8")
    done = CliRunner().invoke(main, ["import", "litellm", str(tmp_path / "config.yaml")])
    assert done.exit_code == 0, done.output
    shown = re.search(r"^comes\n\n```toml\n(.*?)```", page, re.MULTILINE | re.DOTALL)[1]
    assert tomllib.loads(done.stdout)["models"] == tomllib.loads(shown)["models"]


def test_the_figures_of_the_comparison_are_those_of_the_replays():
    figures = re.findall(r"(?<![\d.])\.(\d{4})\b", GUIDES["comparison.md"])
    assert len(figures) >= 10
    for figure in figures:
        assert f"0.{figure}" in GUIDES["learning.md"], figure


def test_every_claim_on_another_router_has_its_source():
    text, _, sources = GUIDES["comparison.md"].partition("## Sources")
    used = set(re.findall(r"\[(\d)\](?!\()", text))
    assert used == set(re.findall(r"^(\d)\. ", sources, re.MULTILINE))
    assert re.search(r"As of \d+ \w+ \d{4}\.", text)


def commands_in(text):
    """Each `armwise ...` of a page's blocks, as words."""
    for block in re.findall(r"^```(?:console|sh|bash)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            found = re.match(r"(?:\$ )?(?:\.venv/bin/|docker compose exec \w+ )?(armwise .*)", line)
            if found:
                yield shlex.split(re.split(r" [|>] | #", found[1])[0])[1:]


@pytest.mark.parametrize("name", [name for name, text in GUIDES.items() if any(commands_in(text))])
def test_its_commands_and_their_options_exist(name):
    for words in commands_in(GUIDES[name]):
        command, rest = main, list(words)
        while isinstance(command, click.Group) and rest:
            assert rest[0] in command.commands, f"armwise {' '.join(words)}"
            command = command.commands[rest.pop(0)]
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        used = {word.partition("=")[0] for word in rest if word.startswith("--")}
        assert used <= known | {"--help"}, f"armwise {' '.join(words)}"
