"""Joining journal and kernel: one order, every driver call accounted for, requests linked."""

import numpy as np
import pytest

from blockstack.journal import Journal, Kind
from tracer.operations import NONE_RESULT, OPERATION, Op
from tracer.verify.evidence import driver_evidence, kernel_evidence

DEV, INO = 7, 8


def journal_with_calls() -> Journal:
    """A data write (request 5) with a fallocate (request 6) after it."""
    journal = Journal()
    mark = journal.begin(Kind.REQUEST, 0, 4096, request=5)
    write = journal.begin(Kind.WRITE, 0, 4096, request=5)
    journal.end(write, 4096)
    journal.end(mark, 0)
    fallocate = journal.begin(Kind.FALLOCATE, 4096, 4096, request=6, flags=16)
    journal.end(fallocate, 0)
    return journal


def seen_by_kernel(journal: Journal) -> np.ndarray:
    """What the kernel would have seen of it: within the driver's intervals, numbered by the kernel from 1001."""
    write, fallocate = (entry for entry in journal.entries if entry.kind is not Kind.REQUEST)
    ops = np.zeros(2, OPERATION)
    for op, entry, kind, number in (
        (0, write, Op.AIO_WRITE, 1001),
        (1, fallocate, Op.FALLOCATE, 1003),
    ):
        ops[op]["op"], ops[op]["dev"], ops[op]["ino"] = kind, DEV, INO
        ops[op]["offset"], ops[op]["length"], ops[op]["flags"] = entry.offset, entry.length, entry.flags
        ops[op]["result"], ops[op]["tid"] = entry.result, entry.tid
        ops[op]["t_begin"], ops[op]["t_end"] = entry.t_begin + 1, entry.t_end - 1
        ops[op]["seq_begin"], ops[op]["seq_end"] = number, number + 1
    ops[0]["request"] = 5
    return ops


def test_every_call_is_accounted_for_and_linked() -> None:
    journal = journal_with_calls()
    evidence = kernel_evidence(seen_by_kernel(journal), journal, dev=DEV, ino=INO)
    assert evidence.unaccounted == 0
    by_op = {int(op["op"]): op for op in evidence.ops}
    assert by_op[Op.FALLOCATE]["request"] == 6
    assert by_op[Op.AIO_WRITE]["request"] == 5


def test_the_order_is_one_and_the_marks_lie_around_their_calls() -> None:
    journal = journal_with_calls()
    ops = kernel_evidence(seen_by_kernel(journal), journal, dev=DEV, ino=INO).ops
    numbers = np.sort(np.concatenate([ops["seq_begin"], ops["seq_end"]]))
    assert numbers.tolist() == list(range(1, 2 * len(ops) + 1))
    by_op = {int(op["op"]): op for op in ops}
    mark, write, fallocate = by_op[Op.MARK_REQUEST], by_op[Op.AIO_WRITE], by_op[Op.FALLOCATE]
    assert mark["seq_begin"] < write["seq_begin"] < write["seq_end"] < mark["seq_end"] < fallocate["seq_begin"]


def test_the_kernels_order_wins_over_its_clocks() -> None:
    journal = journal_with_calls()
    seen = seen_by_kernel(journal)
    # The clock of the other CPU is behind: the fallocate seems to begin before the write ended.
    seen["t_begin"][1] = seen["t_end"][0] - 1
    ops = kernel_evidence(seen, journal, dev=DEV, ino=INO).ops
    by_op = {int(op["op"]): op for op in ops}
    assert by_op[Op.AIO_WRITE]["seq_end"] < by_op[Op.FALLOCATE]["seq_begin"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda ops: ops[:1],
        lambda ops: ops[1:],
        lambda ops: ops[:0],
        lambda ops: changed(ops, 0, "offset", 512),
        lambda ops: changed(ops, 0, "length", 512),
        lambda ops: changed(ops, 0, "result", 512),
        lambda ops: changed(ops, 0, "request", 77),
        lambda ops: changed(ops, 0, "ino", 99),
        lambda ops: changed(ops, 0, "result", NONE_RESULT),
        lambda ops: changed(ops, 1, "flags", 0),
        lambda ops: changed(ops, 1, "tid", 1),
        lambda ops: changed(ops, 1, "offset", 0),
        lambda ops: np.concatenate([ops, ops[:1]]),
        lambda ops: np.concatenate([ops, ops[1:]]),
    ],
)
def test_what_only_one_of_kernel_and_driver_knows_is_counted(spoil) -> None:  # type: ignore[no-untyped-def]
    journal = journal_with_calls()
    evidence = kernel_evidence(spoil(seen_by_kernel(journal)), journal, dev=DEV, ino=INO)
    assert evidence.unaccounted >= 1


def test_a_failed_call_need_not_be_seen() -> None:
    journal = Journal()
    journal.end(journal.begin(Kind.FALLOCATE, 0, 4096, request=1), -95)
    assert kernel_evidence(np.zeros(0, OPERATION), journal, dev=DEV, ino=INO).unaccounted == 0


def test_a_failed_call_that_is_seen_is_accounted_for() -> None:
    journal = Journal()
    entry = journal.begin(Kind.WRITE, 0, 4096, request=5)
    journal.end(entry, -5)
    seen = np.zeros(1, OPERATION)
    seen["op"], seen["dev"], seen["ino"], seen["length"] = Op.DIRECT_WRITE, DEV, INO, 4096
    seen["result"], seen["tid"], seen["seq_begin"], seen["seq_end"] = -5, entry.tid, 1001, 1002
    seen["t_begin"], seen["t_end"] = entry.t_begin, entry.t_end
    assert kernel_evidence(seen, journal, dev=DEV, ino=INO).unaccounted == 0


def test_driver_evidence_keeps_the_journals_order() -> None:
    ops = driver_evidence(journal_with_calls(), dev=DEV, ino=INO, write=Op.DIRECT_WRITE).ops
    assert [Op(op).label for op in ops["op"]] == ["mark_request", "direct_write", "fallocate"]
    assert len(np.unique(np.concatenate([ops["seq_begin"], ops["seq_end"]]))) == 2 * len(ops)
    assert set(ops["dev"]) == {DEV}
    assert set(ops["ino"]) == {INO}


def changed(ops: np.ndarray, row: int, name: str, value: int) -> np.ndarray:
    ops = ops.copy()
    ops[name][row] = value
    return ops
