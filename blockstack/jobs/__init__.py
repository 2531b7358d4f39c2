"""Block jobs: work on whole disks while a guest goes on using them (QEMU: blockjob.c). One job a file."""

from blockstack.jobs.mirror import DirtyBitmap, Mirror, MirrorTop, default_granularity

__all__ = ["DirtyBitmap", "Mirror", "MirrorTop", "default_granularity"]
