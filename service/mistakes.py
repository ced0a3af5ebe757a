"""Turn plain values, as TOML gives them, into structs, and list every mistake instead of stopping at the first."""

import math
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec.structs import FieldInfo, fields

Value = TypeVar("Value")


def build(kind: type[Value], value: Any, path: str, mistakes: list[str]) -> Value:
    """`value` as a `kind`; what is wrong is added to `mistakes`, one sentence each, with its path from `path` on.

    Always gives something back, so that the rest can be checked as well: where `value` is wrong, the default or a
    stand-in. Use it only when `mistakes` stayed empty. Knows structs, unions of tagged structs, tuples, frozensets,
    dicts by name, and all that `msgspec.convert` knows.
    """
    result: Value = _build(kind, value, path, mistakes)
    return result


def suggestion(found: str, known: Iterable[str]) -> str:
    """What to write instead of `found`: the nearest known name, or all of them."""
    known = list(known)
    near = get_close_matches(found, known, n=1)
    if near:
        return f" (did you mean `{near[0]}`?)"
    return f" (known: {listed(known)})" if known else ""


def listed(names: Iterable[str]) -> str:
    """Names as the messages show them.

    >>> listed(["a", "b"])
    '`a`, `b`'
    """
    return ", ".join(f"`{name}`" for name in names)


def _build(kind: Any, value: Any, path: str, mistakes: list[str]) -> Any:  # noqa: PLR0911 - one return per kind
    if _is_struct(kind):
        return _struct(kind, value, path, mistakes)
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType) and all(_is_struct(member) for member in inner):
        return _tagged(inner, value, path, mistakes)
    if origin is tuple and inner[-1] is not Ellipsis:
        return _row(inner, value, path, mistakes)
    if origin in (tuple, frozenset):
        items = _items(inner[0], value, path, mistakes)
        return None if items is None else origin(items)
    if origin is dict:
        if not isinstance(value, Mapping):
            mistakes.append(_wrong(path, "a table", value))
            return {}
        built = {key: _build(inner[1], item, _join(path, key), mistakes) for key, item in value.items()}
        return {key: item for key, item in built.items() if item is not None}
    return _leaf(kind, value, path, mistakes)


def _struct(kind: type[msgspec.Struct], value: Any, path: str, mistakes: list[str]) -> Any:
    if not isinstance(value, Mapping):
        mistakes.append(_wrong(path, "a table", value))
        value, mistakes = {}, []  # what it lacks is not a second mistake
    known = {field.encode_name: field for field in fields(kind)}
    tag_field = kind.__struct_config__.tag_field
    for key in value:
        if key not in known and key != tag_field:
            mistakes.append(f"unknown key `{key}`{_at(path)}{suggestion(key, [*known, *filter(None, [tag_field])])}")
    built: dict[str, Any] = {}
    for key, field in known.items():
        if key in value:
            built[field.name] = _field(field, value[key], _join(path, key), mistakes)
        elif field.required:
            mistakes.append(f"missing key `{key}`{_at(path)}: expected {expected(field.type)}")
            built[field.name] = ""
    return kind(**built)


def _field(field: FieldInfo, value: Any, path: str, mistakes: list[str]) -> Any:
    built = _build(field.type, value, path, mistakes)
    if built is not None:
        return built
    if field.required:
        return ""
    return field.default if field.default is not msgspec.NODEFAULT else field.default_factory()


def _tagged(members: tuple[Any, ...], value: Any, path: str, mistakes: list[str]) -> Any:
    by_tag = {str(member.__struct_config__.tag): member for member in members}
    tag_field = members[0].__struct_config__.tag_field
    if not isinstance(value, Mapping):
        mistakes.append(_wrong(path, "a table", value))
        return _struct(members[0], {}, path, [])
    tag = value.get(tag_field)
    if isinstance(tag, str) and tag in by_tag:
        return _struct(by_tag[tag], value, path, mistakes)
    if tag is None:
        mistakes.append(f"missing key `{tag_field}`{_at(path)}: expected one of {listed(by_tag)}")
    else:
        near = get_close_matches(tag, by_tag, n=1, cutoff=0.5) if isinstance(tag, str) else []
        hint = f" (did you mean `{near[0]}`?)" if near else ""
        mistakes.append(f"unknown {tag_field} {_shown(tag)}{_at(path)}: expected one of {listed(by_tag)}{hint}")
        if near:
            return _struct(by_tag[near[0]], value, path, mistakes)
    return _struct(members[0], value, path, [])  # its other keys cannot be judged


def _items(kind: Any, value: Any, path: str, mistakes: list[str]) -> list[Any] | None:
    if not isinstance(value, list):
        mistakes.append(_wrong(path, "a list", value))
        return None
    built = [_build(kind, item, f"{path}[{index}]", mistakes) for index, item in enumerate(value)]
    return [item for item in built if item is not None]


def _row(kinds: tuple[Any, ...], value: Any, path: str, mistakes: list[str]) -> Any:
    if not isinstance(value, list):
        mistakes.append(_wrong(path, f"a list of {len(kinds)} values", value))
        return None
    if len(value) != len(kinds):
        mistakes.append(f"`{path}` must be a list of {len(kinds)} values, found {len(value)}")
        return None
    built = tuple(
        _build(kind, item, f"{path}[{index}]", mistakes)
        for index, (kind, item) in enumerate(zip(kinds, value, strict=True))
    )
    return None if None in built else built


def _leaf(kind: Any, value: Any, path: str, mistakes: list[str]) -> Any:
    try:
        built = msgspec.convert(value, kind)
    except msgspec.ValidationError:
        # texts are shown only where they cannot be a secret: names and choices
        shown = _shown(value) if not isinstance(value, str) or _is_name_or_choice(kind) else "a text"
        near = get_close_matches(value, _choices(kind), n=1) if isinstance(value, str) else []
        hint = f" (did you mean `{near[0]}`?)" if near else ""
        mistakes.append(f"`{path}` must be {expected(kind)}, found {shown}{hint}")
        return value if isinstance(value, str) and _is_text(kind) else None
    if isinstance(built, float) and not math.isfinite(built):
        mistakes.append(f"`{path}` must be {expected(kind)}, found {built}")
        return None
    return built


_WORDS: dict[Any, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def expected(kind: Any) -> str:
    """What a setting of this type must be, in words.

    >>> from msgspec import Meta
    >>> expected(Annotated[int, Meta(ge=1, le=9)])
    'a whole number of at least 1 and at most 9'
    """
    base, metas = _unwrapped(kind)
    described = next((meta.description for meta in metas if meta.description), None)
    if described:
        return described
    if choices := _choices(base):
        return f"one of {listed(choices)}"
    bounds = (("ge", "at least"), ("gt", "more than"), ("le", "at most"), ("lt", "less than"))
    limits = [
        f"{word} {limit:g}" for meta in metas for name, word in bounds if (limit := getattr(meta, name)) is not None
    ]
    return _WORDS.get(base, "a table") + (f" of {' and '.join(limits)}" if limits else "")


def _unwrapped(kind: Any) -> tuple[Any, list[msgspec.Meta]]:
    """The plain type, without `| None` (TOML has no null) and without its constraints; and these."""
    metas: list[msgspec.Meta] = []
    while True:
        if get_origin(kind) is Annotated:
            kind, *found = get_args(kind)
            metas += [meta for meta in found if isinstance(meta, msgspec.Meta)]
        elif get_origin(kind) in (Union, UnionType):
            kind = next(member for member in get_args(kind) if member is not NoneType)
        else:
            return kind, metas


def _choices(kind: Any) -> tuple[str, ...]:
    base, _ = _unwrapped(kind)
    return get_args(base) if get_origin(base) is Literal else ()


def _is_name_or_choice(kind: Any) -> bool:
    return bool(_choices(kind)) or any(meta.pattern for meta in _unwrapped(kind)[1])


def _is_text(kind: Any) -> bool:
    return _unwrapped(kind)[0] is str


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _wrong(path: str, wanted: str, value: Any) -> str:
    return f"`{path or 'the file'}` must be {wanted}, found {_kind_of(value)}"


def _kind_of(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a table"
    return "a list" if isinstance(value, list) else _WORDS.get(type(value), f"a {type(value).__name__}")


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    return f'"{value[:60]}"' if isinstance(value, str) else _kind_of(value)


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _at(path: str) -> str:
    return f" at `{path}`" if path else ""
