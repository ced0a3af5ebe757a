"""Whether a JSON value certainly breaks a JSON schema, within a bounded amount of work.

Not a full validator on purpose. A fault found here is a label of 0 for a model, so only certain faults may be named,
and the schema comes from a stranger: it may refer to itself or to a URL, hold a regex that never ends, or be no schema
at all. The keywords of structured outputs are checked; every other one, and all that is malformed, counts as kept.
"""

from collections.abc import Callable
from typing import Any

_MAX_STEPS = 2_000  # subschemas and names looked at: about a millisecond
_MAX_DEPTH = 40


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_TYPES: dict[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: _is_number(value) and value % 1 == 0,
    "number": _is_number,
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}


def fault(value: Any, schema: Any) -> str | None:
    """How `value`, decoded JSON, breaks `schema`; None when it keeps it or that cannot be told.

    The words name neither keys nor values, which may be private.

    >>> fault({"age": "forty"}, {"properties": {"age": {"type": "integer"}}})
    'a value has the wrong type'
    """
    return _Walk(schema).fault(value, schema, 0)


class _Walk:
    """One check. Every rule only ever adds faults, so whatever is skipped can hide one but never invent one."""

    def __init__(self, root: Any) -> None:
        self.root = root
        self.left = _MAX_STEPS

    def fault(self, value: Any, schema: Any, depth: int) -> str | None:
        self.left -= 1
        if self.left < 0 or depth > _MAX_DEPTH:
            return None
        if not isinstance(schema, dict):
            return "a value stands where none may" if schema is False else None
        if "$ref" in schema:
            return self.fault(value, self.referred(schema["$ref"]), depth + 1)
        found = self.of_type(value, schema) or self.of_combined(value, schema, depth)
        if found is not None:
            return found
        if isinstance(value, dict):
            return self.of_object(value, schema, depth)
        return self.of_array(value, schema, depth) if isinstance(value, list) else self.of_scalar(value, schema)

    def referred(self, reference: Any) -> Any:
        """The subschema at "#/..."; True, which everything keeps, when it is elsewhere or missing."""
        if not isinstance(reference, str) or not reference.startswith("#"):
            return True
        target = self.root
        for step in reference[1:].split("/")[1 : _MAX_DEPTH + 1]:
            name = step.replace("~1", "/").replace("~0", "~")
            # A subschema with an $id of its own gives "#" another meaning.
            if not isinstance(target, dict) or name not in target or (target is not self.root and "$id" in target):
                return True
            target = target[name]
        return target

    def of_type(self, value: Any, schema: dict[str, Any]) -> str | None:
        wanted = schema.get("type")
        names = wanted if isinstance(wanted, list) else [wanted]
        checks = [_TYPES.get(name) if isinstance(name, str) else None for name in names[:10]]
        nullable = value is None and schema.get("nullable") is True  # OpenAPI's, which many take for JSON schema's
        if checks and not nullable and not any(check is None or check(value) for check in checks):
            return "a value has the wrong type"
        return None

    def of_combined(self, value: Any, schema: dict[str, Any], depth: int) -> str | None:
        for part in self.parts(schema, "allOf"):
            found = self.fault(value, part, depth + 1)
            if found is not None:
                return found
        for keyword in ("anyOf", "oneOf"):
            parts = self.parts(schema, keyword)
            if parts and all(self.fault(value, part, depth + 1) is not None for part in parts):
                return "a value keeps none of its alternatives"
        return None

    @staticmethod
    def parts(schema: dict[str, Any], keyword: str) -> list[Any]:
        parts = schema.get(keyword)
        return parts if isinstance(parts, list) else []

    def of_object(self, value: dict[str, Any], schema: dict[str, Any], depth: int) -> str | None:
        required = self.parts(schema, "required")
        self.left -= (len(required) + len(value)) // 32
        if any(isinstance(name, str) and name not in value for name in required):
            return "a required field is missing"
        properties = schema.get("properties", {})
        if not isinstance(properties, dict):
            return None
        others = True if "patternProperties" in schema else schema.get("additionalProperties", True)
        for name, item in value.items():
            known = name in properties
            if not known and others is False:
                return "a field is there that may not be"
            found = self.fault(item, properties[name] if known else others, depth + 1)
            if found is not None:
                return found
            if self.left < 0:
                return None
        return None

    def of_array(self, value: list[Any], schema: dict[str, Any], depth: int) -> str | None:
        if _over(len(value), schema.get("maxItems")):
            return "a list is too long"
        if _over(schema.get("minItems"), len(value)):
            return "a list is too short"
        if "prefixItems" in schema:  # `items` then means the rest
            return None
        items = schema.get("items", True)
        for item in value[: max(0, self.left)]:
            found = self.fault(item, items, depth + 1)
            if found is not None:
                return found
        return None

    def of_scalar(self, value: Any, schema: dict[str, Any]) -> str | None:
        # Comparing whole lists and objects could exceed Python's recursion limit, so `enum` and `const` are checked
        # for scalars only, and Python's True == 1 lets a few faults pass.
        if isinstance(value, dict | list):
            return None
        allowed = schema.get("enum")
        if isinstance(allowed, list):
            self.left -= len(allowed) // 32
            if value not in allowed:
                return "a value is none of those allowed"
        if "const" in schema and value != schema["const"]:
            return "a value is not the one allowed"
        if isinstance(value, str):
            if _over(len(value), schema.get("maxLength")) or _over(schema.get("minLength"), len(value)):
                return "a text is too long or too short"
        elif _is_number(value) and _out_of_range(value, schema):
            return "a number is out of its range"
        return None


def _over(larger: Any, smaller: Any) -> bool:
    return _is_number(larger) and _is_number(smaller) and bool(larger > smaller)


def _out_of_range(value: float, schema: dict[str, Any]) -> bool:
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    return (
        _over(value, schema.get("maximum"))
        or _over(schema.get("minimum"), value)
        or (_is_number(above) and not _over(value, above))
        or (_is_number(below) and not _over(below, value))
    )
