"""`armwise prior`: outcome files and the own log become a prior, and whatever is wrong with them is named."""

import gzip
import json

import pytest
from click.testing import CliRunner

from bandit.priors import PriorTable
from service.cli.main import main, with_database
from service.cli.prior import told
from service.errors import ArmwiseError, ConfigurationError
from service.learning.priors import read_prior, write_prior
from service.storage import store

CODE = "Write a Python function that reverses a linked list."
SECRET = "zanzibar is where the treasure lies"
NOW = 1_800_000_000.0


@pytest.fixture
def folder(tmp_path):
    """A folder with a settings file for two models."""
    models = "".join(f'[[models]]\nname = "{name}"\nprovider = "simulated"\n' for name in ("large", "small"))
    (tmp_path / "armwise.toml").write_text(f'[database]\nurl = "sqlite:///{tmp_path}/armwise.db"\n{models}')
    return tmp_path


def armwise(folder, *arguments):
    """Run `armwise prior`; the prior is written to the folder."""
    name, *rest = map(str, arguments)
    out = ["--out", f"{folder}/prior.json"] if name == "import" else []
    return CliRunner().invoke(main, ["prior", name, "--config", f"{folder}/armwise.toml", *out, *rest])


def line(prompt_id, model, score, **more):
    return {"prompt_id": prompt_id, "model": model, "score": score, **more}


def write(path, lines):
    text = "".join(json.dumps(one) + "\n" for one in lines).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def several(count, scores, **more):
    return [line(f"{number}", model, score, **more) for number in range(count) for model, score in scores.items()]


@pytest.mark.parametrize("name", ["outcomes.jsonl", "outcomes.jsonl.gz"])
def test_a_file_becomes_a_prior(folder, name):
    file = write(folder / name, several(500, {"large": 0.8, "small": 0.6}, category="Rewrite", cost_usd=0.1))
    done = armwise(folder, "import", file, "--mass", 30)
    assert done.exit_code == 0, done.output
    table = read_prior(folder / "prior.json")
    assert table.of("large", "Rewrite") == pytest.approx(0.8, abs=0.005)
    assert table.of("small", "Rewrite") == pytest.approx(0.6, abs=0.005)
    assert table.mass == 30
    assert name in table.source
    assert "Rewrite" in done.stdout
    assert "(500)" in done.stdout
    assert 'prior_file = "' in done.stderr


@pytest.mark.parametrize("classifier", ["embedded", "rules"])
def test_task_types_are_categories_of_ours_or_what_the_classifier_says(folder, classifier):
    lines = [
        *several(3, {"large": 1, "small": 0}, category="Closed QA", prompt=CODE, dataset="a"),
        *several(3, {"large": 1, "small": 0}, category="mbpp", prompt=CODE, dataset="b"),
        *several(3, {"large": 1, "small": 0}, category=None, dataset="c"),
    ]
    done = armwise(folder, "import", write(folder / "x.jsonl", lines), "--classifier", classifier)
    assert done.exit_code == 0, done.output
    table = read_prior(folder / "prior.json")
    assert set(table.quality["large"]) == {"", "Closed QA", "Code Generation"}
    assert f"9 prompts, {classifier}/" in table.source


def test_no_prompt_is_written_or_shown(folder):
    file = write(folder / "x.jsonl", several(3, {"large": 1, "small": 0}, prompt=SECRET, category=SECRET))
    done = armwise(folder, "import", file)
    assert done.exit_code == 0, done.output
    assert "zanzibar" not in (folder / "prior.json").read_text() + done.output


def test_models_that_are_not_configured_are_listed_and_taken_in_by_name(folder):
    file = write(folder / "x.jsonl", several(50, {"large": 0.7, "vendor/tiny": 0.3, "other": 0.1}, category="Rewrite"))
    done = armwise(folder, "import", file, "--model", "vendor/tiny=small")
    assert done.exit_code == 0, done.output
    assert "Left out, not configured: other (50)" in done.stderr
    assert set(read_prior(folder / "prior.json").quality) == {"large", "small"}

    done = armwise(folder, "import", file)
    assert "vendor/tiny (50)" in done.stderr
    assert "Nothing is known of: small" in done.stderr


def test_files_of_one_data_set_are_joined_and_others_are_not(folder):
    """A file for each model: only with the name of the data set are these the same prompts."""
    named, unnamed = ({"dataset": "d"}, {})
    for more, joined in ((named, True), (unnamed, False)):
        files = [
            write(folder / f"{model}.jsonl", several(400, {model: score}, category="Rewrite", **more))
            for model, score in (("large", 0.8), ("small", 0.4))
        ]
        assert armwise(folder, "import", *files).exit_code == 0
        table = read_prior(folder / "prior.json")
        gap = table.quality["large"]["Rewrite"] - table.quality["small"]["Rewrite"]
        assert gap == pytest.approx(0.4 if joined else 0.0, abs=0.01)


def test_lines_without_a_score_are_counted(folder):
    lines = [*several(3, {"large": 1, "small": 0}), line("9", "large", None), {"prompt_id": 8, "model": "small"}]
    done = armwise(folder, "import", write(folder / "x.jsonl", lines))
    assert done.exit_code == 0, done.output
    assert "2 lines without a score were skipped" in done.stderr


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b'{"prompt_id": "1", "model": "large", "score": 2}', "`score` is 2, expected a number from 0 to 1"),
        (b'{"prompt_id": "1", "model": "large", "score": -1e12}', "`score` is -1e+12"),
        (b'{"prompt_id": "1", "model": "large", "score": NaN}', "not an outcome"),
        (b'{"prompt_id": "1", "model": "large", "score": true}', "`$.score`"),
        (b'{"prompt_id": "1", "model": "large", "score": "0.5"}', "`$.score`"),
        (b'{"prompt_id": "1", "score": 0.5}', "missing required field `model`"),
        (b'{"prompt_id": "1", "model": "large"', "not an outcome"),
        (b"[]", "Expected `object`"),
        (b'{"prompt_id": "\xff"}', "not an outcome"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_written(folder, text, fault):
    (folder / "prior.json").write_text("old")
    good = json.dumps(line("0", "large", 0.5)).encode()
    (folder / "bad.jsonl").write_bytes(good + b"\n\n" + text + b"\n")
    done = armwise(folder, "import", folder / "bad.jsonl")
    assert done.exit_code == 1
    assert "bad.jsonl, line 3:" in done.stderr
    assert fault in done.stderr
    assert (folder / "prior.json").read_text() == "old"


def test_a_gzip_file_that_is_cut_off_is_named(folder):
    whole = write(folder / "x.jsonl.gz", [line(f"{n}", "large", 0.5, prompt=f"{n * n}") for n in range(5_000)])
    whole.write_bytes(whole.read_bytes()[:-2_000])
    done = armwise(folder, "import", whole)
    assert done.exit_code == 1
    assert "x.jsonl.gz, line " in done.stderr
    assert "damaged or cut off" in done.stderr


def test_files_of_which_nothing_can_be_used_say_why(folder):
    done = armwise(folder, "import", write(folder / "x.jsonl", several(2, {"a": 1, "b": 0})))
    assert done.exit_code == 1
    assert "None of the models in the files is configured: a (2), b (2)" in done.stderr
    done = armwise(folder, "import", write(folder / "y.jsonl", [line("1", "large", None)]))
    assert "No line has a score" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ((), "files of outcomes or --from-log"),
        (("{file}", "--from-log"), "files of outcomes or --from-log"),
        (("{file}", "--since", "3d"), "--since is for --from-log"),
        (("--from-log", "--since", "3"), "expected a number with m, h, d or w"),
        (("--from-log", "--model", "a=small"), "the log has the names"),
        (("{file}", "--model", "smal"), "expected FILE_NAME=CONFIGURED_NAME"),
        (("{file}", "--model", "x=smal"), "did you mean `small`?"),
    ],
)
def test_options_that_do_not_fit(folder, arguments, fault):
    file = write(folder / "x.jsonl", several(2, {"large": 1, "small": 0}))
    done = armwise(folder, "import", *(str(file) if word == "{file}" else word for word in arguments))
    assert done.exit_code == 2
    assert fault in done.stderr


# The own log


@pytest.fixture
def log(folder, database_url, decision_row):
    """Stores decisions and rewards: rows of what differs from a usual thumb."""
    toml = folder / "armwise.toml"
    toml.write_text(toml.read_text().replace(f"sqlite:///{folder}/armwise.db", database_url))

    def write_log(rows):
        said = [({key: row[key] for key in ("method", "served_arm", "propensity") if key in row}, row) for row in rows]
        decisions = [decision_row(f"{n:06}", arm=row["arm"], **decision) for n, (decision, row) in enumerate(said)]
        rewards = [
            {
                "decision_id": f"{n:06}", "metric": "quality", "source": "user", "user": "", "weight": 1.0,
                "channel": "thumb", "namespace": "", "task_type": "Open QA", "tier": "simple", "hour": 0,
                "comment": "", "detail": "{}", "created_at": NOW, "updated_at": NOW,
                "arm": row.get("served_arm") or row["arm"], "value": row["value"], **row.get("reward", {}),
            }
            for n, (_, row) in enumerate(said)
        ]  # fmt: skip

        def work(connection):
            store.insert_decisions(connection, decisions)
            store.insert_rewards(connection, rewards)

        with_database(toml, work)

    return write_log


def test_the_log_is_weighted_by_how_likely_each_draw_was(folder, log):
    """large is good where it was likely and bad where it was not: half of the traffic each. Read in two pages."""
    likely, rare = {"arm": "large", "propensity": 0.9, "value": 1.0}, {"arm": "large", "propensity": 0.1, "value": 0.0}
    small = [{"arm": "small", "propensity": 0.1, "value": 0.5}, {"arm": "small", "propensity": 0.9, "value": 0.5}]
    log([*[likely] * 4_590, *[rare] * 510, *[small[0]] * 510, *[small[1]] * 4_590])
    done = armwise(folder, "import", "--from-log")
    assert done.exit_code == 0, done.output
    table = read_prior(folder / "prior.json")
    assert table.of("large", "Open QA") == pytest.approx(0.5, abs=0.01)
    assert table.of("small", "Open QA") == pytest.approx(0.5, abs=0.01)
    assert table.source == "own log: 10,200 ratings"
    assert "(5,100)" in done.stdout


def test_only_labels_of_what_a_policy_drew_count(folder, log):
    usual = {"propensity": 0.5, "value": 0.6}
    others = [
        {"arm": "large", "value": 0.0, "method": "user_specified", "propensity": 1.0},
        {"arm": "large", "value": 0.0, "method": "static_fallback", "propensity": 1.0},
        {"arm": "large", "value": 0.0, "served_arm": "small"},
        {"arm": "large", "value": 0.0, "reward": {"channel": "heuristic"}},
        {"arm": "large", "value": 0.0, "reward": {"weight": 0.0}},
        {"arm": "gone", "value": 0.0},
    ]
    log([{"arm": "large", **usual}] * 40 + [{"arm": "small", **usual}] * 40 + others * 40)
    done = armwise(folder, "import", "--from-log")
    assert done.exit_code == 0, done.output
    assert read_prior(folder / "prior.json").quality == {
        arm: {"": pytest.approx(0.6), "Open QA": pytest.approx(0.6)} for arm in ("large", "small")
    }
    assert "Left out, not configured: gone (40)" in done.stderr


def test_since_takes_the_newer_ratings_only(folder, log):
    """The usual ratings are of 2027, or long past when you read this; others are of 1970."""
    old = {"arm": "large", "propensity": 0.5, "value": 0.0, "reward": {"created_at": 100.0}}
    future = {"arm": "large", "propensity": 0.5, "value": 1.0, "reward": {"created_at": 1e11}}
    log([old] * 5 + [future] * 3)
    assert armwise(folder, "import", "--from-log", "--since", "2w").exit_code == 0
    assert read_prior(folder / "prior.json").source == "own log: 3 ratings"
    assert armwise(folder, "import", "--from-log").exit_code == 0
    assert read_prior(folder / "prior.json").source == "own log: 8 ratings"


def test_an_empty_log_and_a_poisoned_one_say_so(folder, log):
    done = armwise(folder, "import", "--from-log")
    assert done.exit_code == 1
    assert "there is no rating" in done.stderr
    log([{"arm": "large", "propensity": 0.0, "value": 1.0}])
    done = armwise(folder, "import", "--from-log")
    assert done.exit_code == 1
    assert "rating of arm 'large' has value 1.0, weight 1.0 and propensity 0.0" in done.stderr
    assert not (folder / "prior.json").exists()


# The file


def test_what_is_written_is_read(folder):
    table = PriorTable({"a": {"": 0.5, "Open QA": 0.25}}, 12.5, "here")
    write_prior(folder / "new" / "prior.json", table)
    assert read_prior(folder / "new" / "prior.json") == table
    assert [path.name for path in (folder / "new").iterdir()] == ["prior.json"]


def test_a_file_that_cannot_be_written_is_named(folder):
    (folder / "taken").write_text("")
    with pytest.raises(ArmwiseError, match="prior cannot be written"):
        write_prior(folder / "taken" / "prior.json", PriorTable({"a": {"": 0.5}}))
    (folder / "there.json").mkdir()
    with pytest.raises(ArmwiseError, match="prior cannot be written"):
        write_prior(folder / "there.json", PriorTable({"a": {"": 0.5}}))
    assert not (folder / "there.json.part").exists()


@pytest.mark.parametrize(
    ("content", "faults"),
    [
        ("{", ["is not JSON"]),
        ("[]", ["must be a table"]),
        ("{}", ["missing key `quality`"]),
        ('{"quality": {}}', ["`quality` is empty"]),
        ('{"quality": {"a": {"": 1.5}}}', ["`quality.a.` must be a number of at least 0 and at most 1, found 1.5"]),
        ('{"quality": {"a": {"Open QA": "x"}}, "mass": -1}', ["`quality.a.Open QA` must be", "`mass` must be"]),
        ('{"quality": {"a": {"": 1e999}}}', ["is not JSON"]),
        (
            '{"quality": {"a": {"Opn QA": 0.5}}}',
            ["unknown task type `Opn QA` at `quality.a` (did you mean `Open QA`?)"],
        ),
        ('{"quality": {"a": {"": 0.5}}, "weight": 3}', ["unknown key `weight`"]),
    ],
)
def test_every_mistake_in_a_file_is_named(folder, content, faults):
    path = folder / "prior.json"
    path.write_text(content)
    with pytest.raises(ConfigurationError) as caught:
        read_prior(path)
    assert len(caught.value.mistakes) == len(faults)
    for mistake, fault in zip(caught.value.mistakes, faults, strict=True):
        assert mistake.startswith(f"{path}: ")
        assert fault in mistake
    done = armwise(folder, "show", path)
    assert done.exit_code == 1
    assert faults[0] in done.stderr


def test_a_missing_file_says_how_to_make_it(folder):
    with pytest.raises(ConfigurationError, match=r"none\.json: there is no such prior; `armwise prior import` makes"):
        read_prior(folder / "none.json")


def test_show_compares_with_the_settings(folder):
    write_prior(folder / "p.json", PriorTable({"large": {"": 0.75}, "old": {"": 0.5}}, 0.0, "somewhere"))
    done = armwise(folder, "show", folder / "p.json")
    assert done.exit_code == 0, done.output
    assert "0.750" in done.stdout
    assert "Made from somewhere." in done.stdout
    assert "Nothing is known of: small" in done.stdout
    assert "Not configured, so without use here: old." in done.stdout
    write_prior(folder / "p.json", PriorTable({"large": {"": 0.75}, "small": {"": 0.5}}))
    assert "It knows every configured model." in armwise(folder, "show", folder / "p.json").stdout


def test_many_models_stand_below_each_other():
    table = PriorTable({f"model-{number}": {"": number / 40, "Open QA": 0.5} for number in range(40)})
    lines = list(told(table, {}, width=80))
    assert max(map(len, lines)) <= 80
    shown = [word for line in lines for word in line.split() if word.startswith("model-")]
    assert shown == [f"model-{number}" for number in range(39, -1, -1)]
