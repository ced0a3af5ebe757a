"""Weak evidence: what fires, and what looks alike and does not."""

import pytest

from service.quality import Exchange
from service.quality.snippets import find_broken_code
from service.quality.wording import find_refusal, find_repetition, find_uncertainty, find_wrong_language

ASK = "Tell me what you know of this."
ASK_ZH = "请告诉我关于这件事情你知道的内容。"


@pytest.mark.parametrize(
    "reply",
    [
        "I'm sorry, but I can't help with that.",
        "I’m sorry, but I cannot assist with this request.",
        "I cannot provide instructions for that.",
        "Unfortunately, I'm unable to access the internet.",
        "As an AI language model, I cannot predict the future.",
        "I must respectfully decline.",
        "I won't be able to help with this.",
        "很抱歉，我无法协助处理这个请求。",
        "对不起，我不能提供这方面的信息。",
        "我无法回答这个问题。",
        "作为一个人工智能，我不能给出医疗建议。",
    ],
)
def test_refusals(reply):
    assert find_refusal(Exchange(prompt=ASK, reply=reply))


def test_the_provider_tells_of_refusals_too():
    assert find_refusal(Exchange(prompt=ASK, refusal="No."))
    assert find_refusal(Exchange(prompt=ASK, reply="Well,", finish_reason="content_filter"))


@pytest.mark.parametrize(
    "reply",
    [
        "I'm sorry to hear that you are ill. Rest and drink a lot.",
        "I can't help but notice that the second term is missing.",
        "I cannot recommend this book enough.",
        "As an AI, I don't have feelings, but here is how people describe them.",
        "Dear team, I am unable to attend on Friday because of a doctor's appointment.",
        "I won't be able to join the meeting tomorrow.",
        "Here is the list. " * 30 + "I'm sorry, but I can't help with that.",
        "抱歉让您久等了，下面是完整的清单。",
        "尊敬的客户：很抱歉给您带来不便，我们已经修复了问题。",
    ],
)
def test_no_refusals(reply):
    assert find_refusal(Exchange(prompt=ASK, reply=reply)) is None


def test_a_refusal_that_was_ordered_is_none():
    reply = "I'm sorry, but I cannot share my password."
    assert find_refusal(Exchange(prompt="Write a polite refusal to a colleague.", reply=reply)) is None


@pytest.mark.parametrize(
    "reply",
    [
        "I'm not sure about this.",
        "I’m not certain, but it may be 1912.",
        "The question is unclear to me.",
        "It is unclear which one is meant.",
        "From this I cannot determine the right answer.",
        "我不确定。",
        "这个问题我不太清楚。",
        "根据现有信息无法确定具体日期。",
        "我不知道答案是什么。",
    ],
)
def test_uncertainty(reply):
    assert find_uncertainty(Exchange(prompt=ASK, reply=reply))


@pytest.mark.parametrize(
    "reply",
    [
        "If you are not sure, ask your doctor.",
        "If anything is unclear, let me know!",
        '"I\'m not sure," said the fox, and went home.',
        "“我不确定，”狐狸说完就回家了。",
        "```text\nI'm not sure about this.\n```\nThat was the log.",
        "海森堡的不确定性原理说明位置和动量不能同时精确测量。",
        "如果您不确定，请先备份数据。",
        "The result is certain.",
    ],
)
def test_no_uncertainty(reply):
    assert find_uncertainty(Exchange(prompt=ASK, reply=reply)) is None


def test_doubt_that_the_prompt_brought_is_not_the_models():
    prompt = "Correct this: I'm not sure weather to go."
    assert find_uncertainty(Exchange(prompt=prompt, reply="I'm not sure whether to go.")) is None
    assert find_uncertainty(Exchange(prompt="Correct this.", reply="I'm not sure whether to go."))


@pytest.mark.parametrize(
    "reply",
    [
        "This is a reply that repeats itself. " * 8,
        "这是一个重复的回复。" * 8,
        "The answer is four. It follows at once. The answer is four. It follows at once.",
        "the cat sat on the mat and " * 30,
        "数据库缓存可以提高读取性能并且" * 20,
        "哈" * 200,
    ],
)
def test_repetition(reply):
    assert find_repetition(Exchange(prompt=ASK, reply=reply))


@pytest.mark.parametrize(
    "reply",
    [
        "One is odd. Two is even. Three is odd again. Four is even, too. One is odd.",  # four of five differ
        "The answer is four. The answer is four. The answer is four.",  # three only
        "```sh\nmake\nmake\nmake\nmake\nmake\nmake\nmake\n```\nRun these.",
        "| name          | age          |\n"
        + "| ------------- | ------------ |\n" * 2
        + "| Ada           | 36           |",
        "1. User\n   - id (key)\n   - name\n" * 2 + "2. Team\n   - id (key)\n   - name\n",
        "1. Yes.\n2. No.\n3. Yes.\n4. Yes.\n5. Yes.\n6. No.\n7. Yes.",
    ],
)
def test_no_repetition(reply):
    assert find_repetition(Exchange(prompt=ASK, reply=reply)) is None


def test_repetition_that_was_ordered_is_none():
    reply = "This is a line of it. " * 8
    assert find_repetition(Exchange(prompt="Write a song with a refrain.", reply=reply)) is None
    assert find_repetition(Exchange(prompt="把这句话重复八遍。", reply="这是一个重复的回复。" * 8)) is None


def test_the_boundary_of_repetition_is_seventy_percent():
    ten = [f"This is sentence {letter}." for letter in "abcdefghij"]
    assert find_repetition(Exchange(prompt=ASK, reply=" ".join(ten[:7] + ten[:3]))) is None
    assert find_repetition(Exchange(prompt=ASK, reply=" ".join(ten[:6] + ten[:4])))


ENGLISH = "A cache keeps recent answers in memory so that most requests never reach the database at all."
CHINESE = "缓存把最近的答案保存在内存里，因此大多数请求根本不会到达数据库。"
RUSSIAN = "Кэш хранит последние ответы в памяти, поэтому большинство запросов не доходит до базы данных."


@pytest.mark.parametrize(
    ("prompt", "reply"),
    [
        ("请解释一下缓存是怎样工作的。", ENGLISH),
        ("解释一下 Docker 和 Kubernetes 的区别有哪些", ENGLISH),
        ("Please explain how a cache works.", CHINESE),
        ("Please explain how a cache works.", RUSSIAN),
        ("Объясни, пожалуйста, как работает кэш.", ENGLISH),
    ],
)
def test_wrong_language(prompt, reply):
    assert find_wrong_language(Exchange(prompt=prompt, reply=reply))


@pytest.mark.parametrize(
    ("prompt", "reply"),
    [
        ("请解释一下缓存是怎样工作的。", CHINESE),
        ("Please explain how a cache works.", ENGLISH),
        ("Please explain how a cache works. Answer in Chinese.", CHINESE),
        ("把下面这句话翻译成另一种说法：缓存把答案保存在内存里", ENGLISH),
        ("请用英文解释一下缓存是怎样工作的。", ENGLISH),
        ("请解释一下缓存是怎样工作的。", "OK"),
        ("你好", ENGLISH),  # too short to tell
        (
            "请写一个求和的函数",
            "```python\ndef add(first_number, second_number):\n    return first_number + second_number\n```",
        ),
        (
            "请写一个求和的函数",
            "def add(first_number, second_number):\n    return (first_number + second_number)\nprint(add(1, 2))",
        ),
        ("请解释一下缓存是怎样工作的。", f"{CHINESE} Redis、Memcached 和 Varnish 都是常见的缓存软件。"),
        ("What does 缓存 mean, and what is 数据库 about?", CHINESE),
    ],
)
def test_the_language_is_right_or_cannot_be_told(prompt, reply):
    assert find_wrong_language(Exchange(prompt=prompt, reply=reply)) is None


def test_the_system_prompt_may_name_the_language():
    exchange = Exchange(prompt="请解释一下缓存是怎样工作的。", system="Always answer in English.", reply=ENGLISH)
    assert find_wrong_language(exchange) is None


@pytest.mark.parametrize(
    "reply",
    [
        "```python\ndef f(:\n    return 1\n```",
        "```py\nprint('unclosed)\n```",
        "Text.\n\n```Python\nif x\n    y\n```\nMore.",
        '```json\n{"a": 1,}\n```',
        "```json\n{'a': 1}\n```",
        "- item\n\n  ```python\n  x = = 1\n  ```",
    ],
)
def test_broken_code(reply):
    assert find_broken_code(Exchange(prompt=ASK, reply=reply))


@pytest.mark.parametrize(
    "reply",
    [
        "```python\nx = 1\n```",
        "  ```python\n  def f():\n      return 1\n  ```",  # indented with its list item
        "```python\n>>> 1 + 1\n2\n```",
        "```python\n$ pip install thing\n```",
        "```python\n%matplotlib inline\nimport math\n```",
        "```python\nconfig = {'a': 1, ...}\n```",
        "```python\nclient = Client(<your key>)\n```",
        "```python\nelif x:\n    y()\n```",
        "```python\nprint 'hello'\n```",
        "```python\ncdef int x = 1\n```",
        "```python\nclass Box[T]:\n    item: T\n```",
        "```python\ntype Pair = tuple[int, int]\n```",
        "```python\nprint(f'{x['a']}')\n```",
        "```python\nreturn await call()\n```",
        "```python\nx = = 1",  # cut: not closed
        "```javascript\nlet x == 1;\n```",
        "```\nx = = 1\n```",
        '```json\n{"a": 1}\n{"a": 2}\n```',
        '```json\n{\n  "a": 1,\n  // more\n}\n```',
        '```json\n"a": 1\n```',
        '```json\n{"a": 1, ...}\n```',
        "Use ```python x = = 1``` in a line.",
        f"```python\n{'x = 1' * 2_000}\n```",  # longer than what is parsed
    ],
)
def test_code_that_parses_or_was_not_meant_to(reply):
    assert find_broken_code(Exchange(prompt=ASK, reply=reply)) is None
