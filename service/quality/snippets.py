"""Soft heuristic that parses the code blocks of a reply. Nothing is run."""

import ast
import re
import textwrap
import threading
import warnings

import msgspec

from service.quality import Exchange
from service.quality.passages import READ_CHARACTERS, passages

_PYTHON = frozenset({"python", "py", "python3"})
_MAX_BLOCK_CHARACTERS = 4_000
_MAX_ALL_CHARACTERS = 8_000  # of all blocks together: parsing takes about 150 ns a character

# A block with one of these is meant for a reader, not for a parser: a console, left-out parts, a place to fill in, a
# piece of a statement, an older Python, Cython.
_SKETCH = re.compile(
    r"^\s*(?:>>>|\.\.\.|In \[|[$%!?]|[-+] |@@|(?:elif|else|except|finally|case|cdef|cpdef|cimport)\b"
    r"|print +[\"'\w]|exec +[\"'])"
    r"|\.\.\.|…|<[A-Za-z][\w -]*>|\{\{|\{%|\[[A-Z_ ]+\]",
    re.MULTILINE,
)
# Newer than the oldest Python we run on: type parameters, `type` statements, quotes of the same kind within an
# f-string, template strings, exceptions without brackets.
_NEWER_PYTHON = re.compile(
    r"^\s*(?:async +def|def|class) +\w+\[|^\s*type +\w+|\b(?:[rR]?[fFtT]|[fFtT][rR])[\"']|^\s*except\*? +[\w.]+ *,",
    re.MULTILINE,
)
_JSON_SKETCH = re.compile(r"//|/\*|#|\.\.\.|…|\{\{|\$\{|<[A-Za-z][\w -]*>")

# `warnings.catch_warnings` changes the whole process; long replies are examined in threads.
_warnings_lock = threading.Lock()


def find_broken_code(exchange: Exchange) -> str | None:
    """A code block marked as Python or JSON does not parse."""
    left = _MAX_ALL_CHARACTERS
    for block in passages(exchange.reply[:READ_CHARACTERS]).blocks:
        if block.language not in _PYTHON and block.language != "json":
            continue
        left -= len(block.body)
        if left < 0:
            return None
        if len(block.body) > _MAX_BLOCK_CHARACTERS:
            continue
        if block.language == "json" and _is_broken_json(block.body):
            return "a JSON block does not parse"
        if block.language in _PYTHON and _is_broken_python(block.body):
            return "a Python block does not parse"
    return None


def _is_broken_python(source: str) -> bool:
    try:
        with _warnings_lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a doubtful escape in a reply is no concern of our own log
            ast.parse(textwrap.dedent(source))
    except SyntaxError:
        return not _SKETCH.search(source) and not _NEWER_PYTHON.search(source)
    except (ValueError, MemoryError, RecursionError):  # lone surrogates; nesting too deep for the parser
        return False
    return False


def _is_broken_json(source: str) -> bool:
    if _is_json(source):
        return False
    if not source.lstrip().startswith(("{", "[")) or _JSON_SKETCH.search(source):
        return False
    return not all(_is_json(line) for line in source.splitlines() if line.strip())  # one value a line


def _is_json(source: str) -> bool:
    try:
        msgspec.json.decode(source.encode("utf-8", "replace"))
    except (msgspec.ValidationError, RecursionError):  # beyond our limits, so we cannot say
        return True
    except msgspec.DecodeError:
        return False
    return True
