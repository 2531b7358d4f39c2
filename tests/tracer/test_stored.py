"""What is wrong with a trace is named and counted by what streams it: never a wrong "nothing found"."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from tests.tracer.analysis.parted import Shape, many, saved
from tests.tracer.test_trace import BAD, example, with_column, written
from tracer import stored, trace
from tracer.commands.analyze import analyze
from tracer.errors import EofraceError, Status, TraceError
from tracer.operations import OPERATION, Op
from tracer.trace import TraceMeta
from tracer.trace_columns import LAST_NUMBER


def refused(*args: str) -> str:
    result = CliRunner().invoke(analyze, args)
    assert isinstance(result.exception, EofraceError)
    assert result.exception.status == Status.USAGE
    assert "verdict" not in result.output
    return str(result.exception)


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str, tmp_path: Path) -> None:
    change, match = BAD[name]
    pq.write_table(change(pq.read_table(io.BytesIO(written()))), tmp_path / "bad.parquet")
    with pytest.raises(TraceError, match=match):
        raise TraceError(refused(str(tmp_path / "bad.parquet")))


def parts(path: Path, count: int = 3) -> Path:
    """A directory of good parts."""
    saved(path, many(300), Shape(tuple(range(count)), 0, 40, True))
    return path


def test_good_parts_are_judged(tmp_path: Path) -> None:
    result = CliRunner().invoke(analyze, ["-q", str(parts(tmp_path / "t"))])
    assert result.exit_code in (0, 1)
    assert "300 operations" in result.stdout


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "the file is empty"),
        (b"hello, world", "not a readable Parquet file"),
        (written()[:500], "not a readable Parquet file"),
        (written(meta=TraceMeta(part=7, last=False)), "says that it is part 7"),
        (written(), "says that it is part None"),
    ],
)
def test_one_bad_file_among_good_ones(tmp_path: Path, content: bytes, match: str) -> None:
    path = parts(tmp_path / "t")
    (path / "part-000002.parquet").write_bytes(content)
    message = refused(str(path))
    assert "part-000002.parquet" in message
    assert match in message
    assert "(1 of 3 parts cannot be used)" in message
    (path / "part-000003.parquet").write_bytes(b"")
    assert "(2 of 3 parts cannot be used)" in refused(str(path))


def test_damage_inside_of_a_part(tmp_path: Path) -> None:
    path = parts(tmp_path / "t")
    content = bytearray((path / "part-000003.parquet").read_bytes())
    content[200] ^= 0xFF  # in a page: a checksum, or what Arrow makes of it
    (path / "part-000003.parquet").write_bytes(bytes(content))
    assert "part-000003.parquet: not a readable Parquet file" in refused(str(path))


def test_what_is_wrong_with_a_row_is_found_wherever_it_is(tmp_path: Path) -> None:
    names = {"offset": -1, "length": 2**63 - 1, "t_end": 1, "seq_end": 1, "size_begin": -5}
    for name, value in names.items():
        ops = many(300)
        ops[name][299] = value
        saved(tmp_path / name, ops, Shape((0, 1, 2), 0, 40, True))
        assert "part-000003.parquet: 1 of 20 operations have " in refused(str(tmp_path / name))


def test_numbers_that_occur_twice_in_two_parts(tmp_path: Path) -> None:
    ops = many(300)
    ops["seq_begin"][200] = ops["seq_end"][10]
    saved(tmp_path / "t", ops, Shape((0, 1, 2), 0, 40, True))
    assert f"t: sequence number {ops['seq_end'][10]} occurs twice" in refused(str(tmp_path / "t"))
    # The two halves of an operation may not be one moment either.
    ops = many(300)
    ops["seq_end"][7] = ops["seq_end"][9]
    saved(tmp_path / "u", ops, Shape((0, 1, 2), 0, 40, True))
    assert "occurs twice" in refused(str(tmp_path / "u"))


def test_a_number_that_stands_for_no_end(tmp_path: Path) -> None:
    for name in ("seq_begin", "seq_end"):
        ops = example()[:2]
        ops["seq_end"][0] = 2**64 - 1 if name == "seq_end" else 0
        if name == "seq_begin":
            ops["seq_begin"][0], ops["t_end"][0] = 2**64 - 1, 0
        (tmp_path / name).write_bytes(written(ops))
        assert "1 of 2 operations have a sequence number of 2^64 - 1" in refused(str(tmp_path / name))


def test_a_row_group_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(written())
    monkeypatch.setattr(stored, "MAX_GROUP", 2)
    assert "a row group of 3 operations, more than 2 are not read" in refused(str(tmp_path / "a"))


def test_a_trace_that_changes_while_it_is_read(tmp_path: Path) -> None:
    path = parts(tmp_path / "t")
    found = stored.stored(path)
    trace.write(path / "part-000001.parquet", many(300)[:5], TraceMeta(part=1, last=False))
    with pytest.raises(TraceError, match=r"part-000001\.parquet: .*(changed|wrong)"):
        found.read(found.groups[0], ("op",))


def test_few_files_are_open_at_a_time(tmp_path: Path) -> None:
    found = stored.stored(parts(tmp_path / "t", 40))
    for group in (*found.groups, *found.groups):
        found.read(group, ("op",))
    assert len(found._opened) == 16
    assert list(found._opened)[-1] == found.files[-1]


def test_rows_by_their_numbers(tmp_path: Path) -> None:
    path = parts(tmp_path / "t")
    found = stored.stored(path)
    whole = {number: trace.read(file).ops for number, file in enumerate(found.files)}
    groups = [found.groups[number] for number in (5, 0, 5, 1)]
    numbers = [(group.number << 32) + place for group, place in zip(groups, (3, 7, 0, 0), strict=True)]
    wanted = [whole[group.file][group.index * 40 + place] for group, place in zip(groups, (3, 7, 0, 0), strict=True)]
    assert found.rows(numbers).tolist() == np.array(wanted, OPERATION).tolist()
    assert len(found.rows([])) == 0


def test_a_group_says_how_far_it_reaches(tmp_path: Path) -> None:
    ops = many(80)
    ops["seq_end"][3], ops["t_end"][3] = 0, 0
    found = saved(tmp_path / "t", ops, Shape((0,), 0, 40, True))
    first, second = found.groups
    assert (first.first_begin, first.last_begin) == (ops["seq_begin"][:40].min(), ops["seq_begin"][:40].max())
    assert first.last_end == LAST_NUMBER  # one never ended
    assert second.last_end == ops["seq_end"][40:].max()
    assert first.kinds == ("aio_write", "fallocate")
    unknown = saved(tmp_path / "u", ops, Shape((0,), 0, 40, False)).groups[1]
    assert (unknown.first_begin, unknown.last_begin, unknown.last_end) == (0, LAST_NUMBER, LAST_NUMBER)
    assert unknown.may_hold(Op.MARK_WAIT)


def test_several_traces_with_a_bad_one(tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_bytes(written())
    pq.write_table(with_column("offset", 1, -1, 3)(pq.read_table(io.BytesIO(written()))), bad)
    assert "bad: 1 of 3 operations have a negative offset" in refused(str(good), str(bad))
    assert "missing: cannot open the trace" in refused(str(good), str(tmp_path / "missing"))


def test_text_columns_of_other_tools(tmp_path: Path) -> None:
    table = pq.read_table(io.BytesIO(written()))
    plain = table.set_column(5, "op", table["op"].cast(pa.string()))
    pq.write_table(plain, tmp_path / "a", row_group_size=2)
    result = CliRunner().invoke(analyze, ["--json", str(tmp_path / "out"), str(tmp_path / "a")])
    assert result.exit_code == 3
    out: dict[str, Any] = json.loads((tmp_path / "out").read_text())
    assert (out["operations"], out["unfinished"], out["verdict"]) == (3, 1, "inconclusive")
