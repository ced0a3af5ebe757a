"""Values that conform to a JSON schema, checked by an independent validator."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, validate

from service.providers.conforming import conforming_value

NUMBERS = st.integers(-50, 50)
LEAVES = st.one_of(
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.just({}),
    st.builds(lambda values: {"enum": values}, st.lists(st.text(max_size=5) | NUMBERS, min_size=1, max_size=3)),
    st.builds(lambda value: {"const": value}, st.text(max_size=5)),
    st.builds(
        lambda low, extra: {"type": "string", "minLength": low, "maxLength": low + extra},
        st.integers(0, 30),
        st.integers(0, 5),
    ),
    st.builds(
        lambda kind, low, extra: {"type": kind, "minimum": low, "maximum": low + extra},
        st.sampled_from(["integer", "number"]),
        NUMBERS,
        st.integers(0, 5),
    ),
    st.builds(
        lambda kind, low, extra: {"type": kind, "exclusiveMinimum": low, "exclusiveMaximum": low + extra},
        st.sampled_from(["integer", "number"]),
        NUMBERS,
        st.integers(2, 5),
    ),
    st.builds(
        lambda low, multiple: {"type": "integer", "minimum": low, "multipleOf": multiple}, NUMBERS, st.integers(1, 7)
    ),
)


def nested(schemas):
    properties = st.dictionaries(st.text(max_size=4), schemas, max_size=3)
    return st.one_of(
        st.builds(
            lambda found, required: {
                "type": "object",
                "properties": found,
                "required": [name for name in found if required],
                "additionalProperties": False,
            },
            properties,
            st.booleans(),
        ),
        st.builds(
            lambda items, fewest, extra: {
                "type": "array",
                "items": items,
                "minItems": fewest,
                "maxItems": fewest + extra,
            },
            schemas,
            st.integers(0, 4),
            st.integers(0, 2),
        ),
        st.builds(
            lambda first: {"type": "array", "prefixItems": first, "items": False},
            st.lists(schemas, min_size=1, max_size=3),
        ),
        st.builds(lambda found: {"anyOf": found}, st.lists(schemas, min_size=1, max_size=3)),
        st.builds(lambda one: {"$defs": {"one": one}, "allOf": [one]}, schemas),
    )


@settings(max_examples=200, deadline=None)
@given(schema=st.recursive(LEAVES, nested, max_leaves=8))
def test_the_value_conforms(schema):
    validate(conforming_value(schema), schema, cls=Draft202012Validator)


LINKED_LIST = {
    "$defs": {
        "node": {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}}
    },
    "$ref": "#/$defs/node",
}


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/person", "$defs": {"person": {"type": "object", "required": ["name"]}}},
        LINKED_LIST,
        {"properties": {"a": {"type": ["null", "integer"]}}, "required": ["a", "b"]},
        {"type": "array", "items": {"type": "integer", "multipleOf": 5}, "minItems": 3, "uniqueItems": True},
        {"type": "array", "items": {"type": "string"}, "minItems": 3, "uniqueItems": True},
        {"type": "array", "items": {"enum": ["a", "b", "c"]}, "minItems": 2, "uniqueItems": True},
        {"allOf": [{"properties": {"a": {"type": "integer"}}, "required": ["a"]}, {"required": ["b"]}]},
        {"type": "string", "format": "date-time"},
    ],
)  # fmt: skip
def test_schemas_as_tools_write_them(schema):
    validate(conforming_value(schema), schema, cls=Draft202012Validator)


def test_a_required_loop_ends():
    loop = {"type": "object", "properties": {"again": {"$ref": "#"}}}
    value, depth = conforming_value(loop), 0
    while value:
        value, depth = value["again"], depth + 1
    assert depth == 6
