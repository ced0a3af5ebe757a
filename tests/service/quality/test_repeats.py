"""The user's own signals: asking the same again."""

import pytest

from service.quality.repeats import SIGNALS, Repeats

QUESTION = "How do I reverse a list in Python?"
LONG = "Summarise for a busy reader the main points of the report about the harbour and say what it will cost us"


@pytest.fixture
def repeats() -> Repeats:
    return Repeats(180.0)


def signal(repeats: Repeats, first: str, second: str, after: float = 60.0) -> str | None:
    repeats.seen("key/ann", first, "first", 1000.0)
    repeat = repeats.seen("key/ann", second, "second", 1000.0 + after)
    if repeat is None:
        return None
    assert repeat.decision_id == "first"
    assert repeat.weight == SIGNALS[repeat.signal]
    return repeat.signal


def test_the_first_time_is_no_repeat(repeats):
    assert repeats.seen("key/ann", QUESTION, "first", 1000.0) is None


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (0.0, "regenerated"),
        (20.0, "regenerated"),
        (20.1, "same_question_again"),
        (180.0, "same_question_again"),
        (180.1, None),
    ],
)
def test_the_same_again(repeats, after, expected):
    assert signal(repeats, QUESTION, QUESTION, after) == expected


@pytest.mark.parametrize(
    "again", ["how do i reverse a list in python", "  How do I reverse\n a list in Python?? ", f"{QUESTION.upper()}!"]
)
def test_case_spaces_and_the_last_mark_do_not_matter(repeats, again):
    assert signal(repeats, QUESTION, again, 5.0) == "regenerated"


@pytest.mark.parametrize(
    ("first", "again"),
    [
        (LONG, LONG + " please"),
        (LONG, "Please, " + LONG),
        (LONG, LONG.replace("busy", "hurried")),
        ("请问怎样在数据库前面设置缓存才能减少访问次数", "请问怎样在数据库前面设置缓存才能减少访问次数呢"),
    ],
)
def test_nearly_the_same_again(repeats, first, again):
    assert signal(repeats, first, again, 5.0) == "same_question_again"


@pytest.mark.parametrize(
    ("first", "again"),
    [
        (QUESTION, "How do I sort a list in Python?"),
        ("What is 17 * 23 when you do it step by step?", "What is 17 * 24 when you do it step by step?"),
        ("Is a + b the same as b + a in every ring there is?", "Is a - b the same as b - a in every ring there is?"),
        ("请把下面的句子翻译成英文并解释语法结构：小猫在睡觉", "请把下面的句子翻译成英文并解释语法结构：小狗在睡觉"),
        ("北京今天的天气怎么样", "南京今天的天气怎么样"),
        ("continue", "continue"),
        ("继续", "继续"),
        ("", ""),
        ("word " * 400 + "what is the profit", "word " * 400 + "what is the loss"),
        (" ".join(map(chr, range(97, 123))) * 9 + " first", " ".join(map(chr, range(97, 123))) * 9 + " other"),
        ("red green blue pink", "red green blue pink grey"),  # too few words to be compared by words
    ],
)  # fmt: skip
def test_another_question(repeats, first, again):
    assert signal(repeats, first, again, 5.0) is None


def test_a_long_prompt_is_repeated_only_word_for_word(repeats):
    document = " ".join(f"word{number}" for number in range(500))
    assert signal(repeats, document + " Who signed it?", document + " When was it signed?") is None
    assert repeats.seen("key/ann", document + " Who signed it?", "third", 1100.0).decision_id == "first"


def test_a_very_long_prompt_is_compared_as_it_stands(repeats):
    document = f"{LONG}. " * 200
    assert signal(repeats, document, f"{document}") == "same_question_again"
    assert signal(repeats, document.upper(), f" {document.upper()}") is None


def test_principals_are_apart(repeats):
    repeats.seen("key/ann", QUESTION, "first", 1000.0)
    assert repeats.seen("key/bob", QUESTION, "second", 1001.0) is None


def test_nobody_in_particular_is_not_remembered(repeats):
    assert signal(repeats, QUESTION, QUESTION) is not None
    assert repeats.seen("", QUESTION, "a", 1000.0) is None
    assert repeats.seen("", QUESTION, "b", 1001.0) is None


def test_every_decision_is_named_once(repeats):
    named = [repeats.seen("key/ann", QUESTION, f"d{number}", 1000.0 + number) for number in range(5)]
    assert [repeat and repeat.decision_id for repeat in named] == [None, "d0", "d1", "d2", "d3"]


def test_a_request_sent_twice_is_no_repeat_of_itself(repeats):
    repeats.seen("key/ann", QUESTION, "same", 1000.0)
    assert repeats.seen("key/ann", QUESTION, "same", 1001.0) is None


def test_other_questions_in_between_do_not_hide_a_repeat(repeats):
    repeats.seen("key/ann", QUESTION, "first", 1000.0)
    for number in range(7):
        repeats.seen("key/ann", f"Another question with number {number}", f"d{number}", 1001.0 + number)
    assert repeats.seen("key/ann", QUESTION, "again", 1010.0).decision_id == "first"


def test_a_principals_oldest_prompt_is_forgotten_first(repeats):
    for number in range(9):
        repeats.seen("key/ann", f"Another question with number {number}", f"d{number}", 1000.0 + number)
    assert len(repeats) == 8
    assert repeats.seen("key/ann", "Another question with number 0", "x", 1020.0) is None


def test_memory_is_bounded_and_the_longest_silent_is_forgotten():
    repeats = Repeats(1e9, max_principals=100)
    for number in range(1000):
        repeats.seen(f"key/{number}", QUESTION, f"d{number}", 1000.0 + number)
    assert len(repeats) == 100
    assert repeats.seen("key/0", QUESTION, "x", 2000.0) is None
    assert repeats.seen("key/999", QUESTION, "y", 2001.0).decision_id == "d999"


def test_silent_principals_are_forgotten_after_the_window():
    repeats = Repeats(180.0)
    for number in range(50):
        repeats.seen(f"key/{number}", QUESTION, f"d{number}", 1000.0)
    repeats.seen("key/ann", QUESTION, "late", 1181.0)
    assert len(repeats) == 1


def test_a_window_of_nothing_switches_it_off():
    repeats = Repeats(0.0)
    assert signal(repeats, QUESTION, QUESTION, 0.0) is None
    assert len(repeats) == 0


def test_a_clock_that_steps_back_does_no_harm(repeats):
    assert signal(repeats, QUESTION, QUESTION, -30.0) == "regenerated"


def test_only_hashes_are_kept(repeats):
    repeats.seen("key/ann", QUESTION + " zqxj", "first", 1000.0)
    asked = [vars_of for remembered in repeats._asked.values() for vars_of in remembered]
    assert all(isinstance(key, int) for key in repeats._asked)
    assert "zqxj" not in repr(asked)
    assert "reverse" not in repr(asked)
