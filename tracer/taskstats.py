"""How long threads waited for block I/O: the kernel's per-task delay accounting (TASKSTATS, Linux 2.6.18).

Reading another task's figures needs CAP_NET_ADMIN; counting them needs `kernel.task_delayacct`, which is off by
default since Linux 5.14 (0cd7c741f01d "delayacct: Add sysctl to enable at runtime"). Neither is ever an error:
the figures are a note beside the evidence. The sysctl is the host's and stays as it is.

Figures that cannot be are not told: on 6.18.44 every few runs a thread of a tenth of a second has waited for once or
twice the time since boot, as if __delayacct_blkio_end() had met a begin that was never noted. A smaller error of that
kind would not be seen.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SWITCH = Path("/proc/sys/kernel/task_delayacct")
_SLACK = 10**6
"""ns between the clocks of the two figures."""


class _WrongFigureError(Exception):
    """The kernel tells what cannot be."""


@dataclass(frozen=True, slots=True)
class BlockDelays:
    """A snapshot: ns that each thread has waited for block I/O since it began; None, and why, if not to be had."""

    delays: dict[int, int] | None
    note: str = ""

    def since(self, earlier: "BlockDelays") -> "BlockDelays":
        """ns waited between two snapshots, per thread that is in this one; None, and why, if either is missing."""
        if self.delays is None or earlier.delays is None:
            return BlockDelays(None, earlier.note or self.note)
        return BlockDelays({tid: delay - earlier.delays.get(tid, 0) for tid, delay in self.delays.items()})


def block_io_delay(tids: Iterable[int]) -> BlockDelays:
    """The block I/O delay of each thread in `tids`, in ns. Threads that have ended are left out.

    May be called while an asyncio loop runs, which it blocks for some milliseconds.
    """
    if _switched_off():
        return BlockDelays(None, "delay accounting is off: sysctl -w kernel.task_delayacct=1")
    wanted = list(tids)
    # pyroute2 0.9 runs an asyncio loop of its own, which a thread that runs one already may not.
    with ThreadPoolExecutor(1, thread_name_prefix="taskstats") as pool:
        try:
            return BlockDelays(pool.submit(_read, wanted).result())
        except Exception as error:  # whatever netlink or pyroute2 makes of a kernel without it: a note
            return BlockDelays(None, f"TaskStats is not to be had ({_reason(error)})")


def _switched_off() -> bool:
    try:
        return SWITCH.read_text().strip() == "0"
    except OSError:  # before 5.14 the boot parameter `nodelayacct` decides, and nothing shows it
        return False


def _read(tids: list[int]) -> dict[int, int]:
    from pyroute2 import TaskStats  # 0.2 s: only for those who ask
    from pyroute2.netlink.exceptions import NetlinkError

    found: dict[int, int] = {}
    with TaskStats() as stats:
        stats.bind()
        for tid in tids:
            try:
                message = stats.get_pid_stat(tid)[0]
            except NetlinkError as error:
                if error.code == 3:  # ESRCH
                    continue
                raise
            found[tid] = _believed(_figures(message))
    return found


def _believed(figures: Any) -> int:
    """ns waited for block I/O. Raises _WrongFigureError if that is longer than the thread has lived."""
    waited, lived = int(figures["blkio_delay_total"]), int(figures["ac_etime"]) * 1000
    if waited > lived + _SLACK:
        raise _WrongFigureError(f"a thread {lived / 1e9:.1f} s old has waited {waited / 1e9:.1f} s")
    return waited


def _figures(message: Any) -> Any:
    return message.get_attr("TASKSTATS_TYPE_AGGR_PID").get_attr("TASKSTATS_TYPE_STATS")


def _reason(error: Exception) -> str:
    code = getattr(error, "code", None) or getattr(error, "errno", None)
    if code == 1:
        return "Operation not permitted: it needs CAP_NET_ADMIN, run as root"
    if isinstance(error, _WrongFigureError):
        return f"this kernel's figures are wrong: {error}"
    if code == 2:
        return "this kernel has none: CONFIG_TASKSTATS, CONFIG_TASK_DELAY_ACCT"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
