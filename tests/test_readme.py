"""The README mentions what there is: every command, every endpoint, and files that exist."""

import re
from pathlib import Path

import pytest

from service.app import create_app
from service.cli.main import main
from service.settings import Settings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("command", sorted(main.commands))
def test_every_command_is_mentioned(command):
    assert f"`armwise {command}" in README


def test_every_endpoint_is_mentioned():
    paths = {route.path for route in create_app(Settings()).routes}
    ours = {path for path in paths if not path.startswith(("/docs/", "/schema")) and path != "/"}
    assert ours
    for path in sorted(ours):
        stem = path.partition("/{")[0]
        assert stem in README, path


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_every_link_leads_somewhere(target):
    assert (ROOT / target).exists()


def test_its_settings_are_understood(tmp_path):
    from service.configuration import settings_from_toml

    blocks = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        settings_from_toml(block, {"ANTHROPIC_API_KEY": "x"})
