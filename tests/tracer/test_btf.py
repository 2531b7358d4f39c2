"""The BTF reader: a blob made by hand, what may be wrong with one, and the running kernel's."""

import struct
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer import btf
from tracer.errors import UnsupportedError

INT, PTR, STRUCT, UNION, TYPEDEF, CONST, FUNC_PROTO = 1, 2, 4, 5, 8, 10, 13


THING = 7
"""Type id of `struct thing` in `sample()`."""


class Blob:
    """Builds BTF, type by type; ids count from `first`."""

    def __init__(self, first: int = 1, base_strings: int = 0) -> None:
        # A module's strings begin where those of vmlinux end, with no empty string of their own.
        self.strings = b"\0"
        self.types = b""
        self.next = first
        self.base_strings = base_strings

    def name(self, text: str) -> int:
        if not text:
            return 0
        at = len(self.strings) + self.base_strings
        self.strings += text.encode() + b"\0"
        return at

    def add(self, kind: int, name: str, value: int, tail: bytes = b"", vlen: int = 0, flag: int = 0) -> int:
        self.types += struct.pack("<III", self.name(name), flag << 31 | kind << 24 | vlen, value) + tail
        self.next += 1
        return self.next - 1

    def integer(self, name: str, size: int) -> int:
        return self.add(INT, name, size, struct.pack("<I", size * 8))

    def struct(self, name: str, size: int, *members: tuple[str, int, int], kind: int = STRUCT, flag: int = 0) -> int:
        tail = b"".join(struct.pack("<III", self.name(m), ident, bits) for m, ident, bits in members)
        return self.add(kind, name, size, tail, len(members), flag)

    def bytes(self) -> bytes:
        header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(self.types), len(self.types), len(self.strings))
        return header + self.types + self.strings


def sample() -> Blob:
    blob = Blob()
    number = blob.integer("u64", 8)
    inner = blob.struct("", 16, ("a", number, 0), ("deep", number, 64))
    both = blob.struct("", 16, ("b", number, 0), ("", inner, 0), kind=UNION)
    event = blob.struct("io_event", 16, ("data", number, 0), ("obj", number, 64))
    alias = blob.add(TYPEDEF, "event_t", blob.add(CONST, "", event))
    assert blob.next == THING
    blob.struct("thing", 64, ("first", number, 0), ("", both, 64), ("res", alias, 192), ("tail", number, 320))
    # kind_flag: the upper byte is the width of a bit field, 0 for a member that is none.
    blob.struct("bits", 8, ("whole", number, 32), ("narrow", number, 3 << 24 | 8), flag=1)
    kiocb = blob.struct("kiocb", 8, ("ki_filp", number, 0))
    private = blob.add(PTR, "", 0)
    pointer = blob.add(PTR, "", kiocb)
    any_pointer = blob.add(PTR, "", blob.add(CONST, "", 0))
    parameters = b"".join(struct.pack("<II", 0, ident) for ident in (private, pointer, number, any_pointer))
    proto = blob.add(FUNC_PROTO, "", 0, parameters, 4)
    blob.add(TYPEDEF, "btf_trace_begin", blob.add(PTR, "", proto))
    return blob


def test_offsets_through_anonymous_members() -> None:
    blob = btf.Btf(sample().bytes(), "sample")
    wanted = {
        "thing.first": 0,
        "thing.b": 8,
        "thing.a": 8,
        "thing.deep": 16,
        "thing.res": 24,
        "thing.res.obj": 32,
        "thing.tail": 40,
        "bits.whole": 4,
    }
    assert btf.offsets(blob, wanted) == wanted


def test_what_is_not_there() -> None:
    blob = btf.Btf(sample().bytes(), "sample")
    for path in ("thing.nope", "nope.first", "thing.first.inner", "thin.first", "u64.first", "io_event.a"):
        assert blob.offset(path) is None
    with pytest.raises(UnsupportedError, match=r"no thing\.nope, nope\.first"):
        btf.offsets(blob, ["thing.nope", "thing.first", "nope.first"])
    with pytest.raises(UnsupportedError, match=r"bits\.narrow is a bit field"):
        blob.offset("bits.narrow")


def test_tracepoint_arguments() -> None:
    blob = btf.Btf(sample().bytes(), "sample")
    assert blob.tracepoint("begin") == ("kiocb", "", "")  # the last is const void *
    assert blob.tracepoint("end") is None


def test_module_on_top_of_vmlinux() -> None:
    below = sample()
    base = btf.Btf(below.bytes(), "vmlinux")
    above = Blob(below.next, len(below.strings))
    above.struct("xfs_inode", 128, ("i_number", 1, 0), ("i_vnode", THING, 512))
    module = btf.Btf(above.bytes(), "xfs", base)
    assert module.offset("xfs_inode.i_vnode") == 64
    assert module.offset("xfs_inode.i_vnode.tail") == 64 + 40
    assert module.offset("thing.tail") == 40
    assert base.offset("xfs_inode.i_vnode") is None
    assert module.tracepoint("begin") == ("kiocb", "", "")
    assert module.mentions("xfs_inode")
    assert module.mentions("thing")
    assert not base.mentions("xfs_inode")
    assert not module.mentions("hing")


def test_nested_without_end() -> None:
    blob = Blob()
    blob.add(TYPEDEF, "loop", 1)
    blob.struct("a", 8, ("x", 1, 0))
    blob.struct("b", 8, ("", 3, 0))
    read = btf.Btf(blob.bytes(), "endless")
    with pytest.raises(UnsupportedError, match="nest without end"):
        read.offset("a.x.y")
    with pytest.raises(UnsupportedError, match="nest without end"):
        read.offset("b.y")


@pytest.mark.parametrize("data", [b"", b"\x9f\xeb", b"\xeb\x9f" + bytes(30), bytes(100)])
def test_not_btf(data: bytes) -> None:
    with pytest.raises(UnsupportedError, match="CONFIG_DEBUG_INFO_BTF"):
        btf.Btf(data, "junk")


def test_truncated_anywhere() -> None:
    whole = sample().bytes()
    for length in range(len(whole)):
        with pytest.raises(UnsupportedError):
            btf.Btf(whole[:length], "cut")


@given(st.lists(st.tuples(st.integers(0, len(sample().bytes()) - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_corrupt_blobs_never_crash(changes: list[tuple[int, int]]) -> None:
    data = bytearray(sample().bytes())
    for at, value in changes:
        data[at] = value
    try:
        blob = btf.Btf(bytes(data), "corrupt")
        for path in ("thing.deep", "thing.res.obj", "bits.narrow"):
            offset = blob.offset(path)
            assert offset is None or 0 <= offset < 1 << 32
        blob.tracepoint("begin")
    except UnsupportedError:
        pass


def test_no_btf(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"no BTF at .*CONFIG_DEBUG_INFO_BTF"):
        btf.kernel("xfs", directory=tmp_path)


def test_running_kernel() -> None:
    if not (btf.BTF_DIR / "vmlinux").exists():
        pytest.skip("this kernel has no BTF")
    start = time.perf_counter()
    blob = btf.kernel("xfs")
    found = btf.offsets(blob, ["file.f_inode", "inode.i_ino", "inode.i_size", "kiocb.ki_pos", "aio_kiocb.ki_res.data"])
    assert time.perf_counter() - start < 5, "0.12 s on the CI host"
    assert len(set(found.values())) >= 4
    assert found["aio_kiocb.ki_res.data"] > found["kiocb.ki_pos"]
    assert blob.tracepoint("sys_enter") == ("pt_regs", "")
    for positions in blob._by_name.values():  # every one that this kernel has, whatever its arguments are
        name = blob._string(btf._TYPE.unpack_from(blob._data, positions[0])[0])
        if name.startswith("btf_trace_"):
            assert blob.tracepoint(name.removeprefix("btf_trace_")) is not None
