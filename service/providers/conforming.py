"""A value that conforms to a JSON schema: what the simulated provider says in tool calls and structured outputs.

Reads the part of JSON Schema that OpenAI's structured outputs know, and a little more. A `pattern` is not solved: give
the schema an `enum`, a `default` or `examples` where a string must match one.
"""

import math
from typing import Any

_DEEPEST = 6  # recursive schemas: below this only what is required is filled in
_FORMATS = {
    "date": "2025-01-01",
    "date-time": "2025-01-01T00:00:00Z",
    "time": "00:00:00Z",
    "duration": "P1D",
    "email": "someone@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


def conforming_value(schema: dict[str, Any]) -> Any:
    """A value that the schema accepts; the same schema gives the same value.

    >>> conforming_value({"type": "object", "properties": {"city": {"type": "string"}}})
    {'city': 'simulated'}
    """
    return _value(schema, schema, 0)


def _value(schema: Any, root: dict[str, Any], depth: int) -> Any:
    if not isinstance(schema, dict):  # `true` accepts everything
        return "simulated"
    schema = _resolved(schema, root)
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    for key in ("enum", "examples"):
        if schema.get(key):
            return schema[key][0]
    branches = schema.get("anyOf") or schema.get("oneOf")
    if branches:
        # The branch that needs no further nesting ends a recursive schema.
        simple = [one for one in branches if isinstance(one, dict) and "$ref" not in one]
        chosen = (simple or branches)[0] if depth >= _DEEPEST else branches[0]
        rest = {key: value for key, value in schema.items() if key not in {"anyOf", "oneOf"}}
        return _value({**rest, **chosen} if isinstance(chosen, dict) else rest, root, depth)
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    return _of_kind(kind or _kind_meant(schema), schema, root, depth)


def _of_kind(kind: str, schema: dict[str, Any], root: dict[str, Any], depth: int) -> Any:
    if kind == "object":
        return _object(schema, root, depth)
    if kind == "array":
        return _array(schema, root, depth)
    if kind in {"integer", "number"}:
        whole = kind == "integer"
        value = _number(schema, whole=whole)
        return math.ceil(value) if whole else value
    return {"boolean": True, "null": None}.get(kind, _string(schema))


def _resolved(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    """The schema with its `$ref` followed and its `allOf` merged."""
    for _ in range(_DEEPEST):  # a chain of references that leads nowhere must end
        reference = schema.get("$ref")
        if not isinstance(reference, str) or not reference.startswith("#"):
            break
        target: Any = root
        for step in reference.removeprefix("#").strip("/").split("/") if reference != "#" else ():
            name = step.replace("~1", "/").replace("~0", "~")
            target = target.get(name) if isinstance(target, dict) else None
        schema = {**(target if isinstance(target, dict) else {}), **{k: v for k, v in schema.items() if k != "$ref"}}
    if "allOf" not in schema:
        return schema
    merged = {key: value for key, value in schema.items() if key != "allOf"}
    for part in schema["allOf"]:
        part_resolved = _resolved(part, root)
        merged = {
            **merged,
            **part_resolved,
            "properties": {**merged.get("properties", {}), **part_resolved.get("properties", {})},
            "required": [*merged.get("required", []), *part_resolved.get("required", [])],
        }
    return merged


def _kind_meant(schema: dict[str, Any]) -> str:
    """The type of a schema that names none."""
    if "properties" in schema or "required" in schema:
        return "object"
    if "items" in schema or "prefixItems" in schema:
        return "array"
    if {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"} & schema.keys():
        return "number"
    return "string"


def _object(schema: dict[str, Any], root: dict[str, Any], depth: int) -> dict[str, Any]:
    properties: dict[str, Any] = schema.get("properties") or {}
    required = schema.get("required") or []
    names = [name for name in properties if depth < _DEEPEST or name in required]
    names += [name for name in required if name not in properties]
    return {name: _value(properties.get(name, True), root, depth + 1) for name in names}


def _array(schema: dict[str, Any], root: dict[str, Any], depth: int) -> list[Any]:
    first = [_value(one, root, depth + 1) for one in schema.get("prefixItems") or ()]
    wanted = max(int(schema.get("minItems", 0)), 1 if depth < _DEEPEST else 0, len(first))
    wanted = min(wanted, int(schema.get("maxItems", wanted)))
    item = schema.get("items", True)
    more = [_value(item, root, depth + 1) for _ in range(wanted - len(first))] if item is not False else []
    values = (first + more)[:wanted] if "maxItems" in schema else first + more
    if schema.get("uniqueItems") and isinstance(item, dict):
        values = _distinct(values, item)
    return values


def _distinct(values: list[Any], item: dict[str, Any]) -> list[Any]:
    """Equal items made different, where that is simple: from an enum, by counting, by a number behind a string."""
    if "enum" in item:
        return list(item["enum"][: len(values)])
    step = item.get("multipleOf", 1)
    counted: list[Any] = []
    for position, value in enumerate(values):
        if isinstance(value, str):
            counted.append(f"{value}{position or ''}")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            counted.append(value + position * step)
        else:
            counted.append(value)
    return counted


def _number(schema: dict[str, Any], *, whole: bool) -> float:
    """The number nearest to 1 within the bounds."""
    low, above = schema.get("minimum", -math.inf), schema.get("exclusiveMinimum", -math.inf)
    high, below = schema.get("maximum", math.inf), schema.get("exclusiveMaximum", math.inf)
    if above >= low and above > -math.inf:
        low = math.floor(above) + 1 if whole else above + min(0.5, (min(high, below) - above) / 2)
    if below <= high and below < math.inf:
        high = math.ceil(below) - 1 if whole else below - min(0.5, (below - low) / 2)
    value = min(max(1.0, low), high)
    multiple = schema.get("multipleOf")
    return float(math.ceil(value / multiple) * multiple) if multiple else value


def _string(schema: dict[str, Any]) -> str:
    text = _FORMATS.get(schema.get("format", ""), "simulated")
    text = text.ljust(int(schema.get("minLength", 0)), ".")
    return text[: int(schema["maxLength"])] if "maxLength" in schema else text
