"""Offsets of structure members in the running kernel, from its own BTF.

BTF (Documentation/bpf/btf.rst) describes every type of the kernel that runs: /sys/kernel/btf/vmlinux since
341dfcf8d78e (v5.4), and /sys/kernel/btf/<module> since 36e68442d1af (v5.11). A module's blob is *split*: its type ids
and string offsets continue where vmlinux's end.

Only what was asked for is decoded: one pass finds where each type begins, the names wanted are looked for in
the string section. The blob is not trusted: every offset in it is checked, and a blob that breaks the format
raises `UnsupportedError`, as a missing one does.
"""

import struct
from collections.abc import Iterable
from pathlib import Path

from tracer.errors import UnsupportedError

BTF_DIR = Path("/sys/kernel/btf")

_MAGIC = 0xEB9F
_HEADER = struct.Struct("<HBBIIIII")  # magic, version, flags, hdr_len, type_off, type_len, str_off, str_len
_TYPE = struct.Struct("<III")  # name_off, info, size or type
_MEMBER = struct.Struct("<III")  # name_off, type, offset in bits

_PTR, _STRUCT, _UNION, _TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _PROTO, _TAG = 2, 4, 5, 8, 9, 10, 11, 13, 18
_MODIFIERS = (_TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _TAG)

# Bytes behind the 12 of btf_type: (fixed, per vlen), by kind.
_TAIL = {
    1: (4, 0),  # int
    2: (0, 0),  # ptr
    3: (12, 0),  # array
    4: (0, 12),  # struct
    5: (0, 12),  # union
    6: (0, 8),  # enum
    7: (0, 0),  # fwd
    8: (0, 0),  # typedef
    9: (0, 0),  # volatile
    10: (0, 0),  # const
    11: (0, 0),  # restrict
    12: (0, 0),  # func
    13: (0, 8),  # func_proto
    14: (4, 0),  # var
    15: (0, 12),  # datasec
    16: (0, 0),  # float, v5.13
    17: (4, 0),  # decl_tag, v5.16
    18: (0, 0),  # type_tag, v5.17
    19: (0, 12),  # enum64, v6.0
}
_DEPTH = 32
"""How deep members and modifiers may nest: the kernel's own limit (MAX_RESOLVE_DEPTH)."""


class _BadError(Exception):
    """The blob breaks the format."""


class _VoidError(_BadError):
    """A type is void, perhaps with qualifiers."""


class Btf:
    """One blob, or a module's on top of `base`.

    `name` is for messages. Raises `UnsupportedError` if `data` is not little-endian BTF.
    """

    def __init__(self, data: bytes, name: str, base: "Btf | None" = None) -> None:
        self._data = data
        self._name = name
        self._base = base
        self._first: int = base._first + len(base._starts) if base else 1
        self._string_base: int = base._string_end if base else 0
        self._string_end: int = self._string_base
        self._strings = (0, 0)
        # Position of type i at _starts[i - _first]; positions of the types with a name, by its offset.
        self._starts: list[int] = []
        self._by_name: dict[int, list[int]] = {}
        try:
            self._index()
        except (_BadError, struct.error) as error:
            raise UnsupportedError(f"{name} is not BTF that eofrace can read ({error}): {_REMEDY}") from error

    def offset(self, path: str) -> int | None:
        """Offset in bytes of a member, `struct.member` or `struct.member.member`; None if there is none.

        Anonymous structures and unions are looked through. Raises `UnsupportedError` for a bit field
        and for a corrupt blob.
        """
        first, *members = path.split(".")
        try:
            for start in self._named(first, (_STRUCT, _UNION)):
                bits = self._walk(start, members)
                if bits is not None:
                    if bits % 8:
                        raise UnsupportedError(f"{path} is a bit field in {self._name}: report this kernel")
                    return bits // 8
        except (_BadError, struct.error, RecursionError) as error:
            raise UnsupportedError(f"{self._name} is corrupt at {path} ({error}): {_REMEDY}") from error
        return self._base.offset(path) if self._base else None

    def tracepoint(self, name: str) -> tuple[str, ...] | None:
        """Arguments of a raw tracepoint: the structure that each points to, "" for anything else.

        None if there is no such tracepoint. TRACE_EVENT makes a typedef btf_trace_<name> of a function whose
        first argument is private (e8c423fb31fa, v5.5).
        """
        try:
            for start in self._named(f"btf_trace_{name}", (_TYPEDEF,)):
                pointer, at = self._resolve(self._type(start)[3])
                proto, at = pointer._resolve(pointer._type(at)[3])
                kind, vlen, at, _ = proto._type(at)
                if kind != _PROTO:
                    raise _BadError(f"btf_trace_{name} is no function")
                types = [struct.unpack_from("<II", proto._data, at + 8 * i)[1] for i in range(1, vlen)]
                return tuple(self._pointee(ident) for ident in types)
        except (_BadError, struct.error) as error:
            raise UnsupportedError(f"{self._name} is corrupt at {name} ({error}): {_REMEDY}") from error
        return self._base.tracepoint(name) if self._base else None

    def tracepoint_type(self, name: str) -> int | None:
        """Number of that typedef in the kernel's own BTF: a program attached by it knows what its arguments are."""
        if self._base:
            return self._base.tracepoint_type(name)
        try:
            positions = self._named(f"btf_trace_{name}", (_TYPEDEF,))
        except (_BadError, struct.error) as error:
            raise UnsupportedError(f"{self._name} is corrupt at {name} ({error}): {_REMEDY}") from error
        return self._first + self._starts.index(positions[0]) if positions else None

    def mentions(self, name: str) -> bool:
        """Whether any type, member or function of the kernel has that name."""
        start, end = self._strings
        found = self._data.find(f"\0{name}\0".encode(), start, end) >= 0
        return found or (self._base is not None and self._base.mentions(name))

    def _index(self) -> None:
        data = self._data
        magic, version, _, header, type_off, type_len, str_off, str_len = _HEADER.unpack_from(data)
        if magic != _MAGIC or version != 1:
            raise _BadError("wrong magic number or version")
        types, end = header + type_off, header + type_off + type_len
        self._strings = (header + str_off, header + str_off + str_len)
        if header < _HEADER.size or end > len(data) or self._strings[1] > len(data):
            raise _BadError("truncated")
        self._string_end = self._string_base + str_len
        # The hot loop: 150,000 types in a vmlinux.
        starts, by_name, unpack, tail = self._starts, self._by_name, _TYPE.unpack_from, _TAIL
        position = types
        while position < end:
            name, info, _ = unpack(data, position)
            kind = info >> 24 & 0x1F
            if kind not in tail:
                raise _BadError(f"unknown kind of type {kind}")
            starts.append(position)
            if kind in (_STRUCT, _UNION, _TYPEDEF) and name:
                by_name.setdefault(name, []).append(position)
            fixed, each = tail[kind]
            position += 12 + fixed + each * (info & 0xFFFF)
        if position != end:
            raise _BadError("types run beyond their section")

    def _named(self, name: str, kinds: tuple[int, ...]) -> list[int]:
        """Positions of the types of that name. A name may be in the strings of the base (it is shared)."""
        found = []
        wanted = f"\0{name}\0".encode()
        blob: Btf | None = self
        while blob is not None:
            start, end = blob._strings
            at = blob._data.find(wanted, start, end)
            if at >= 0:
                found += self._by_name.get(at + 1 - start + blob._string_base, [])
            blob = blob._base
        return [position for position in found if self._type(position)[0] in kinds]

    def _type(self, position: int) -> tuple[int, int, int, int]:
        """Kind, vlen, where its members begin, and size or type."""
        _, info, value = _TYPE.unpack_from(self._data, position)
        return info >> 24 & 0x1F, info & 0xFFFF, position + 12, value

    def _locate(self, ident: int) -> int:
        """Position of a type of this blob (not of its base) by id."""
        index = ident - self._first
        if not 0 <= index < len(self._starts):
            raise _BadError(f"no type {ident}")
        return self._starts[index]

    def _resolve(self, ident: int) -> tuple["Btf", int]:
        """The blob and position of a type, without typedefs and qualifiers."""
        for _ in range(_DEPTH):
            blob: Btf = self
            while ident < blob._first and blob._base:
                blob = blob._base
            if not ident:
                raise _VoidError("no type where one is wanted")
            position = blob._locate(ident)
            kind, _, _, value = blob._type(position)
            if kind not in _MODIFIERS:
                return blob, position
            ident = value
        raise _BadError("types nest without end")

    def _walk(self, position: int, members: list[str], depth: int = 0) -> int | None:
        """Offset in bits of members[0].members[1]... in the structure there."""
        if depth > _DEPTH:
            raise _BadError("structures nest without end")
        if not members:
            return 0
        _, vlen, start, _ = self._type(position)
        with_bits = _TYPE.unpack_from(self._data, position)[1] >> 31
        for i in range(vlen):
            name_off, ident, offset = _MEMBER.unpack_from(self._data, start + 12 * i)
            if with_bits:
                if offset >> 24 and offset >> 24 != 8:
                    offset |= 1  # a bit field: never a whole byte
                offset &= 0xFFFFFF
            name = self._string(name_off)
            if name == members[0] and len(members) == 1:
                return int(offset)
            if name and name != members[0]:
                continue
            blob, inner = self._resolve(ident)
            if blob._type(inner)[0] not in (_STRUCT, _UNION):
                continue
            found = blob._walk(inner, members[1:] if name else members, depth + 1)
            if found is not None:
                return int(offset) + found
        return None

    def _pointee(self, ident: int) -> str:
        if not ident:
            return ""
        blob, position = self._resolve(ident)
        kind, _, _, target = blob._type(position)
        if kind != _PTR or not target:
            return ""
        try:
            blob, position = blob._resolve(target)
        except _VoidError:  # const void *
            return ""
        if blob._type(position)[0] not in (_STRUCT, _UNION):
            return ""
        return blob._string(_TYPE.unpack_from(blob._data, position)[0])

    def _string(self, offset: int) -> str:
        if offset < self._string_base and self._base:
            return self._base._string(offset)
        start, end = self._strings
        at = start + offset - self._string_base
        stop = self._data.find(b"\0", at, end) if start <= at < end else -1
        if stop < 0:
            raise _BadError(f"no string at {offset}")
        return self._data[at:stop].decode("ascii", "replace")


_REMEDY = "boot a kernel with CONFIG_DEBUG_INFO_BTF"


def kernel(*modules: str, directory: Path = BTF_DIR) -> Btf:
    """The running kernel's BTF, with that of the first of `modules` that is loaded as a module on top.

    Raises `UnsupportedError` if there is none.
    """
    try:
        base = Btf((directory / "vmlinux").read_bytes(), str(directory / "vmlinux"))
    except OSError as error:
        raise UnsupportedError(f"no BTF at {directory}/vmlinux ({error.strerror}): {_REMEDY}") from error
    for module in modules:
        path = directory / module
        if path.exists():
            return Btf(path.read_bytes(), str(path), base)
    return base


def module(name: str, base: Btf, directory: Path = BTF_DIR) -> Btf:
    """BTF of a module on top of the kernel's, which `base` is or has; `base` where no such module is loaded."""
    path = directory / name
    return Btf(path.read_bytes(), str(path), base._base or base) if path.exists() else base


def offsets(blob: Btf, paths: Iterable[str]) -> dict[str, int]:
    """Offsets in bytes of all `paths`; raises `UnsupportedError` naming those that this kernel lacks."""
    found = {path: blob.offset(path) for path in paths}
    missing = [path for path, offset in found.items() if offset is None]
    if missing:
        raise UnsupportedError(
            f"this kernel's BTF has no {', '.join(missing)}: eofrace needs Linux 5.14 or later, with BTF"
        )
    return {path: offset for path, offset in found.items() if offset is not None}
