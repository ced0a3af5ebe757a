"""How both classifiers read a text: its tokens, which keyword rules fire and where, and the signs of its shape."""

import re
from typing import Literal, NamedTuple, get_args

from service.classifiers.concepts import CONCEPTS
from service.classifiers.keywords import ENGLISH, FOREIGN, QUESTION_WORDS, RULES
from service.classifiers.traditional import SIMPLIFIED, TRADITIONAL

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
    (mark, _SIGN[name])
    for name, marks in (
        ("question mark", ("?", "？")), ("colon", (":", "：")), ("code fence", ("```",)),
        ("indented", ("\n  ", "\n\t")),
        ("semicolon", (";\n",)), ("braces", ("{", "()")), ("equals", (" = ", "==")), ("backslash", ("\\",)),
        ("dollar", ("$",)), ("quotes", ('"', "“", "「")), ("blank line", ("\n\n",)), ("several lines", ("\n",)),
    )
    for mark in marks
)  # fmt: skip


_FIRST_PERSON = frozenset({"i", "my", "我"})
_WORDS_TO_JUDGE = 6  # fewer words are too few to tell whether they are English
_NOT_TELLING = frozenset(number for name, number in _SIGN.items() if name.startswith("length") or name == "chinese")
_CODE_SIGNS = frozenset(_SIGN[name] for name in ("code fence", "semicolon", "braces", "equals", "backslash"))


class Reading(NamedTuple):
    """What was seen in one text."""

    tokens: list[str]  # lower case; at most READ_HEAD_TOKENS + READ_TAIL_TOKENS
    distinct: frozenset[str]  # the tokens
    fired: frozenset[tuple[int, int]]  # (number in RULES, number in ZONES)
    concepts: list[tuple[int, int]]  # (position, number in RULES or, after these, in CONCEPTS), by position
    signs: frozenset[int]  # numbers in SIGNS
    readable: bool  # English, Chinese, code or figures

    @property
    def telling(self) -> bool:
        """Whether anything in it may say what is asked for: a known word, or a sign other than length and script."""
        return bool(self.concepts) or not self.signs <= _NOT_TELLING


class _Phrases(NamedTuple):
    """What may begin with one token."""

    alone: list[int]  # numbers of the lists that hold the token itself
    longer: dict[str, list[tuple[int, list[str], int]]]  # by second token: length, tokens, number of the list


def _phrase_index() -> dict[str, _Phrases]:
    """Phrases of RULES and, numbered after these, of CONCEPTS, by their first token."""
    index: dict[str, _Phrases] = {}
    lists = [*(rule.phrases for rule in RULES), *(phrases for _, phrases in CONCEPTS)]
    for number, phrases in enumerate(lists):
        for phrase in phrases.split("|"):
            first, *rest = words = TOKEN.findall(phrase)
            entry = index.setdefault(first, _Phrases([], {}))
            if rest:
                entry.longer.setdefault(rest[0], []).append((len(words), words, number))
            else:
                entry.alone.append(number)
    return index


_PHRASES = _phrase_index()
_CODE_RULES = {"programming language", "code"}
_CODE_CONCEPTS = {"code verb", "error", "computer"}
_CODE_LISTS = frozenset(
    [number for number, rule in enumerate(RULES) if rule.name in _CODE_RULES]
    + [number for number, (name, _) in enumerate(CONCEPTS, len(RULES)) if name in _CODE_CONCEPTS]
)


def read(text: str) -> Reading:
    """Read a text of any length and language."""
    if len(text) > READ_HEAD_CHARACTERS + READ_TAIL_CHARACTERS:
        text = text[:READ_HEAD_CHARACTERS] + "\n" + text[-READ_TAIL_CHARACTERS:]
    text = text.strip()
    lowered = text.lower()
    tokens = TOKEN.findall(lowered.translate(SIMPLIFIED) if TRADITIONAL.search(lowered) else lowered)
    if len(tokens) > READ_HEAD_TOKENS + READ_TAIL_TOKENS:
        tokens = tokens[:READ_HEAD_TOKENS] + tokens[-READ_TAIL_TOKENS:]
    concepts = _concepts(tokens)
    fired = _fired(concepts, len(tokens))
    signs = _signs(text, tokens)
    distinct = frozenset(tokens)
    return Reading(tokens, distinct, fired, concepts, signs, _is_readable(distinct, fired, signs))


def _concepts(tokens: list[str]) -> list[tuple[int, int]]:
    found = []
    following = [*tokens[1:], ""]
    for position in [position for position, token in enumerate(tokens) if token in _PHRASES]:
        alone, longer = _PHRASES[tokens[position]]
        for number in alone:
            found.append((position, number))  # noqa: PERF401 - in the order of positions
        if longer and (candidates := longer.get(following[position])):
            for length, words, number in candidates:
                if length == 2 or tokens[position : position + length] == words:
                    found.append((position, number))
    return found


def _fired(concepts: list[tuple[int, int]], count: int) -> frozenset[tuple[int, int]]:
    tail_starts = count - TAIL_TOKENS
    fired = set()
    for position, number in concepts:
        if position < START_TOKENS:
            zone = 0
        elif position < HEAD_TOKENS:
            zone = 1
        else:
            zone = 3 if position >= tail_starts else 2
        fired.add((number, zone))
    return frozenset(fired)


def _signs(text: str, tokens: list[str]) -> frozenset[int]:
    if not tokens:
        return frozenset()
    signs = {number for mark, number in _MARKS if mark in text}
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


def _is_readable(distinct: frozenset[str], fired: frozenset[tuple[int, int]], signs: frozenset[int]) -> bool:
    wordless = not any(map(str.isalnum, distinct))
    foreign = len(FOREIGN & distinct)
    if wordless or (foreign > 1 and foreign > len(ENGLISH & distinct)):
        return False
    if not _CODE_SIGNS.isdisjoint(signs) or any(number in _CODE_LISTS for number, _ in fired):
        return True
    words = list(filter(str.isalpha, distinct))
    if not words:
        return any(map(str.isdigit, distinct))
    latin = sum(map(str.isascii, words))
    chinese = sum(map(_is_chinese, words)) if latin < len(words) else 0
    other = len(words) - latin - chinese
    if other > chinese + latin or (other > max(1, latin) and any(map(_is_japanese, words))):
        return False
    if chinese or latin < _WORDS_TO_JUDGE or len({rule for rule, _ in fired if rule < len(RULES)}) > 1:
        return True
    return len(ENGLISH & distinct) >= latin / 10


def _is_japanese(token: str) -> bool:
    return "\u3040" <= token <= "\u30ff"
