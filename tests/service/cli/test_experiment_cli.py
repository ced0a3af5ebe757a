"""`armwise experiment`: from a design to an archive, and mistakes in a sentence."""

import json

import pytest
from click.testing import CliRunner

from service.cli.main import main


@pytest.fixture
def armwise(tmp_path, monkeypatch):
    """Run a command in a folder of its own; its output, and that it ended as expected."""
    monkeypatch.chdir(tmp_path)

    def run(*words, ends=0):
        done = CliRunner().invoke(main, ["experiment", *words])
        assert done.exit_code == ends, done.output
        return done.output

    return run


SIDES = ("--variant", "control=thompson:0.5", "--variant", "pooled=pooled_thompson:0.25")


def test_an_experiment_is_made_and_taken_to_its_end(armwise):
    assert "no experiment" in armwise("list")
    said = ("--guardrail", "failure:0.01", "--guardrail", "cost_usd:0.001:down", "--task", "Open QA")
    armwise("create", "pooling", *SIDES, *said, "--tag", "team=search", "--minimum", "2d", "--note", "why not")
    (found,) = json.loads(armwise("list", "--json"))
    assert [(side["name"], side["policy"], side["share"]) for side in found["variants"]] == [
        ("control", "thompson", 0.5), ("pooled", "pooled_thompson", 0.25),
    ]  # fmt: skip
    assert found["population"] == {"task_types": ["Open QA"], "tags": {"team": "search"}}
    assert (found["minimum_s"], found["maximum_s"], found["state"]) == (2 * 86_400.0, 28 * 86_400.0, "created")
    assert [guardrail["metric"] for guardrail in found["guardrails"]] == ["failure", "cost_usd"]
    assert "`pooling` runs" in armwise("start", "pooling")
    armwise("pause", "pooling", "--note", "lunch")
    armwise("start", "pooling")
    armwise("stop", "pooling")
    assert "pooled_thompson serves its population" in armwise("decide", "pooling", "--ship", "pooled")
    assert "`pooling` is archived." in armwise("archive", "pooling")  # pooled_thompson is the default: nothing changes
    shown = armwise("show", "pooling")
    assert [line.split()[3] for line in shown.splitlines() if " by " in line and "UTC" in line] == [
        "create", "start", "pause", "start", "stop", "decide", "archive",
    ]  # fmt: skip
    assert "lunch" in shown
    assert [step["action"] for step in json.loads(armwise("show", "pooling", "--json"))["log"]][-1] == "archive"


def test_all_of_a_design_can_be_said(armwise):
    armwise(
        "create", "whole", *SIDES, "--control", "pooled", "--late-after", "2.5", "--salt", "s", "--horizon", "800",
        "--grace", "1h",
        "--guardrail", "cost_usd:1e-3:largest=.05:usual=0.004", "--guardrail", "feedback:0.1:up",
    )  # fmt: skip
    (found,) = json.loads(armwise("list", "--json"))
    assert (found["control"], found["late_after_s"], found["grace_s"], found["horizon"]) == ("pooled", 2.5, 3600, 800)
    assert found["guardrails"] == [
        {"metric": "cost_usd", "limit": 0.001, "direction": "down", "largest": 0.05, "usual": 0.004},
        {"metric": "feedback", "limit": 0.1, "direction": "up", "largest": 1.0, "usual": 0.0},
    ]


def test_tables_are_cut_to_the_terminal_and_sentences_are_broken(armwise, monkeypatch, capsys):
    armwise("create", "pooling", *SIDES, "--guardrail", "failure:0.01", "--note", "a reason " * 20)
    armwise("start", "pooling")
    commands = (("list",), ("show", "pooling"), ("report", "pooling"))
    whole = [armwise(*command) for command in commands]
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "50")
    for command, told in zip(commands, whole, strict=True):
        main(["experiment", *command], standalone_mode=False)
        narrow = capsys.readouterr().out
        assert max(map(len, narrow.splitlines())) <= 50 < max(map(len, told.splitlines()))
        assert "…" in narrow
    assert "quality is known of 0 and 0 units; an interval needs 50 of each, not all alike." in " ".join(narrow.split())


def test_a_frozen_experiment_starts_from_the_command_line(armwise):
    armwise("create", "still", *SIDES, "--mode", "frozen")
    assert "posteriors are frozen" in armwise("start", "still")


@pytest.mark.parametrize(
    ("words", "ends", "said"),
    [
        (("create", "x", "--variant", "a=thompson"), 2, "expected NAME=POLICY:SHARE"),
        (("create", "x", "--variant", "a=thompson:0.5"), 1, "Expected `array` of length >= 2"),
        (("create", "x", *SIDES, "--primary", "qualty"), 1, "did you mean `quality`"),
        (("create", "x", *SIDES, "--guardrail", "failure"), 2, "expected METRIC:LIMIT"),
        (("create", "x", "--variant", "a=thompson:1.2.3"), 2, "expected NAME=POLICY:SHARE"),
        (("create", "x", *SIDES, "--guardrail", "failure:--1"), 2, "expected METRIC:LIMIT"),
        (("create", "x", *SIDES, "--guardrail", "failure:0.1:most=2"), 2, "expected METRIC:LIMIT"),
        (("create", "x", *SIDES, "--guardrail", "failure:0.1:largest=0.05"), 1, "expected 0 < limit < largest"),
        (("create", "x", *SIDES, "--margin", "nan"), 1, "found margin nan of quality"),
        (("create", "x", *SIDES, "--horizon", "20"), 1, "Expected `int` >= 50"),
        (("create", "x", *SIDES, "--late-after", "-1"), 1, "Expected `float` > 0.0"),
        (("create", "x", *SIDES, "--control", "poled"), 1, "did you mean `pooled`"),
        (("create", "x", *SIDES, "--tag", "team"), 2, "expected NAME=VALUE"),
        (("create", "x", *SIDES, "--tag", "=search"), 2, "expected NAME=VALUE"),
        (("create", "x", *SIDES, "--tag", "team=a", "--tag", "team=b"), 2, "expected one value of team"),
        (("create", "x", *SIDES, "--window", "soon"), 2, "is no time"),
        (("start", "nobody"), 1, "There is no experiment `nobody`"),
        (("decide", "x"), 2, "Say one of --ship VARIANT and --keep"),
        (("decide", "x", "--keep", "--ship", "a"), 2, "Say one of --ship VARIANT and --keep"),
    ],
)
def test_mistakes_are_told_in_a_sentence(armwise, words, ends, said):
    assert said in armwise(*words, ends=ends)
