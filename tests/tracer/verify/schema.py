"""The contract of `verify --json`: docs/reference/schemas/verify.json."""

from tests.tracer.reference.documents import schema

VERIFY = schema("verify")
CELL = VERIFY["properties"]["cells"]["items"]
