"""What Python packs, the browser unpacks: every field of any operation, also of one that no kernel ever made."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tracer.operations import NONE_CPU, NONE_RESULT, NONE_SIZE, OPERATION, Op, Operations
from tracer.report.html import pack
from tracer.report.html.rows import pack_rows
from tracer.trace import as_dict
from tracer.trace_columns import COLUMNS

ASSETS = Path(pack.__file__).parent / "assets"
NAMES = [name for name, _ in COLUMNS]

_DECODE = """async ([text, names]) => {
  const rows = decodeRows(await unpackBlock(text));
  const shown = (value, name) => (name === "op" || value === null ? value : String(value));
  return JSON.stringify(Array.from({ length: rows.count }, (_, i) => names.map((name) =>
    name === "op" ? rows.op[i] : shown(rows.field(i, name), name))));
}"""


@pytest.fixture(scope="module")
def decoder(chromium: Any) -> Any:
    page = chromium.new_page()
    for name in ("unpack.js", "rows.js"):
        page.add_script_tag(path=str(ASSETS / name))
    yield page
    page.close()


def decoded(decoder: Any, ops: Operations, begin_ns: int, unit_ns: int) -> list[dict[str, Any]]:
    """Operations as the browser has them."""
    names = [name for name in NAMES if name not in ("dev", "ino")]
    text = pack_rows(ops, {"stretches": []}, begin_ns=begin_ns, unit_ns=unit_ns)
    rows = json.loads(decoder.evaluate(_DECODE, [text, names]))
    return [dict(zip(names, row, strict=True)) for row in rows]


def wanted(ops: Operations, begin_ns: int, unit_ns: int) -> list[dict[str, Any]]:
    found = []
    for op in ops:
        row = as_dict(op)
        for name in ("t_begin", "t_end", "t_applied"):
            if row[name] is not None:
                row[name] = (row[name] - begin_ns) // unit_ns * unit_ns
        row = {name: None if value is None else str(value) for name, value in row.items() if name not in ("dev", "ino")}
        found.append(row | {"op": int(op["op"])})
    return found


_SIZES = st.one_of(st.just(NONE_SIZE), st.integers(0, 2**63 - 1))
_U32 = st.integers(0, 2**32 - 1)


@st.composite
def operations(draw: st.DrawFn) -> Operations:
    count = draw(st.integers(0, 6))
    ops = np.zeros(count, OPERATION)
    begins = sorted(draw(st.lists(st.integers(1, 2**64 - 3), min_size=count, max_size=count, unique=True)))
    for row, begin in zip(ops, begins, strict=True):
        row["seq_begin"], row["t_begin"] = begin, draw(st.integers(0, 2**62))
        if draw(st.booleans()):
            row["seq_end"] = draw(st.integers(begin + 1, 2**64 - 2))
            row["t_end"] = draw(st.integers(int(row["t_begin"]), 2**62 + 10))
            row["cpu_end"] = draw(st.integers(0, 65535))
        row["op"] = draw(st.sampled_from(list(Op)))
        row["t_applied"] = draw(st.one_of(st.just(0), st.integers(0, 2**62)))
        row["offset"] = draw(st.integers(0, 2**62))
        row["length"] = draw(st.integers(0, 2**62))
        for name in ("size_begin", "size_end", "size_applied"):
            row[name] = draw(_SIZES)
        row["result"] = draw(st.one_of(st.just(NONE_RESULT), st.integers(-4096, 2**63 - 1)))
        row["request"] = draw(st.one_of(st.sampled_from([0, 7 << 32 | 9]), st.integers(0, 2**64 - 1)))
        row["flags"], row["pid"], row["tid"] = draw(_U32), draw(_U32), draw(_U32)
        row["cpu_begin"] = draw(st.one_of(st.just(NONE_CPU), st.integers(0, 100)))
        row["comm"] = draw(st.sampled_from([b"", b"qemu", b"</script>", "\u2028x".encode()]))
    return ops


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(ops=operations())
def test_every_field_comes_back(decoder: Any, ops: Operations) -> None:
    begin = int(ops["t_begin"].min()) if len(ops) else 0
    assert decoded(decoder, ops, begin, 1) == wanted(ops, begin, 1)


def test_only_times_are_rounded(decoder: Any) -> None:
    ops = np.zeros(2, OPERATION)
    ops["seq_begin"], ops["seq_end"], ops["op"] = [1, 2], [3, 4], Op.AIO_WRITE
    ops["t_begin"], ops["t_end"] = [1_000, 1_234], [2_345, 9_999]
    found = decoded(decoder, ops, 1_000, 100)
    assert found == wanted(ops, 1_000, 100)
    assert (found[1]["t_begin"], found[1]["t_end"]) == ("200", "8900")
    assert found != wanted(ops, 1_000, 1)


def test_no_packed_text_means_anything_to_html() -> None:
    text = pack.block({"name": "</script>&\"'<!--"}, {"a": np.arange(-500, 500) * 0x0123456789ABCDE})
    assert set(text[1:]) <= set(pack.ALPHABET)
    assert not set("<>&\"'`\\ \n") & set(pack.ALPHABET)
    assert len(pack.ALPHABET) == 85
