"""Compile `bpf/` with bcc, the distribution's package, to programs and maps that `tracer.loader` loads.

The compiler takes longer than all the rest of attaching, so what it has made is kept in the cache (`tracer.cache`), by
the content of all that goes into it. A file there that root does not own, that others may write to, or that is not
whole, is none.
"""

import base64
import contextlib
import ctypes
import hashlib
import importlib
import json
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bpf
from tracer import cache
from tracer.errors import UnsupportedError

# No debugging information: it costs the compiler a fifth of its time, and nobody reads it.
_FLAGS = ("-w", "-g0")

_FORMAT = 1
"""Of the files in the cache."""
_MAX_BYTES = 16 << 20
_KEPT = 64
"""Files in the cache: as many as there are ways to attach, on the kernels of a machine, and some."""

INSTRUCTION_BYTES = 8
_LOAD_IMMEDIATE = 0x18  # BPF_LD | BPF_DW | BPF_IMM, two instructions
_PSEUDO_MAP_FD = 1  # BPF_PSEUDO_MAP_FD


@dataclass(frozen=True, slots=True)
class Map:
    """What bpf(BPF_MAP_CREATE) is to be given, and what is in the map, as bcc describes types."""

    name: str
    type: int
    key_size: int
    """Bytes, as the next one."""
    value_size: int
    max_entries: int
    flags: int
    key: Any
    value: Any


@dataclass(frozen=True, slots=True)
class Compiled:
    """What has come out of the compiler. Instructions that load a map have its place in `maps` for a descriptor."""

    maps: tuple[Map, ...]
    programs: Mapping[str, bytes]
    licence: str
    kernel_version: int


def import_bcc() -> Any:
    """The module. Raises `UnsupportedError` where there is none, or another package of that name."""
    try:
        module = importlib.import_module("bcc")
    except ImportError as error:
        raise UnsupportedError(
            f"bcc is missing ({error}): install the distribution's package (apt install python3-bpfcc); "
            "a virtual environment needs --system-site-packages and the distribution's python3"
        ) from error
    if not hasattr(module, "BPF"):
        raise UnsupportedError(
            "the installed `bcc` is not the BPF Compiler Collection (PyPI's bcc is something else): "
            "pip uninstall bcc, apt install python3-bpfcc"
        )
    return module


def build(bcc: Any, text: str, macros: Mapping[str, int]) -> Compiled:
    """Compile a program of eofrace's, or find it in the cache. Raises `UnsupportedError`."""
    place = _place(bcc, text, macros)
    kept = None if place is None else _kept(place)
    if kept is not None:
        return kept
    made = _compile(bcc, text, macros)
    if place is not None:
        _keep(place, made)
    return made


def _compile(bcc: Any, text: str, macros: Mapping[str, int]) -> Compiled:
    flags = [*_FLAGS, *(f"-D{name}={value}" for name, value in macros.items())]
    before = os.environ.get("BCC_KERNEL_SOURCE")
    os.environ["BCC_KERNEL_SOURCE"] = str(bpf.STANDIN)
    try:
        # bcc puts the working directory in front of the include path, and chdir()s itself anyway.
        with contextlib.chdir(bpf.STANDIN), quiet() as said:
            try:
                program = bcc.BPF(text=text.encode(), cflags=flags)
            except Exception as error:  # bcc raises nothing more specific
                tail = said()
                if "Operation not permitted" in tail:
                    raise UnsupportedError(
                        f"the kernel refuses BPF ({tail}): a container, a lockdown or a sandbox forbids it; "
                        "run on the host or in `eofrace vm`"
                    ) from error
                raise UnsupportedError(f"bcc cannot compile eofrace's programs: {error}: {tail}") from error
    finally:
        if before is None:
            del os.environ["BCC_KERNEL_SOURCE"]
        else:
            os.environ["BCC_KERNEL_SOURCE"] = before
    try:
        return _taken_from(bcc.lib, program.module)
    finally:
        program.cleanup()


def _taken_from(lib: Any, module: Any) -> Compiled:
    """All that a module of bcc's holds; bcc has made its maps already."""
    lib.bpf_table_name.restype = ctypes.c_char_p
    lib.bpf_table_name.argtypes = [ctypes.c_void_p, ctypes.c_ulonglong]
    lib.bpf_num_tables.restype = ctypes.c_ulonglong
    lib.bpf_num_tables.argtypes = [ctypes.c_void_p]
    maps, places = [], {}
    for place in range(lib.bpf_num_tables(module)):
        name = lib.bpf_table_name(module, place)
        descriptor = lib.bpf_table_fd(module, name)
        key, value = (
            json.loads(described(module, name)) for described in (lib.bpf_table_key_desc, lib.bpf_table_leaf_desc)
        )
        places[descriptor] = place
        maps.append(Map(name.decode(), *_created_as(lib, descriptor), key, value))
    programs = {}
    for number in range(lib.bpf_num_functions(module)):
        name = lib.bpf_function_name(module, number)
        code = ctypes.string_at(lib.bpf_function_start(module, name), lib.bpf_function_size(module, name))
        programs[name.decode()] = with_maps(code, places)
    return Compiled(tuple(maps), programs, lib.bpf_module_license(module).decode(), lib.bpf_module_kern_version(module))


def _created_as(lib: Any, descriptor: int) -> tuple[int, int, int, int, int]:
    """Type, sizes, entries and flags of a map, of the kernel (struct bpf_map_info of linux/bpf.h)."""
    buffer = ctypes.create_string_buffer(24)
    length = ctypes.c_uint32(len(buffer))
    if lib.bpf_obj_get_info(descriptor, buffer, ctypes.byref(length)) != 0:
        raise UnsupportedError(f"the kernel does not describe a map: {os.strerror(ctypes.get_errno())}")
    kind, _, *rest = struct.unpack("<6I", buffer.raw)
    return (kind, *rest)


def with_maps(code: bytes, places: Mapping[int, int]) -> bytes:
    """Instructions whose references to maps are others: `places` maps those in `code` to the new ones.

    Raises `ValueError` about a reference that is none of them, or of another kind.
    """
    changed = bytearray(code)
    at = 0
    while at < len(code):
        opcode, registers, _, immediate = struct.unpack_from("<BBhi", code, at)
        if opcode == _LOAD_IMMEDIATE:
            kind = registers >> 4
            if kind:
                if kind != _PSEUDO_MAP_FD or immediate not in places:
                    raise ValueError(f"instruction {at // INSTRUCTION_BYTES} refers to what is not there")
                struct.pack_into("<i", changed, at + 4, places[immediate])
            at += INSTRUCTION_BYTES
        at += INSTRUCTION_BYTES
    return bytes(changed)


# ---------------------------------------------------------------- the cache


def _place(bcc: Any, text: str, macros: Mapping[str, int]) -> Path | None:
    """The file that would hold it; None: there can be no cache here."""
    host = os.uname()
    parts = [_FORMAT, bcc.__version__, host.release, host.version, host.machine, *_FLAGS, text, sorted(macros.items())]
    parts += [(str(file.relative_to(bpf.STANDIN)), file.read_text()) for file in sorted(bpf.STANDIN.rglob("*.h"))]
    try:
        directory = cache.root() / "bpf"
        directory.mkdir(mode=0o700, exist_ok=True)
    except (UnsupportedError, OSError):
        return None
    return directory / f"{hashlib.sha256(json.dumps(parts).encode()).hexdigest()}.json"


def _kept(place: Path) -> Compiled | None:
    """What the cache holds; None: nothing that can be trusted."""
    try:
        with open(place, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW)) as stream:
            status = os.fstat(stream.fileno())
            if status.st_uid != os.geteuid() or status.st_mode & 0o022 or status.st_size > _MAX_BYTES:
                return None
            digest, _, content = stream.read(_MAX_BYTES).partition(b"\n")
        if digest.decode() != _digest(place, content):
            return None
        found = json.loads(content)
        programs = {name: base64.b64decode(code) for name, code in found["programs"].items()}
        maps = tuple(Map(**described) for described in found["maps"])
        with contextlib.suppress(OSError):
            os.utime(place)
        return Compiled(maps, programs, found["licence"], found["kernel_version"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _keep(place: Path, made: Compiled) -> None:
    """Put it into the cache, if that is possible, and forget what has not been used for the longest time."""
    content = json.dumps(
        {
            "maps": [{name: getattr(one, name) for name in Map.__slots__} for one in made.maps],
            "programs": {name: base64.b64encode(code).decode() for name, code in made.programs.items()},
            "licence": made.licence,
            "kernel_version": made.kernel_version,
        }
    ).encode()
    with contextlib.suppress(OSError):
        cache.write(place, _digest(place, content).encode() + b"\n" + content)
        files = sorted(place.parent.glob("*.json"), key=lambda file: file.stat().st_mtime)
        for file in files[:-_KEPT]:
            file.unlink()


def _digest(place: Path, content: bytes) -> str:
    """Of the content under that name, which says what it was made from."""
    return hashlib.sha256(place.name.encode() + b"\n" + content).hexdigest()


@contextlib.contextmanager
def quiet() -> Iterator[Any]:
    """Keep what clang and libbpf write to standard error; yields a function that gives the last lines of it."""
    with open(os.memfd_create("stderr"), "r+b") as kept:
        saved = os.dup(2)
        os.dup2(kept.fileno(), 2)
        try:
            yield lambda: _tail(kept.fileno())
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def _tail(fd: int) -> str:
    """The last lines of a file, short enough for a message."""
    text = os.pread(fd, 1 << 20, max(os.fstat(fd).st_size - (1 << 20), 0)).decode(errors="replace")
    return "; ".join(line.strip() for line in text.strip().splitlines()[-12:])[-600:]
