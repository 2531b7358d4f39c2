"""What a strategy may know, and the two places where it may act."""

from typing import Protocol

from blockstack.requests import RequestTracker, TrackedRequest


class FileFacts(Protocol):
    """What the file node tells a strategy."""

    is_xfs: bool
    """The image lies on XFS (QEMU's RFC: platform_test_xfs_fd), or is to be treated as if it did."""

    file_system: str
    """Its name (`blockstack.filesystem`): what the kernel calls it, or one that no kernel has for an emulated one."""

    linux_aio: bool
    """aio=native."""

    tracker: RequestTracker
    """The file node's requests: serialising happens there, where zero-writes and data writes meet."""

    request_alignment: int


class Strategy:
    """Protects nothing by itself; subclasses override one method or the other."""

    name = ""

    def uses_alloc_space(self, file: FileFacts) -> bool:
        """Whether qcow2 may zero newly allocated clusters with a zero-write (handle_alloc_space)."""
        return True

    async def order_post_eof_zero_write(self, request: TrackedRequest, file: FileFacts) -> None:
        """Called before a zero-write that reaches beyond the file node's length goes to the kernel."""


async def serialise_to_infinity(request: TrackedRequest, file: FileFacts) -> None:
    """Keep `request` apart from everything at or behind its offset.

    QEMU 292d06b925b2 ("block/file-posix: Let post-EOF fallocate serialize", v4.2), raw_do_pwrite_zeroes: the tracked
    request is stretched to the maximum file length, marked serialising, and waits for conflicting requests.
    """
    request.stretch(2**63 - 1)
    request.make_serialising(file.request_alignment)
    await file.tracker.wait_serialising(request)
