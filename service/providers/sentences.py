"""The words of simulated replies: what good ones say, and what bad ones look like."""

import re

from bandit.vocabulary import TaskType

_CHINESE = re.compile(r"[\u3400-\u9fff]")
_READ_CHARACTERS = 500  # of a prompt, to tell its language

_SENTENCE = (
    "This is a simulated reply of {model}. It stands for a {kind} answer to a prompt of the type {task_type},"
    " so there is nothing in it to act on."
)
_SENTENCE_ZH = "这是 {model} 的模拟回复，它代表对“{task_type}”类提示的一个{kind}答案，内容本身没有实际意义。"
_CODE = '\n\n```python\ndef simulated_answer() -> str:\n    return "{kind} code of {model}"\n```'
_KINDS = {True: ("good", "好"), False: ("poor", "差")}

_UNSURE = "I'm not sure about this. The question is unclear to me, and I cannot determine the right answer."
_UNSURE_ZH = "我不确定。这个问题不太清楚，我无法确定正确的答案。"
_REPEATED = "This is a simulated reply that repeats itself. "
_REPEATED_ZH = "这是一个重复的模拟回复。"
_REFUSAL = "I'm sorry, but I can't help with that."
_REFUSAL_ZH = "很抱歉，我无法协助处理这个请求。"

# Share of the bad replies that look so; all others look like any reply, so that only a reader can tell.
_UNSURE_BELOW = 0.20
_REPEATED_BELOW = 0.35
_REFUSAL_BELOW = 0.45
_CUT_BELOW = 0.57
_EMPTY_BELOW = 0.60


def is_chinese(prompt: str) -> bool:
    """True when the reply should be in Chinese."""
    return _CHINESE.search(prompt, 0, _READ_CHARACTERS) is not None


def good_text(model: str, task_type: TaskType, *, chinese: bool) -> str:
    """What a good reply says."""
    return _plain(model, task_type, good=True, chinese=chinese)


def bad_text(model: str, task_type: TaskType, look: float, *, chinese: bool) -> tuple[str, bool]:
    """What a bad reply says, and whether it broke off; `look` in [0, 1) picks the way it looks."""
    if look < _UNSURE_BELOW:
        return (_UNSURE_ZH if chinese else _UNSURE), False
    if look < _REPEATED_BELOW:
        return (_REPEATED_ZH if chinese else _REPEATED) * 8, False
    if look < _REFUSAL_BELOW:
        return (_REFUSAL_ZH if chinese else _REFUSAL), False
    text = _plain(model, task_type, good=False, chinese=chinese)
    if look < _CUT_BELOW:
        return text[: len(text) // 2], True
    return ("" if look < _EMPTY_BELOW else text), False


def _plain(model: str, task_type: TaskType, *, good: bool, chinese: bool) -> str:
    kind, kind_zh = _KINDS[good]
    text = (
        _SENTENCE_ZH.format(model=model, task_type=task_type, kind=kind_zh)
        if chinese
        else _SENTENCE.format(model=model, task_type=task_type, kind=kind)
    )
    return text + _CODE.format(kind=kind, model=model) if task_type == "Code Generation" else text
