"""What the strategy `auto` takes for safe, and what it refuses to read."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

import blockstack
from blockstack import filesystem
from blockstack.journal import Journal, Kind, RequestFlag
from blockstack.probe import MAX_BYTES, known_safe, read_known_safe
from blockstack.strategies import Auto
from tests.blockstack.conftest import How
from tests.blockstack.support import run


def content(results: list[Any], **changes: Any) -> dict[str, Any]:
    kernel = {"kernel": os.uname().release, "kernel_version": os.uname().version}
    return {"schema": "eofrace.probe/1", **kernel, "results": results, **changes}


def results(
    plain: str | None, zero_range: str | None, fs: str = "xfs", keep_size: str = "safe"
) -> list[dict[str, str]]:
    said = {"plain": plain, "zero-range": zero_range, "keep-size": keep_size}
    return [{"fs": fs, "mode": mode, "verdict": verdict} for mode, verdict in said.items() if verdict is not None]


@pytest.mark.parametrize("plain", ["safe", "racy", "unsupported", "inconclusive", None])
@pytest.mark.parametrize("zero_range", ["safe", "racy", "unsupported", "inconclusive", None])
def test_all_modes_have_to_be_known(plain: str | None, zero_range: str | None) -> None:
    safe = {plain, zero_range} <= {"safe", "unsupported"} and "safe" in (plain, zero_range)
    assert known_safe(content(results(plain, zero_range))) == ({"xfs"} if safe else set())


def test_what_keeps_the_size_does_not_matter() -> None:
    assert known_safe(content(results("safe", "safe", keep_size="inconclusive"))) == {"xfs"}


def test_each_file_system_by_itself_and_the_worst_result_counts() -> None:
    told = [*results("safe", "safe"), *results("racy", "safe", "ext4"), *results("safe", "safe", "btrfs")]
    assert known_safe(content(told)) == {"xfs", "btrfs"}
    assert known_safe(content([*told, {"fs": "xfs", "mode": "plain", "verdict": "racy"}])) == {"btrfs"}


@pytest.mark.parametrize(
    "change", [{"kernel": "5.4.0"}, {"kernel_version": "#1 SMP of somebody else"}, {"kernel": os.uname().release + "+"}]
)
def test_another_kernel_says_nothing_of_this_one(change: dict[str, str]) -> None:
    assert known_safe(content(results("safe", "safe"), **change)) == set()


def test_the_version_may_be_missing() -> None:
    told = content(results("safe", "safe"))
    del told["kernel_version"]
    assert known_safe(told) == {"xfs"}


WRONG: list[Any] = [
    [],
    None,
    "safe",
    {},
    content(results("safe", "safe"), schema="eofrace.probe/2"),
    content(results("safe", "safe"), schema=None),
    content(results("safe", "safe"), kernel=None),
    content(results("safe", "safe"), kernel=6),
    content(results("safe", "safe"), kernel_version=[]),
    content(results("SAFE", "safe")),
    content([{"fs": "xfs", "mode": "plain", "verdict": ["safe"]}]),
    content([{"fs": "xfs", "mode": ["plain"], "verdict": "safe"}]),
    content([{"fs": "xfs", "mode": "other", "verdict": "safe"}]),
    content([{"fs": 5, "mode": "plain", "verdict": "safe"}]),
    content([{"fs": "", "mode": "plain", "verdict": "safe"}]),
    content([{"fs": "x" * 65, "mode": "plain", "verdict": "safe"}]),
    content([{"mode": "plain", "verdict": "safe"}]),
    content(["safe"]),
    content(results("safe", "safe") * 1000),
    {**content([]), "results": {"xfs": "safe"}},
]


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_content_is_an_error_and_not_safe(wrong: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"."):
        known_safe(wrong)
    (tmp_path / "probe.json").write_text(json.dumps(wrong))
    with pytest.raises(ValueError, match=r"probe\.json: "):
        read_known_safe(tmp_path / "probe.json")


@pytest.mark.parametrize(
    "text", [b"", b"{", b"\xff\xfe\x00", b"[" * 200_000, b'"' + b"x" * MAX_BYTES + b'"'], ids=range(5)
)
def test_what_is_no_json_or_too_long(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "probe.json").write_bytes(text)
    with pytest.raises(ValueError, match=r"probe\.json: "):
        read_known_safe(tmp_path / "probe.json")


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ValueError, match="not a regular file"):
        read_known_safe(tmp_path / "fifo")
    with pytest.raises(OSError, match="missing"):
        read_known_safe(tmp_path / "missing")


@pytest.mark.usefixtures("zero_range")
@pytest.mark.parametrize("fallocate", ["kernel", "legacy-xfs"])
@pytest.mark.parametrize("verdict", ["safe", "racy"])
def test_an_image_goes_by_the_file_system_that_it_lies_on(
    tmp_path: Path, how: How, verdict: str, fallocate: str
) -> None:
    """What is known of the real XFS says nothing about the emulated one."""
    path, told = tmp_path / "image", tmp_path / "probe.json"
    with told.open("w") as file:
        fs = filesystem.name(file.fileno())
        json.dump(content([*results(verdict, "safe", fs), *results("safe", "safe", "xfs-of-somebody")]), file)

    async def main() -> list[int]:
        journal = Journal()
        await blockstack.create(path, 1 << 30)
        async with blockstack.open(
            path, **how, strategy="auto", probe=told, fallocate=fallocate, journal=journal
        ) as disk:
            await disk.pwritev(0, [b"a" * 4096])
        return [entry.flags for entry in journal.entries if entry.kind is Kind.REQUEST]

    post_eof = [flags for flags in run(main()) if flags & RequestFlag.POST_EOF]
    serialises = fallocate == "legacy-xfs" or verdict == "racy"
    assert [bool(flags & RequestFlag.SERIALISING) for flags in post_eof] == [serialises]


def test_a_probe_is_for_auto_alone(tmp_path: Path, how: How) -> None:
    async def main(strategy: str | Auto) -> None:
        async with blockstack.open(tmp_path / "image", **how, strategy=strategy, probe=tmp_path / "probe.json"):
            pass

    with pytest.raises(ValueError, match="auto"):
        run(main("serialise"))
    with pytest.raises(OSError, match="probe"):
        run(main("auto"))
