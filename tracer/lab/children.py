"""Helper commands (mkfs, qemu-img) that end when we end.

A helper left running after SIGKILL would keep the scratch file system alive that it works on. setpriv(1) of
util-linux (`--pdeathsig` since 2.33) has the kernel kill it with its parent (prctl PR_SET_PDEATHSIG); where
it is missing the helper merely runs to its end.
"""

import functools
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from tracer.errors import EofraceError, UnsupportedError

_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
"""Where mkfs lives, and what the PATH of an ordinary user lacks."""

PACKAGES = {
    "mkfs.xfs": "xfsprogs",
    "mkfs.ext4": "e2fsprogs",
    "mkfs.btrfs": "btrfs-progs",
    "mkfs.f2fs": "f2fs-tools",
    "mkfs.vfat": "dosfstools",
    "mkfs.ocfs2": "ocfs2-tools",
    "mkfs.gfs2": "gfs2-utils",
    "zpool": "zfsutils-linux",
    "qemu-img": "qemu-utils",
    "setpriv": "util-linux",
    "unshare": "util-linux",
    "nbdkit": "nbdkit nbdkit-plugin-python",
    "nbdfuse": "libnbd-bin",
}
"""Debian's package of each helper, for the message that says how to get it."""


class ChildError(EofraceError):
    """A helper command failed. `returncode` is its exit status, or minus the signal that ended it."""

    def __init__(self, message: str, returncode: int) -> None:
        super().__init__(message)
        self.returncode = returncode


@dataclass(frozen=True, slots=True)
class Finished:
    """What a helper printed, and how it ended."""

    returncode: int
    stdout: str
    stderr: str


def find(name: str) -> str:
    """Absolute path of a command, administrators' directories included. Raises `UnsupportedError`."""
    path = shutil.which(name) or shutil.which(name, path=_SBIN)
    if path is None:
        package = PACKAGES.get(name, name)
        raise UnsupportedError(f"{name} is missing: install it (apt-get install {package})")
    return path


def dying_with_us(words: Sequence[str]) -> list[str]:
    """`words`, prefixed so that the kernel kills the command when the *thread* that starts it ends.

    (PR_SET_PDEATHSIG counts the thread as the parent: start long-lived helpers from the main thread.)
    """
    prefix = _setpriv()
    return [*prefix, find(words[0]), *words[1:]]


def run(
    words: Sequence[str],
    *,
    seconds: float = 60.0,
    pass_fds: Sequence[int] = (),
    accept: Sequence[int] = (0,),
) -> Finished:
    """Run a helper to its end, with its output captured and no input.

    `seconds` limits it; `pass_fds` it inherits under the same numbers; `accept` lists the exit statuses that
    are not an error. Raises `UnsupportedError` if it is not installed, `ChildError` with the last line that
    it wrote to stderr if it fails or takes too long.
    """
    command = dying_with_us(words)
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            pass_fds=tuple(pass_fds),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ChildError(f"{words[0]} did not end within {seconds:g} s", -9) from error
    except OSError as error:
        raise UnsupportedError(f"cannot start {words[0]}: {error.strerror}") from error
    if done.returncode not in accept:
        raise ChildError(f"{words[0]} failed ({_why(done.returncode, done.stderr)})", done.returncode)
    return Finished(done.returncode, done.stdout, done.stderr)


def end(process: "subprocess.Popen[bytes]", seconds: float) -> None:
    """Have a process end: SIGTERM, and SIGKILL after `seconds`. Nothing happens if it has ended."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _why(returncode: int, stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    # mkfs.* end their complaints with a usage text: what is wrong comes first.
    for start, line in enumerate(lines):
        if line.lower().startswith("usage"):
            lines = lines[:start] or lines
            break
    end = f"signal {-returncode}" if returncode < 0 else f"exit {returncode}"
    return f"{end}: {lines[-1]}" if lines else end


@functools.cache
def _setpriv() -> tuple[str, ...]:
    path = shutil.which("setpriv") or shutil.which("setpriv", path=_SBIN)
    if path is None:
        return ()
    prefix = (path, "--pdeathsig", "KILL", "--")
    try:
        # busybox's and old util-linux' setpriv have no --pdeathsig: found out by trying.
        done = subprocess.run([*prefix, "true"], capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return prefix if done.returncode == 0 else ()
