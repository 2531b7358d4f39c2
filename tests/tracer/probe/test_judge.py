"""What each observation is worth. `safe` needs a reason; take the reason away and it is not safe any more."""

import errno
from dataclasses import replace

import pytest

from tracer.errors import Status
from tracer.lab.waiting import Waiting
from tracer.probe.judge import Judgement, Verdict, judge
from tracer.probe.observation import Event, Layout, Observation
from tracer.probe.result import Report, Result, of_tries, to_json

LAYOUT = Layout()
DIO_WAIT = Waiting("fallocate", ("inode_dio_wait", "__xfs_file_fallocate", "vfs_fallocate"))
GOOD = Observation(
    "plain",
    LAYOUT,
    "kernel",
    held=True,
    t_held=1_000,
    t_released=51_000_000,
    fallocate=DIO_WAIT,
    size_before=0,
    size_found=LAYOUT.size,
    write_error=0,
    fallocate_error=0,
    events=[Event(1_000, "write held at the disk", 0), Event(3_000, "fallocate begins", 0)],
)


def test_one_that_waited_for_the_write_is_safe() -> None:
    judgement = judge(GOOD)
    assert judgement.verdict is Verdict.SAFE
    assert "waited in inode_dio_wait (called from __xfs_file_fallocate)" in judgement.evidence


@pytest.mark.parametrize(
    "change",
    [
        {"size_found": LAYOUT.fallocate_length, "wrong_bytes": LAYOUT.write_length},
        {"size_found": LAYOUT.size - 1, "wrong_bytes": 1},
        {"wrong_bytes": 1},  # the size is right, the content is not
        {"size_found": LAYOUT.fallocate_length, "wrong_bytes": 1, "fallocate": None, "returned": True},
    ],
)
def test_a_loss_is_racy_however_it_came_about(change: dict[str, object]) -> None:
    assert judge(replace(GOOD, **change)).verdict is Verdict.RACY  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"held": False}, "never seen in flight"),
        ({"write_error": errno.EIO}, "the write failed"),
        ({"write_error": None}, "the write did not end"),
        ({"fallocate_error": errno.ENOSPC}, "fallocate failed"),
        ({"fallocate_error": None}, "fallocate did not end"),
        ({"fallocate": None}, "neither seen waiting nor did it return"),
        ({"fallocate": None, "returned": True}, "another one is not excluded"),
        ({"fallocate": Waiting("fallocate", ("submit_bio_wait", "x", "y"))}, "for the disk, not for the write"),
        ({"size_found": LAYOUT.size + 1}, "larger than"),
        ({"stray_bytes": 5}, "do not read as zeroes"),
        ({"failure": "nothing was held"}, "nothing was held"),
    ],
)
def test_without_the_reason_it_is_inconclusive(change: dict[str, object], why: str) -> None:
    judgement = judge(replace(GOOD, **change))  # type: ignore[arg-type]
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert why in judgement.evidence


@pytest.mark.parametrize(
    "change", [{"size_before": LAYOUT.size}, {"mode": "keep-size"}], ids=["size raised before", "sets no size"]
)
def test_one_that_returned_at_once_is_safe_for_a_reason(change: dict[str, object]) -> None:
    seen = replace(GOOD, fallocate=None, returned=True, **change)  # type: ignore[arg-type]
    assert judge(seen).verdict is Verdict.SAFE


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_mode_that_there_is_not(code: int) -> None:
    assert judge(replace(GOOD, fallocate_error=code, fallocate=None)).verdict is Verdict.UNSUPPORTED


def test_a_failed_write_is_no_loss() -> None:
    seen = replace(GOOD, write_error=errno.EIO, size_found=0, wrong_bytes=LAYOUT.write_length)
    assert judge(seen).verdict is Verdict.INCONCLUSIVE


RACY = replace(GOOD, size_found=LAYOUT.fallocate_length, wrong_bytes=LAYOUT.write_length)
SILENT = replace(GOOD, held=False)


@pytest.mark.parametrize(
    ("tries", "verdict"),
    [
        ([GOOD, GOOD], Verdict.SAFE),
        ([GOOD, RACY, GOOD], Verdict.RACY),
        ([GOOD, SILENT], Verdict.INCONCLUSIVE),
        ([SILENT, RACY], Verdict.RACY),
    ],
)
def test_the_worst_try_speaks(tries: list[Observation], verdict: Verdict) -> None:
    result = of_tries("xfs", "plain", [(seen, judge(seen)) for seen in tries])
    assert result.verdict is verdict
    assert sum(result.counts.values()) == len(tries)


def result(verdict: Verdict) -> Result:
    return Result("xfs", "plain", "held", Judgement(verdict, "because"))


@pytest.mark.parametrize(
    ("verdicts", "status"),
    [
        ([Verdict.SAFE, Verdict.UNSUPPORTED], Status.OK),
        ([Verdict.SAFE, Verdict.INCONCLUSIVE], Status.INCONCLUSIVE),
        ([Verdict.RACY, Verdict.INCONCLUSIVE, Verdict.SAFE], Status.HAZARD),
        ([Verdict.UNSUPPORTED], Status.UNSUPPORTED),
        ([], Status.UNSUPPORTED),
    ],
)
def test_exit_status(verdicts: list[Verdict], status: Status) -> None:
    assert Report([result(verdict) for verdict in verdicts], [], {}).status is status


def test_json_says_what_was_seen() -> None:
    [found] = to_json(Report([of_tries("xfs", "plain", [(GOOD, judge(GOOD))])], [], {}))["results"]
    assert found["held_ms"] == pytest.approx(51, abs=0.1)
    assert found["waited"] == [
        {"who": "fallocate", "where": "inode_dio_wait", "syscall": "fallocate", "stack": list(DIO_WAIT.stack)}
    ]
    assert [event["us"] for event in found["order"]] == [0, 2]
