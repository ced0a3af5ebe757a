"""Reference pages made from the code: every setting with its type and default, every metric with its labels.

The site makes them anew each time it is built, so they cannot be out of date. To read one without building:

    .venv/bin/python docs/references.py settings
    .venv/bin/python docs/references.py metrics
"""

import ast
import inspect
import re
import sys
import tokenize
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from msgspec import NODEFAULT, Meta, Struct
from msgspec.structs import FieldInfo, fields

from service.metrics.catalogue import Metrics
from service.settings import Settings

HERE = Path(__file__).parent
_PLAIN = {str: "text", int: "whole number", float: "number", bool: "true or false"}
_LIMITS = {"ge": "≥ {}", "gt": "> {}", "le": "≤ {}", "lt": "< {}"}


def settings_page() -> str:
    """Every setting, by table of the file."""
    hand = (HERE / "configuration.md").read_text(encoding="utf-8")
    lines = [
        "# Every setting",
        "",
        "Made from the code of this version. [Configuration](../configuration.md) explains them, with a whole file.",
        "",
    ]
    for section in fields(Settings):
        words = _section(hand, section.name)
        seen: set[tuple[str, type[Struct]]] = set()
        for table, struct in _tables(section.name, section.type):
            if (table, struct) in seen:
                continue
            seen.add((table, struct))
            about = _about(words, table, struct)
            lines += [f"## {_heading(table, struct)}", "", _introduction(struct), ""]
            lines += ["| setting | type | default | meaning |", "| --- | --- | --- | --- |"]
            lines += [_row(struct, field, about) for field in _name_first(struct)]
            lines.append("")
    return "\n".join(lines)


def metrics_page() -> str:
    """Every metric that `GET /metrics` tells, by name."""
    lines = [
        "# Every metric",
        "",
        "Made from the code of this version. [Metrics](../metrics.md) explains the labels' words and what to watch.",
        "Counters end in `_total`; histograms have `_bucket`, `_sum` and `_count`.",
        "",
        "| metric | kind | labels | meaning |",
        "| --- | --- | --- | --- |",
    ]
    for name, kind, labels, meaning in sorted(metrics()):
        lines.append(f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels)} | {_cell(meaning)} |")
    return "\n".join([*lines, ""])


def metrics() -> Iterator[tuple[str, str, tuple[str, ...], str]]:
    """Name, kind, labels and meaning of each of our metrics."""
    made: Any = Metrics().registry
    for collector in set(made._collector_to_names):  # noqa: SLF001 - the library has no other list
        if not str(getattr(collector, "_name", "")).startswith("armwise_"):
            continue  # the process's own
        name = collector._name + ("_total" if collector._type == "counter" else "")  # noqa: SLF001 - likewise
        yield name, collector._type, tuple(collector._labelnames), collector._documentation  # noqa: SLF001 - likewise


def structs_of(kind: Any) -> tuple[type[Struct], ...]:
    """The tables that a type holds, without those inside them."""
    if isinstance(kind, type) and issubclass(kind, Struct):
        return (kind,)
    return tuple(dict.fromkeys(struct for inner in get_args(kind) for struct in structs_of(inner)))


def _tables(path: str, kind: Any) -> Iterator[tuple[str, type[Struct]]]:
    """Headings of a table of the file and of those inside it, such as `[[models]]`, with what each is read as."""
    origin = get_origin(kind)
    if isinstance(origin, type) and issubclass(origin, dict):
        path += ".NAME"
    for struct in structs_of(kind):
        yield (f"[[{path}]]" if origin is tuple else f"[{path}]"), struct
        for field in fields(struct):
            if structs_of(field.type):
                yield from _tables(f"{path}.{field.name}", field.type)


def _heading(table: str, struct: type[Struct]) -> str:
    config = struct.__struct_config__
    return f"`{table}`" + (f' with `{config.tag_field} = "{config.tag}"`' if config.tag is not None else "")


def _name_first(struct: type[Struct]) -> list[FieldInfo]:
    return sorted(fields(struct), key=lambda field: field.name != "name")


def _row(struct: type[Struct], field: FieldInfo, words: str) -> str:
    if structs_of(field.type):
        return f"| `{field.name}` | table | below | A table of its own. |"
    comment = meanings(struct).get(field.name, "")
    meaning = _said(words, field.name) or comment[:1].upper() + comment[1:] or _otherwise(struct, field.name)
    return f"| `{field.name}` | {_cell(type_in_words(field.type))} | {_cell(default_of(field))} | {_cell(meaning)} |"


def _otherwise(struct: type[Struct], name: str) -> str:
    return "What it is called." if name == "name" else _introduction(struct)


def default_of(field: FieldInfo) -> str:
    """A default as it would stand in the file."""
    if field.default is not NODEFAULT:
        value = field.default
    elif field.default_factory is not NODEFAULT:
        value = field.default_factory()
    else:
        return "required"
    if value is None:
        return "left out"
    plain = msgspec.to_builtins(value)
    if isinstance(plain, dict):
        return "`{}`" if not plain else "see [the example](../configuration.md)"
    return f"`{msgspec.json.encode(sorted(plain) if isinstance(value, frozenset) else plain).decode()}`"


def type_in_words(kind: Any) -> str:  # noqa: PLR0911 - one return for each kind of type
    """A type as a person would say it, with its range.

    >>> type_in_words(Annotated[float, Meta(gt=0.0, le=1.0)])
    'number > 0, ≤ 1'
    """
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        limits = [limit for meta in inner[1:] if isinstance(meta, Meta) for limit in _limits(meta)]
        return " ".join([type_in_words(inner[0]), ", ".join(limits)]).strip()
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in inner)
    if origin in (Union, UnionType):
        return " or ".join(type_in_words(one) for one in inner if one is not NoneType)
    if origin in (tuple, frozenset, list):
        several = [one for one in inner if one is not Ellipsis]
        if origin is tuple and Ellipsis not in inner:
            return f"list of {len(several)}: {type_in_words(several[0])}"
        return f"list of: {type_in_words(several[0])}"
    if origin is not None and isinstance(origin, type) and issubclass(origin, dict):
        return f"table: {type_in_words(inner[1])}"
    return _PLAIN.get(kind, getattr(kind, "__name__", str(kind)))


def _limits(meta: Meta) -> Iterator[str]:
    for name, shown in _LIMITS.items():
        value = getattr(meta, name)
        if value is not None:
            yield shown.format(f"{value:g}")


def meanings(struct: type[Struct]) -> dict[str, str]:
    """What the comment beside each field says, base classes' fields included."""
    found: dict[str, str] = {}
    for kind in reversed(struct.__mro__):
        if kind not in (Struct, object) and issubclass(kind, Struct):
            found |= _comments(kind)
    return found


def _comments(struct: type) -> dict[str, str]:
    source = inspect.getsource(struct)
    notes = {
        token.start[0]: token.string.lstrip("# ").strip()
        for token in tokenize.generate_tokens(StringIO(source).readline)
        if token.type == tokenize.COMMENT and not token.string.startswith(("# fmt:", "# noqa:"))
    }
    own = ast.parse(source).body[0]
    assert isinstance(own, ast.ClassDef)  # noqa: S101 - getsource gave a class
    return {
        line.target.id: notes[line.lineno]
        for line in own.body
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.lineno in notes
    }


def _introduction(struct: type[Struct]) -> str:
    return (inspect.getdoc(struct) or "").partition("\n\n")[0].replace("\n", " ")


def _section(page: str, name: str) -> str:
    """What the page written by hand says of one table of the file."""
    found = re.search(rf"^## `\[+{name}\]+`$(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


def _about(section: str, table: str, struct: type[Struct]) -> str:
    """The part of a section that is about one kind of a table, or about a table in it."""
    kinds = re.split(r"^(?=`\w+`)", section, flags=re.MULTILINE)
    tag = struct.__struct_config__.tag
    if tag is not None:
        return "".join([*(part for part in kinds if part.startswith(f"`{tag}`")), kinds[0]])
    if "." not in table:
        return section
    name = table.strip("[]").rpartition(".")[2]
    found = re.search(rf"^\| setting of `{name}` .*?(?=\n\n)", section, re.MULTILINE | re.DOTALL)
    return found[0] if found else ""


def _said(words: str, name: str) -> str:
    found = re.search(rf"^\| `{name}` \| [^|]* \| (.*) \|$", words, re.MULTILINE)
    if found is None or found[1] == "As above.":
        return ""
    return re.sub(r"\]\((?!http|#)", "](../", found[1]).replace("\\|", "|")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


PAGES = {"settings": settings_page, "metrics": metrics_page}

if __name__ == "__main__":
    sys.stdout.write(PAGES[sys.argv[1]]())
