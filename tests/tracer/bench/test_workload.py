"""Workloads: what they ask for is inside the disk, and the same on every host."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.bench.driver import Job
from tracer.bench.workload import KIB, WORKLOADS, Image, Kind, Workload, named

SIZES = (4 * KIB, 16 * KIB, 64 * KIB, 2048 * KIB)


@pytest.mark.parametrize("cluster_size", SIZES)
@pytest.mark.parametrize("name", WORKLOADS)
def test_requests_are_inside_and_apart(name: str, cluster_size: int) -> None:
    workload = named(cluster_size)[name]
    places = [one.offset for one in workload.requests(1, cluster_size) if one.kind is not Kind.FLUSH]
    assert len(places) == len(set(places)) == workload.count
    assert min(places) >= 0
    assert max(places) + workload.length <= workload.size
    assert all(other - one >= workload.length for one, other in zip(sorted(places), sorted(places)[1:], strict=False))


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_seed_is_a_workload(name: str) -> None:
    workload = named()[name]
    first = list(workload.requests(7, 64 * KIB))
    assert first == list(workload.requests(7, 64 * KIB))
    other = list(workload.requests(8, 64 * KIB))
    assert (first == other) is not (workload.random or 0 < workload.reads < 100)


@given(
    st.builds(
        Workload,
        st.just("own"),
        st.just(""),
        st.integers(1, 40).map(lambda n: n * 512),
        st.integers(40, 80).map(lambda n: n * 512),
        st.integers(0, 9).map(lambda n: n * 512),
        st.sampled_from(Image),
        st.integers(1, 60),
        random=st.booleans(),
        reads=st.sampled_from([0, 30, 100]),
        flush_every=st.sampled_from([0, 3]),
    ),
    st.integers(0, 1000),
)
def test_what_allocates(workload: Workload, seed: int) -> None:
    """By an oracle that knows each byte: a write is the first to a cluster, on an image that has none."""
    cluster_size = 4096
    touched: set[int] = set()
    writes = 0
    for request in workload.requests(seed, cluster_size):
        if request.kind is Kind.WRITE:
            clusters = {byte // cluster_size for byte in range(request.offset, request.offset + workload.length)}
            fresh = workload.image in (Image.FRESH, Image.BACKED)
            assert request.allocates is (fresh and bool(clusters - touched))
            touched |= clusters
            writes += 1
        elif request.kind is Kind.FLUSH:
            assert writes
            assert writes % workload.flush_every == 0
        else:
            assert not request.allocates
    if workload.reads == 100:
        assert not writes


def test_a_job_survives_the_command_line() -> None:
    job = Job("/x y\n", "native", "none", 65536, 3, named()["backing"], marks=True)
    assert Job.decode(job.encode()) == job
