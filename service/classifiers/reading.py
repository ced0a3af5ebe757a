"""How both classifiers read a text: its tokens, which keyword rules fire and where, and the signs of its shape."""

import re
from typing import Literal, NamedTuple, get_args

from service.classifiers.keywords import ENGLISH, QUESTION_WORDS, RULES

Zone = Literal["start", "head", "middle", "tail"]  # instructions stand at the head or the tail of a prompt
ZONES: tuple[Zone, ...] = get_args(Zone)
START_TOKENS = 4
HEAD_TOKENS = 30
TAIL_TOKENS = 20
# Of longer texts only so much of the head and the tail is read, so that the cost of a call is bounded.
READ_HEAD_CHARACTERS, READ_TAIL_CHARACTERS = 1_000, 500
READ_HEAD_TOKENS, READ_TAIL_TOKENS = 160, 80

# A word, one Chinese character, one punctuation mark or a line break: phrases of both scripts are sequences of tokens.
TOKEN = re.compile(r"[^\W\u3400-\u9fff_]+|[\u3400-\u9fff]|[^\w\s]|_+|\n")

SIGNS = (
    "question word first", "question mark last", "question mark", "colon last", "colon", "code fence", "indented",
    "semicolon", "braces", "equals", "backslash", "dollar", "digits", "many digits", "quotes", "blank line",
    "several lines", "chinese", "first person", "length 0", "length 1", "length 2", "length 3", "length 4", "length 5",
    "length 6", "length 7",
)  # fmt: skip
_SIGN = {name: number for number, name in enumerate(SIGNS)}
_MARKS = tuple(
    (_SIGN[name], marks)
    for name, marks in (
        ("question mark", ("?", "？")), ("colon", (":", "：")), ("code fence", ("```",)),
        ("indented", ("\n  ", "\n\t")),
        ("semicolon", (";\n",)), ("braces", ("{", "()")), ("equals", (" = ", "==")), ("backslash", ("\\",)),
        ("dollar", ("$",)), ("quotes", ('"', "“", "「")), ("blank line", ("\n\n",)), ("several lines", ("\n",)),
    )
)  # fmt: skip


_FIRST_PERSON = frozenset({"i", "my", "我"})
_WORDS_TO_JUDGE = 6  # fewer words are too few to tell whether they are English
_CODE_SIGNS = frozenset(_SIGN[name] for name in ("code fence", "semicolon", "braces", "equals", "backslash"))


class Reading(NamedTuple):
    """What was seen in one text."""

    tokens: list[str]  # lower case; at most READ_HEAD_TOKENS + READ_TAIL_TOKENS
    fired: frozenset[tuple[int, int]]  # (number in RULES, number in ZONES)
    signs: frozenset[int]  # numbers in SIGNS
    readable: bool  # English, Chinese, code or figures


def _phrase_index() -> dict[str, list[tuple[int, list[str], int]]]:
    """By first token: length, tokens and rule of every phrase."""
    index: dict[str, list[tuple[int, list[str], int]]] = {}
    for number, rule in enumerate(RULES):
        for phrase in rule.phrases.split("|"):
            words = TOKEN.findall(phrase)
            index.setdefault(words[0], []).append((len(words), words, number))
    return index


_PHRASES = _phrase_index()


def read(text: str) -> Reading:
    """Read a text of any length and language."""
    if len(text) > READ_HEAD_CHARACTERS + READ_TAIL_CHARACTERS:
        text = text[:READ_HEAD_CHARACTERS] + "\n" + text[-READ_TAIL_CHARACTERS:]
    text = text.strip()
    tokens = TOKEN.findall(text.lower())
    if len(tokens) > READ_HEAD_TOKENS + READ_TAIL_TOKENS:
        tokens = tokens[:READ_HEAD_TOKENS] + tokens[-READ_TAIL_TOKENS:]
    fired = _fired(tokens)
    signs = _signs(text, tokens)
    return Reading(tokens, fired, signs, _is_readable(tokens, fired, signs))


def _fired(tokens: list[str]) -> frozenset[tuple[int, int]]:
    fired = set()
    tail_starts = len(tokens) - TAIL_TOKENS
    for position, token in enumerate(tokens):
        if token not in _PHRASES:
            continue
        if position < START_TOKENS:
            zone = 0
        elif position < HEAD_TOKENS:
            zone = 1
        else:
            zone = 3 if position >= tail_starts else 2
        for length, words, rule in _PHRASES[token]:
            if length == 1 or tokens[position : position + length] == words:
                fired.add((rule, zone))
    return frozenset(fired)


def _signs(text: str, tokens: list[str]) -> frozenset[int]:
    if not tokens:
        return frozenset()
    signs = {number for number, marks in _MARKS if any(mark in text for mark in marks)}
    signs.add(_SIGN["length 0"] + min(7, len(tokens).bit_length() - 1))
    if tokens[0] in QUESTION_WORDS:
        signs.add(_SIGN["question word first"])
    if tokens[-1] in {"?", "？"}:
        signs.add(_SIGN["question mark last"])
    if tokens[-1] in {":", "："}:
        signs.add(_SIGN["colon last"])
    if not text.isascii() and any(map(_is_chinese, tokens)):
        signs.add(_SIGN["chinese"])
    if not _FIRST_PERSON.isdisjoint(tokens):
        signs.add(_SIGN["first person"])
    digits = sum(map(str.isdigit, tokens))
    if digits:
        signs.add(_SIGN["digits"])
    if digits > 3:
        signs.add(_SIGN["many digits"])
    return frozenset(signs)


def _is_chinese(token: str) -> bool:
    return "\u3400" <= token <= "\u9fff"


def _is_readable(tokens: list[str], fired: frozenset[tuple[int, int]], signs: frozenset[int]) -> bool:
    if not _CODE_SIGNS.isdisjoint(signs):
        return True
    words = [token for token in tokens if token.isalpha()]
    if not words:
        return any(map(str.isdigit, tokens))
    latin = [word for word in words if word.isascii()]
    chinese = sum(map(_is_chinese, words)) if len(latin) < len(words) else 0
    other = len(words) - len(latin) - chinese
    if other > chinese + len(latin):
        return False
    if chinese or len(latin) < _WORDS_TO_JUDGE or len({rule for rule, _ in fired}) > 1:
        return True
    return sum(word in ENGLISH for word in latin) >= len(latin) / 10
