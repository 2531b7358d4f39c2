"""Output files that are there whole, or not at all.

A file is written without a name (O_TMPFILE, Linux 3.11) and linked into place once it is complete, so that neither
an error nor SIGKILL leaves half a file under its final name, or a temporary one beside it. Where the file system
has no O_TMPFILE, a temporary name beside the target and rename(2) serve: SIGKILL then leaves that one.
"""

import contextlib
import errno
import fcntl
import json
import os
import re
import secrets
import stat
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from tracer.errors import UnsupportedError, UsageError
from tracer.report.escape import printable

STDOUT = "-"

_DESCRIPTOR = re.compile(r"/dev/(?:fd/|std)(?P<name>\w+)|/proc/self/fd/(?P<number>\d+)")
_NAMES = {"in": 0, "out": 1, "err": 2}


def check_writable(path: str | Path) -> None:
    """Find out, before long work starts, whether `atomic_output(path)` can succeed. Nothing is left there.

    Raises `UsageError` for a directory, a symbolic link, a device other than a character device, or a parent
    directory that is missing or takes no files.
    """
    target = str(path)
    if (descriptor := _descriptor_of(target)) is not None:
        if not writable(descriptor):
            shown = "standard output" if descriptor == 1 else printable(target)
            raise UsageError(f"{shown} is closed, or not open for writing: name a file")
        return
    kind = _kind_of(target)
    if kind is not None and not stat.S_ISREG(kind):
        if not os.access(target, os.W_OK):
            raise UsageError(f"{printable(target)}: not writable: name another file")
        return
    parent = _parent(target)
    try:
        descriptor, temporary = _open_unnamed(parent)
        os.close(descriptor)
        if temporary is not None:
            os.unlink(temporary)
        # A directory may take nameless files and still refuse names (an immutable one says so only here).
        if not os.access(parent, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise _unwritable(target, error) from error


def writable(descriptor: int) -> bool:
    """Whether somebody has opened a descriptor for writing."""
    try:
        return fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
    except OSError:
        return False


def make_directory(path: str | Path) -> Path:
    """The directory `path`, created with its parents if it is missing, and writable. Raises `UsageError`."""
    directory = Path(path)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise UsageError(f"{printable(str(path))}: not a directory: name another one") from error
    except OSError as error:
        raise _unwritable(str(path), error) from error
    check_writable(directory / "probe")
    return directory


@contextlib.contextmanager
def atomic_output(path: str | Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """A binary file that becomes `path` when the block ends without an exception.

    Unless it is to be `durable`, a power failure soon after may leave half of it: fsync(2) has the disk below write all
    that others have in its cache, too, which those notice who are being watched.

    "-" is standard output. A regular file is replaced, its mode kept; a new one gets 0666 less the umask. A
    terminal, pipe or other character device, and a descriptor (/dev/stdout, /dev/fd/N), is written to directly.
    A symbolic link is refused rather than followed or replaced: what the user means by it cannot be known.

    Raises `UsageError` for a target that cannot be written, `UnsupportedError` for a full disk when the file is
    finished. Errors of the block itself pass.
    """
    target = str(path)
    descriptor = _descriptor_of(target)
    kind = None if descriptor is not None else _kind_of(target)
    if descriptor is not None or (kind is not None and not stat.S_ISREG(kind)):
        with _open_direct(target, descriptor) as stream:
            yield stream
        return
    directory = _parent(target)
    try:
        descriptor, temporary = _open_unnamed(directory)
    except OSError as error:
        raise _unwritable(target, error) from error
    try:
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(descriptor, _mode(kind))
            yield stream
            try:
                stream.flush()
                if durable:
                    os.fsync(descriptor)
                temporary = _place(descriptor, temporary, directory, Path(target).name)
            except OSError as error:
                raise _unwritable(target, error) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 to `path`, whole or not at all. Raises like `atomic_output`."""
    with atomic_output(path) as stream:
        stream.write(text.encode("utf-8", "surrogateescape"))


class JsonFile:
    """What `--json FILE` asks a command for; nothing, if nobody has asked."""

    def __init__(self, path: str | None) -> None:
        """Raises `UsageError` where it could not be written later."""
        self._path = path
        if path is not None:
            check_writable(path)

    @property
    def is_stdout(self) -> bool:
        """JSON has standard output for itself: what is for people goes to standard error, or nowhere."""
        return self._path == STDOUT

    def write(self, data: Mapping[str, Any]) -> None:
        """Write the document, whole or not at all. Raises like `atomic_output`."""
        if self._path is not None:
            write_text(self._path, json_text(data))


def json_text(data: Mapping[str, Any]) -> str:
    """A document as it is written to a file: no NaN, which only Python would read."""
    return json.dumps(data, indent=1, allow_nan=False) + "\n"


def _place(descriptor: int, temporary: str | None, directory: str, name: str) -> str | None:
    """Give the finished file its name. Returns the temporary name that is left to remove: none."""
    folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if temporary is None:
            source = f"/proc/self/fd/{descriptor}"
            try:
                os.link(source, name, dst_dir_fd=folder, follow_symlinks=True)
            except FileExistsError:
                pass
            else:
                return None
            # linkat(2) cannot replace: for the two calls that rename takes, the file has another name.
            passing = _temporary_name(name)
            os.link(source, passing, dst_dir_fd=folder, follow_symlinks=True)
        else:
            passing = Path(temporary).name
        try:
            os.rename(passing, name, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(passing, dir_fd=folder)
            raise
        return None
    finally:
        os.close(folder)


def _open_unnamed(directory: str) -> tuple[int, str | None]:
    """A descriptor to write to, and the temporary path of the file, None if it has no name."""
    try:
        return os.open(directory, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600), None
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.EOPNOTSUPP, errno.EINVAL):
            raise
    path = os.path.join(directory, _temporary_name("eofrace"))
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), path


def _temporary_name(name: str) -> str:
    return f".{name[:200]}.{secrets.token_hex(6)}.tmp"


def _open_direct(target: str, descriptor: int | None) -> BinaryIO:
    if descriptor == 1:
        sys.stdout.flush()  # what was printed before comes before
    try:
        if descriptor is not None:
            return os.fdopen(os.dup(descriptor), "wb")
        return open(target, "wb")
    except OSError as error:
        raise _unwritable(target, error) from error


def _descriptor_of(target: str) -> int | None:
    """The descriptor that `target` means. /dev/stdout is a symbolic link, but what it means is known."""
    if target == STDOUT:
        return 1
    match = _DESCRIPTOR.fullmatch(target)
    if match is None:
        return None
    name = match["name"] or match["number"]
    return int(name) if name.isdigit() else _NAMES.get(name)


def _kind_of(target: str) -> int | None:
    """st_mode of what is at `target` now, None if nothing. Raises `UsageError` for what is never written to."""
    shown = printable(target)
    try:
        mode = os.lstat(target).st_mode
    except FileNotFoundError:
        if not Path(target).name or target.endswith("/"):
            raise UsageError(f"{shown!r} names no file: name the file to write") from None
        return None
    except (OSError, ValueError) as error:
        raise UsageError(f"{shown}: {getattr(error, 'strerror', error)}: name another file") from error
    if stat.S_ISDIR(mode):
        raise UsageError(f"{shown}: is a directory: name the file to write")
    if stat.S_ISLNK(mode):
        raise UsageError(f"{shown}: is a symbolic link: name the file itself")
    if not (stat.S_ISREG(mode) or stat.S_ISCHR(mode) or stat.S_ISFIFO(mode)):
        raise UsageError(f"{shown}: is no regular file: name another file")
    return mode


def _mode(kind: int | None) -> int:
    if kind is not None:
        return stat.S_IMODE(kind)
    mask = os.umask(0o077)
    os.umask(mask)
    return 0o666 & ~mask


def _parent(target: str) -> str:
    return os.path.dirname(target) or "."


def _unwritable(target: str, error: OSError) -> UsageError | UnsupportedError:
    shown = printable(target)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UnsupportedError(f"{shown}: {error.strerror}: free some space or name another place")
    if error.errno == errno.ENOENT:
        return UsageError(f"{shown}: no such directory: create {printable(_parent(target))} first")
    return UsageError(f"{shown}: cannot be written ({error.strerror}): name another place")
