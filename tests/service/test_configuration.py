"""The settings file: the example is the reference, every mistake is listed, content keeps every bit."""

import os
import re
import tomllib
from pathlib import Path
from typing import get_args, get_origin

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import fields, replace

from bandit.policies import Fixed, StaticTier
from bandit.thompson import PriorMeans, Thompson
from service.configuration import (
    describe,
    difference,
    read_settings,
    settings_content,
    settings_from_toml,
    settings_version,
)
from service.errors import ConfigurationError
from service.quality import heuristic_names
from service.settings import (
    Database,
    HeuristicSetting,
    Logging,
    ModelSection,
    OpenAICompatibleModel,
    Quality,
    Retention,
    Routing,
    Server,
    Settings,
    SimulatedModel,
    TranslatedModel,
)

ROOT = Path(__file__).parents[2]
EXAMPLE = (ROOT / "armwise.example.toml").read_text(encoding="utf-8")
SHOWN = re.sub(r"^#(?=\S)", "", EXAMPLE, flags=re.MULTILINE)  # with the settings that are left out by default
SECRETS = {"TEAM_TOKEN": "t", "ANTHROPIC_API_KEY": "k"}


def structs_in(kind):
    """All structs that a type is made of."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        found = {kind}
        for field in fields(kind):
            found |= structs_in(field.type)
        return found
    return set().union(*(structs_in(inner) for inner in get_args(kind)))


def tables(kind, value):
    """Every table in a file, with the struct that it is read as."""
    if isinstance(value, list):
        inner = get_args(kind)
        for item in value:
            yield from tables(inner[0], item)
    elif isinstance(value, dict) and get_origin(kind) is dict:
        for item in value.values():
            yield from tables(get_args(kind)[1], item)
    elif isinstance(value, dict):
        configs = {member: member.__struct_config__ for member in get_args(kind) or [kind] if member is not type(None)}
        struct = next(found for found, config in configs.items() if config.tag in (None, value.get(config.tag_field)))
        yield struct, value
        for field in fields(struct):
            yield from tables(field.type, value.get(field.name))


# The example


def test_the_example_shows_the_defaults():
    assert settings_from_toml(EXAMPLE, {}) == Settings()


def test_what_the_example_leaves_out_can_be_used_as_it_stands():
    settings = settings_from_toml(SHOWN, SECRETS)
    assert [type(model) for model in settings.models[-2:]] == [OpenAICompatibleModel, TranslatedModel]
    assert settings.policies[-1] == Fixed(name="always-large", arm="large")
    assert settings.quality.heuristics == {"refusal": HeuristicSetting(weight=0.3)}
    assert settings.models[0].price_cached_in == 0.01


def test_the_example_shows_every_setting():
    shown = {}
    for struct, table in tables(Settings, tomllib.loads(SHOWN)):
        shown.setdefault(struct, set()).update(table)
    assert shown.keys() == structs_in(Settings)
    common = {field.name for field in fields(ModelSection)}  # shown at the simulated model
    for struct, keys in shown.items():
        expected = {field.name for field in fields(struct)}
        if struct in (OpenAICompatibleModel, TranslatedModel):
            expected -= common
        assert expected <= keys, struct.__name__


def test_the_page_about_the_settings_names_every_one():
    page = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    for struct in structs_in(Settings):
        for field in fields(struct):
            shown = f"[{field.name}]" if struct is Settings else f"`{field.name}`"
            assert shown in page, f"{struct.__name__}.{field.name}"
        tag = struct.__struct_config__.tag
        assert tag is None or f"`{tag}`" in page
    for name in heuristic_names():
        assert f"`{name}`" in page


def test_the_file_that_the_page_shows_can_be_used():
    page = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    shown = re.search(r"```toml\n(.*?)```", page, re.DOTALL)[1]
    assert [model.name for model in settings_from_toml(shown, SECRETS).models] == ["local", "claude"]


def test_the_page_gives_the_defaults_that_the_code_has():
    page = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    for name, struct in [
        (field.name, field.type) for field in fields(Settings) if structs_in(field.type) == {field.type}
    ]:
        section = page.split(f"## `[{name}]`")[1].split("\n## ")[0]
        for field in fields(struct):
            shown = re.search(rf"^\| `{field.name}` \| ([^|]*) \|", section, re.MULTILINE)[1].strip("` ")
            default = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
            assert tomllib.loads(f"x = {shown}")["x"] == msgspec.to_builtins(default), f"{name}.{field.name}"


# Reading


def test_without_a_file_three_simulated_models_are_served(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = read_settings(None, {})
    assert settings == Settings()
    assert [type(model) for model in settings.models] == [SimulatedModel] * 3
    assert settings.simulated_only


def test_a_file_in_the_working_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("armwise.toml").write_text("server.port = 9\n", encoding="utf-8")
    assert read_settings(None, {}).server.port == 9


def test_an_empty_file_means_the_defaults():
    assert settings_from_toml("", {}) == Settings()


def test_whole_numbers_may_stand_for_others():
    settings = settings_from_toml("server.drain_s = 3", {})
    assert isinstance(settings.server.drain_s, float)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "there is no such file"),
        (b"\xff\xfe", "is not UTF-8 text (byte 0)"),
        (b"[server]\nport = \n", "line 2, column 8: Invalid value"),
        (b"[server]\nport", "line 2, column 5: Expected '='"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path, content, words):
    path = tmp_path / "mine.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        read_settings(path, {})
    assert str(caught.value).startswith(str(path))
    assert words in caught.value.mistakes[0]
    assert len(caught.value.mistakes) == 1


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_settings(tmp_path, {})


# Content

EVERYTHING = settings_from_toml(SHOWN, SECRETS)


@pytest.mark.parametrize("settings", [Settings(), EVERYTHING])
def test_the_content_brings_the_settings_back(settings):
    back = msgspec.json.decode(settings_content(settings), type=Settings)
    assert back == settings
    assert settings_content(back) == settings_content(settings)
    assert settings_version(back) == settings_version(settings)
    assert type(back.models[0].abilities) is frozenset
    assert type(back.policies) is tuple


@given(st.floats(0.0, 1.0), st.floats(0.001, 1e6), st.tuples(*[st.floats(0.01, 0.99)] * 3))
def test_numbers_come_back_bit_for_bit(floor, strength, row):
    policy = Thompson(name="thompson", floor=floor, prior_strength=strength, prior_means=PriorMeans(small=row))
    settings = Settings(policies=(policy,))
    assert msgspec.json.decode(settings_content(settings), type=Settings).policies == (policy,)


def test_the_version_names_the_content_and_nothing_else():
    abilities = ["tools", "vision", "json"]
    first, second = (SimulatedModel(name="m", abilities=frozenset(order)) for order in (abilities, abilities[::-1]))
    assert settings_version(Settings(models=(first,))) == settings_version(Settings(models=(second,)))
    assert settings_version(Settings(routing=Routing(fallbacks=3))) != settings_version(Settings())
    assert re.fullmatch(r"[0-9a-f]{16}", settings_version(Settings()))


def test_the_version_is_the_same_in_another_process():
    """Sets are ordered by a hash that differs between processes; the content must not be."""
    import subprocess
    import sys

    code = "from service.configuration import *; print(settings_version(Settings()))"
    for seed in ("1", "2"):
        environ = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=environ, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == settings_version(Settings())


def test_the_content_holds_no_secret():
    content = settings_content(settings_from_toml(SHOWN, dict.fromkeys(SECRETS, "s3cr3t")))
    assert "s3cr3t" not in content
    assert "ANTHROPIC_API_KEY" in content


# What people read


def test_the_summary_says_what_would_be_served():
    text = describe(EVERYTHING)
    for words in ("http://127.0.0.1:8402", "sqlite:///data/armwise.db", "embedded", "never stored"):
        assert words in text
    assert "policy pooled_thompson, 2 fallbacks" in text
    rows = {line.split()[0]: line for line in text.splitlines() if line}
    assert rows["claude"].split()[1:7] == ["translated", "anthropic/claude-sonnet-4-5", "large", "3", "15", "0.3"]
    assert rows["small"].split()[1:4] == ["simulated", "small", "small"]
    assert rows["small"].endswith("local")
    assert 'arm "large"' in rows["always-large"]
    assert "simulated models" not in text
    assert "Only simulated models are configured" in describe(Settings())


def test_the_summary_hides_passwords():
    url = "postgresql://me:s3cr3t@host/name?password=s3cr3t"
    text = describe(Settings(database=Database(url=url)))
    assert "s3cr3t" not in text
    assert "postgresql://me:***@host/name?password=***" in text
    assert "URL from $DB" in describe(Settings(database=Database(url_env="DB")))


def test_the_summary_says_which_heuristics_are_off():
    off = Quality(heuristics={"refusal": HeuristicSetting(enabled=False), "empty": HeuristicSetting()})
    assert "heuristics on, without refusal" in describe(Settings(quality=off))
    assert "heuristics off" in describe(Settings(quality=Quality(enabled=False)))


def test_the_summary_says_clearly_when_prompts_are_stored():
    assert "prompts are never stored" in describe(Settings())
    told = describe(Settings(retention=Retention(prompts=True, prompts_days=7)))
    assert "PROMPTS ARE STORED for 7 days" in told
    assert "never stored" not in told


def test_nothing_changed_nothing_said():
    assert difference(EVERYTHING, settings_from_toml(SHOWN, SECRETS)) == []


def test_what_a_reload_changes_in_sentences():
    old = Settings()
    small, medium, _ = old.models
    new = replace(
        old,
        server=Server(port=9000),
        database=Database(url="postgresql://me:s3cr3t@host/name"),
        models=(replace(small, price_in=0.03), TranslatedModel(name="medium"), SimulatedModel(name="huge")),
        policies=(StaticTier(name="static_tier", simple_below=0.2), *old.policies[:3]),
        routing=Routing(policy="static_tier"),
        logging=Logging(level="debug"),
    )
    assert medium.name == "medium"
    assert difference(old, new) == [
        "The model `huge` is new.",
        "The model `large` is gone.",
        "The model `small`: `price_in` 0.02 -> 0.03.",
        "The model `medium`: provider simulated -> translated, with other settings.",
        "The policy `rules` is gone.",
        "The policy `static_tier`: `simple_below` 0.35 -> 0.2.",
        "The order of policy entries is another one: between equals the first wins.",
        "`server.port` 8402 -> 9000 (takes effect after a restart).",
        '`database.url` "sqlite:///data/armwise.db" -> "postgresql://me:***@host/name" (takes effect after a restart).',
        '`routing.policy` "" -> "static_tier".',
        '`logging.level` "info" -> "debug" (takes effect after a restart).',
    ]


def test_changed_headers_are_not_shown():
    old, new = (
        Settings(models=(OpenAICompatibleModel(name="m", headers={"X-A": value}),)) for value in ("before", "after")
    )
    assert difference(old, new) == ["The model `m`: `headers` changed."]
