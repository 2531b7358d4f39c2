"""The schemas of docs/reference/schemas, as tests use them."""

import json
from pathlib import Path
from typing import Any

import jsonschema

ROOT = Path(__file__).parents[3]


def schema(name: str) -> dict[str, Any]:
    """The document."""
    found: dict[str, Any] = json.loads((ROOT / "docs" / "reference" / "schemas" / f"{name}.json").read_text())
    return found


def check(name: str, data: Any) -> None:
    """Fail where `data` is not what the document says, or has a field that the document does not know."""
    document = schema(name)
    jsonschema.validate(data, document, jsonschema.Draft202012Validator)
    assert undocumented(data, document) == []


def undocumented(data: Any, document: dict[str, Any], path: str = "") -> list[str]:
    """Fields of `data` that the schema says nothing of."""
    for choice in document.get("anyOf", ()):
        if "properties" in choice:
            document = choice
    if isinstance(data, list):
        return [name for one in data for name in undocumented(one, document.get("items", {}), path + "[]")]
    if not isinstance(data, dict) or "properties" not in document or "additionalProperties" in document:
        return []
    known = document["properties"]
    found = [f"{path}.{name}" for name in data if name not in known]
    return found + [
        name for key in data if key in known for name in undocumented(data[key], known[key], f"{path}.{key}")
    ]
