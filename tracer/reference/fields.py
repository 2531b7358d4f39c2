"""What the fields of a trace mean, a line each. A test fails where one is missing, or one too many."""

from tracer.operations import Op

COLUMNS_SAY = {
    "seq_begin": "number of its begin among all begins and ends, from 1: the order of events, across CPUs",
    "seq_end": "number of its end; null: still in flight when recording stopped",
    "t_begin": "ns, CLOCK_MONOTONIC",
    "t_end": "ns, CLOCK_MONOTONIC",
    "t_applied": "ns, when the size update or the allocation took effect; null: not seen",
    "op": "what it is, see below",
    "dev": "the file's device, `st_dev` as stat(2) returns it",
    "ino": "the file's inode number",
    "offset": "bytes; of a truncate, the new size",
    "length": "bytes",
    "flags": "of a fallocate its mode; of a write the RWF and iocb flags; of a mark see blockstack/journal.py",
    "size_begin": "i_size in bytes when it began; null: not seen",
    "size_end": "i_size in bytes when it ended",
    "size_applied": "i_size in bytes just before the size update took effect",
    "result": "bytes or 0, or -errno; of a mark_wait the request that was waited for",
    "pid": "process (tgid)",
    "tid": "thread",
    "cpu_begin": "CPU; null: it was in flight when recording began",
    "cpu_end": "CPU",
    "comm": "name of the thread",
    "request": "guest request << 32, and the number of the tracked request: links a driver's mark to its operations",
}
"""Column -> meaning."""

OPS_SAY = {
    Op.AIO_WRITE: "direct write by io_submit(2)",
    Op.URING_WRITE: "direct write by io_uring",
    Op.DIRECT_WRITE: "synchronous direct write",
    Op.BUFFERED_WRITE: "write to the page cache, by whatever system call",
    Op.FALLOCATE: "fallocate(2), by its mode in `flags`",
    Op.TRUNCATE: "a change of the size, to `offset`",
    Op.MARK_GUEST_WRITE: "the driver's: a write of the guest, from submission to acknowledgement",
    Op.MARK_REQUEST: "the driver's: a tracked request of the file node, from its begin to its end",
    Op.MARK_WAIT: "the driver's: request `request` waited for request `result`",
    Op.MARK_FALLOCATE: "the driver's: an emulated fallocate (legacy-xfs), from sampling the size to having set it",
}
"""Kind -> meaning."""

META_SAY = {
    "host": "facts about the host, as `eofrace doctor --json` has them",
    "mechanisms": "hook -> mechanism that was used for it",
    "gaps": "hook that could not be attached -> why",
    "dropped": "records that were lost because the ring was full",
    "unfinished": "operations still in flight when recording stopped",
    "command": "command line that made the trace",
    "seed": "of the workload",
    "strategy": "of the driver under test",
    "fs": "file system",
    "aio": "how data writes reached the kernel",
    "fallocate": "`kernel`, or an emulated behaviour",
    "evidence": "`kernel` (seen by eBPF) or `driver` (the driver's own clock)",
    "part": "number of a part of a trace that is a directory",
    "last": "of a part: whether recording ended with it",
}
"""Field of TraceMeta -> meaning."""
