"""The user's own signals: who asks the same again was not content with the reply.

Kept in the memory of one process, as hashes only: neither texts nor names of users. Python's own hash is salted anew in
every process, so what is kept cannot be compared with hashes made elsewhere.
"""

import re
from array import array
from collections import OrderedDict, deque
from typing import Literal

import msgspec

Signal = Literal["same_question_again", "regenerated"]

# Default weights, of one label. Asking again may also mean another wish, so both are soft.
SIGNALS: dict[Signal, float] = {"same_question_again": 0.2, "regenerated": 0.3}

_REGENERATED_WITHIN_S = 20.0
_REMEMBERED_PER_PRINCIPAL = 8
_MIN_WORDS = 3  # "continue", "next one" and "继续" are said again and again without blame
_MIN_WORDS_NEAR = 6
_MAX_WORDS_NEAR = 64  # two long prompts that share a document but not the question have nearly the same words
_MAX_CHARACTERS_NEAR = 1_000
_MAX_CHARACTERS_SMOOTHED = 20_000  # 0.1 ms on the event loop; of longer prompts case and spaces matter
_NEAR = 0.9  # Jaccard similarity of the sets of words

_CHINESE = "\u3400-\u9fff"
_WORDS = re.compile(rf"[^\W{_CHINESE}]+")
_CHINESE_PAIRS = re.compile(rf"(?=([{_CHINESE}]{{2}}))")  # a word of Chinese is about two characters
# Digits, operators and the like: "17 * 23" and "17 * 24" are two questions, however alike their words.
_SIGNS = re.compile(r"[^\W\d_]+|[\s.,;:!?'\"。，；：！？、…]+")


class Repeat(msgspec.Struct, frozen=True, kw_only=True):
    """An earlier reply that its user asked for again."""

    decision_id: str  # of the earlier decision
    signal: Signal
    weight: float  # of one label, as evidence against the earlier reply; settings may say otherwise


class _Asked(msgspec.Struct, kw_only=True):
    at: float
    decision_id: str
    text: int
    signs: int
    words: "array[int]"  # empty when the prompt is too short or too long to be compared by words


class Repeats:
    """Remembers, for a while, what each principal asked. For one thread.

    A principal is one person: the key with the user or session that it names. The prompt must be new: the last message
    of the request and the user's. When an agent comes back with a tool's result the last user message is the same, and
    nobody repeated anything.
    """

    def __init__(self, window_s: float, *, max_principals: int = 4_096) -> None:
        self.window_s = window_s  # 0: nothing is remembered
        self.max_principals = max_principals  # the one silent for longest is forgotten first
        self._asked: OrderedDict[int, deque[_Asked]] = OrderedDict()

    def __len__(self) -> int:
        """How many prompts are remembered."""
        return sum(map(len, self._asked.values()))

    def seen(self, principal: str, prompt: str, decision_id: str, now: float) -> Repeat | None:
        """Remember a prompt; say which earlier one it repeats. A decision is named once at most. `now` in seconds."""
        self._forget(now)
        asked = _asked(prompt, decision_id, now)
        if asked is None or not principal or self.window_s <= 0:
            return None
        key = hash(principal)
        remembered = self._asked.setdefault(key, deque(maxlen=_REMEMBERED_PER_PRINCIPAL))
        self._asked.move_to_end(key)
        earlier = next((other for other in reversed(remembered) if self._repeats(asked, other)), None)
        if earlier is not None:
            remembered.remove(earlier)
        remembered.append(asked)
        if earlier is None or earlier.decision_id == decision_id:
            return None
        identical = earlier.text == asked.text
        signal: Signal = (
            "regenerated" if identical and now - earlier.at <= _REGENERATED_WITHIN_S else "same_question_again"
        )
        return Repeat(decision_id=earlier.decision_id, signal=signal, weight=SIGNALS[signal])

    def _repeats(self, asked: _Asked, earlier: _Asked) -> bool:
        if asked.at - earlier.at > self.window_s:
            return False
        if asked.text == earlier.text:
            return True
        if not asked.words or not earlier.words or asked.signs != earlier.signs:
            return False
        words, others = set(asked.words), set(earlier.words)
        return len(words & others) >= _NEAR * len(words | others)

    def _forget(self, now: float) -> None:
        """Drop principals that have been silent for a whole window, and the oldest ones over the bound."""
        while self._asked:
            oldest = next(iter(self._asked.values()))
            if len(self._asked) < self.max_principals and now - oldest[-1].at <= self.window_s:
                return
            self._asked.popitem(last=False)


def _asked(prompt: str, decision_id: str, now: float) -> _Asked | None:
    """What is kept of a prompt; None when it is too short to tell repeating from going on."""
    long = len(prompt) > _MAX_CHARACTERS_SMOOTHED
    text = prompt if long else " ".join(prompt.casefold().split()).rstrip(" .!?。！？…")
    short = len(text) <= _MAX_CHARACTERS_NEAR
    start = text if short else text[:_MAX_CHARACTERS_NEAR]
    words = [*_WORDS.findall(start), *_CHINESE_PAIRS.findall(start)]
    if len(words) < _MIN_WORDS:
        return None
    comparable = short and _MIN_WORDS_NEAR <= len(words) <= _MAX_WORDS_NEAR
    return _Asked(
        at=now,
        decision_id=decision_id,
        text=hash(text),
        signs=hash(_SIGNS.sub("", start)),
        words=array("q", {hash(word) for word in words} if comparable else ()),
    )
