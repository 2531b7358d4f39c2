"""The pages of docs/reference: the commands, the columns of a trace, and the list of the schemas."""

from typing import Any

import pyarrow as pa

from tracer.operations import Op
from tracer.reference.clicks import described
from tracer.reference.fields import COLUMNS_SAY, META_SAY, OPS_SAY
from tracer.trace_columns import COLUMNS, LATER, NULLS
from tracer.trace_meta import SCHEMA

MADE = "<!-- Made by python -m tracer.reference: change the code that it is made of. -->\n"


def commands() -> str:
    """docs/reference/commands.md."""
    parts = [
        MADE,
        "# Commands\n",
        "Every command has `--help`, and a man page in docs/man (`man docs/man/eofrace.1`).\n",
    ]
    for one in described():
        parts.append(f"## {one.path}\n\n```\n{one.path} {one.usage}\n```\n")
        parts += [f"{_escaped(paragraph)}\n" for paragraph in one.paragraphs]
        if one.options:
            rows = [f"| `{_cell(written)}` | {_escaped(_cell(does))} |" for written, does in one.options]
            parts.append("\n".join(["| option | |", "|---|---|", *rows]) + "\n")
        for title, told in one.blocks:
            parts.append(f"{title}:\n\n```\n" + "\n".join(line.removeprefix("  ") for line in told) + "\n```\n")
    return "\n".join(parts)


def trace() -> str:
    """docs/reference/trace.md."""
    rows = []
    for name, kind in COLUMNS:
        shown = "text (dictionary)" if pa.types.is_dictionary(kind) else str(kind)
        null = "may be null" if name in NULLS else ""
        later = "; older traces lack it" if name in LATER else ""
        rows.append(f"| `{name}` | {shown} | {null} | {COLUMNS_SAY[name]}{later} |")
    ops = [f"| `{op.label}` | {OPS_SAY[op]} |" for op in Op]
    meta = [f"| `eofrace.{name}` | {says} |" for name, says in META_SAY.items()]
    return "\n".join(
        [
            MADE,
            "# The trace",
            "",
            f"A Parquet file (zstd) of schema `{SCHEMA}`, or a directory of such files (`part-000001.parquet`, ...),"
            " each of which holds what ended while it was written. A row is an operation; rows are sorted by"
            " `seq_begin`.",
            "",
            "| column | type | | |",
            "|---|---|---|---|",
            *rows,
            "",
            "## Kinds of operations (`op`)",
            "",
            "| op | |",
            "|---|---|",
            *ops,
            "",
            "## Metadata",
            "",
            "Key-value metadata of the file; each value is JSON.",
            "",
            "| key | |",
            "|---|---|",
            f'| `eofrace.schema` | `"{SCHEMA}"` |',
            *meta,
            "| `eofrace.groups` | for each row group: rows, first and last `seq_begin`, last `seq_end`, smallest and"
            " largest `op`; for readers that skip what they need not read |",
            "| `eofrace.checksum` | CRC-32 of the other `eofrace.*` keys and their values, in the order of the keys,"
            " each text as a netstring (`3:abc,`); a trace without it is read unchecked |",
            "",
        ]
    )


def schemas(documents: dict[str, dict[str, Any]]) -> str:
    """docs/reference/json.md."""
    rows = [
        f"| [{name}.json](schemas/{name}.json) | {_escaped(document['title'])} | {_escaped(document['description'])} |"
        for name, document in documents.items()
    ]
    return "\n".join(
        [
            MADE,
            "# JSON",
            "",
            "What commands write with `--json`, as JSON Schemas (2020-12). The tests check real outputs against them. A"
            " schema's version grows where a reader of the old one would be misled; new fields may appear in any"
            " version.",
            "",
            "| schema | written by | |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


def _escaped(text: str) -> str:
    return text.replace("<", "&lt;").replace("*", "\\*")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
