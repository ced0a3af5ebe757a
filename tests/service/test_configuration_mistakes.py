"""Every mistake in a settings file is told at once, in one sentence each, with its path and without secrets."""

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.configuration import settings_from_toml
from service.errors import ConfigurationError


def mistakes_of(text, environ=None):
    """Every mistake in a settings file; none when it can be used."""
    try:
        settings_from_toml(text, environ or {})
    except ConfigurationError as error:
        return error.mistakes
    return []


# Mistakes of type

A_MODEL = '[[models]]\nname = "m"\nprovider = "simulated"\n'
NUMBERS = '[[policies]]\nname = "thompson"\nkind = "thompson"\n'


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("sever = 1", "unknown key `sever` (did you mean `server`?)"),
        ("[server]\nhots = 1", "unknown key `hots` at `server` (did you mean `host`?)"),
        (NUMBERS + "flor = 0", "unknown key `flor` at `policies[0]` (did you mean `floor`?)"),
        ("[retention]\nx = 1", "unknown key `x` at `retention` (known: `decisions_days`, `prompts`, `prompts_days`)"),
        ("server = 1", "`server` must be a table, found a whole number"),
        ("models = 1", "`models` must be a list, found a whole number"),
        ("models = [1]", "`models[0]` must be a table, found a whole number"),
        ("server.port = true", "`server.port` must be a whole number of at least 1 and at most 65535, found true"),
        ("server.port = 0", "`server.port` must be a whole number of at least 1 and at most 65535, found 0"),
        ("server.port = 1.5", "`server.port` must be a whole number of at least 1 and at most 65535, found 1.5"),
        ("server.host = 1", "`server.host` must be a text, found 1"),
        ("server.drain_s = nan", "`server.drain_s` must be a number of at least 0, found nan"),
        ("database.timeout_s = inf", "`database.timeout_s` must be a number of more than 0, found inf"),
        ("quality.enabled = 1", "`quality.enabled` must be true or false, found 1"),
        ("server.drain_s = 2020-01-01", "`server.drain_s` must be a number of at least 0, found a date"),
        (
            'logging.level = "inof"',
            '`logging.level` must be one of `debug`, `info`, `warning`, `error`, found "inof" (did you mean `info`?)',
        ),
        (A_MODEL + "price_in = -1", "`models[0].price_in` must be a number of at least 0, found -1"),
        (A_MODEL + 'price_cached_in = "1"', "`models[0].price_cached_in` must be a number of at least 0, found a text"),
        (A_MODEL + 'abilities = ["fly"]', "`models[0].abilities[0]` must be one of `tools`, `vision`"),
        ('[[models]]\nprovider = "simulated"', "missing key `name` at `models[0]`: expected a name"),
        ('[[models]]\nname = "m"', "missing key `provider` at `models[0]`: expected one of `openai_compatible`"),
        (
            '[[models]]\nname = "m"\nprovider = "gemini"',
            'unknown provider "gemini" at `models[0]`: expected one of `openai_compatible`, `translated`, `simulated`',
        ),
        ('[[policies]]\nname = "thompson"\nkind = "thomson"', 'unknown kind "thomson" at `policies[0]`: expected'),
        (NUMBERS + "kin = 1", "unknown key `kin` at `policies[0]` (did you mean `kind`?)"),
        (
            NUMBERS + "prior_means.small = [1]",
            "`policies[0].prior_means.small` must be a list of 3 values, found 1",
        ),
        (NUMBERS + 'prior_means.small = [0.1, "b", 0.2]', "`policies[0].prior_means.small[1]` must be a number"),
        ("classifier.cues.simple = [1]", "`classifier.cues.simple[0]` must be a text, found 1"),
        ("quality.heuristics.refusal.weight = 2", "`quality.heuristics.refusal.weight` must be a number"),
    ],
)  # fmt: skip
def test_a_mistake_of_type_is_named_with_its_path(text, mistake):
    found = mistakes_of(text)
    assert len(found) == 1
    assert found[0].startswith(mistake)


def test_every_mistake_is_told_at_once():
    text = """
    sever = 1
    [server]
    port = "8402"
    [[models]]
    name = "no spaces please"
    provider = "simulated"
    tier = "tiny"
    [[models]]
    provider = "openai_compatible"
    name = "auto"
    api_key_env = "NOT_SET"
    [[policies]]
    name = "thompson"
    kind = "thompson"
    floor = 2
    [routing]
    policy = "thomson"
    [rewards]
    metrics = []
    """
    expected = [
        "unknown key `sever`",
        "`server.port`",
        "`models[0].name`",
        "`models[0].tier`",
        "`models[1].name` must not be `auto`",
        "`models[1].api_key_env`",
        "`policies[0].floor`",
        "`routing.policy` is `thomson`",
        "`rewards.metrics` is empty",
    ]
    found = mistakes_of(text)
    assert len(found) == len(expected)
    assert all(any(mistake.startswith(start) for mistake in found) for start in expected)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
PATHS = [
    "server", "server.port", "database.url", "database.url_env", "models", "policies", "routing.policy",
    "classifier.cues.simple", "quality.heuristics", "rewards.metrics", "retention",
]  # fmt: skip


def toml(value):
    """A value as TOML writes it in a line; what TOML lacks as an empty text."""
    if isinstance(value, dict):
        return (
            "{" + ", ".join(f"{msgspec.json.encode(key).decode()} = {toml(item)}" for key, item in value.items()) + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, float):
        return repr(value)
    return '""' if value is None else msgspec.json.encode(value).decode().replace("\x7f", "")


@given(st.sampled_from(PATHS), JSON, st.sampled_from(["", A_MODEL, NUMBERS]))
@example("server", {"\n": 1}, "")
@example("quality.heuristics", {"\n": {}}, "")
def test_whatever_stands_in_the_file_the_answer_is_settings_or_mistakes(path, value, before):
    text = f"{path} = {toml(value)}\n{before}"
    assert all(isinstance(mistake, str) and "\n" not in mistake for mistake in mistakes_of(text))


# Mistakes of meaning


def openai_model(**said):
    lines = {"name": "m", "provider": "openai_compatible"} | said
    return "[[models]]\n" + "\n".join(f"{key} = {toml(value)}" for key, value in lines.items())


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("models = []", "`models` has no enabled model"),
        (A_MODEL + "enabled = false", "`models` has no enabled model"),
        (A_MODEL + A_MODEL, "`models` has 2 entries named `m`: names must differ"),
        ('[[models]]\nname = "auto"\nprovider = "simulated"', "`models[0].name` must not be `auto`"),
        (A_MODEL + "price_out = 1e-7", "`models[0].price_out` is 1e-07, which makes no sense"),
        (A_MODEL + "price_in = 50000", "`models[0].price_in` is 50000, which makes no sense"),
        (A_MODEL + "price_in = 1\nprice_cached_in = 2", "`models[0].price_cached_in` (2) is above `price_in` (1)"),
        (A_MODEL + 'profile = "mediun"', "`models[0].profile` is `mediun`, which is no row of facts"),
        (openai_model(base_url="localhost:8000"), "`models[0].base_url` must be a URL such as"),
        (openai_model(base_url="http://[::1"), "`models[0].base_url` must be a URL such as"),
        (openai_model(base_url="http://me:hidden@host/v1"), "`models[0].base_url` holds a password"),
        (
            openai_model(api_key_env="ABSENT"),
            "`models[0].api_key_env` names the environment variable `ABSENT`",
        ),
        (openai_model(api_key_env="sk-hidden"), "`models[0].api_key_env` must be the name of an environment variable"),
        (openai_model(api_key_env="hidden123"), "`models[0].api_key_env` names the environment variable, which is not"),
        (
            openai_model(headers={"X-Team": "$ABSENT"}),
            "`models[0].headers.X-Team` names the environment variable",
        ),
        (
            openai_model(headers={"Authorization": "Bearer hidden"}),
            "`models[0].headers.Authorization` looks like",
        ),
        (openai_model(headers={"X-Title": "a\nb"}), "`models[0].headers.X-Title` must be one line"),
        ("policies = []", "`policies` is empty"),
        (
            'routing.shadow = "thomson"',
            "`routing.shadow` is `thomson`, which is not among `policies` (did you mean `thompson`?)",
        ),
        ("holdout.share = 0.02", "`holdout.share` is set: name the model that serves the holdout in `holdout.model`"),
        (
            'holdout.model = "larg"',
            "`holdout.model` names the model `larg`, which is not configured and enabled (did you mean `large`?)",
        ),
        ("holdout.share = 0.5", "`holdout.share` must be"),
        (
            '[[policies]]\nname = "p"\nkind = "pooled_thompson"\nobjective = "floor"\nbaseline = "large"',
            '`policies[0].baseline` has no effect with `objective = "floor"`',
        ),
        (
            '[[policies]]\nname = "l"\nkind = "linear_thompson"\nobjective = "floor"\nlate_after_s = 2.0',
            '`policies[0].late_after_s` has no effect with `objective = "floor"`',
        ),
        (NUMBERS + NUMBERS, "`policies` has 2 entries named `thompson`: names must differ"),
        (NUMBERS + "floor = -0.1", "`policies[0].floor` must be between 0 and 1, found -0.1"),
        (NUMBERS + "prior_strength = 0", "`policies[0].prior_strength` must be more than 0, found 0"),
        (NUMBERS + "heuristic_cap = -1", "`policies[0].heuristic_cap` must be at least 0, found -1"),
        (NUMBERS + "cost_weight = -1", "`policies[0].cost_weight` must be at least 0, found -1"),
        (
            NUMBERS + "prior_means.large = [0.5, 1.0, 0.5]",
            "`policies[0].prior_means.large[1]` must be more than 0 and less than 1, found 1",
        ),
        (
            NUMBERS + '[[policies]]\nname = "f"\nkind = "fixed"\narm = "lage"',
            "`policies[1]` names the model `lage`, which is not configured (did you mean `large`?)",
        ),
        (
            NUMBERS + '[[policies]]\nname = "s"\nkind = "static_tier"\nsimple_below = 0.7',
            "`policies[1].simple_below` (0.7) is above `medium_below` (0.65)",
        ),
        (
            NUMBERS + '[[policies]]\nname = "r"\nkind = "rules"\nhard_cue = "hard"',
            "`policies[1].hard_cue` is `hard`, which is no list of `classifier.cues` (did you mean `hard_code`?)",
        ),
        (
            NUMBERS + '[[policies]]\nname = "r"\nkind = "rules"\nshort_characters = -1',
            "`policies[1].short_characters` must be at least 0, found -1",
        ),
        (NUMBERS + '[[policies]]\nname = "a b"\nkind = "random"', "`policies[1].name` must be a letter or digit, then"),
        (
            'routing.policy = "rule"',
            "`routing.policy` is `rule`, which is not among `policies` (did you mean",
        ),
        ("classifier.simple_below = 0.7", "`classifier.simple_below` and `medium_below` go together"),
        (
            "classifier.simple_below = 0.7\nclassifier.medium_below = 0.4",
            "`classifier.simple_below` (0.7) is above `medium_below` (0.4)",
        ),
        ('classifier.precision = "bf16"', '`classifier.precision` is "bf16", which needs `backend = "torch"`'),
        (
            'classifier.precision = "int8"\nclassifier.backend = "torch"',
            '`classifier.precision` is "int8", which needs `backend = "onnx"`',
        ),
        ('classifier.device = "cuda"', '`classifier.device` is "cuda", which needs `backend = "torch"`'),
        ('classifier.embedded_weights = "absent"', "`classifier.embedded_weights`: there is no file absent"),
        (
            'classifier.kind = "nvidia"\nclassifier.weights = "absent"',
            '`classifier.kind` is "nvidia", but there is no folder absent; `armwise classifier fetch` gets the weights',
        ),
        ("quality.heuristics.refusals = {}", "`quality.heuristics.refusals` is no heuristic (did you mean `refusal`?)"),
        ("rewards.metrics = []", "`rewards.metrics` is empty"),
        ('rewards.metrics = [{name = "q"}, {name = "q"}]', "`rewards.metrics` has 2 entries named `q`"),
        ('database.url = "mysql://host/name"', "`database.url` must start with one of `sqlite://`, `postgresql://`"),
        ('database.url = "postgresql://me:hidden@host/name"', "`database.url` holds a password"),
        ('database.url = "postgresql://host/name?password=hidden"', "`database.url` holds a password"),
        ('database.url_env = "ABSENT"', "`database.url_env` names the environment variable `ABSENT`, which is not set"),
        (
            'drift.webhook_url_env = "ABSENT"',
            "`drift.webhook_url_env` names the environment variable `ABSENT`, which is not set",
        ),
        (
            'drift.canaries = [{name = "c", prompt = "p", expects = "("}]',
            "`drift.canaries[0].expects` is no regular expression: missing ), unterminated subpattern",
        ),
        (
            'drift.canaries = [{name = "c", prompt = "p", expects = "x"}, {name = "c", prompt = "q", expects = "y"}]',
            "`drift.canaries` has 2 entries named `c`",
        ),
        (
            'judge.model = "larg"',
            "`judge.model` names the model `larg`, which is not configured (did you mean `large`?)",
        ),
        ('judge.prompt = "Mark {answer}."', "`judge.prompt` must hold {question} where the judge is to read it"),
        (
            """judge.model = "j"
            [[models]]
            name = "s"
            provider = "simulated"
            [[models]]
            name = "j"
            provider = "openai_compatible"
            enabled = false
            api_key_env = "ABSENT"
            """,
            "`models[1].api_key_env` names the environment variable `ABSENT`, which is not set",
        ),
        (
            'drift.webhook_url_env = "https://hooks.example/hidden"',
            "`drift.webhook_url_env` must be the name of an environment variable that holds the webhook's URL, not",
        ),
    ],
)
def test_a_mistake_of_meaning_is_named_and_no_secret_is_shown(text, mistake):
    found = mistakes_of(text)
    assert len(found) == 1
    assert found[0].startswith(mistake)
    assert "hidden" not in found[0]


def test_variables_that_are_set_are_no_mistake():
    text = openai_model(api_key_env="KEY", headers={"X-Team": "$team"}) + '\n[database]\nurl_env = "URL"'
    text += '\n[drift]\nwebhook_url_env = "HOOK"'
    assert mistakes_of(text, {"KEY": "k", "team": "t", "URL": "postgresql://me:pw@host/name", "HOOK": "h"}) == []
    assert len(mistakes_of(text, {"KEY": "", "team": "t", "URL": "u", "HOOK": "h"})) == 1


def test_a_model_that_is_not_used_needs_no_key():
    assert mistakes_of(A_MODEL + openai_model(name="n", api_key_env="ABSENT", enabled=False)) == []


def test_a_refused_name_is_not_told_twice():
    """The policy names the model as the file does; that the name itself is wrong is the one mistake."""
    text = '[[models]]\nname = "my model"\nprovider = "simulated"\n' + NUMBERS
    assert len(mistakes_of(text + '[[policies]]\nname = "f"\nkind = "fixed"\narm = "my model"')) == 1


def test_the_kinds_there_are_stand_in_the_message():
    found = mistakes_of('[[policies]]\nname = "thompson"\nkind = "thomson"')
    kinds = ("fixed", "random", "static_tier", "rules", "thompson", "pooled_thompson", "linear_thompson")
    assert found[0].endswith(f"{', '.join(f'`{kind}`' for kind in kinds)} (did you mean `thompson`?)")
