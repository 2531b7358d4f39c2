"""A process that ends when its parent does, however that ends.

setpriv(1) (tracer/lab/children.py) does it for programs that are not ours. A parent that is killed before setpriv has
asked for the signal leaves a process that runs to its end; asked for in here, and then looked who the parent is, there
is no such moment.
"""

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, or end at once if that has happened."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before that was asked for
        os._exit(128 + signal.SIGKILL)
