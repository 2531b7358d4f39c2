"""What `verify --driver qemu` refuses, and how a build is found and named."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.tracer.verify.test_verify import EOFRACE, eofrace, one_line
from tracer.errors import Status, UsageError
from tracer.verify.qemu.daemon import NAME, builds

needs_daemon = pytest.mark.skipif(shutil.which(NAME) is None, reason=f"needs {NAME}: apt install qemu-utils")


@pytest.mark.parametrize(
    "words",
    [
        ("--driver", "qemu", "--held"),
        ("--driver", "qemu", "--evidence", "driver"),
        ("--driver", "qemu", "--fallocate", "legacy-xfs"),
        ("--driver", "qemu", "--qemu", "/nonexistent"),
        ("--driver", "qemu", "--qemu", "/bin/true"),
        ("--driver", "qemu", "--qemu", "/etc/passwd"),
        ("--qemu", "/usr/bin/qemu-storage-daemon"),
    ],
)
def test_what_makes_no_sense_is_refused(words: tuple[str, ...]) -> None:
    done = eofrace("verify", *words)
    assert done.returncode == Status.USAGE
    assert one_line(done.stderr)


@needs_daemon
def test_without_bpf_it_cannot_be_done_and_says_why() -> None:
    """QEMU has no clock of its own to fall back to."""
    drop = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"] if os.geteuid() == 0 else []
    words = [*drop, *EOFRACE, "verify", "--driver", "qemu"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == Status.UNSUPPORTED
    assert one_line(done.stderr)


@needs_daemon
def test_builds_of_one_version_are_told_apart(tmp_path: Path) -> None:
    real = shutil.which(NAME)
    assert real is not None
    (tmp_path / "other").symlink_to(real)
    first, second = builds((Path(real), tmp_path / "other"))
    assert first.version == second.version
    assert (first.label, second.label) == (f"qemu-{first.version}", f"qemu-{first.version}#2")


def test_what_does_not_call_itself_by_that_name_is_none(tmp_path: Path) -> None:
    other = tmp_path / "qemu"
    other.write_text("#!/bin/sh\necho 'qemu-img version 7.2.22'\n")
    other.chmod(0o755)
    with pytest.raises(UsageError, match=r"calls itself 'qemu-img version 7\.2\.22'"):
        builds((other,))
