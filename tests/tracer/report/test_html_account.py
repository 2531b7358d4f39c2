"""A hazard in words: the steps, their order and their times, and nothing that the trace does not have."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.tracer.report import html_made
from tracer.analysis.hazards import Pair
from tracer.analysis.rules import Outcome
from tracer.operations import Op, Operations
from tracer.report.html.account import MAX_STEPS, Account, account
from tracer.trace import as_dict

K = 1024


def told(ops: Operations, outcome: Outcome = Outcome.LOST, gap_ns: int | None = -1000) -> Account:
    rows = [as_dict(op) for op in ops]
    first, second = (next(row for row in rows if row["op"] == op.label) for op in (Op.FALLOCATE, Op.AIO_WRITE))
    return account(Pair(first, second, outcome, gap_ns), rows)


def test_a_lost_write_is_told_step_by_step() -> None:
    assert [f"{step.at} {step.who}: {step.text}" for step in told(html_made.pair()).steps] == [
        "-3.0 us driver: the guest submitted write 7: 512 B at 5 KiB of its disk",
        "-2.0 us driver: the driver began request 7/9 (zero-write, post-EOF): 64 KiB at 0",
        "-1.0 us second: aio_write of 64 KiB at 64 KiB by qemu 4711/4712 began; when the kernel took it up, the file's"
        " size was 0, and it is to end beyond that, at 128 KiB",
        "+0.0 us first: fallocate (zero range) of 64 KiB at 0 by qemu 4711/4712 began; it saw the file's size: 0: its"
        " end, 64 KiB, lies beyond it (post-EOF)",
        "+1.0 us second: aio_write ended: 64 KiB acknowledged, up to 128 KiB; the file's size now: 128 KiB",
        "+2.0 us first: fallocate (zero range) ended; the file's size now: 64 KiB",
        "+3.0 us driver: request 7/9 began to wait for request 5/4",
        "+6.0 us driver: request 7/9 had waited for request 5/4",
        "+7.0 us driver: the driver's request 7/9 ended",
        "+8.0 us driver: the guest's write 7 was acknowledged",
    ]
    assert told(html_made.pair()).ending == (
        "Both were in the kernel together for 1.0 us. Lost: data that aio_write had acknowledged is gone."
    )


def test_what_was_not_seen_is_not_told() -> None:
    ops = html_made.pair()[2:4]
    ops["size_begin"], ops["size_end"], ops["cpu_begin"], ops["result"][1] = -1, -1, 0xFFFF, -28
    text = "\n".join(step.text for step in told(ops).steps)
    assert "the file's size was not seen" in text
    assert "post-EOF" not in text
    assert "in flight when recording began" in text
    assert "failed: ENOSPC (No space left on device)" in text


def test_no_outcome_is_told_as_more_than_it_is() -> None:
    ops = html_made.pair()
    assert "Exposed: the size then lay below what the second one had acknowledged" in told(ops, Outcome.EXPOSED).ending
    ops["size_end"] = 128 * K
    assert "Exposed: nothing was seen to keep them in order" in told(ops, Outcome.EXPOSED).ending
    assert "a safe order" in told(ops, Outcome.KERNEL_SERIALISED).ending
    assert "what the trace lacks" in told(ops, Outcome.EXPOSED, 5000).ending
    ops["seq_end"][2] = ops["t_end"][2] = 0
    in_flight = told(ops, Outcome.EXPOSED, None)
    assert "one was still in flight at the end" in in_flight.ending
    assert in_flight.steps[-1].text == "aio_write was still in flight when recording stopped"


def test_a_size_update_is_put_by_its_time_between_begin_and_end() -> None:
    ops = html_made.pair()[2:4]
    ops["t_applied"], ops["size_applied"] = [4_500, 5_500], [0, 128 * K]  # AIO: 3 to 5 us; fallocate: 4 to 6 us
    texts = [step.text.split(";")[0].partition(" of ")[0] for step in told(ops).steps]
    assert texts == [
        "aio_write",
        "fallocate (zero range)",
        "aio_write took effect",
        "aio_write ended: 64 KiB acknowledged, up to 128 KiB",
        "fallocate (zero range) took effect",
        "fallocate (zero range) ended",
    ]


def test_a_trace_with_marks_without_end_is_cut_off_and_says_so() -> None:
    ops = html_made.pair()
    marks = np.repeat(ops[1:2], 100)
    marks["seq_begin"] = np.arange(100) + 100
    marks["seq_end"] = np.arange(100) + 300
    found = told(np.concatenate([ops, marks]))
    assert len(found.steps) == MAX_STEPS
    assert found.left_out == 10 + 200 - MAX_STEPS


@given(
    fields=st.lists(st.tuples(st.sampled_from(list(Op)), st.integers(0, 2**62), st.integers(0, 2**62)), max_size=6),
    applied=st.integers(0, 2**62),
    flags=st.integers(0, 2**32 - 1),
)
def test_any_trace_can_be_told(fields: list[tuple[Op, int, int]], applied: int, flags: int) -> None:
    ops = np.concatenate([html_made.pair(), np.zeros(len(fields), html_made.pair().dtype)])
    for row, (op, offset, time) in zip(ops[5:], fields, strict=True):
        row["op"], row["offset"], row["t_begin"], row["request"] = op, offset, time, 7 << 32 | 9
    ops["seq_begin"][5:] = 100 + np.arange(len(fields))
    ops["t_applied"], ops["flags"] = applied, flags
    found = told(ops)
    assert found.steps
    shown: list[Any] = [step.text for step in found.steps]
    assert all(text.isprintable() for text in shown)
