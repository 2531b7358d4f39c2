"""What a trace file says about itself: its schema's version, and how, where and how completely it was recorded.

One JSON value per field of `TraceMeta`, under `eofrace.<field>`; the version is `eofrace.schema`. Parquet has checksums
for its pages and none for these: `eofrace.checksum` is theirs.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields
from typing import Any

from tracer.errors import TraceError
from tracer.report.escape import printable

SCHEMA = "eofrace.trace/1"
"""Version of the file's schema; the number grows when a reader of the old one would be misled."""

_LATER = ("part", "last")
"""Fields that traces of the same schema did not have once."""

MAX_METADATA = 1 << 20
"""Bytes of one metadata value."""


@dataclass(frozen=True, slots=True)
class TraceMeta:
    """What has to be known of a trace beside its operations. None: does not apply, or is not known."""

    host: Mapping[str, Any] = field(default_factory=dict)
    """Facts about the host, as `eofrace doctor` finds them."""
    mechanisms: Mapping[str, str] = field(default_factory=dict)
    """Hook -> mechanism that was used for it."""
    gaps: Mapping[str, str] = field(default_factory=dict)
    """What is not seen -> why. A name that is an `Op.label` stands for that kind of operation, any other for all kinds
    (but those of `tracer.analysis.completeness.ADVISORY_HOOKS`)."""
    dropped: int = 0
    """Records that were lost; in a part, perhaps while the one before it was open."""
    unfinished: int = 0
    """Operations still in flight when recording stopped."""
    command: tuple[str, ...] = ()
    """Command line that made the trace."""
    seed: int | None = None
    strategy: str | None = None
    fs: str | None = None
    aio: str | None = None
    fallocate: str | None = None
    evidence: str | None = None
    """`kernel` or `driver`."""
    part: int | None = None
    """Number, from 1, of a part of a trace that is a directory; None: the whole trace."""
    last: bool | None = None
    """Of a part: whether recording ended with it."""


def encode(meta: TraceMeta) -> dict[str, str]:
    """The metadata as the file's key-value pairs."""
    values: dict[str, Any] = {"schema": SCHEMA}
    for item in fields(meta):
        value = getattr(meta, item.name)
        values[item.name] = dict(value) if isinstance(value, Mapping) else value
    return {f"eofrace.{name}": json.dumps(value) for name, value in values.items()}


def decode(raw: Mapping[bytes, bytes]) -> TraceMeta:
    """The metadata from a file's key-value pairs. Raises TraceError where they make no sense."""
    values: dict[str, Any] = {}
    for name in ("schema", *(item.name for item in fields(TraceMeta))):
        text = raw.get(f"eofrace.{name}".encode())
        if name == "schema" and text is not None:
            _check_version(_json(name, text))
        elif text is None and name in _LATER:
            values[name] = None
        elif text is None:
            what = "not an eofrace trace: no" if name == "schema" else "no"
            raise TraceError(f"{what} eofrace.{name} in its metadata")
        else:
            values[name] = _json(name, text)
    for name, value in values.items():
        if not _META_CHECKS[name](value):
            raise TraceError(f"eofrace.{name} in its metadata makes no sense: {short(value)}")
    _check_checksum(raw)
    return TraceMeta(**{**values, "command": tuple(values["command"])})


@dataclass(frozen=True, slots=True)
class GroupRange:
    """What the rows of a row group lie between; the numbers are sequence numbers.

    They are the trace's own metadata, not Parquet's statistics, because pyarrow (26.0.1) ends the process where
    those of a damaged file cannot be had.
    """

    rows: int
    first_begin: int
    last_begin: int
    last_end: int | None
    """None: something in it never ended."""
    first_kind: str
    """Smallest `op`, as text, and the largest."""
    last_kind: str


_GROUPS = "eofrace.groups"


def encode_groups(ranges: Sequence[GroupRange]) -> dict[str, str]:
    """The same for the ranges of a file's row groups, in order."""
    return {_GROUPS: json.dumps([astuple(one) for one in ranges])}


def decode_groups(raw: Mapping[bytes, bytes], rows: Sequence[int]) -> list[GroupRange] | None:
    """The ranges of row groups with that many rows each; None: not known, as in a file that other tools have made.

    Raises TraceError where they make no sense.
    """
    text = raw.get(_GROUPS.encode())
    if text is None:
        return None
    found = _json("groups", text)
    if not isinstance(found, list) or not all(isinstance(one, list) and _is_range(*one) for one in found):
        raise TraceError(f"{_GROUPS} in its metadata makes no sense: {short(found)}")
    ranges = [GroupRange(*one) for one in found]
    # Who has copied a trace, and left out rows, may have copied them, too.
    return ranges if [one.rows for one in ranges] == list(rows) else None


def _is_range(*values: object) -> bool:
    if len(values) != len(fields(GroupRange)):
        return False
    *numbers, last_end, first_kind, last_kind = values
    texts = isinstance(first_kind, str) and isinstance(last_kind, str)
    return texts and all(map(_is_count, numbers)) and (last_end is None or _is_count(last_end))


_CHECKSUM = "eofrace.checksum"


def encode_checksum(described: Mapping[str, str]) -> dict[str, str]:
    """The same for the checksum of all other pairs: it is against damage, not against whoever edits a trace."""
    return {_CHECKSUM: json.dumps(_checksum({key.encode(): value.encode() for key, value in described.items()}))}


def _checksum(raw: Mapping[bytes, bytes]) -> int:
    """CRC-32 of our keys and their values, in the order of the keys, each as a netstring: `3:abc,`."""
    ours = sorted(key for key in raw if key.startswith(b"eofrace.") and key != _CHECKSUM.encode())
    return zlib.crc32(b"".join(b"%d:%s," % (len(text), text) for key in ours for text in (key, raw[key])))


def _check_checksum(raw: Mapping[bytes, bytes]) -> None:
    """Raise TraceError where the pairs are not those that were written. Who writes a trace need not add a checksum."""
    text = raw.get(_CHECKSUM.encode())
    if text is not None and _json("checksum", text) != _checksum(raw):
        raise TraceError(f"its metadata are damaged: they do not fit {_CHECKSUM} (who edits them removes that key)")


def _json(name: str, text: bytes) -> Any:
    if len(text) > MAX_METADATA:
        raise TraceError(f"eofrace.{name} in its metadata is longer than {MAX_METADATA} bytes")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TraceError(f"eofrace.{name} in its metadata is not JSON") from error


def _check_version(version: object) -> None:
    if version == SCHEMA:
        return
    family, _, number = str(version).partition("/")
    if family == SCHEMA.partition("/")[0] and number.isdecimal():
        raise TraceError(f"has schema {short(version)}, this eofrace reads {SCHEMA}: use the one that wrote it")
    raise TraceError(f"not an eofrace trace: its schema is {short(version)}")


def _is_text_or_none(value: object) -> bool:
    return value is None or isinstance(value, str)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**64


def _is_count(value: object) -> bool:
    return isinstance(value, int) and _is_int(value) and value >= 0


def _is_text_map(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())


_META_CHECKS = {
    "host": lambda value: isinstance(value, dict),
    "mechanisms": _is_text_map,
    "gaps": _is_text_map,
    "dropped": _is_count,
    "unfinished": _is_count,
    "command": lambda value: isinstance(value, list) and all(isinstance(word, str) for word in value),
    "seed": lambda value: value is None or _is_int(value),
    "part": lambda value: value is None or _is_count(value),
    "last": lambda value: value is None or isinstance(value, bool),
    **dict.fromkeys(("strategy", "fs", "aio", "fallocate", "evidence"), _is_text_or_none),
}


def short(value: object) -> str:
    """Something untrusted for a message: one line, printable, not long."""
    text = printable(str(value).strip().partition("\n")[0])
    return text if len(text) <= 120 else text[:117] + "..."
