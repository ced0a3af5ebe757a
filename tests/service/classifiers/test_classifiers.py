"""The contract that every classifier keeps, what obvious prompts are called, and what the weights hold."""

import hashlib
import json
import math
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from bandit.vocabulary import TASK_TYPES, DimensionScores
from benchmarks.classifier_figures import probes
from service.classifiers import create_classifier, embedded
from service.classifiers.embedded_features import features_digest, hashed_rows
from service.classifiers.reading import READ_HEAD_TOKENS, READ_TAIL_TOKENS, read
from service.classifiers.rules import complexity
from service.errors import ConfigurationError
from service.settings import ClassifierSettings

CLASSIFIERS = [create_classifier(ClassifierSettings(kind=kind)) for kind in ("embedded", "rules")]
every_classifier = pytest.mark.parametrize("classifier", CLASSIFIERS, ids=lambda classifier: classifier.name)

NOTE = (
    "The ferry to the northern islands was cancelled on Monday because of a storm. About two hundred passengers spent "
    "the night in a school in Harwick. The operator expects to sail again on Wednesday."
)
NOTE_ZH = "周一因暴风雨，开往北部群岛的渡轮停航，约两百名乘客在哈威克的一所学校过夜，公司预计周三恢复航行。"

OBVIOUS = {
    "Brainstorming": [
        "Give me ten ideas for a birthday party in a small flat.",
        "Brainstorm possible names for a bakery that also sells bicycles",
        "给我一些周末带孩子出去玩的点子",
        "请为一家书店想几个促销方案",
    ],
    "Chatbot": [
        "Hi! How are you today?",
        "I want you to act as a patient piano teacher. My first question is how long I should practise.",
        "你好，今天心情不太好，陪我聊聊天吧",
        "请你扮演一位古代诗人，和我对话",
    ],
    "Classification": [
        f"Classify the sentiment of this text as positive or negative: {NOTE}",
        "Is the following message spam or not spam? Label it. 'You won a cruise, click here'",
        f"判断下面这段新闻属于哪一类别：体育、财经、社会。{NOTE_ZH}",
        "对这条评论进行情感分类，正面还是负面：客房很脏，服务也慢。",
    ],
    "Closed QA": [
        f"Read the following passage and answer the question.\nPassage: {NOTE}\nQuestion: Where did passengers sleep?",
        f"Based on the context, when will the ferry sail again?\n\nContext: {NOTE}",
        f"根据以下段落回答问题：{NOTE_ZH} 问题：乘客在哪里过夜？",
        f"阅读下面的短文，回答问题。{NOTE_ZH}渡轮何时恢复？",
    ],
    "Code Generation": [
        "Write a Python function that returns the median of a list of numbers.",
        "implement a thread-safe queue class in Java with unit tests",
        "用Python写一个函数，判断字符串是否是回文",
        "写一条SQL查询语句，统计每个部门的员工人数",
    ],
    "Extraction": [
        f"Extract all the dates and place names mentioned in the text: {NOTE}",
        f"List all named entities as JSON.\n{NOTE}",
        f"从下面的文字中提取所有地名和人数：{NOTE_ZH}",
        f"找出文中的关键词。{NOTE_ZH}",
    ],
    "Open QA": [
        "What is the capital of Mongolia?",
        "Why does the sky look red at sunset?",
        "为什么海水是咸的？",
        "什么是通货膨胀？",
    ],
    "Other": [
        "A train travels 180 km in 2.5 hours. How many km does it travel per hour? Calculate step by step.",
        "Solve the equation 3x + 7 = 22",
        "小明有12个苹果，吃了3个，又买了5个，一共还剩多少个？",
        "求解方程 2x + 5 = 17",
    ],
    "Rewrite": [
        f"Rewrite this to sound more formal: {NOTE}",
        "Fix the grammar and spelling: him and me goes too the market yesterday",
        "把这句话改写得更礼貌一些：快点把文件发给我。",
        f"请润色下面这段文字，使它更通顺：{NOTE_ZH}",
    ],
    "Summarization": [
        f"Summarize the following in one sentence: {NOTE}",
        f"{NOTE}\n\nTL;DR:",
        f"用一句话概括下面的新闻：{NOTE_ZH}",
        f"{NOTE_ZH}\n请总结主要内容。",
    ],
    "Text Generation": [
        "Write a short story about a lighthouse keeper who finds a letter.",
        "Compose a poem about autumn rain in the style of a lullaby",
        "写一首关于秋天的诗",
        "请写一篇800字的作文，题目是《我的祖父》",
    ],
}
OBVIOUS_PROMPTS = [(name, prompt) for name, prompts in OBVIOUS.items() for prompt in prompts]

PIECES = ["write ", "总结", "\ud83d", "🙂", "\x00", "İ", "```", "\n", "?", "equation ", "ﬀ", "\u2028", "9", "：", "_"]
any_text = st.text(st.characters(exclude_categories=()), max_size=400) | st.lists(
    st.sampled_from(PIECES), max_size=60
).map("".join)


@every_classifier
@example(text="\ud800\udfff")
@example(text="x" * 50_000)
@example(text="总" * 50_000)
@example(text="? " * 9_000)
@example(text="__" * 9_000 + "Output:" * 900)
@given(text=any_text)
def test_any_text_gives_a_classification_that_keeps_the_contract(classifier, text):
    found = classifier.classify(text)
    assert len(found.task_probabilities) == len(TASK_TYPES)
    assert math.isclose(sum(found.task_probabilities), 1.0, abs_tol=1e-9)
    assert min(found.task_probabilities) >= 0.0
    likeliest = TASK_TYPES[int(np.argmax(found.task_probabilities))]
    assert found.task_type in {likeliest, "Unknown"}
    assert 0.0 <= found.complexity <= 1.2
    assert found.classifier == classifier.name
    scores = found.scores
    for score in (
        scores.creativity, scores.reasoning, scores.contextual_knowledge, scores.domain_knowledge, scores.constraints
    ):  # fmt: skip
        assert 0.0 <= score <= 1.0
    assert 0.0 <= scores.few_shots <= 5.0
    assert len(found.vector) in {0, embedded.VECTOR_SIZE}
    assert classifier.classify(text) == found


@every_classifier
@pytest.mark.parametrize("text", ["", " \n\t ", "🙂🙂", "...", "\x00\x01", "\ud800"])
def test_a_text_without_words_is_unknown_for_certain(classifier, text):
    found = classifier.classify(text)
    assert found.task_type == "Unknown"
    assert found.task_probabilities[TASK_TYPES.index("Unknown")] == 1.0
    assert found.complexity == 0.0


@every_classifier
@pytest.mark.parametrize(
    "text",
    [
        "Какие книги о море вы могли бы посоветовать моей сестре?",
        "바다에 관한 책을 추천해 주세요",
        "海についての本をいくつかすすめてください",
        "Könnten Sie mir bitte erklären, warum das Meerwasser salzig schmeckt und die Flüsse nicht?",
        "Quels livres pourriez-vous recommander à ma soeur qui aime beaucoup les bateaux anciens?",
    ],
)
def test_a_language_that_is_not_read_is_unknown(classifier, text):
    found = classifier.classify(text)
    assert found.task_type == "Unknown"
    assert found.complexity > 0.0  # nothing is known of it, which does not make it easy


@every_classifier
@pytest.mark.parametrize("text", ["window lamp", "Harwick", "蓝鲸"])
def test_a_text_that_says_nothing_of_its_task_is_unknown(classifier, text):
    assert classifier.classify(text).task_type == "Unknown"


@every_classifier
@pytest.mark.parametrize("language", ["German", "Japanese", "French", "Spanish"])
def test_no_probe_of_a_language_that_is_not_read_is_given_a_type(classifier, language):
    found = [classifier.classify(prompt) for _, prompt in probes()[language]]
    assert {one.task_type for one in found} == {"Unknown"}
    assert {one.task_probabilities[TASK_TYPES.index("Unknown")] for one in found} == {1.0}


@pytest.mark.parametrize(("language", "share"), [("Chinese", 0.8), ("Mixed", 0.8), ("Code only", 0.8)])
def test_most_probes_of_what_is_read_get_their_type(language, share):
    found = [CLASSIFIERS[0].classify(prompt).task_type == task_type for task_type, prompt in probes()[language]]
    assert sum(found) >= share * len(found)


def test_traditional_characters_are_read_as_simplified_ones():
    simplified = "请总结这篇文章，并说明关键问题"
    traditional = "請總結這篇文章，並說明關鍵問題"
    assert read(traditional).tokens == read(simplified.replace("并", "並")).tokens


def test_words_between_two_clusters_change_nothing_in_their_pair():
    def pairs(text):
        rows, sizes = hashed_rows(read(text))
        assert len(rows) == sum(sizes)
        return set(rows[sum(sizes[:2]) :].tolist())

    near, far = pairs("write a question"), pairs("write a short but not too easy question")
    assert near
    assert near & far
    assert not near & set(hashed_rows(read("lamp"))[0].tolist())
    assert not pairs("lamp")


def test_alike_prompts_have_alike_vectors():
    def alike(one, other):
        return float(np.dot(CLASSIFIERS[0].classify(one).vector, CLASSIFIERS[0].classify(other).vector))

    poem = "Write a poem about the sea"
    assert alike(poem, poem) == pytest.approx(1.0, abs=0.01)
    assert alike(poem, "Please write a short poem about a ship") > alike(poem, "Solve the equation 3x + 7 = 22") + 0.2
    assert alike("写一首关于秋天的诗", "写一首关于大海的诗") > alike("写一首关于秋天的诗", "什么是通货膨胀？") + 0.2


def test_a_text_without_words_has_a_vector_of_zeros():
    assert CLASSIFIERS[0].classify("").vector == (0.0,) * embedded.VECTOR_SIZE


@every_classifier
@pytest.mark.parametrize("name", [name for name in TASK_TYPES if name != "Unknown"])
def test_every_type_is_found_in_most_of_its_obvious_prompts(classifier, name):
    found = [classifier.classify(prompt).task_type for prompt in OBVIOUS[name]]
    assert found.count(name) >= 3, dict(zip(OBVIOUS[name], found, strict=True))


@every_classifier
def test_nine_of_ten_obvious_prompts_get_their_type(classifier):
    missed = [(name, prompt[:40]) for name, prompt in OBVIOUS_PROMPTS if classifier.classify(prompt).task_type != name]
    assert len(missed) <= len(OBVIOUS_PROMPTS) / 10, missed


@every_classifier
def test_threads_get_the_same_answers_as_one_caller(classifier):
    prompts = [prompt for _, prompt in OBVIOUS_PROMPTS] * 10
    expected = [classifier.classify(prompt) for prompt in prompts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(classifier.classify, prompts)) == expected


@every_classifier
def test_instructions_at_either_end_of_a_long_text_are_read(classifier):
    body = f"{NOTE} " * 30
    assert classifier.classify(f"Summarize the following: {body}").task_type == "Summarization"
    assert classifier.classify(f"{body}\nSummarize the above in one sentence.").task_type == "Summarization"


def test_the_tokens_read_are_bounded_whatever_the_length():
    assert len(read("a " * 1_000_000).tokens) <= READ_HEAD_TOKENS + READ_TAIL_TOKENS


@every_classifier
def test_complexity_orders_plain_examples(classifier):
    greeting = classifier.classify("Hi! How are you today?").complexity
    question = classifier.classify("What is the capital of Mongolia?").complexity
    demanding = classifier.classify(
        "Design a distributed cache in Go. It must survive the loss of a node, must not lose writes, and should use at "
        "most 2 GB. Compare two algorithms, prove which is optimal, and explain the trade-offs step by step."
    ).complexity
    assert max(greeting, question) < demanding


def test_complexity_is_the_published_weighted_sum():
    # The example with the largest score on NVIDIA's model card, and the largest that can be.
    story = DimensionScores(
        creativity=0.867, reasoning=0.056, contextual_knowledge=0.048, domain_knowledge=0.226, constraints=0.785
    )
    assert complexity(story) == pytest.approx(0.4715)
    most = DimensionScores(
        creativity=1, reasoning=1, contextual_knowledge=1, domain_knowledge=1, constraints=1, few_shots=5
    )
    assert complexity(most) == pytest.approx(1.2)


def test_solved_examples_are_counted():
    shots = "Input: red\nOutput: rot\nInput: blue\nOutput: blau\nInput: green\nOutput:"
    assert CLASSIFIERS[0].classify(shots).scores.few_shots == 2.0


@pytest.mark.parametrize("kind", ["embedded", "rules"])
def test_the_hash_seed_changes_nothing(kind):
    program = (
        "import json, sys; from service.classifiers import create_classifier as create;"
        "from service.settings import ClassifierSettings as Settings;"
        f"c = create(Settings(kind={kind!r}));"
        "print([c.classify(t).task_probabilities for t in json.load(sys.stdin)], 'sklearn' in sys.modules)"
    )
    prompts = json.dumps([prompt for _, prompt in OBVIOUS_PROMPTS])
    seen = {
        subprocess.run(
            [sys.executable, "-c", program],
            input=prompts, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("0", "1", "4711")
    }  # fmt: skip
    assert len(seen) == 1
    assert seen.pop().rstrip().endswith("False")


def test_the_weights_are_those_that_the_class_was_judged_with():
    assert hashlib.sha256(embedded.WEIGHTS.read_bytes()).hexdigest() == embedded.WEIGHTS_SHA256
    with safe_open(embedded.WEIGHTS, framework="numpy") as file:
        metadata = json.loads(file.metadata()["armwise"])
    assert embedded.Embedded().name == f"embedded/{metadata['version']}"
    assert metadata["features"] == features_digest()


def test_the_weights_hold_numbers_and_the_names_of_their_sources_but_no_text():
    with safe_open(embedded.WEIGHTS, framework="numpy") as file:
        assert {name: str(file.get_tensor(name).dtype) for name in file.keys()} == {  # noqa: SIM118 - not a mapping
            "hashed": "int8", "scale": "float32", "dense": "float32", "bias": "float32",
            "projection": "int8", "projection_scale": "float32",
        }  # fmt: skip
        assert set(file.metadata()) == {"armwise"}
        metadata = json.loads(file.metadata()["armwise"])
        hashed = file.get_tensor("hashed")
    assert set(metadata) == {
        "version", "features", "votes_factor", "temperature", "threshold", "licence", "sources",
    }  # fmt: skip
    assert all(len(origin) < 120 for origin in metadata["sources"].values())
    # Learned rows come from features of several sources, so that no row can stand for a single prompt.
    assert 0.05 < (hashed != 0).any(axis=1).mean() < 0.7
    assert embedded.WEIGHTS.stat().st_size < 4_000_000


def test_licences_of_all_sources_allow_redistribution():
    with safe_open(embedded.WEIGHTS, framework="numpy") as file:
        sources = json.loads(file.metadata()["armwise"])["sources"]
    allowed = re.compile(r"Apache-2\.0|MIT|CC0-1\.0|CC BY 4\.0|ODC-By 1\.0|written for this purpose")
    assert all(allowed.search(origin) for origin in sources.values())
    assert not any(re.search(r"BY-SA|NC", origin) for origin in sources.values())


def test_weights_for_other_features_are_refused(tmp_path):
    with safe_open(embedded.WEIGHTS, framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        metadata = json.loads(file.metadata()["armwise"])
    other = tmp_path / "other.safetensors"
    save_file(tensors, other, {"armwise": json.dumps({**metadata, "features": "0" * 64})})
    with pytest.raises(ConfigurationError, match=r"other\.safetensors.*train_embedded"):
        embedded.load_weights(other)
    save_file({**tensors, "bias": np.zeros(3, dtype=np.float32)}, other, {"armwise": json.dumps(metadata)})
    with pytest.raises(ConfigurationError, match="shapes"):
        embedded.load_weights(other)
