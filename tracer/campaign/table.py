"""The results of all runs as one table: a row for each row of each cell's result, and one for a cell that failed.

Columns are those of the matrix (null where a command has none of it), what the row is of, the verdict, and numbers.
`options` has all of a cell's keys as JSON, sorted: equal texts are equal cells, also in another version of eofrace.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tracer.campaign import keys, records, rows
from tracer.campaign.store import TABLE, Run, Store
from tracer.errors import UsageError
from tracer.files import open_regular
from tracer.output import atomic_output
from tracer.report.escape import printable

AXES: dict[str, Any] = {
    **dict.fromkeys(keys.WORDS, pa.string()),
    **dict.fromkeys(keys.NUMBERS, pa.int64()),
}
"""Keys of a cell that have a column."""

VOLATILE = ("run", "started", "took", "host")
"""Columns in which two runs that found the same differ."""

SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("campaign", "run")),
        ("run_number", pa.int64()),
        *((name, pa.string()) for name in ("started", "host", "host_kernel", "version", "command", "cell")),
        ("took", pa.float64()),
        *AXES.items(),
        *((name, pa.string()) for name in ("options", "row", "subject", "kernel_release", "verdict", "reason")),
        ("control", pa.bool_()),
        ("exit", pa.int64()),
        *((name, pa.int64()) for name in (*rows.COUNTS, "rounds")),
        ("peer", pa.string()),
        *((name, pa.float64()) for name in ("ratio", "low", "high")),
        ("ratios", pa.list_(pa.float64())),
    ],
    metadata={"eofrace.schema": "eofrace.campaign.table/2"},
)

Row = dict[str, Any]


def of_run(run: Run) -> Iterator[Row]:
    """The rows of one run, in the order of its plan; of cells that neither finished nor failed there are none."""
    for cell in run.cells.values():
        record = run.finished(cell["key"])
        failed = None if record is not None else run.error(cell["key"])
        both = record or failed
        if both is None:
            continue
        options = cell["options"]
        base: Row = {
            "campaign": run.campaign,
            "run": run.name,
            "run_number": run.number,
            "command": cell["command"],
            "cell": cell["key"],
            "options": json.dumps(options, sort_keys=True),
            **{name: options[name] for name in AXES if name in options},
            **{name: both[name] for name in ("started", "took", "host", "host_kernel", "version", "exit")},
        }
        if record is None:
            yield {**base, "row": "", "subject": "", "control": False, "verdict": rows.ERROR, "reason": both["error"]}
            continue
        for row in rows.rows(cell["command"], options, record["result"]):
            yield {**base, **row}


def of_store(store: Store) -> pa.Table:
    """All runs of a campaign. Raises UsageError for a record that is not believed."""
    runs = store.runs()
    return made((row for run in runs for row in of_run(run)), [run.name for run in runs])


def made(found: Iterable[Mapping[str, Any]], runs: Sequence[str]) -> pa.Table:
    """A table of rows, of these runs, the oldest first: of one that has no row yet nothing else would tell."""
    table = pa.Table.from_pylist(list(found), schema=SCHEMA)
    return table.replace_schema_metadata({**SCHEMA.metadata, **_bound(table.to_pylist(), runs)})


def _bound(found: list[Row], runs: Sequence[str]) -> dict[bytes, bytes]:
    """The metadata that hold a table together."""
    named = json.dumps(list(runs))
    return {b"eofrace.runs": named.encode(), b"eofrace.digest": records.digest({"runs": named, "rows": found}).encode()}


def write(store: Store) -> Path:
    """Make the store's Parquet file, whole or not at all."""
    path = store.path / TABLE
    with atomic_output(path) as stream:
        pq.write_table(of_store(store), stream, compression="zstd")
    return path


def read(path: Path) -> tuple[list[Row], list[str]]:
    """The rows of a table file, and the names of its runs, the oldest first.

    Raises UsageError for a file that is none, or is not as it was written.
    """
    shown = printable(str(path))
    try:
        with open_regular(path) as stream:
            table = pq.read_table(stream)
        metadata = table.schema.metadata or {}
        if metadata.get(b"eofrace.schema") != SCHEMA.metadata[b"eofrace.schema"]:
            raise UsageError(f"{shown}: not the table of a campaign, or of another version: {_AGAIN}")
        found: list[Row] = table.select(SCHEMA.names).cast(SCHEMA).to_pylist()
        runs = [str(name) for name in json.loads(metadata[b"eofrace.runs"])]
        bound = _bound(found, runs)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, pa.ArrowException) as error:
        raise UsageError(f"{shown}: not the table of a campaign ({printable(str(error))[:120]})") from error
    if any(metadata[name] != value for name, value in bound.items()):
        raise UsageError(f"{shown}: it is not as it was written: its digest is of something else: {_AGAIN}")
    if not {row["run"] for row in found} <= set(runs) or not {row["verdict"] for row in found} <= set(rows.VERDICTS):
        raise UsageError(f"{shown}: it has a run or a verdict that no campaign has: {_AGAIN}")
    return found, runs


_AGAIN = "the campaign's own command makes it anew, of its directory"
