"""The published table of learning: what is replayed, how it is laid out, where it is written, and its plots."""

import json

import pytest

from benchmarks.compare_policies import checked, parser
from benchmarks.learning_plots import draw
from benchmarks.learning_runs import BUDGETS, PUBLISHED, SETS, Run, available, done, runs
from benchmarks.learning_table import BEGIN, COLUMNS, END, between, publish, sections

SHORT = ("--data", "simulated_paretobandit", "--requests", "1200", "--seeds", "2", "--policy")


@pytest.fixture(scope="module")
def results():
    """Two short replays of simulated outcomes, as the table makes them, and a budget at two prices."""
    paid = ("--feedback-rate", "1", "--delay", "0", "--budget")
    made = [
        Run("Quality", (*SHORT, "thompson", "pooled_thompson"), "regret"),
        Run("Silent drop", (*SHORT, "pooled_thompson", "pooled_unwatched", "--shock", "drop"), "share"),
        Run("Budget, 1,824 requests", (*SHORT, "pooled_thompson", *paid, "0.002")),
        Run("Budget, 1,824 requests", (*SHORT, "pooled_thompson", *paid, "0.005")),
    ]
    found = [done(run) for run in made]
    return {
        "rows": [one for rows, _ in found for one in rows],
        "curves": [one for _, curves in found for one in curves],
    }


def test_every_set_is_replayed_at_both_rates_under_three_priors():
    made = {(run.section, *run.arguments[:4]) for run in runs(SETS)}
    for name in SETS:
        for section in ("Quality", "Benchmark prior"):
            assert {rate for found, _, data, _, rate in made if (found, data) == (section, name)} == {"0.05", "1"}
        assert ("Reversed prior", "--data", name, "--seeds", "3") in made


@pytest.mark.parametrize("sets", [(*SETS, *PUBLISHED), ("simulated_paretobandit", "simulated_zeroeval")])
def test_all_commands_are_ones_that_the_replay_takes_and_every_section_has_some(sets):
    made = parser()
    parsed = [checked(made.parse_args(run.arguments), made) for run in runs(sets)]
    needs_data = set() if sets == (*SETS, *PUBLISHED) else {"Through the service", "Published means"}
    assert {run.section for run in runs(sets)} == set(COLUMNS) - needs_data
    assert {one.budget for one in parsed} >= {float(budget) for budget in BUDGETS}
    assert {one.shock for one in parsed} == {"none", "price", "drop", "new-model"}
    assert {one.heuristic for one in parsed} == {"none", "weak", "biased"}


def test_without_data_outcomes_are_simulated(monkeypatch, tmp_path):
    monkeypatch.delenv("ARMWISE_DATA", raising=False)
    simulated = ("simulated_paretobandit", "simulated_zeroeval")
    assert available() == simulated
    monkeypatch.setenv("ARMWISE_DATA", str(tmp_path))
    assert available() == simulated
    (tmp_path / "zeroeval.jsonl.gz").touch()
    assert available() == ("zeroeval",)
    (tmp_path / "llmrouterbench_tables.json").touch()
    assert available() == ("zeroeval", *PUBLISHED)


def test_curves_begin_at_nothing_lost_and_shares_are_shares(results):
    regret = [one for one in results["curves"] if one["curve"] == "regret"]
    assert [one["policy"] for one in regret] == ["thompson", "pooled_thompson"]
    for one in regret:
        assert (one["at"][0], one["value"][0], one["at"][-1]) == (0, 0.0, 1_200)
        lost = next(row for row in results["rows"] if row["policy"] == one["policy"])["regret"]
        assert one["value"][-1] == pytest.approx(1_200 * lost, abs=0.1)
    for one in results["curves"]:
        assert len(one["at"]) == len(one["value"]) >= 80
        if one["curve"] == "share":
            assert all(0 <= value <= 1 for value in one["value"])


def test_fixed_models_stand_in_the_first_section_alone(results):
    sections_of = {one["section"] for one in results["rows"] if one["policy"].startswith("always ")}
    assert sections_of == {"Quality"}


def test_a_line_of_the_table_has_the_figures_of_its_setting(results):
    found = sections(results["rows"])
    rows = {one["policy"]: one for one in results["rows"] if one["section"] == "Quality"}
    pooled = rows["pooled_thompson"]
    half = (pooled["quality_high"] - pooled["quality_low"]) / 2
    line = next(
        line for line in found.splitlines() if line.startswith("| simulated_paretobandit, 5% rated, tier prior |")
    )
    assert f"| {pooled['quality']:.4f} ± {half:.4f} |" in line
    assert f"| {rows['best single']['quality']:.4f} |" in line
    assert found.count("a request |") == 2  # a line per budget
    assert found.index("### Quality") < found.index("### Budget, 1,824 requests") < found.index("### Silent drop")


def test_a_router_that_is_not_installed_is_said_to_be():
    about = {"data": "made", "feedback_rate": 1.0, "prior": "tier", "heuristic": "none", "budget_usd": None}
    row = {"section": "Quality", "policy": "litellm_quality", "shock": "none", "quiz": 0, "not_installed": "get it"}
    assert "| not installed |" in sections([row | about])


def test_results_are_written_beside_the_page(results, tmp_path):
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / "learning.md"
    page.write_text(f"Before\n\n{BEGIN}\nold\n{END}\n\nAfter\n")
    written = publish(results, tmp_path, simulated=False)
    assert written == tmp_path / "benchmarks" / "results" / "learning.json"
    assert json.loads(written.read_bytes())["rows"] == results["rows"]
    text = page.read_text()
    assert text.startswith("Before\n\n")
    assert text.endswith(f"{END}\n\nAfter\n")
    assert "### Quality" in text
    assert "old" not in text
    publish(results, tmp_path, simulated=False)
    assert page.read_text() == text


def test_simulated_results_do_not_touch_the_page(results, tmp_path):
    assert publish(results, tmp_path, simulated=True) == tmp_path / "benchmarks" / "results" / "local" / "learning.json"


def test_a_page_without_a_place_is_refused():
    with pytest.raises(ValueError, match="no place for the tables"):
        between("nothing here", "tables")


def test_plots_are_drawn_as_text_and_alike_each_time(results, tmp_path):
    first, again = draw(results, tmp_path / "one"), draw(results, tmp_path / "two")
    assert [path.name for path in first] == ["learning-regret.svg", "learning-budget.svg", "learning-drop.svg"]
    for one, other in zip(first, again, strict=True):
        assert one.read_bytes() == other.read_bytes()
        assert ">pooled<" in one.read_text()  # letters, not outlines
    assert "without detectors" in first[2].read_text()
    assert "hindsight" in first[1].read_text()
