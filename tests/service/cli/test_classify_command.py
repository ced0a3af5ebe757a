"""`armwise classify`: any classifier, one prompt a line, NVIDIA's eleven fields, errors in their place."""

import io
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from bandit.vocabulary import TASK_TYPES, Classification, DimensionScores
from benchmarks.random_classifier import build
from service.classifiers.answers import answer_from, nvidia_answers, small_answers
from service.classifiers.lines import LONGEST_LINE_BYTES, Counts, Said, classify_lines
from service.classifiers.nvidia import Reading, load_nvidia
from service.classifiers.nvidia.heads import SLICES, answer_of
from service.cli.main import main

ROOT = Path(__file__).parents[3]
FIELDS = [
    "task_type_1", "task_type_2", "task_type_prob", "creativity_scope", "reasoning", "contextual_knowledge",
    "number_of_few_shots", "domain_knowledge", "no_label_reason", "constraint_ct", "prompt_complexity_score",
]  # fmt: skip
PROMPTS = [
    "Write a poem about the sea.", "", "为什么海水是咸的？", "def f(x):\n    return x", "[SEP] to [MASK]", "🙂\x00\t",
    "How long? " * 400, "Summarize this.", "\ud83d half of a pair", "x" * 5_000,
]  # fmt: skip


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return build(tmp_path_factory.mktemp("weights"), "small")


def lines_of(objects):
    return b"".join(json.dumps(value).encode() + b"\n" for value in objects)


def classify(*arguments, given=b"", **environ):
    """Exit status, answers, and what stands on standard error."""
    done = CliRunner().invoke(main, ["classify", *map(str, arguments)], input=given, env=environ)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def nvidia(weights, *arguments, given):
    return classify("--classifier", "nvidia", "--weights", weights, *arguments, given=given)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_nvidia_answers_every_prompt_as_it_would_alone_and_in_order(weights, precision):
    given = lines_of({"id": f"n{number}", "prompt": prompt} for number, prompt in enumerate(PROMPTS))
    status, answers, told = nvidia(weights, "--precision", precision, "--logits", given=given)
    assert status == 0
    assert f"/{precision}" in told
    assert [answer["id"] for answer in answers] == [f"n{number}" for number in range(len(PROMPTS))]
    model = load_nvidia(weights, precision=precision, gated=False)
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        logits = model.read([prompt])[0].logits
        assert list(answer) == ["id", "result", "logits"]
        assert list(answer["result"]) == FIELDS
        assert answer["result"] == msgspec.to_builtins(answer_of(logits))
        assert np.array_equal(np.array(answer["logits"], np.float32), logits)


def test_probabilities_are_a_softmax_over_every_head(weights):
    given = lines_of([{"prompt": PROMPTS[0]}])
    _, (answer,), _ = nvidia(weights, "--logits", "--probabilities", given=given)
    assert len(answer["logits"]) == len(answer["probabilities"]) == 32
    for part in SLICES.values():
        odds = np.exp(np.array(answer["logits"][part]))
        assert np.allclose(answer["probabilities"][part], odds / odds.sum(), atol=1e-6)


def test_torch_answers_the_same_to_five_digits(weights):
    given = lines_of({"prompt": prompt} for prompt in PROMPTS)
    _, onnx, _ = nvidia(weights, "--probabilities", given=given)
    _, torch, told = nvidia(weights, "--probabilities", "--backend", "torch", "--precision", "fp32", given=given)
    assert "/fp32" in told
    off = [np.abs(np.array(a["probabilities"]) - b["probabilities"]).max() for a, b in zip(onnx, torch, strict=True)]
    assert max(off) < 1e-5


def test_a_token_budget_changes_long_prompts_only(weights):
    given = lines_of([{"prompt": "Write a poem about the sea."}, {"prompt": "How long? " * 400}])
    _, whole, _ = nvidia(weights, "--logits", given=given)
    _, cut, _ = nvidia(weights, "--logits", "--token-budget", 64, given=given)
    assert whole[0] == cut[0]
    assert whole[1]["logits"] != cut[1]["logits"]


BAD = {
    b"{": (1, "not valid JSON"),
    b"[1, 2]": (1, "an array"),
    b"7": (1, "a number"),
    b'"text"': (1, "a string"),
    b"null": (1, "null"),
    b'{"id": 5}': (5, '"prompt" is missing'),
    b'{"id": 5, "prompt": null}': (5, '"prompt" is null'),
    b'{"id": "a", "prompt": ["x"]}': ("a", '"prompt" is an array'),
    b'{"id": 1.5, "prompt": true}': (1.5, '"prompt" is a boolean'),
    b'{"id": {"row": 3}, "prompt": 1e999}': ({"row": 3}, '"prompt" is a number'),
    b'{"prompt": "caf\xe9"}': (1, "not valid UTF-8"),
    b'{"prompt": NaN}': (1, "NaN is not JSON"),
    b'{"prompt": "a\tb"}': (1, "not valid JSON"),
    b'{"prompt": "x"} {"prompt": "y"}': (1, "not valid JSON"),
    b'{"prompt": ' + b"[" * 100_000: (1, "nested too deeply"),
}


@pytest.mark.parametrize("line", BAD, ids=lambda line: repr(line[:30]))
def test_a_bad_line_is_told_in_its_place_and_stops_nothing(line):
    given = line + b'\n\n{"id": "next", "prompt": "Write a poem."}\n'
    status, (bad, good), told = classify("--classifier", "rules", given=given)
    identity, reason = BAD[line]
    assert status == 0
    assert bad["id"] == identity
    assert reason in bad["error"]
    assert "result" not in bad
    assert good["id"] == "next"
    assert good["result"]["task_type_1"] == "Text Generation"
    assert "2 lines answered" in told
    assert "1 of them with an error" in told


def test_ids_come_back_as_given_and_an_absent_one_is_the_line_number():
    given = (
        b'{"prompt": "a"}\n{"id": null, "prompt": "b"}\n\n'
        b'{"id": 123456789012345678901234567890, "prompt": "c"}\n\xef\xbb\xbf{"id": "\\u00e9", "prompt": "d"}\r\n'
    )
    _, answers, _ = classify("--classifier", "rules", given=given)
    assert [answer["id"] for answer in answers] == [1, 2, 123456789012345678901234567890, "é"]


def test_a_line_without_end_is_refused_without_being_held():
    given = b'{"prompt": "' + b"x" * (LONGEST_LINE_BYTES + 10_000_000) + b'"}\n{"id": 8, "prompt": "Write a poem."}'
    _, (bad, good), _ = classify("--classifier", "rules", given=given)
    assert bad == {"id": 1, "error": "the line is longer than 16 MB"}
    assert good["id"] == 8


def test_nothing_given_is_nothing_answered():
    assert classify("--classifier", "rules", given=b"")[:2] == (0, [])


@pytest.mark.parametrize("classifier", ["embedded", "rules"])
def test_every_classifier_answers_in_the_same_eleven_fields(classifier):
    given = lines_of([{"prompt": "Write a short story about a lighthouse keeper."}, {"prompt": "🙂"}])
    status, (story, nothing), told = classify("--classifier", classifier, given=given)
    assert status == 0
    assert classifier in told
    assert list(story["result"]) == FIELDS
    assert story["result"]["task_type_1"] == "Text Generation"
    assert 0.3 < story["result"]["task_type_prob"] <= 1.0
    assert nothing["result"]["task_type_1"] == "Unknown"
    assert nothing["result"]["task_type_2"] == "NA"


def test_an_unsure_classification_says_what_it_would_have_guessed():
    probabilities = dict.fromkeys(TASK_TYPES, 0.0) | {"Open QA": 0.29996, "Rewrite": 0.25, "Other": 0.45004}
    found = Classification(
        task_type="Unknown",
        task_probabilities=tuple(probabilities.values()),
        scores=DimensionScores(creativity=0.123456, constraints=0.5, few_shots=0.04996),
        complexity=0.1182096,
        classifier="some/1",
    )
    answer = answer_from(found)
    assert (answer.task_type_1, answer.task_type_2, answer.task_type_prob) == ("Unknown", "Other", 0.0)
    assert (answer.creativity_scope, answer.constraint_ct) == (0.1235, 0.5)
    assert answer.number_of_few_shots == 0.05, "rounded first, as NVIDIA does"
    assert answer.prompt_complexity_score == 0.11821
    sure = answer_from(msgspec.structs.replace(found, task_type="Other"))
    assert (sure.task_type_1, sure.task_type_2, sure.task_type_prob) == ("Other", "Open QA", 0.45)


def test_a_text_on_which_a_classifier_fails_is_told_and_stops_nothing():
    def broken(text):
        if "bad" in text:
            raise RuntimeError("no memory")
        return Classification(
            task_type="Other", task_probabilities=(0.0,) * 12, scores=DimensionScores(), complexity=0.0, classifier="x"
        )

    first, second = small_answers(broken)(["a bad text", "a good one"])
    assert first.error == "the classifier failed: no memory"
    assert second.result.task_type_1 == "Other"


@pytest.mark.parametrize(
    ("arguments", "alternative"),
    [
        (["--backend", "onnx", "--precision", "bf16"], "--backend torch"),
        (["--backend", "torch", "--precision", "int8"], "--precision bf16"),
        (["--device", "cuda"], "--backend torch"),
        (["--precision", "fp16"], "bf16"),
        (["--token-budget", "513"], "512"),
    ],
)
def test_combinations_that_do_not_exist_are_refused_with_what_does(weights, arguments, alternative):
    status, answers, told = nvidia(weights, *arguments, given=b'{"prompt": "x"}\n')
    assert (status, answers) == (2, [])
    assert alternative in told


@pytest.mark.parametrize("flag", [["--logits"], ["--probabilities"], ["--weights", "."], ["--precision", "int8"]])
def test_what_only_nvidia_has_is_refused_elsewhere(flag):
    status, answers, told = classify("--classifier", "embedded", *flag, given=b'{"prompt": "x"}\n')
    assert (status, answers) == (2, [])
    assert flag[0] in told
    assert "--classifier nvidia" in told


def test_unusable_weights_are_a_sentence(weights, tmp_path):
    status, _, told = nvidia(tmp_path / "nowhere", given=b"")
    assert status == 1
    assert "armwise classifier fetch" in told
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for path in weights.iterdir():
        if not path.name.startswith("armwise-"):
            content = path.read_bytes()
            (damaged / path.name).write_bytes(content[:-4] if path.suffix == ".safetensors" else content)
    status, _, told = nvidia(damaged, given=b'{"prompt": "x"}\n')
    assert status == 1
    assert "model.safetensors" in told


def test_settings_and_environment_name_the_weights(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = b'{"prompt": "x"}\n'
    assert "by nvidia/" in classify(given=given, ARMWISE_CLASSIFIER_WEIGHTS=str(weights))[2]
    assert "by embedded/" in classify(given=given, ARMWISE_CLASSIFIER_WEIGHTS="")[2]
    Path("armwise.toml").write_text(f'[classifier]\nkind = "nvidia"\nweights = "{weights}"\nprecision = "fp32"\n')
    assert "by nvidia/" in classify(given=given)[2]
    assert "by rules/" in classify("--classifier", "rules", given=given)[2]


def test_memory_is_bounded_by_a_window():
    """No more lines are taken from the source than two windows beyond what was answered."""
    taken = itertools.count(1)
    answered = 0
    ahead = []

    class Source(io.RawIOBase):
        def readline(self, _limit=-1):
            number = next(taken)
            ahead.append(number - answered)
            return b'{"prompt": "x"}\n' if number <= 2_000 else b""

    def answer(prompts):
        nonlocal answered
        answered += len(prompts)
        return [Said() for _ in prompts]

    sink = io.BytesIO()
    assert classify_lines(Source(), sink, answer, window=8) == Counts(2_000, 0)
    assert max(ahead) <= 3 * 8
    assert sink.getvalue().count(b"\n") == 2_000


def test_a_broken_source_ends_with_its_error():
    class Source(io.RawIOBase):
        lines = iter([b'{"prompt": "x"}\n'])

        def readline(self, _limit=-1):
            for line in self.lines:
                return line
            raise OSError("the disk went away")

    sink = io.BytesIO()
    with pytest.raises(OSError, match="went away"):
        classify_lines(Source(), sink, lambda prompts: [Said() for _ in prompts])
    assert sink.getvalue().count(b"\n") == 1, "what came before it was answered"


def start(tmp_path, *arguments, **environ):
    # What starts in the background of a shell inherits that interrupts are ignored.
    heeds_interrupts = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{heeds_interrupts}; from service.cli.main import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, "classify", *map(str, arguments)],
        cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
    )  # fmt: skip


def test_a_slow_writer_gets_each_answer_before_it_writes_on(tmp_path):
    with start(tmp_path, "--classifier", "rules") as running:
        for number in range(3):
            running.stdin.write(b'{"prompt": "Write a poem."}\n')
            running.stdin.flush()
            assert json.loads(running.stdout.readline())["id"] == number + 1
        _, told = running.communicate()
    assert running.returncode == 0
    assert b"3 lines answered" in told


@pytest.mark.skipif(sys.platform == "win32", reason="signals are a thing of Unix")
@pytest.mark.parametrize("ends", ["interrupt", "closed pipe"])
def test_it_ends_quietly_while_it_waits_for_input(tmp_path, ends):
    with start(tmp_path, "--classifier", "rules") as running:
        for _ in range(2):
            running.stdin.write(b'{"prompt": "Write a poem."}\n')
            running.stdin.flush()
            running.stdout.readline()
            if ends == "closed pipe":
                running.stdout.close()
                running.stdin.write(b'{"prompt": "Write another."}\n')
                running.stdin.flush()
                break
        else:
            running.send_signal(signal.SIGINT)
        assert running.wait(60) == 1
        assert b"rror" not in running.stderr.read()


@pytest.mark.parametrize("together", [True, False], ids=["a batch", "one by one after a failed batch"])
def test_on_a_gpu_prompts_share_batches_of_similar_length(together):
    calls = []

    class OnGpu:
        device = "cuda"

        def read(self, texts):
            calls.append(list(map(len, texts)))
            if not together and len(texts) > 1:
                raise RuntimeError("out of memory")
            if "bad" in texts:
                raise RuntimeError("cannot be read")
            return [Reading(np.full(32, len(text), np.float32), np.zeros(4), len(text), False) for text in texts]

    prompts = ["x" * (7 * number % 64) for number in range(64)] + ([] if together else ["bad"])
    said = nvidia_answers(OnGpu(), logits=True, probabilities=False)(prompts)
    if together:
        assert sorted(map(len, calls)) == [32, 32]
        assert min(max(calls, key=sum)) >= max(min(calls, key=sum)), "the long ones do not pad the short ones"
    assert [one.logits[0] for one in said[:64]] == [len(prompt) for prompt in prompts[:64]]
    assert [one.error for one in said[64:]] == ["the classifier failed: cannot be read"] * (not together)


def test_without_the_packages_it_says_which_to_install(weights, tmp_path):
    stubs = tmp_path / "stubs"
    stubs.mkdir()
    (stubs / "onnxruntime.py").write_text("raise ModuleNotFoundError('gone', name='onnxruntime')")
    path = os.pathsep.join([str(stubs), str(ROOT)])
    with start(tmp_path, "--classifier", "nvidia", "--weights", weights, PYTHONPATH=path) as running:
        out, told = running.communicate(b'{"prompt": "x"}\n')
    assert running.returncode == 1
    assert out == b""
    assert b"pip install 'armwise[nvidia]'" in told
    assert b"Traceback" not in told
