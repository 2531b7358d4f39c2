"""Commands of the documents that take minutes, a cluster or a VM: executed on request (EOFRACE_ALL=1), as
tests/docs/lists.py declares.
"""

import shlex
from pathlib import Path

import pytest

from tests.docs.lists import executed
from tests.docs.running import Server, reduced, words_of
from tests.docs.test_documented import run
from tracer.analysis import cluster

pytestmark = [pytest.mark.root, pytest.mark.long]

ELSEWHERE = {"/shared/day": "day", "explore.toml": "nightly.toml"}
"""What a document means by a name that the place has under another one."""


def test_what_takes_long_runs(place: Path, server: Server) -> None:
    """Those that name a scheduler find one."""
    ours = executed("long")
    assert len(ours) > 10
    with cluster.local(1) as found:
        address = found._client.scheduler.address
        for text, line in ours:
            words = [address if word.startswith("tcp://") else ELSEWHERE.get(word, word) for word in words_of(text)]
            run(server, place, reduced(words, line.more), line)


@pytest.mark.vm
@pytest.mark.parametrize(
    ("where", "count"), [("vm", 6), pytest.param("kernels", 7, marks=pytest.mark.racy), ("zfs", 4)]
)
def test_what_boots_a_vm_runs(where: str, count: int, place: Path, server: Server) -> None:
    """In place of somebody's kernel, with Debian's."""
    ours = executed(where)
    assert len(ours) >= count
    for text, line in ours:
        words = ["debian" if word.endswith((".deb", "bzImage")) else word for word in words_of(text)]
        run(server, place, [*words, *shlex.split(line.more)], line)  # of the command in the VM, if there is one
