"""The trace file: what goes in comes out, other tools read it, and nothing that is wrong with one gets through."""

import contextlib
import dataclasses
import io
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tracer import stored, trace
from tracer.errors import TraceError, UsageError
from tracer.operations import NONE_RESULT, NONE_SIZE, OPERATION, Op
from tracer.trace import TraceMeta

META = TraceMeta(
    host={"kernel": "6.1.0", "cpus": 4},
    mechanisms={"fallocate": "kprobe:xfs_file_fallocate"},
    gaps={"uring_write": "no tracepoint"},
    dropped=3,
    unfinished=1,
    command=("eofrace", "trace", "--", "qemu-img", "\udcff"),
    seed=7,
    strategy="none",
    fs="xfs",
    aio="native",
    fallocate="kernel",
    evidence="kernel",
)


def example() -> trace.Operations:
    """Two operations that ended and one in flight."""
    ops = np.zeros(3, OPERATION)
    ops["seq_begin"], ops["seq_end"] = [1, 2, 5], [4, 3, 0]
    ops["t_begin"], ops["t_end"] = [10, 20, 50], [40, 30, 0]
    ops["t_applied"] = [35, 0, 0]
    ops["op"] = [Op.AIO_WRITE, Op.FALLOCATE, Op.TRUNCATE]
    ops["dev"], ops["ino"] = 2**63 + 9, [7, 7, 2**64 - 1]
    ops["offset"], ops["length"] = [4096, 0, 0], [512, 2**63 - 1, 0]
    ops["size_begin"], ops["size_end"] = [0, 0, 4608], [4608, 4608, NONE_SIZE]
    ops["size_applied"] = [0, NONE_SIZE, NONE_SIZE]
    ops["result"] = [512, -28, NONE_RESULT]
    ops["request"], ops["flags"] = [1 << 32 | 3, 0, 0], [0, 0x10, 0]
    ops["pid"], ops["tid"] = 2**32 - 1, [1, 2, 3]
    ops["cpu_begin"], ops["cpu_end"] = [65535, 0, 1], [2, 0, 0]
    ops["comm"] = [b"qemu-img", b"fio", "größe".encode()]
    return ops


def written(ops: trace.Operations | None = None, meta: TraceMeta = META) -> bytes:
    sink = io.BytesIO()
    trace.write(sink, example() if ops is None else ops, meta)
    return sink.getvalue()


def saved(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    trace.write(path, example()[::-1], META)
    again = trace.read(path)
    assert again.meta == META
    assert again.ops.tolist() == example().tolist()  # sorted
    trace.write(str(path), again.ops[:0], TraceMeta())
    assert len(trace.read(str(path)).ops) == 0
    assert trace.read(path).meta == TraceMeta()


def test_several_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "ROW_GROUP", 2)
    path = saved(tmp_path / "a.parquet", written())
    assert pq.ParquetFile(path).num_row_groups == 2
    assert trace.read(path).ops.tolist() == example().tolist()


FULL = st.integers(0, 2**62 - 1)


@given(st.lists(st.tuples(st.sampled_from(Op), FULL, FULL, st.booleans(), st.binary(max_size=16)), max_size=20))
def test_round_trip_of_anything(rows: list[tuple[Op, int, int, bool, bytes]]) -> None:
    ops = np.zeros(len(rows), OPERATION)
    for i, (op, offset, length, ended, comm) in enumerate(rows):
        ops[i]["seq_begin"], ops[i]["op"], ops[i]["offset"], ops[i]["length"] = 2 * i + 1, op, offset, length
        ops[i]["comm"], ops[i]["size_applied"] = comm, offset if ended else NONE_SIZE
        ops[i]["result"], ops[i]["size_begin"], ops[i]["size_end"] = NONE_RESULT, NONE_SIZE, NONE_SIZE
        if ended:
            ops[i]["seq_end"], ops[i]["t_end"], ops[i]["result"] = 2 * i + 2, 5, length
    again = trace._read(io.BytesIO(written(ops)))
    for name in OPERATION.names or ():
        if name != "comm":
            assert again.ops[name].tolist() == ops[name].tolist()
    assert written(again.ops) == written(ops) or not all(row[4].isascii() for row in rows)


def query(sql: str) -> list[tuple[Any, ...]]:
    relation = duckdb.sql(sql)
    assert relation is not None
    return relation.fetchall()


def test_duckdb_reads_it(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.parquet", written())
    types = {row[0]: row[1] for row in query(f"describe select * from '{path}'")}
    assert list(types) == [name for name, _ in trace.COLUMNS]
    expected = {"seq_begin": "UBIGINT", "offset": "BIGINT", "op": "VARCHAR", "flags": "UINTEGER"}
    assert expected.items() <= (types | {"cpu_end": "USMALLINT"}).items()
    rows = query(
        f"select op, seq_end, t_end, t_applied, size_end, size_applied, result, request, cpu_end from '{path}'"
    )
    assert rows == [
        ("aio_write", 4, 40, 35, 4608, 0, 512, 1 << 32 | 3, 2),
        ("fallocate", 3, 30, None, 4608, None, -28, None, 0),
        ("truncate", None, None, None, None, None, None, None, None),
    ]
    stored = query(f"select decode(key), decode(value) from parquet_kv_metadata('{path}')")
    values = {key: value for key, value in stored}
    assert json.loads(values["eofrace.schema"]) == "eofrace.trace/1"
    assert json.loads(values["eofrace.gaps"]) == {"uring_write": "no tracepoint"}


def test_as_dict() -> None:
    first, _, last = (trace.as_dict(record) for record in example())
    assert list(first) == [name for name, _ in trace.COLUMNS]
    assert first["op"] == "aio_write"
    assert first["comm"] == "qemu-img"
    assert first["request"] == 1 << 32 | 3
    assert [last[name] for name in ("seq_end", "t_end", "cpu_end", "size_end", "result")] == [None] * 5
    assert last["cpu_begin"] == 1
    assert trace.as_dict(example()[1])["cpu_end"] == 0  # CPU 0 is a CPU
    json.dumps([first, last])


def refused(path: Path, match: str, kind: type[UsageError] = TraceError) -> None:
    with pytest.raises(kind, match=match) as caught:
        trace.read(path)
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    assert len(message) < 500


def test_cannot_be_opened(tmp_path: Path) -> None:
    refused(tmp_path / "missing.parquet", "No such file", UsageError)
    refused(tmp_path, "a directory without a part", UsageError)
    os.mkfifo(tmp_path / "fifo")
    refused(tmp_path / "fifo", "not a regular file", UsageError)
    # Of what may not be read: tests/tracer/report/test_report_files.py.


def test_not_a_trace(tmp_path: Path) -> None:
    whole = written()
    refused(saved(tmp_path / "a", b""), "empty")
    refused(saved(tmp_path / "a", b"PAR1"), "not a readable Parquet file")
    refused(saved(tmp_path / "a", b"hello, world\n" * 99), "not a readable Parquet file")
    refused(saved(tmp_path / "a", whole[: len(whole) // 2]), "not a readable Parquet file")
    refused(saved(tmp_path / "a", whole[:-1]), "not a readable Parquet file")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "a")
    refused(tmp_path / "a", "not an eofrace trace")


def test_every_truncation_is_seen(tmp_path: Path) -> None:
    whole = written()
    for length in range(0, len(whole), 37):
        refused(saved(tmp_path / "a", whole[:length]), "empty|not a readable")


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damage_is_seen_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(written())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(TraceError):
        ops = trace.read(saved(tmp_path / "a", bytes(content))).ops
        assert ops.tolist() == example().tolist()


def test_no_damage_of_the_footer_ends_the_process() -> None:
    """pyarrow does that, not by an exception, for whoever asks it for the statistics of a column."""
    content = written()
    footer = int.from_bytes(content[-8:-4], "little")
    chance = random.Random(1)
    for at in range(len(content) - 8 - footer, len(content) - 8):
        for value in (0, 255, chance.randrange(256)):
            damaged = content[:at] + bytes([value]) + content[at + 1 :]
            with contextlib.suppress(TraceError, pa.ArrowException, OSError, ValueError):
                stored.open_file(io.BytesIO(damaged))


def test_no_flipped_bit_of_the_footer_is_better_evidence() -> None:
    """Of a trace that lacks a record, a hook and its last part. In keys and values every bit, else one of a byte."""
    meta = dataclasses.replace(META, dropped=1, part=1, last=False)
    content = written(meta=meta)
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    described: dict[int, bytes] = {}
    for key, value in pq.ParquetFile(io.BytesIO(content)).metadata.metadata.items():
        if key.startswith(b"eofrace."):
            at = content.index(key, footer)
            described |= dict.fromkeys(range(at, content.index(value, at) + len(value)), key)
    unnoticed = set()
    for at in range(footer, len(content)):
        for bit in range(8) if at in described else [at % 8]:
            damaged = content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]
            with contextlib.suppress(TraceError), stored._naming(Path("a")):
                again = trace._read(io.BytesIO(damaged))
                assert again.meta == meta, (at, bit)
                assert again.ops.tolist() == example().tolist(), (at, bit)
                unnoticed.add(described.get(at))
    assert unnoticed == {None, b"eofrace.checksum"}


def test_metadata_may_be_edited_without_their_checksum(tmp_path: Path) -> None:
    table = pq.read_table(io.BytesIO(written()))
    described = dict(pq.ParquetFile(io.BytesIO(written())).metadata.metadata) | {b"eofrace.dropped": b"0"}
    pq.write_table(table.replace_schema_metadata(described), tmp_path / "a")
    refused(tmp_path / "a", r"damaged: they do not fit eofrace\.checksum")
    del described[b"eofrace.checksum"]
    pq.write_table(table.replace_schema_metadata(described), tmp_path / "a")
    assert trace.read(tmp_path / "a").meta == dataclasses.replace(META, dropped=0)


def test_a_damaged_name_is_no_column_of_an_older_trace(tmp_path: Path) -> None:
    content = bytearray(written())
    at = content.index(b"\x0csize_applied") + 1
    content[at - 1] = 0  # the length of the name, in the footer, which no checksum covers
    refused(saved(tmp_path / "a", bytes(content)), "no column size_applied|not a readable")


def with_metadata(**values: bytes | None) -> Callable[[Any], Any]:
    def change(table: Any) -> Any:
        metadata = dict(table.schema.metadata)
        for key, value in values.items():
            name = f"eofrace.{key}".encode()
            metadata.pop(name)
            if value is not None:
                metadata[name] = value
        return table.replace_schema_metadata(metadata)

    return change


def with_column(name: str, *values: Any, kind: Any = None) -> Callable[[Any], Any]:
    def change(table: Any) -> Any:
        index = table.schema.get_field_index(name)
        array = pa.array(values, kind or table.schema.field(name).type)
        return table.set_column(index, pa.field(name, array.type), array)

    return change


def both(*changes: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def change(table: Any) -> Any:
        for one in changes:
            table = one(table)
        return table

    return change


BAD: dict[str, tuple[Callable[[Any], Any], str]] = {
    "newer schema": (with_metadata(schema=b'"eofrace.trace/2"'), "schema eofrace.trace/2"),
    "another schema": (with_metadata(schema=b'"eofrace.verify/1"'), "not an eofrace trace"),
    "schema is a list": (with_metadata(schema=b"[1]"), "not an eofrace trace"),
    "schema spoils the terminal": (with_metadata(schema=rb'"\u001b[31m\n"'), r"\\x1b"),
    "no schema": (with_metadata(schema=None), "no eofrace.schema"),
    "no field": (with_metadata(dropped=None), "no eofrace.dropped"),
    "not JSON": (with_metadata(host=b"{"), "not JSON"),
    "deep JSON": (with_metadata(host=b"[" * 200_000), "not JSON"),
    "long JSON": (with_metadata(host=b" " * (1 << 20) + b"{}"), "longer than"),
    "negative count": (with_metadata(dropped=b"-1"), "eofrace.dropped"),
    "count is true": (with_metadata(unfinished=b"true"), "eofrace.unfinished"),
    "huge seed": (with_metadata(seed=b"9" * 4000), "eofrace.seed"),
    "host is a list": (with_metadata(host=b"[]"), "eofrace.host"),
    "command is a word": (with_metadata(command=b'"ls"'), "eofrace.command"),
    "gaps of numbers": (with_metadata(gaps=b'{"x": 1}'), "eofrace.gaps"),
    "fs is a number": (with_metadata(fs=b"5"), "eofrace.fs"),
    "missing column": (lambda table: table.drop_columns(["seq_end"]), "no column seq_end"),
    "column twice": (lambda table: table.append_column("ino", table["ino"]), "2 columns ino"),
    "type of a number": (with_column("offset", 1.5, 2.5, 3.5, kind=pa.float64()), "offset is double, not int64"),
    "narrow type": (with_column("offset", 1, 2, 3, kind=pa.int32()), "offset is int32"),
    "sign of a type": (with_column("seq_begin", 1, 2, 5, kind=pa.int64()), "seq_begin is int64"),
    "type of a text": (with_column("op", 1, 2, 3, kind=pa.int8()), "op is int8, not string"),
    "type of a comm": (with_column("comm", b"a", b"b", b"c", kind=pa.binary()), "comm is binary"),
    "nested type": (with_column("dev", [1], [2], [3], kind=pa.list_(pa.uint64())), "dev is list"),
    "unknown op": (with_column("op", "aio_write", "format_disk\n", "truncate"), r"format_disk"),
    "null op": (with_column("op", "aio_write", None, "truncate"), "op has nulls"),
    "null begin": (with_column("seq_begin", 1, None, 5), "seq_begin has nulls"),
    "negative offset": (with_column("offset", 1, -1, 3), "negative offset, first at seq_begin 2"),
    "negative length": (with_column("length", -5, -1, 3), "2 of 3 operations have a negative length"),
    "range overflows": (with_column("offset", 1, 1, 3), "ends beyond 2\\^63"),
    "negative size": (with_column("size_end", 1, -2, 3), "negative size"),
    "negative size when applied": (with_column("size_applied", -2, 2, 3), "negative size"),
    "type of a size": (with_column("size_applied", 1, 2, 3, kind=pa.uint64()), "size_applied is uint64"),
    "size column twice": (lambda table: table.append_column("size_applied", table["ino"]), "2 columns size_applied"),
    "negative time": (with_column("t_applied", 1, -2, 3), "negative time"),
    "end before begin": (with_column("seq_begin", 6, 2, 5), "an end before its begin"),
    "end at begin": (with_column("seq_begin", 4, 2, 5), "an end before its begin"),
    "time of end before begin": (with_column("t_begin", 41, 2, 5), "time of end before"),
    "begin twice": (with_column("seq_begin", 2, 2, 5), "sequence number 2 occurs twice"),
    "end is another's begin": (with_column("seq_begin", 3, 2, 5), "sequence number 3 occurs twice"),
    "begin is 0": (with_column("seq_begin", 0, 2, 5), "sequence number of 0"),
    "end is 0": (with_column("seq_end", 0, 3, None), "sequence number of 0"),
    "ended without a time": (with_column("t_end", 40, None, None), "no t_end"),
    "ended without a cpu": (with_column("cpu_end", 40, None, None), "no cpu_end"),
    "in flight with a time": (with_column("t_end", 40, 50, 60), "t_end"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str, tmp_path: Path) -> None:
    change, match = BAD[name]
    table = change(pq.read_table(io.BytesIO(written())))
    pq.write_table(table, tmp_path / "bad.parquet")
    refused(tmp_path / "bad.parquet", match)


def test_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "a.parquet", written())
    monkeypatch.setattr(trace, "MAX_OPERATIONS", 2)
    refused(path, "3 operations, more than 2")
    table = with_column("comm", "x" * (8 << 20), "", "")(pq.read_table(io.BytesIO(written())))
    monkeypatch.undo()
    pq.write_table(table, path, compression="zstd", use_dictionary=False)
    assert path.stat().st_size < 100_000
    refused(path, "unpacks to")


def test_names_that_spoil_the_terminal(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        trace.read(tmp_path / "a\n\x1b[31m")
    assert str(caught.value).isprintable()
    with pytest.raises(UsageError):
        trace.read("a\0b")


def test_copies_by_other_tools_are_read(tmp_path: Path) -> None:
    source, copy = saved(tmp_path / "a.parquet", written()), tmp_path / "b.parquet"
    table = pq.read_table(source)
    plain = table.set_column(5, "op", table["op"].cast(pa.string()))
    plain = plain.set_column(plain.schema.get_field_index("comm"), "comm", plain["comm"].cast(pa.large_string())).take(
        [2, 0, 1]
    )
    pq.write_table(plain, copy, row_group_size=2)
    assert trace.read(copy).ops.tolist() == example().tolist()


def test_traces_from_before_size_applied(tmp_path: Path) -> None:
    pq.write_table(pq.read_table(io.BytesIO(written())).drop_columns(["size_applied"]), tmp_path / "a")
    old = trace.read(tmp_path / "a").ops
    assert old["size_applied"].tolist() == [NONE_SIZE] * 3
    expected = example()
    expected["size_applied"] = NONE_SIZE
    assert old.tolist() == expected.tolist()


def test_long_comm_is_cut(tmp_path: Path) -> None:
    table = with_column("comm", "x" * 30, "", "\ufffd" * 15)(pq.read_table(io.BytesIO(written())))
    pq.write_table(table, tmp_path / "a")
    assert trace.read(tmp_path / "a").ops["comm"][:2].tolist() == [b"x" * 16, b""]


def test_refuses_to_write_something_else() -> None:
    with pytest.raises(ValueError, match="OPERATION"):
        trace.write(io.BytesIO(), np.zeros(3, np.int64), META)
