"""The pictures of docs/race.md, drawn from a real run:

./run verify -o out
.venv/bin/python -m tracer.reference.pictures out docs/pictures
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np

from tracer.analysis.hazards import Pair
from tracer.analysis.rules import Outcome
from tracer.errors import TraceError
from tracer.operations import NONE_SIZE, Op, Operations
from tracer.report.escape import printable
from tracer.report.source import Recording, load
from tracer.report.units import size
from tracer.stored import GROUP_SHIFT, Stored

_WIDTH, _LEFT, _ROW = 860, 190, 34
_COLOURS = {"write": "#2b6cb0", "fallocate": "#c05621", "wait": "#a0aec0", "request": "#cbd5e0"}


@dataclass(frozen=True, slots=True)
class Bar:
    """An operation on a line of its own; times in ns."""

    name: str
    kind: str
    begin: int
    end: int
    says: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """Operations over time, and what the file's size was seen to be at some moments."""

    title: str
    bars: tuple[Bar, ...]
    moments: tuple[tuple[int, str], ...] = ()


def svg(picture: Picture) -> str:
    """The picture as a document by itself. Light background: it is shown on pages of any colour."""
    start = min(bar.begin for bar in picture.bars)
    end = max(bar.end for bar in picture.bars)
    scale = (_WIDTH - _LEFT - 30) / max(end - start, 1)
    height = 84 + _ROW * len(picture.bars) + 18 * len(picture.moments)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" font-family="sans-serif"'
        ' font-size="13">',
        f"<title>{_text(picture.title)}</title>",
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="12" y="22" font-weight="bold">{_text(picture.title)}</text>',
    ]
    base = 40 + _ROW * len(picture.bars)
    for number, (time, says) in enumerate(picture.moments):
        x = _LEFT + (time - start) * scale
        y = base + 18 * (number + 1)
        parts.append(f'<line x1="{x:.1f}" y1="34" x2="{x:.1f}" y2="{y - 4}" stroke="#718096" stroke-dasharray="3 3"/>')
        anchor, at = ("end", x - 4) if x > _WIDTH / 2 else ("start", x + 4)
        parts.append(f'<text x="{at:.1f}" y="{y}" font-size="12" text-anchor="{anchor}">{_text(says)}</text>')
    for number, bar in enumerate(picture.bars):
        y = 40 + _ROW * number
        x, wide = _LEFT + (bar.begin - start) * scale, max((bar.end - bar.begin) * scale, 2)
        parts.append(f'<text x="12" y="{y + 16}">{_text(bar.name)}</text>')
        parts.append(
            f'<rect x="{x:.1f}" y="{y}" width="{wide:.1f}" height="22" rx="3" fill="{_COLOURS[bar.kind]}">'
            f"<title>{_text(bar.says)}</title></rect>"
        )
    y = base + 18 * len(picture.moments) + 26
    parts.append(f'<line x1="{_LEFT}" y1="{y - 16}" x2="{_WIDTH - 30}" y2="{y - 16}" stroke="#4a5568"/>')
    parts.append(f'<text x="{_LEFT}" y="{y}" font-size="12">0</text>')
    length = f"{(end - start) / 1000:.0f} us"
    parts.append(f'<text x="{_WIDTH - 30}" y="{y}" font-size="12" text-anchor="end">{length}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _text(words: str) -> str:
    return escape(printable(words))


def of_pair(title: str, pair: Pair) -> Picture:
    """The two operations of a pair, and the sizes that were seen."""
    first, second = pair.first, pair.second
    bars = [_bar(row) for row in (second, first)]
    reaches = second["offset"] + second["length"]
    moments = [(first["t_begin"], f"fallocate begins, i_size {_size(first['size_begin'])}")]
    moments.append((second["t_end"], f"the write to {size(reaches)} is acknowledged"))
    moments.append((first["t_end"], f"fallocate ends, i_size {_size(first['size_end'])}"))
    return Picture(title, tuple(bars), tuple(sorted(moments)))


def _bar(row: dict[str, object]) -> Bar:
    begin, end = row["t_begin"], row["t_end"]
    offset, length = row["offset"], row["length"]
    assert isinstance(begin, int)
    assert isinstance(end, int)
    assert isinstance(offset, int)
    assert isinstance(length, int)
    kind = "write" if "write" in str(row["op"]) else "fallocate"
    return Bar(f"{kind} to {size(offset + length)}", kind, begin, end, f"{row['op']}: {size(length)} at {size(offset)}")


def _size(value: int | None) -> str:
    return "not seen" if value is None or value == NONE_SIZE else size(value)


def of_wait(title: str, ops: Operations) -> Picture:
    """A zero-write, and a write that waited for it, of ops (n,). Raises TraceError if there is none.

    Of all waits the one whose shortest bar is the longest beside the others: one that can be seen.
    """
    found = []
    by_request: dict[int, list[np.void]] = {}
    for one in ops:
        by_request.setdefault(int(one["request"]), []).append(one)
    for wait in ops[ops["op"] == Op.MARK_WAIT]:
        zero = [one for one in by_request.get(int(wait["result"]), ()) if one["op"] == Op.FALLOCATE]
        write = [one for one in by_request.get(int(wait["request"]), ()) if one["op"] == Op.AIO_WRITE]
        if zero and write and wait["seq_end"] and write[0]["seq_end"] and zero[0]["t_begin"] > wait["t_begin"]:
            lengths = [int(one["t_end"] - one["t_begin"]) for one in (zero[0], wait, write[0])]
            found.append((min(lengths) / max(int(write[0]["t_end"] - wait["t_begin"]), 1), zero[0], wait, write[0]))
    if not found:
        raise TraceError("no write waited for a zero-write here")
    _, zero_, wait, write_ = max(found, key=lambda one: one[0])
    until = f"{size(int(write_['offset'] + write_['length']))}"
    bars = (
        Bar(f"zero-write to {size(int(zero_['offset'] + zero_['length']))}", "fallocate", *_times(zero_), "fallocate"),
        Bar("the write waits", "wait", *_times(wait), "mark_wait"),
        Bar(f"write to {until}", "write", *_times(write_), "aio_write"),
    )
    return Picture(title, bars, ((int(write_["t_begin"]), "only now does the write enter the kernel"),))


def _times(one: np.void) -> tuple[int, int]:
    return int(one["t_begin"]), int(one["t_end"])


def drawn(recordings: Sequence[Recording]) -> dict[str, str]:
    """Name of a file -> picture. Raises TraceError where the run has not what they show."""
    by_name = {recording.name: recording for recording in recordings}
    lost = _median(by_name["none x legacy-xfs"], Outcome.LOST)
    ordered = _median(by_name["none x kernel"], Outcome.KERNEL_SERIALISED)
    trace = by_name["serialise x kernel"].trace
    if trace is None:
        raise TraceError("serialise x kernel kept no trace")
    return {
        "lost.svg": svg(of_pair("none x legacy-xfs: the size sampled before is set afterwards", lost)),
        "ordered.svg": svg(of_pair("none x kernel: together in the kernel, which orders them", ordered)),
        "apart.svg": svg(of_wait("serialise x kernel: the write waits for the zero-write", _all(trace))),
    }


def _median(recording: Recording, outcome: Outcome) -> Pair:
    """One of the pairs of a recording that its hazards tell of, with that outcome."""
    hazards = () if recording.analysis is None else recording.analysis.hazards
    pairs = [pair for one in hazards for pair in (one.worst, one.earliest, one.latest) if pair.outcome is outcome]
    if not pairs:
        raise TraceError(f"{recording.name}: no pair was {outcome.label}")
    return sorted(pairs, key=lambda pair: pair.first["t_end"] - pair.first["t_begin"])[len(pairs) // 2]


def _all(trace: Stored) -> Operations:
    return trace.rows([group.number << GROUP_SHIFT | row for group in trace.groups for row in range(group.rows)])


def main(run: Path, target: Path) -> None:
    """Write the pictures."""
    target.mkdir(parents=True, exist_ok=True)
    for name, picture in drawn(load(run).recordings).items():
        (target / name).write_text(picture)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
