"""The official schemas of VDA 5050: a validator for each, and values that satisfy one."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from jsonschema import Draft202012Validator

SCHEMAS = Path(__file__).parent / "vda5050_schemas"


@cache
def schema(version: str, topic: str) -> dict[str, Any]:
    """Return the official schema of a topic, such as "2.1" and "state"."""
    found: dict[str, Any] = json.loads((SCHEMAS / version / f"{topic}.json").read_text())
    return found


@cache
def _validator(version: str, topic: str) -> Draft202012Validator:
    return Draft202012Validator(schema(version, topic))


def wrong(version: str, topic: str, payload: bytes) -> list[str]:
    """Return what the official schema says against a message."""
    found = _validator(version, topic).iter_errors(json.loads(payload))
    return [f"{topic} {'.'.join(map(str, each.path))}: {each.message:.200}" for each in found]


def values(version: str, topic: str) -> st.SearchStrategy[dict[str, Any]]:
    """Messages that satisfy the official schema of a topic, with and without optional fields.

    The factsheet of 2.0 is that of 2.1: its own schema has the fields beside its `properties`, so
    that it says nothing about them.
    """
    whole = schema("2.1" if (version, topic) == ("2.0", "factsheet") else version, topic)
    return _values(whole, whole)


def _values(part: dict[str, Any], whole: dict[str, Any]) -> st.SearchStrategy[Any]:
    if "$ref" in part:
        _, kind, name = part["$ref"].split("/")
        return st.deferred(lambda: _values(whole[kind][name], whole))
    if "enum" in part and part["type"] != "array":
        return st.sampled_from(part["enum"])
    kinds = part["type"] if isinstance(part["type"], list) else [part["type"]]
    return st.one_of(*(_of_kind(kind, part, whole) for kind in kinds))


def _of_kind(kind: str, part: dict[str, Any], whole: dict[str, Any]) -> st.SearchStrategy[Any]:
    match kind:
        case "object":
            required = part.get("required", [])
            fields = {
                name: _values(each, whole) for name, each in part.get("properties", {}).items()
            }
            return st.fixed_dictionaries(
                {name: fields.get(name, st.just({})) for name in required},
                optional={name: each for name, each in fields.items() if name not in required},
            )
        case "array":
            items = _values(part["items"], whole) if part.get("items") else st.integers()
            return st.just([]) if "enum" in part else st.lists(items, max_size=2)
        case "integer":
            return st.integers(part.get("minimum", 0), 2**31)
        case "number":
            low, high = part.get("minimum", -1e6), part.get("maximum", 1e6)
            return st.floats(low, high, exclude_min="exclusiveMinimum" in part)
        case "boolean":
            return st.booleans()
        case _:
            if part.get("format") == "date-time":
                return st.just("2026-03-18T20:06:30.123Z")
            return st.text("abcXYZ019-_.:", max_size=12)
