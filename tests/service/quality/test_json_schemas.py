"""Only certain faults are named: whatever we call one, a full validator calls one too."""

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.quality.schemas import fault

scalars = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, 1.0, "", "a", "ab", "é"])
values = st.recursive(
    scalars,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.sampled_from("abc"), children, max_size=3),
    max_leaves=8,
)
types = st.sampled_from(["null", "boolean", "integer", "number", "string", "array", "object"])


def keywords(subschemas):
    sizes, numbers = st.integers(0, 3), st.integers(-2, 2) | st.just(0.5)
    lists = st.lists(subschemas, min_size=1, max_size=3)
    return st.fixed_dictionaries(
        {},
        optional={
            "type": types | st.lists(types, min_size=1, max_size=3, unique=True),
            "enum": st.lists(scalars, min_size=1, max_size=3),
            "const": scalars,
            "properties": st.dictionaries(st.sampled_from("abc"), subschemas, max_size=3),
            "required": st.lists(st.sampled_from("abc"), max_size=2, unique=True),
            "additionalProperties": subschemas,
            "patternProperties": st.just({"^a": True}),
            "items": subschemas,
            "prefixItems": lists,
            "minItems": sizes,
            "maxItems": sizes,
            "minLength": sizes,
            "maxLength": sizes,
            "minimum": numbers,
            "maximum": numbers,
            "exclusiveMinimum": numbers,
            "exclusiveMaximum": numbers,
            "allOf": lists,
            "anyOf": lists,
            "oneOf": lists,
            "not": subschemas,
            "$ref": st.sampled_from(["#/$defs/x", "#/$defs/none"]),
        },
    )


schemas = st.builds(
    lambda schema, definition: {**schema, "$defs": {"x": definition, "none": True}},
    st.recursive(st.booleans() | keywords(st.booleans()), keywords, max_leaves=6).filter(lambda s: isinstance(s, dict)),
    st.builds(lambda kind: {"type": kind}, types),
)


@given(value=values, schema=schemas)
@settings(max_examples=500, deadline=None)
def test_no_fault_is_invented(value, schema):
    if fault(value, schema) is not None:
        assert not jsonschema.Draft202012Validator(schema).is_valid(value)


SIMPLE = ("type", "enum", "properties", "required", "additionalProperties", "items", "minItems", "maxLength", "minimum")


@given(
    value=values,
    schema=st.recursive(st.builds(lambda kind: {"type": kind}, types), keywords, max_leaves=6).map(
        lambda schema: {key: part for key, part in schema.items() if key in SIMPLE}
    ),
)
@settings(max_examples=300, deadline=None)
def test_types_fields_and_bounds_are_found_at_the_top(value, schema):
    shallow = {
        key: part for key, part in schema.items() if key in {"type", "required", "minItems", "maxLength", "minimum"}
    }
    assert (fault(value, shallow) is None) == jsonschema.Draft202012Validator(shallow).is_valid(value)


NESTED = {"additionalProperties": {"$ref": "#/$defs/n"}, "type": "object"}


@pytest.mark.parametrize(
    ("value", "schema"),
    [
        ([{"x": 1}, {"x": "1"}], {"items": {"properties": {"x": {"type": "integer"}}}}),
        ({"a": {"b": {"c": None}}}, {"$ref": "#/$defs/n", "$defs": {"n": NESTED}}),
        (True, {"type": "integer"}),
        ("red", {"enum": ["green", "blue"]}),
        ("x", {"anyOf": [{"type": "null"}, {"maxLength": 0}]}),
        ({"q": 1}, {"additionalProperties": False}),
        ([1], {"items": False}),
        (3, {"exclusiveMaximum": 3}),
    ],
)  # fmt: skip
def test_faults(value, schema):
    assert fault(value, schema)


@pytest.mark.parametrize(
    ("value", "schema"),
    [
        (1.0, {"type": "integer"}),
        (None, {"type": "string", "nullable": True}),
        ("x", {"pattern": "(a+)+$"}),
        ("x", {"type": "no such type"}),
        ("x", {"$ref": "https://example.com/schema"}),
        ("x", {"$ref": "#"}),
        ("x", {"$ref": "#/a", "a": {"$ref": "#/b"}, "b": {"$ref": "#/a"}}),
        ({"a": 1}, {"required": [["a"], 3, None]}),
        (3, {"minimum": "5", "maximum": None, "exclusiveMinimum": True}),
        ([1], {"items": [{"type": "string"}], "anyOf": {"type": "string"}}),
        ({"a": 1}, {"properties": [], "required": "abc"}),
    ],
)
def test_what_cannot_be_told_is_no_fault(value, schema):
    assert fault(value, schema) is None


def test_work_is_bounded():
    schema: dict = {"anyOf": [{"$ref": "#"}] * 40 + [False]}
    value: list = [[["x"] * 50] * 50] * 50
    looked = []

    class Watched(dict):
        def get(self, *key):
            looked.append(1)
            return super().get(*key)

    assert fault(value, {"items": Watched({"items": {"items": Watched()}})}) is None
    assert fault(value, schema) is None
    assert len(looked) < 20_000
