"""Fine-tuning: what is learned, what is refused, what is resumed, and that the result is a whole model again."""

import json
import random
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from bandit.vocabulary import TASK_TYPES
from service.classifiers.nvidia import TIERS, load_nvidia
from service.classifiers.nvidia.checkpoint import open_checkpoint
from service.classifiers.nvidia.heads import HEADS as HEADS_OF_MODEL
from service.classifiers.nvidia.heads import N_LOGITS, SLICES, answer_of
from service.classifiers.nvidia.tuning.command import tune as command
from service.classifiers.nvidia.tuning.examples import Examples, learnable, read_examples, split
from service.classifiers.nvidia.tuning.figures import compare, tiers_of
from service.classifiers.nvidia.tuning.loss import Objective, class_weights, complexity
from service.classifiers.nvidia.tuning.training import shuffled
from service.classifiers.nvidia.tuning.tune import Options, tune
from service.errors import ConfigurationError, UnusableData

HELP = {"help_option_names": ["-h", "--help"]}  # as the whole command has them: click remembers the first ones
NOUNS = ["ferry", "garden", "school", "bakery", "bicycle", "river", "letter", "museum", "tunnel", "piano"]
TEMPLATES = {
    "Summarization": ("Summarise the text about the {}.", "Give the gist of the report on the {}."),
    "Code Generation": ("Write a function that counts every {}.", "Write Python code for a {}."),
    "Open QA": ("Why is the {} so old?", "When was the {} built?"),
}
TIER_OF = {"Summarization": "medium", "Code Generation": "complex", "Open QA": "simple"}
HEADS = Options(learning_rate=1e-2, epochs=40)
LAYERS = Options(layers=1, learning_rate=1e-3, epochs=3)


def prompts(count, seed=0):
    """Different prompts with the type that their template tells."""
    draw = random.Random(seed)
    found = {}
    while len(found) < count:
        task = draw.choice(list(TEMPLATES))
        text = draw.choice(TEMPLATES[task]).format(draw.choice(NOUNS))
        found[f"{text} {' '.join(draw.choices(NOUNS, k=draw.randrange(1, 5)))}"] = task
    return found


def rows(count=300, kinds=("task_type",), seed=0):
    labels = {"task_type": lambda task: task, "tier": TIER_OF.__getitem__}
    return [
        {"prompt": text, **{kind: labels[kind](task) for kind in kinds}} for text, task in prompts(count, seed).items()
    ]


def write(path, lines):
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


def measure(report, label, name):
    return next(
        row
        for figures in report.figures
        if figures.label == label
        for row in figures.comparisons
        if row.measure == name
    )


def weights_of(folder):
    return (folder / "model.safetensors").read_bytes()


@pytest.fixture
def weights(model_folders):
    return model_folders["tiny"]


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


# What is learned


def test_heads_learn_task_types_and_nothing_else_moves(weights, tmp_path, out):
    report = tune(weights, write(tmp_path / "data", rows()), out, HEADS)
    accuracy = measure(report, "task_type", "accuracy")
    assert accuracy.before < 0.5
    assert accuracy.after > 0.9
    assert accuracy.low > 0
    assert measure(report, "task_type", "log_loss").high < 0
    assert report.complexity_change == 0
    before, after = open_checkpoint(weights), open_checkpoint(out)
    changed = {
        name
        for name in (f"{part}.{kind}" for part in parts_of(before) for kind in ("weight", "bias"))
        if not np.array_equal(before.tensor(name), after.tensor(name))
    }
    assert changed == {"head_0.fc.weight", "head_0.fc.bias"}


def parts_of(checkpoint):
    layers = [f"backbone.encoder.layer.{number}.output.dense" for number in range(checkpoint.geometry.layers)]
    return [*(f"head_{number}.fc" for number in range(8)), *layers]


def test_tiers_move_the_complexity_and_leave_the_task_type(weights, tmp_path, out):
    report = tune(weights, write(tmp_path / "data", rows(kinds=("tier",))), out, HEADS)
    assert measure(report, "tier", "accuracy").low > 0
    assert measure(report, "tier", "rank_correlation").after > 0.8
    before, after = open_checkpoint(weights), open_checkpoint(out)
    assert np.array_equal(before.tensor("head_0.fc.weight"), after.tensor("head_0.fc.weight"))
    assert not np.array_equal(before.tensor("head_1.fc.weight"), after.tensor("head_1.fc.weight"))


def test_the_last_layers_learn_too(weights, tmp_path, out):
    data = write(tmp_path / "data", rows(kinds=("task_type", "tier")))
    report = tune(weights, data, out, LAYERS)
    assert measure(report, "task_type", "accuracy").after > 0.9
    assert measure(report, "tier", "accuracy").low > 0
    assert set(report.epochs) == {"task_type", "tier", "layers"}
    before, after = open_checkpoint(weights), open_checkpoint(out)
    value = "backbone.encoder.layer.{}.attention.self.value_proj.weight"
    assert not np.array_equal(before.tensor(value.format(1)), after.tensor(value.format(1)))
    assert np.array_equal(before.tensor(value.format(0)), after.tensor(value.format(0)))


def test_the_result_is_a_whole_model_that_says_where_it_is_from(weights, tmp_path, out):
    report = tune(weights, write(tmp_path / "data", rows()), out, HEADS)
    exported = {path.name for path in weights.glob("armwise-*")}  # by other tests with these weights
    assert {path.name for path in out.iterdir()} == {path.name for path in weights.iterdir()} - exported
    note = json.loads((out / "config.json").read_text())["armwise_tuned"]
    assert note["from"] == report.began_with == open_checkpoint(weights).digest
    assert report.digest == open_checkpoint(out).digest != report.began_with
    nvidia = load_nvidia(out, backend="torch", precision="fp32")
    fresh = rows(seed=1)[:60]
    right = [nvidia.classify(row["prompt"]).task_type == row["task_type"] for row in fresh]
    assert np.mean(right) > 0.9


def test_no_prompt_is_stored(weights, tmp_path, out):
    lines = [{**row, "prompt": row["prompt"] + " zebracorn"} for row in rows()]
    report = tune(weights, write(tmp_path / "data", lines), out, HEADS)
    assert b"zebracorn" not in msgspec.json.encode(report)
    assert all(b"zebracorn" not in path.read_bytes() for path in out.rglob("*") if path.is_file())


# What is refused


def without_meaning(count=300):
    draw = random.Random(5)
    return [{**row, "task_type": draw.choice(list(TEMPLATES))} for row in rows(count)]


def test_labels_that_cannot_be_learned_are_refused(weights, tmp_path, out):
    """The start already knows the three types that occur, so that only the labels' meaning could be learned."""
    first = tune(weights, write(tmp_path / "first", rows()), tmp_path / "first-out", HEADS)
    assert first.kept
    data = write(tmp_path / "data", without_meaning())
    report = tune(tmp_path / "first-out", data, out, HEADS)
    assert not report.better
    assert not report.kept
    assert not (out / "model.safetensors").exists()


def test_force_keeps_what_is_not_better(weights, tmp_path, out):
    arguments = ["--weights", str(weights), "--data", str(write(tmp_path / "data", rows(120))), "--out", str(out)]
    arguments += ["--epochs", "1", "--learning-rate", "1e-9", "--json"]
    refused = CliRunner().invoke(command, arguments, **HELP)
    assert refused.exit_code == 1
    assert not msgspec.json.decode(refused.stdout)["better"]
    assert "NotBetter" in repr(refused.exception)
    forced = CliRunner().invoke(command, [*arguments, "--force"], **HELP)
    assert forced.exit_code == 0, forced.output
    assert msgspec.json.decode(forced.stdout)["kept"]
    open_checkpoint(out)
    assert not (out / ".tuning").exists()


def test_what_was_learned_before_a_refusal_is_not_learned_again(weights, tmp_path, out):
    data, options = write(tmp_path / "data", rows(120)), Options(epochs=3, learning_rate=1e-9)
    assert not tune(weights, data, out, options).kept
    steps = []

    @contextmanager
    def progress(_doing, _total):
        yield steps.append

    assert tune(weights, data, out, options, force=True, progress=progress).kept
    assert len(steps) == 2  # all prompts were read and all epochs had ended before


def test_a_model_is_not_written_over(weights, tmp_path, tiny_folder):
    data = write(tmp_path / "data", rows(120))
    with pytest.raises(ConfigurationError, match="holds a model already"):
        tune(weights, data, tiny_folder, HEADS)
    with pytest.raises(ConfigurationError, match="folder of the weights to begin with"):
        tune(tiny_folder, data, tiny_folder, HEADS, force=True)
    report = tune(weights, data, tiny_folder, Options(epochs=1), force=True)
    assert open_checkpoint(tiny_folder).digest == report.digest
    assert open_checkpoint(tiny_folder).geometry == open_checkpoint(weights).geometry


def test_more_layers_than_there_are_and_absent_devices_are_refused(weights, tmp_path, out):
    data = write(tmp_path / "data", rows(120))
    with pytest.raises(ConfigurationError, match="--layers is 9, but the model has 2"):
        tune(weights, data, out, Options(layers=9))
    absent = next(device for device in ("mps", "cuda") if device not in torch_devices())
    with pytest.raises(ConfigurationError, match=f'"{absent}" is not there'):
        tune(weights, data, out, HEADS, device=absent)
    assert not out.exists()


def torch_devices():
    from service.classifiers.nvidia.torch_runtime import devices

    return devices()


def test_every_bad_line_is_named_before_anything_starts(weights, tmp_path, out):
    path = write(tmp_path / "data", rows(5))
    with path.open("ab") as file:
        file.write(
            b"\n"
            b'{"prompt": "a secret", "task_type": "Coding"}\n'
            b'{"prompt": "a secret", "task_type": "Coding"}\n'
            b'{"prompt": "a secret", "tier": "hard"}\n'
            b'{"prompt": 7, "tier": "simple"}\n'
            b'{"tier": "simple"}\n'
            b'{"prompt": " ", "tier": "simple"}\n'
            b'{"prompt": "a secret", "label": "simple"}\n'
            b'["a secret"]\n'
            b'{"prompt": "a secret\n'
            b'{"prompt": "\xff", "tier": "simple"}\n'
            b'{"prompt": "one bird", "tier": "simple"}\n'
            b'{"prompt": "one bird", "tier": "complex"}\n'
        )
    with pytest.raises(UnusableData) as caught:
        tune(weights, path, out, HEADS)
    message = str(caught.value)
    assert "12 lines" in message
    for said in (
        'lines 7-8: task_type is "Coding", expected one of Brainstorming',
        'line 9: tier is "hard", expected one of simple, medium, complex',
        "line 10: prompt is a number, expected a string",
        "line 11: prompt is missing",
        "line 12: prompt is empty",
        "line 13: neither task_type nor tier is given",
        "line 14: an array where an object was expected",
        "line 15: no JSON",
        "line 16: no JSON",
        'lines 17-18: the same text to the model, but tier is "simple" and "complex"',
    ):
        assert said in message
    assert "secret" not in message
    assert not out.exists()


def test_a_prompt_in_the_place_of_a_label_is_not_shown(weights, tmp_path, out):
    lines = [{"prompt": "simple", "tier": "Tell me whether my neighbour Mr Aldous is ill"}, "Mr Aldous"]
    with pytest.raises(UnusableData, match="tier is 47 characters long") as caught:
        tune(weights, write(tmp_path / "data", lines), out, HEADS)
    assert "Aldous" not in str(caught.value)


def test_too_few_labels_are_refused_with_their_counts(weights, tmp_path, out):
    with pytest.raises(UnusableData, match=r"60 different prompts have a task_type: \d+ of them would judge"):
        tune(weights, write(tmp_path / "data", rows(60)), out, HEADS)
    alike = [{**row, "task_type": "Rewrite"} for row in rows(200)]
    with pytest.raises(UnusableData, match="have one task_type: Rewrite"):
        tune(weights, write(tmp_path / "data", alike), out, HEADS)
    with pytest.raises(UnusableData, match="no labelled prompt"):
        tune(weights, write(tmp_path / "data", []), out, HEADS)


# What is resumed


class Stop(BaseException):
    """Ends a run in the middle of an epoch, as a signal would."""


def stopping_after(steps, label="Learning"):
    """Shows no progress, and stops after so many steps."""

    @contextmanager
    def progress(doing, total):
        done = 0

        def advance(more):
            nonlocal done
            done += more
            if doing.startswith(label) and done >= steps:
                raise Stop

        yield advance

    return progress


@pytest.mark.parametrize("options", [Options(epochs=6), LAYERS], ids=["heads", "layers"])
def test_a_run_stopped_at_any_step_resumes_to_the_same_weights(options, weights, tmp_path, out):
    data = write(tmp_path / "data", rows(150, kinds=("task_type", "tier")))
    whole = tune(weights, data, tmp_path / "whole", options, force=True)
    for label, steps in (("Reading", 100), ("Learning task", 3), ("Learning tier", 10), ("Learning layers", 12)):
        try:
            resumed = tune(weights, data, out, options, force=True, progress=stopping_after(steps, label))
        except Stop:
            continue
        break
    else:
        resumed = tune(weights, data, out, options, force=True)
    assert resumed == whole
    assert weights_of(out) == weights_of(tmp_path / "whole")


def test_a_killed_run_resumes_to_the_same_weights(weights, tmp_path, out):
    data = write(tmp_path / "data", rows(150))
    arguments = ["--weights", weights, "--data", data, "--layers", "2", "--epochs", "12", "--learning-rate", "1e-4"]
    # Sums depend on how many threads share them.
    threads = f"import sys, torch; torch.set_num_threads({torch.get_num_threads()})"
    code = f"{threads}; from service.classifiers.nvidia.tuning.command import tune; tune(sys.argv[1:])"
    command_line = [sys.executable, "-c", code, *map(str, arguments), "--patience", "12", "--force", "--out", str(out)]
    process = subprocess.Popen(command_line, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    kept = out / ".tuning" / "layers.pt"
    while not kept.exists():
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (out / "model.safetensors").exists()
    reached = torch.load(kept, weights_only=True)["epoch"]
    assert 1 <= reached < 12
    options = Options(layers=2, epochs=12, learning_rate=1e-4, patience=12)
    resumed = tune(weights, data, out, options, force=True)
    whole = tune(weights, data, tmp_path / "whole", options, force=True)
    assert resumed == whole
    assert weights_of(out) == weights_of(tmp_path / "whole")


def test_an_interrupted_run_is_not_continued_with_other_options_or_data(weights, tmp_path, out):
    data = write(tmp_path / "data", rows(120))
    with pytest.raises(Stop):
        tune(weights, data, out, HEADS, progress=stopping_after(5))
    with pytest.raises(ConfigurationError, match="interrupted tuning"):
        tune(weights, data, out, Options(seed=1))
    with pytest.raises(ConfigurationError, match="interrupted tuning"):
        tune(weights, write(tmp_path / "more", rows(130)), out, HEADS)
    shutil.rmtree(out / ".tuning")
    assert tune(weights, data, out, Options(seed=1)).kept


# Data, losses and figures


def test_the_order_of_lines_and_repeated_lines_do_not_matter(weights, tmp_path):
    tokenizer = open_checkpoint(weights).tokenizer
    lines = rows(50)
    once = read_examples(write(tmp_path / "once", lines), tokenizer)
    twice = read_examples(write(tmp_path / "twice", [*reversed(lines), *lines[:20]]), tokenizer)
    assert (once.ids, once.digests) == (twice.ids, twice.digests)
    assert np.array_equal(once.labels["task_type"], twice.labels["task_type"])
    assert (once.repeated, twice.repeated) == (0, 20)


def test_a_text_labelled_in_two_lines_has_both_labels(weights, tmp_path):
    lines = [{"prompt": "one bird", "tier": "simple"}, {"prompt": "one  bird ", "task_type": "Rewrite", "tier": None}]
    found = read_examples(write(tmp_path / "data", lines), open_checkpoint(weights).tokenizer)
    assert len(found.ids) == 1
    assert found.labels["tier"].tolist() == [0]
    assert found.labels["task_type"].tolist() == [TASK_TYPES.index("Rewrite")]


def test_the_split_is_told_by_each_text_and_the_seed():
    digests = [f"{number:032x}" for number in range(5000)]
    parts = split(digests, validation_share=0.2, seed=3)
    assert sorted(np.concatenate(parts).tolist()) == list(range(5000))
    assert len(parts.validation) / 5000 == pytest.approx(0.2, abs=0.02)
    assert len(parts.stopping) / 5000 == pytest.approx(0.08, abs=0.02)
    fewer = split(digests[::2], validation_share=0.2, seed=3)
    assert {digests[row] for row in parts.validation if row % 2 == 0} == {digests[2 * row] for row in fewer.validation}
    assert set(split(digests, validation_share=0.2, seed=4).validation) != set(parts.validation)


def test_the_complexity_that_is_learned_is_the_one_that_is_served():
    logits = np.random.default_rng(0).normal(0, 3, (200, N_LOGITS)).astype(np.float32)
    served = [answer_of(row).prompt_complexity_score for row in logits]
    # Served scores are rounded to four decimals, and fewer than 0.05 shots count as none.
    assert np.abs(complexity(torch.from_numpy(logits)).numpy() - served).max() < 0.0026


def examples_of(tasks, tiers):
    count = len(tasks)
    labels = {"task_type": np.array(tasks), "tier": np.array(tiers)}
    return Examples([[1, 2]] * count, labels, [str(row) for row in range(count)], 0, 0)


def test_the_loss_is_lowest_where_the_labels_hold_and_nothing_else_moves():
    draw = torch.Generator().manual_seed(0)
    before = torch.randn((6, N_LOGITS), generator=draw)
    every = torch.arange(6)
    unlabelled = Objective(examples_of([-1] * 6, [-1] * 6), np.arange(6), before)
    assert float(unlabelled(before, every)) == pytest.approx(0, abs=1e-6)
    assert float(unlabelled(before + torch.randn(before.shape, generator=draw), every)) > 0.02

    named = Objective(examples_of([4] * 6, [-1] * 6), np.arange(6), before)
    right, wrong = before.clone(), before.clone()
    right[:, 4] += 5
    wrong[:, 5] += 5
    assert named(right, every) < named(before, every) < named(wrong, every)


def with_complexity(creativity):
    """Logits whose complexity is 0.35 times the creativity, from 0 to 1: every other head says no."""
    logits = torch.full((1, N_LOGITS), -20.0)
    for head, no in zip(HEADS_OF_MODEL[1:], (2, 0, 0, 0, 3, 0, 1), strict=True):
        logits[:, SLICES[head.name].start + no] = 20.0
    high_low_no = torch.tensor([max(creativity, 1e-9), 1e-9, max(1 - creativity, 1e-9)])
    logits[:, SLICES["creativity_scope"]] = high_low_no.log()
    return logits


@pytest.mark.parametrize(("tier", "falls_to"), [(0, "left"), (1, "middle"), (2, "right")])
def test_the_tier_loss_falls_toward_the_tier(tier, falls_to):
    losses = []
    for creativity in (0.1, 0.5, 0.857, 1.0):  # complexity 0.035, 0.175, 0.3, 0.35
        logits = with_complexity(creativity)
        assert float(complexity(logits)) == pytest.approx(0.35 * creativity, abs=1e-3)
        objective = Objective(examples_of([-1], [tier]), np.arange(1), logits)
        losses.append(float(objective(logits, torch.arange(1))))
    if falls_to == "left":
        assert losses == sorted(losses)
    elif falls_to == "right":
        assert losses == sorted(losses, reverse=True)
    else:
        assert min(losses) == losses[2]


def test_rare_classes_weigh_more_and_the_mean_is_one():
    labels = np.array([0] * 90 + [1] * 10 + [-1] * 50)
    weights = class_weights(labels, np.arange(150))
    assert weights.mean() == pytest.approx(1)
    assert weights[95] / weights[0] == pytest.approx(3)
    assert not weights[100:].any()


def test_every_row_is_learned_once_an_epoch():
    torch.manual_seed(0)
    rows, lengths = torch.arange(3, 1003), torch.arange(1003) % 37
    batches = list(shuffled(rows, lengths, 32))
    assert sorted(torch.cat(batches).tolist()) == rows.tolist()
    spread = [int(lengths[batch].max() - lengths[batch].min()) for batch in batches]
    assert np.mean(spread) < 8


def logits_for(tasks, sure=8.0):
    logits = np.zeros((len(tasks), N_LOGITS), dtype=np.float32)
    logits[np.arange(len(tasks)), tasks] = sure
    return logits


def test_figures_tell_a_better_a_worse_and_an_equal_model():
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 3, 200)
    half = np.where(draw.random(200) < 0.5, labels, (labels + 1) % 3)
    good, bad = logits_for(labels), logits_for(half)
    figures = compare("task_type", labels, bad, good, seed=0)
    assert (figures.better, figures.worse) == (True, False)
    accuracy = figures.comparisons[0]
    assert accuracy.after == 1
    assert accuracy.before == pytest.approx((half == labels).mean())
    assert accuracy.low < accuracy.after - accuracy.before < accuracy.high
    back = compare("task_type", labels, good, bad, seed=0)
    assert (back.better, back.worse) == (False, True)
    same = compare("task_type", labels, bad, bad, seed=0)
    assert (same.better, same.worse) == (False, False)


def test_figures_equal_those_of_a_library():
    from sklearn.metrics import accuracy_score, f1_score, log_loss

    from service.classifiers.nvidia.heads import probabilities_of

    draw = np.random.default_rng(1)
    labels = draw.integers(0, 12, 300)
    logits = draw.normal(0, 2, (300, N_LOGITS)).astype(np.float32)
    probabilities = probabilities_of(logits)[:, SLICES["task_type"]]
    named = probabilities.argmax(axis=1)
    found = {row.measure: row.after for row in compare("task_type", labels, logits, logits, seed=0).comparisons}
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, named))
    assert found["macro_f1"] == pytest.approx(f1_score(labels, named, average="macro"))
    assert found["log_loss"] == pytest.approx(log_loss(labels, probabilities), rel=1e-6)


def test_a_rank_correlation_equals_a_librarys(weights):
    from scipy.stats import spearmanr

    draw = np.random.default_rng(2)
    labels = draw.integers(0, 3, 120)
    logits = draw.normal(0, 2, (120, N_LOGITS)).astype(np.float32)
    served = [answer_of(row).prompt_complexity_score for row in logits]
    found = {row.measure: row.after for row in compare("tier", labels, logits, logits, seed=0).comparisons}
    assert found["rank_correlation"] == pytest.approx(spearmanr(labels, served).statistic)
    assert found["accuracy"] == pytest.approx((tiers_of(np.array(served)) == labels).mean())


def test_boundaries_belong_to_the_upper_tier():
    assert tiers_of(np.array([0.0, 0.19999, TIERS[0], 0.39999, TIERS[1], 1.2])).tolist() == [0, 0, 1, 1, 2, 2]


def test_learnable_names_both_kinds():
    examples = examples_of([0, 1] * 100, [-1] * 100 + [0, 2] * 50)
    parts = split([f"{row:032x}" for row in range(200)], validation_share=0.4, seed=0)
    assert learnable(examples, parts) == ("task_type", "tier")


# The command


def test_the_command_prints_tables_and_what_to_do_next(weights, tmp_path, out):
    data = write(tmp_path / "data", rows(kinds=("task_type", "tier")))
    done = CliRunner().invoke(command, ["--weights", str(weights), "--data", str(data), "--out", str(out)], **HELP)
    assert done.exit_code == 0, done.output
    for said in ("F1 of Code Generation", "log loss", "rank correlation", "decides", "F1 of simple"):
        assert said in done.stdout
    assert "Next: armwise classifier check" in done.stderr
    assert Path(out, "model.safetensors").exists()


@pytest.mark.skipif(torch_devices()[0] == "cpu", reason="torch finds no GPU on this machine")
def test_a_gpu_learns_too(weights, tmp_path, out):
    data = write(tmp_path / "data", rows(kinds=("task_type", "tier")))
    report = tune(weights, data, out, LAYERS, device=torch_devices()[0])
    assert measure(report, "task_type", "accuracy").after > 0.9
