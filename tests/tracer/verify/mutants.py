"""Strategies broken on purpose: `verify` must not confirm a single one of them."""

from blockstack.requests import MAX_LENGTH, TrackedRequest
from blockstack.strategies import FileFacts, Strategy
from blockstack.strategies.serialise import Serialise

CLUSTER = 65536


class SerialisesNothing(Serialise):
    """Looks like `serialise`; its serialising does nothing."""

    name = "mutant-serialises-nothing"

    async def order_post_eof_zero_write(self, request: TrackedRequest, file: FileFacts) -> None:
        request.stretch(MAX_LENGTH)
        await file.tracker.wait_serialising(request)


class ForgetsMetadata(Serialise):
    """Keeps data writes apart, and forgets that L2 tables and refcount blocks are written behind EOF as well."""

    name = "mutant-forgets-metadata"

    async def order_post_eof_zero_write(self, request: TrackedRequest, file: FileFacts) -> None:
        request.stretch(MAX_LENGTH)
        request.make_serialising(file.request_alignment)
        while True:
            blockers = [
                other
                for other in file.tracker.in_flight
                if other is not request and other.overlaps(request) and other.waiting_for is None and not other.metadata
            ]
            if not blockers:
                return
            await file.tracker.wait_for(request, blockers[0])


class StretchesOneCluster(Serialise):
    """Serialises, but only one cluster beyond its own end."""

    name = "mutant-stretches-one-cluster"

    async def order_post_eof_zero_write(self, request: TrackedRequest, file: FileFacts) -> None:
        request.stretch(request.end + CLUSTER)
        request.make_serialising(file.request_alignment)
        await file.tracker.wait_serialising(request)


class WaitsButDoesNotHoldOff(Serialise):
    """Waits for what is in flight, but lets new writes pass while its own fallocate runs."""

    name = "mutant-waits-only"

    async def order_post_eof_zero_write(self, request: TrackedRequest, file: FileFacts) -> None:
        request.stretch(MAX_LENGTH)
        request.make_serialising(file.request_alignment)
        await file.tracker.wait_serialising(request)
        request.serialising = False


MUTANTS: tuple[Strategy, ...] = (
    SerialisesNothing(),
    StretchesOneCluster(),
    WaitsButDoesNotHoldOff(),
)


class HoldsOffButDoesNotWait(Serialise):
    """Holds new writes off while its own fallocate runs, and does not wait for those in flight."""

    name = "mutant-holds-off-only"

    async def order_post_eof_zero_write(self, request: TrackedRequest, file: FileFacts) -> None:
        request.stretch(MAX_LENGTH)
        request.make_serialising(file.request_alignment)


class StretchesThirtyTwoClusters(Serialise):
    """Serialises 2 MiB beyond its own end: as far as an ordinary guest has requests in flight."""

    name = "mutant-stretches-32-clusters"

    async def order_post_eof_zero_write(self, request: TrackedRequest, file: FileFacts) -> None:
        request.stretch(request.end + 32 * CLUSTER)
        request.make_serialising(file.request_alignment)
        await file.tracker.wait_serialising(request)


class WaitsOnce(Serialise):
    """Waits for one conflicting request, and does not look whether another one has come meanwhile."""

    name = "mutant-waits-once"

    async def order_post_eof_zero_write(self, request: TrackedRequest, file: FileFacts) -> None:
        request.stretch(MAX_LENGTH)
        request.make_serialising(file.request_alignment)
        other = file.tracker.conflicting(request)
        if other is not None:
            await file.tracker.wait_for(request, other)


HELD_MUTANTS: tuple[Strategy, ...] = (
    *MUTANTS,
    ForgetsMetadata(),
    HoldsOffButDoesNotWait(),
    StretchesThirtyTwoClusters(),
    WaitsOnce(),
)
"""Those and more, which only a schedule that is chosen tells from a right one for certain."""
