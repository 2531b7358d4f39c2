"""The files of a campaign, written with a digest of what is in them, and believed only if that still fits.

The digest says that a file is as it was written: an edited one, or one that lies under another name, is refused. It is
no signature: whoever edits the numbers can make a digest, too. So a result is looked at again, whoever wrote it
(tracer/campaign/rows.py).
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tracer.documents import NumberError, misfit, parse
from tracer.errors import UsageError
from tracer.files import open_regular
from tracer.output import write_text
from tracer.report.escape import printable

MOST_BYTES = 256 << 20
"""Of a file. A cell's result has a quarter of that at most (tracer/campaign/cell.py)."""

Record = dict[str, Any]


def write(path: Path, schema: str, data: Mapping[str, Any]) -> Record:
    """Write a record, whole or not at all. Returns it as it is there. Raises like `write_text`, and ValueError."""
    record = {"schema": schema, **data}
    record["digest"] = digest(record)
    write_text(path, json.dumps(record, allow_nan=False) + "\n")
    return record


def read(path: Path, schema: Mapping[str, Any], remedy: str) -> Record | None:
    """A record of that JSON Schema; None: there is none, or half of one, of a power failure.

    Raises UsageError, which ends with the remedy, for one that is something else than what was written.
    """
    try:
        with open_regular(path) as stream:
            text = stream.read(MOST_BYTES + 1)
    except FileNotFoundError:
        return None
    except UsageError as error:
        raise UsageError(f"{error}: {remedy}") from None
    except OSError as error:
        raise bad(path, str(error.strerror), remedy) from error
    if len(text) > MOST_BYTES:
        raise bad(path, f"larger than {MOST_BYTES >> 20} MiB", remedy)
    try:
        record = parse(text)
    except NumberError as error:
        raise bad(path, str(error), remedy) from None
    except RecursionError:
        raise bad(path, "no record of a campaign", remedy) from None
    except ValueError:
        return None
    wanted = schema["properties"]["schema"]["const"]
    told = record.get("schema") if isinstance(record, dict) else None
    if told != wanted and str(told).rpartition("/")[0] == wanted.rpartition("/")[0]:
        remedy = "another version of eofrace made it: name a new directory (-o)"
    wrong = misfit(record, schema) if told == wanted else f"its schema is {str(told)[:60]!r}, not {wanted!r}"
    if wrong:
        raise bad(path, wrong, remedy)
    assert isinstance(record, dict)
    if record["digest"] != digest(record):
        raise bad(path, "it is not as it was written: its digest is of something else", remedy)
    return record


def bad(path: Path, what: str, remedy: str) -> UsageError:
    """The error of a file that is not believed."""
    return UsageError(f"{printable(str(path))}: {printable(what)}: {remedy}")


def digest(record: Mapping[str, Any]) -> str:
    """SHA-256 of a record, less its digest: the same however its JSON is laid out."""
    content = {name: value for name, value in record.items() if name != "digest"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
