"""The embedded classifier learns from a teacher: judged on what it did not see, never made worse, keeping no text."""

import random
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.random_classifier import build
from service.classifiers import create_classifier, distil, embedded
from service.classifiers.distil import Figure, Lesson, Report
from service.cli.main import main, with_database
from service.errors import ConfigurationError, NotBetter, UnusableData
from service.settings import ClassifierSettings
from service.storage import store

WORDS = (
    "harbour", "lantern", "barley", "river", "story", "sailor", "window", "engine", "garden", "letter", "market",
    "bridge", "winter", "salt", "piano", "forest", "kettle", "village", "train", "island", "recipe", "doctor",
    "museum", "violin", "storm", "mirror", "castle", "cotton", "desert", "orange", "pepper", "ladder", "python",
    "function", "list", "poem", "essay", "number", "formula", "price", "report", "summary", "table", "answer",
    "reason", "example", "step", "city",
)  # fmt: skip
OPENINGS = (
    "Write a short", "Explain why the", "Summarize this:", "List ten", "Translate", "What is the", "Classify:", "Fix",
    "Compare the", "Give me ideas for a", "Extract every", "Who was the", "Rewrite the", "Draw up a", "Tell me about",
)  # fmt: skip


def made_up(count):
    """Different prompts of our own."""
    chance = random.Random(4)
    return [
        f"{chance.choice(OPENINGS)} {' '.join(chance.choices(WORDS, k=chance.randint(3, 14)))}" for _ in range(count)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A settings file, a random model of NVIDIA's layout, and prompts in a database."""
    made = tmp_path_factory.mktemp("distil")
    build(made / "nvidia", "tiny", seed=3)
    (made / "armwise.toml").write_text(
        f'[database]\nurl = "sqlite:///{made}/armwise.db"\n[classifier]\nweights = "{made}/nvidia"\n'
    )
    prompts = [*made_up(400), "zanzibar", "  ", "Zanzibar "]
    rows = [{"decision_id": str(n), "created_at": float(n), "text": text} for n, text in enumerate(prompts)]
    with_database(made / "armwise.toml", lambda connection: store.insert_prompts(connection, rows))
    return made


def run(folder, *arguments):
    command = ["classifier", "distil", "--config", f"{folder}/armwise.toml", "--out", f"{folder}/learned.safetensors"]
    return CliRunner().invoke(main, [*command, *arguments])


@pytest.fixture(scope="module")
def learned(folder):
    """The report of a run on the prompts in the database."""
    result = run(folder, "--json")
    assert result.exit_code == 0, result.output
    assert 'embedded_weights = "' in result.stderr
    return msgspec.json.decode(result.stdout, type=Report)


def test_what_was_learned_agrees_more_with_the_teacher_on_prompts_it_did_not_see(learned):
    assert learned.prompts == 401  # repeats and empty ones are left out
    assert learned.teacher.startswith("nvidia/")
    assert learned.task_gain.low > 0.05
    assert learned.after.task_agreement.low > learned.before.task_agreement.high
    assert learned.after.complexity_error.high < learned.before.complexity_error.low
    assert learned.after.tier_agreement.low > learned.before.tier_agreement.high
    difference = learned.after.task_agreement.value - learned.before.task_agreement.value
    assert difference == pytest.approx(learned.task_gain.value, abs=2e-4)


def test_the_settings_serve_it_under_a_name_of_its_own_with_the_teachers_tiers(folder, learned):
    serving = create_classifier(ClassifierSettings(kind="embedded", embedded_weights=f"{folder}/learned.safetensors"))
    assert serving.name == learned.classifier
    assert serving.name.startswith(f"{embedded.Embedded().name}/")
    assert serving.tiers == (0.2, 0.4)
    assert serving.classify(made_up(1)[0]).classifier == learned.classifier


@given(text=st.text(st.characters(exclude_categories=()), max_size=200) | st.sampled_from(made_up(50)))
def test_learned_scores_stay_in_their_ranges(folder, learned, text):
    said = embedded.Embedded(Path(learned.file)).classify(text)
    scores = msgspec.structs.astuple(said.scores)
    assert all(0.0 <= score <= highest for score, highest in zip(scores, embedded.HIGHEST_SCORES, strict=True))
    assert 0.0 <= said.complexity <= 1.2
    if not any(map(str.isalnum, text)):
        assert (said.task_type, said.complexity) == ("Unknown", 0.0)


def test_the_weights_hold_no_word_of_any_prompt(folder, learned):
    content = Path(learned.file).read_bytes().lower()
    assert not [word for word in (*WORDS, "zanzibar") if len(word) > 5 and word.encode() in content]
    assert Path(learned.file).stat().st_mode & 0o044 == 0o044  # so the service may run as another user


def test_the_same_prompts_give_the_same_weights_and_words_for_people(folder, learned):
    before = Path(learned.file).read_bytes()
    result = run(folder)
    assert result.exit_code == 0, result.output
    assert Path(learned.file).read_bytes() == before
    assert "401 different prompts" in result.stdout
    assert f"{learned.after.task_agreement}" in result.stdout


def test_too_few_prompts_are_counted_and_nothing_is_asked(folder, tmp_path):
    few = tmp_path / "few.jsonl"
    few.write_bytes(b"".join(msgspec.json.encode({"prompt": text}) + b"\n" for text in made_up(20) * 2))
    result = run(folder, "--prompts", str(few), "--weights", "/nowhere")
    assert result.exit_code == 1
    assert "40 prompts were found, 20 of them different; at least 300 are needed" in result.stderr


def test_the_newest_prompts_of_a_file_are_taken(folder, tmp_path):
    many = tmp_path / "many.jsonl"
    many.write_bytes(b"".join(msgspec.json.encode({"prompt": text}) + b"\n" for text in made_up(20)))
    assert "5 prompts were found" in run(folder, "--prompts", str(many), "--newest", "5").stderr


def test_what_is_no_better_than_the_packaged_weights_is_not_written(tmp_path):
    texts = distil.different(made_up(distil.FEWEST_PROMPTS))
    packaged = embedded.Embedded()
    out = tmp_path / "kept.safetensors"
    out.write_text("as it was")
    teacher = SimpleNamespace(name="itself", tiers=packaged.tiers)
    with pytest.raises(NotBetter, match="itself gives"):
        distil.distil(Lesson(texts, [packaged.classify(text) for text in texts], teacher), out)
    assert out.read_text() == "as it was"
    assert list(tmp_path.iterdir()) == [out]


def test_repeats_differ_in_more_than_case_and_spaces():
    texts = [f"{number}\u3000Why" for number in range(distil.FEWEST_PROMPTS)]
    assert distil.different([*texts, "0  why ", "", "\n"]) == texts
    with pytest.raises(UnusableData):
        distil.different(texts[1:])


@given(st.lists(st.lists(st.sampled_from("abc1"), max_size=12), min_size=1, max_size=40), st.integers(1, 5))
def test_like_prompts_are_never_on_both_sides(token_lists, folds):
    groups = distil.groups_of(token_lists)
    found = distil.fold_of(groups, folds)
    assert set(found.tolist()) <= set(range(folds))
    for number, tokens in enumerate(token_lists):
        for other, others in enumerate(token_lists[:number]):
            if tokens[:8] == others[:8] or tokens[-8:] == others[-8:]:
                assert groups[number] == groups[other]
            if groups[number] == groups[other]:
                assert found[number] == found[other]


def test_folds_are_of_like_size_when_groups_are_small():
    sizes = np.bincount(distil.fold_of(np.arange(103), 5))
    assert sizes.max() - sizes.min() <= 1


def test_numerals_make_no_difference_to_what_is_alike():
    ends = [[*"abcdefgh", number, *"stuvwxyz", number] for number in ("12", "777")]
    assert len(set(distil.groups_of(ends).tolist())) == 1


def test_an_interval_counts_groups_not_prompts():
    alone = distil._Resampling(np.arange(200)).figure(np.tile([0.0, 1.0], 100))
    alike = distil._Resampling(np.arange(200) // 50).figure(np.repeat([0.0, 1.0, 0.0, 1.0], 50))
    assert alone.value == alike.value == 0.5
    assert alike.high - alike.low > 2 * (alone.high - alone.low) > 0.2
    assert distil._Resampling(np.arange(9)).figure(np.ones(9)) == Figure(1.0, 1.0, 1.0)


@pytest.mark.parametrize("content", [b"", b"no weights", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "])
def test_a_damaged_file_of_weights_is_told_by_its_name(tmp_path, content):
    damaged = tmp_path / "mine.safetensors"
    damaged.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"mine\.safetensors.*armwise classifier distil"):
        embedded.Embedded(damaged)
