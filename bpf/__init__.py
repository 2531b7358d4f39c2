"""What runs in the kernel: one C file per kind of operation, compiled by bcc when it attaches.

`eofrace.h` holds the one record that leaves the kernel (`tracer.operations.OPERATION`, field by field), the
maps and the helpers. Begin and end are paired here: what comes out of the ring is a finished operation.

The programs need no kernel headers. Structures of the running kernel are read at the offsets that its own BTF
gives (`tracer.btf`), passed as -D macros; `STANDIN` is a tree of almost empty headers for those that bcc includes
on its own. That leaves nothing to install, nothing to find and, mostly, nothing to parse.
"""

from pathlib import Path

_HERE = Path(__file__).resolve().parent

STANDIN = _HERE / "standin"
"""Directory to name to bcc as BCC_KERNEL_SOURCE."""

PROGRAM = (
    "eofrace.h",
    "fallocate.c",
    "truncate.c",
    "applied.c",
    "place.c",
    "direct_write.c",
    "aio.c",
    "before.c",
    "copies.c",
    "mappings.c",
    "io_uring.c",
    "syscalls.c",
    "select.c",
)
"""The files that every host's program has, in the order in which they build on each other.

The others come behind them: `record.c` or `watch.c`, what leaves the kernel; `X_function.c`, what a function of the
kernel tells, and `X_kprobe.c` or `X_kfunc.c`, how it is attached to that function.
"""


def source(*more: str) -> str:
    """The C text of `PROGRAM` and the files `more`, one translation unit.

    #line directives make the compiler name the file that a message is about. Raises `FileNotFoundError`.
    """
    return "".join(f'#line 1 "bpf/{name}"\n{(_HERE / name).read_text()}\n' for name in (*PROGRAM, *more))
