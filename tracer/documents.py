"""JSON from elsewhere: with numbers that every reader of JSON has, and of the types that a JSON Schema says."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tracer.errors import UsageError
from tracer.files import open_regular
from tracer.report.escape import printable


class NumberError(Exception):
    """A number that no other reader has. Not a ValueError: the text is JSON otherwise."""


def parse(text: bytes) -> Any:
    """What a text means. Raises ValueError for what is not JSON, RecursionError, and NumberError."""
    return json.loads(text, parse_constant=_number, parse_float=_number, parse_int=_integer)


def read(path: Path, most_bytes: int) -> Any:
    """What a file of JSON means. Raises UsageError, which names it: it cannot be opened, is no regular file, is larger
    than that, or is not JSON, with numbers that every reader has.
    """
    shown = printable(str(path))
    try:
        with open_regular(path) as stream:
            text = stream.read(most_bytes + 1)
        if len(text) > most_bytes:
            raise UsageError(f"{shown}: larger than {most_bytes >> 20} MiB")
        return parse(text)
    except OSError as error:
        raise UsageError(f"{shown}: {error.strerror}") from error
    except (ValueError, RecursionError, NumberError) as error:
        raise UsageError(f"{shown}: not JSON: {printable(str(error))[:200]}") from error


def misfit(data: object, schema: Mapping[str, Any]) -> str:
    """Where data is not what a JSON Schema, a constant of its module, says, in a phrase; empty: nowhere."""
    error = next(_validator(schema).iter_errors(data), None)
    if error is None:
        return ""
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
    told = str(error.message)
    return f"{place.lstrip('.') or 'it'}: {told if len(told) <= 200 else told[:98] + '...' + told[-98:]}"


def _validator(schema: Mapping[str, Any]) -> Any:
    import jsonschema  # a tenth of a second

    if id(schema) not in _validators:
        _validators[id(schema)] = jsonschema.Draft202012Validator(schema)
    return _validators[id(schema)]


_validators: dict[int, Any] = {}


def _number(word: str) -> float:
    number = float(word)
    if not math.isfinite(number):
        raise NumberError(f"{word[:60]} is no number of JSON")
    return number


def _integer(word: str) -> int:
    if len(word) > 20 or not -(1 << 63) <= int(word) < 1 << 63:
        raise NumberError(f"{word[:20]}... has more than 64 bits")
    return int(word)
