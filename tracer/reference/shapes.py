"""What JSON Schemas are made of."""

from typing import Any

from tracer.analysis import hazards

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
SAID: Schema = {"type": "string", "minLength": 1}
COUNT: Schema = {"type": "integer", "minimum": 0}
INTEGER: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
BOOLEAN: Schema = {"type": "boolean"}
TEXTS: Schema = {"type": "array", "items": TEXT}
NAMED: Schema = {"type": "object", "additionalProperties": TEXT}
COUNTED: Schema = {"type": "object", "additionalProperties": COUNT}
VERDICT: Schema = {"enum": [verdict.value for verdict in hazards.Verdict]}


def or_null(schema: Schema) -> Schema:
    """The same, or null."""
    if "enum" in schema:
        return {"enum": [*schema["enum"], None]}
    return {**schema, "type": [schema["type"], "null"]}


def array(schema: Schema, *, least: int = 0, most: int | None = None) -> Schema:
    """A list of so many of these."""
    return {
        "type": "array",
        "items": schema,
        **({"minItems": least} if least else {}),
        **({} if most is None else {"maxItems": most}),
    }


def record(properties: dict[str, Schema], *, optional: tuple[str, ...] = ()) -> Schema:
    """An object in which all these are, but for those that may be missing."""
    return {
        "type": "object",
        "required": [name for name in properties if name not in optional],
        "properties": properties,
    }


def document(
    schema: str, title: str, description: str, properties: dict[str, Schema], *, optional: tuple[str, ...] = ()
) -> Schema:
    """What one command writes, as a document by itself."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": "Made by python -m tracer.reference",
        "title": title,
        "description": description,
        **record({"schema": {"const": schema}, **properties}, optional=optional),
    }
