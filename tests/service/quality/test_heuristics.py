"""The contract that every heuristic keeps, and how findings become a reward."""

import re
import warnings
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit.vocabulary import Reward
from service.quality import CalledTool, Exchange, Finding, heuristic_names
from service.quality.examine import HEURISTICS, examine, reward_of
from service.quality.repeats import SIGNALS
from service.settings import HeuristicSetting, Quality

ON = Quality()
SECRET = "zqxj"  # a word that stands in every text of an exchange and may stand in no finding

GOOD = {
    "english prose": Exchange(
        prompt="Why is the sky blue?",
        reply=(
            "Air scatters short waves of light far more than long ones. Sunlight holds all colours, so the blue part"
            " reaches your eye from every direction. At sunset the light takes a longer way, and mostly red is left."
        ),
        finish_reason="stop",
    ),
    "chinese prose": Exchange(
        prompt="天空为什么是蓝色的？",
        reply=(
            "空气对短波光的散射远强于长波光。阳光包含各种颜色，所以蓝光会从四面八方进入眼睛。日落时光线穿过的空气更厚，"
            "剩下的主要是红光。海洋看起来发蓝，部分原因也是反射了天空的颜色。"
        ),
        finish_reason="stop",
    ),
    "code": Exchange(
        prompt="Write a Python function that adds two numbers.",
        reply="Here it is:\n\n```python\ndef add(a: int, b: int) -> int:\n    return a + b\n```\n\nIt is short.",
        finish_reason="stop",
    ),
    "chinese code": Exchange(
        prompt="写一个两数相加的函数",
        reply="可以这样写：\n\n```python\ndef add(a, b):\n    return a + b\n```\n\n它对整数和小数都有效。",
        finish_reason="stop",
    ),
    "a list": Exchange(
        prompt="Give me four fruits with a colour each.",
        reply="- Apple: red\n- Banana: yellow\n- Plum: purple\n- Lime: green\n",
        finish_reason="stop",
    ),
    "a table": Exchange(
        prompt="Compare the plans.",
        reply="| plan | cost | help |\n| --- | --- | --- |\n| one | 0 | no |\n| two | 10 | yes |\n| all | 50 | yes |\n",
        finish_reason="stop",
    ),
    "one word": Exchange(prompt="Is water wet? Answer yes or no.", reply="Yes", finish_reason="stop"),
    "json": Exchange(
        prompt="The age as JSON.",
        reply='{"age": 41}',
        json_wanted=True,
        json_schema={"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]},
        finish_reason="stop",
    ),
    "a tool call": Exchange(
        prompt="What is the weather in Berlin?",
        tool_calls=(CalledTool(name="weather", arguments='{"city": "Berlin"}'),),
        tools={"weather": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}},
        finish_reason="tool_calls",
    ),
    "a translation": Exchange(
        prompt="Translate into Chinese: The weather is fine today and we will go for a walk.",
        reply="今天天气很好，我们要去散步。",
        finish_reason="stop",
    ),
    "a polite end": Exchange(
        prompt="How do I boil an egg?",
        reply="Put it into boiling water for eight minutes. If anything is unclear, or you are not sure, just ask!",
        finish_reason="stop",
    ),
}

texts = st.text(max_size=200) | st.text(alphabet="ab \n`。你.'\"{}[]\\\x00\ud800😀", max_size=300)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=5), children, max_size=4),
    max_leaves=8,
)
KEYWORDS = (
    "type", "properties", "required", "items", "enum", "const", "anyOf", "oneOf", "allOf", "$ref", "minimum", "maximum",
    "exclusiveMinimum", "minLength", "maxItems", "minItems", "additionalProperties", "pattern", "nullable",
)  # fmt: skip
hostile_schemas = st.dictionaries(st.sampled_from(KEYWORDS), json_values | st.just("#") | st.just("object"), max_size=5)
tool_calls = st.builds(CalledTool, name=st.sampled_from(["a", "b"]), arguments=texts | json_values.map(repr))
blocks = st.builds("```{}\n{}\n```".format, st.sampled_from(["python", "json", "py", ""]), texts)
exchanges = st.builds(
    Exchange,
    prompt=texts,
    system=texts,
    reply=texts | blocks | json_values.map(msgspec.json.encode).map(bytes.decode),
    tool_calls=st.lists(tool_calls, max_size=3).map(tuple),
    tools=st.dictionaries(st.sampled_from(["a", "c"]), hostile_schemas, max_size=2),
    json_wanted=st.booleans(),
    json_schema=st.none() | hostile_schemas,
    finish_reason=st.none() | st.sampled_from(["stop", "length", "content_filter", "tool_calls", "?"]),
    refusal=st.just("") | texts,
    max_output_tokens=st.none() | st.integers(0, 100),
    failure=st.sampled_from(["", "timeout", "cancelled", "?"]),
)


def fired(exchange: Exchange, quality: Quality = ON) -> set[str]:
    return {finding.heuristic for finding in examine(exchange, quality)}


@pytest.mark.parametrize("heuristic", HEURISTICS, ids=lambda heuristic: heuristic.name)
class TestEveryHeuristic:
    def test_has_a_plain_name_a_weight_and_a_description(self, heuristic):
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", heuristic.name)
        assert heuristic.find.__doc__
        assert heuristic.enabled
        assert heuristic.weight == 1.0 if heuristic.hard else 0.0 < heuristic.weight < 0.5

    @pytest.mark.parametrize("kind", GOOD)
    def test_is_silent_on_good_replies(self, heuristic, kind):
        assert heuristic.find(GOOD[kind]) is None

    @given(exchange=exchanges)
    @settings(max_examples=150, deadline=None)
    def test_never_raises_and_says_nothing_or_a_sentence(self, heuristic, exchange):
        found = heuristic.find(exchange)
        assert found is None or found.strip()

    @pytest.mark.parametrize(
        "reply",
        [
            "```python\n" + "-" * 3_900 + "1\n```",
            "```python\n" + "a." * 1_900 + "b\n```",
            "```python\nx = '\ud800'\n```",
            "```json\n" + "[" * 3_900 + "\n```",
            "[" * 150_000,
            "1" * 10_000,
            "```a\n" * 30_000,
            "“" * 60_000 + "i'm not sure",
            "`" * 50_000,
            "\u0000" * 1_000,
        ],
        ids=ascii,
    )
    def test_stands_hostile_replies(self, heuristic, reply):
        hostile = Exchange(prompt=reply, reply=reply, json_wanted=True, json_schema={"$ref": "#"})
        heuristic.find(hostile)
        heuristic.find(msgspec.structs.replace(hostile, json_wanted=False))

    def test_is_in_the_page_with_its_kind_and_weight(self, heuristic):
        kind = "hard" if heuristic.hard else "soft"
        assert re.search(rf"^\| `{heuristic.name}` \|.*\| {kind} \| {heuristic.weight:g} \|$", PAGE, re.MULTILINE)


PAGE = (Path(__file__).parents[3] / "docs" / "heuristics.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("signal", SIGNALS)
def test_the_page_names_every_signal_of_the_user(signal):
    assert re.search(rf"^\| `{signal}` \|.*\| soft \| {SIGNALS[signal]:g} \|$", PAGE, re.MULTILINE)


def test_the_page_names_nothing_else():
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) == heuristic_names()


def test_names_are_unique():
    names = [heuristic.name for heuristic in HEURISTICS] + list(SIGNALS)
    assert len(set(names)) == len(names)
    assert heuristic_names() == set(names)


# One exchange for every finding, each text of it with the secret word.
BAD = {
    "empty": Exchange(prompt=SECRET),
    "truncated": Exchange(prompt=SECRET, reply=f"{SECRET} and then", finish_reason="length"),
    "upstream_failure": Exchange(prompt=SECRET, failure="timeout"),
    "invalid_json": Exchange(
        prompt=SECRET,
        reply=f'{{"{SECRET}": "{SECRET}"}}',
        json_wanted=True,
        json_schema={"properties": {SECRET: {"enum": [f"{SECRET}2"]}}},
    ),
    "invalid_tool_call": Exchange(
        prompt=SECRET, tool_calls=(CalledTool(name=SECRET, arguments=f'"{SECRET}'),), tools={"look": {}}
    ),
    "refusal": Exchange(prompt=SECRET, reply=f"I'm sorry, but I can't help with {SECRET}."),
    "uncertainty": Exchange(prompt=SECRET, reply=f"I'm not sure about {SECRET}."),
    "repetition": Exchange(prompt=SECRET, reply=f"It is {SECRET}. " * 8),
    "wrong_language": Exchange(
        prompt=f"请解释数据库缓存的工作原理 {SECRET}", reply=f"{SECRET} keeps answers in memory " * 3
    ),
    "broken_code": Exchange(prompt=SECRET, reply=f"```python\n{SECRET} = = 1\n```"),
}


@pytest.mark.parametrize("name", [heuristic.name for heuristic in HEURISTICS])
def test_findings_hold_no_text_of_prompt_or_reply(name):
    findings = {finding.heuristic: finding.detail for finding in examine(BAD[name], ON)}
    assert name in findings
    assert not any(SECRET in detail for detail in findings.values())


@given(exchange=exchanges)
@settings(max_examples=100, deadline=None)
def test_details_come_from_a_fixed_vocabulary(exchange):
    for finding in examine(exchange, ON):
        assert re.fullmatch(r"[A-Za-z0-9 ,:_]+", finding.detail)
        assert len(finding.detail) < 120


@pytest.mark.parametrize("name", [heuristic.name for heuristic in HEURISTICS])
def test_a_heuristic_can_be_switched_off(name):
    off = Quality(heuristics={name: HeuristicSetting(enabled=False)})
    assert name in fired(BAD[name])
    assert name not in fired(BAD[name], off)


def test_all_can_be_switched_off():
    assert examine(BAD["empty"], Quality(enabled=False)) == []


def test_settings_give_the_weight_and_others_keep_their_own():
    both = Exchange(prompt="Tell me.", reply="I'm sorry, but I can't help with that. I'm not sure either.")
    findings = examine(both, Quality(heuristics={"uncertainty": HeuristicSetting(weight=0.07)}))
    assert {finding.heuristic: finding.weight for finding in findings} == {"refusal": 0.4, "uncertainty": 0.07}


def test_no_warning_of_parsed_code_leaks():
    reply = "```python\nimport re\npattern = '\\d+'\nif 1is 1: pass\n```"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fired(Exchange(prompt="Write a pattern.", reply=reply)) == set()


def finding(weight: float, *, hard: bool = False) -> Finding:
    return Finding(heuristic="x", detail="x", hard=hard, weight=weight)


@pytest.mark.parametrize(
    ("findings", "reward"),
    [
        ([], Reward(value=1.0, weight=0.05, channel="heuristic")),
        ([finding(0.2)], Reward(value=0.0, weight=0.2, channel="heuristic")),
        ([finding(0.2), finding(0.25)], Reward(value=0.0, weight=0.45, channel="heuristic")),
        ([finding(0.4), finding(0.4)], Reward(value=0.0, weight=0.5, channel="heuristic")),
        ([finding(0.4), finding(0.1, hard=True)], Reward(value=0.0, weight=1.0, channel="failure")),
    ],
    ids=["clean", "one soft", "two soft", "at most half a label", "hard"],
)
def test_reward(findings, reward):
    assert reward_of(findings, ON) == reward


def test_a_clean_reply_weighs_what_settings_say():
    assert reward_of([], Quality(clean_weight=0.01)).weight == 0.01
