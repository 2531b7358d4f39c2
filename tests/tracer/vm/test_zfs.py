"""OpenZFS for the VM: what is cached and what is refused; and, where it is built already, the race of today."""

import json
from pathlib import Path

import pytest

from tracer.errors import UnsupportedError
from tracer.vm import kernels, machine, zfs
from tracer.vm.image import Kernel

RELEASE = "6.1.0-0-amd64"


def _kernel(modules: Path | None) -> Kernel:
    return Kernel("debian", Path("/nonexistent/vmlinuz"), RELEASE, modules)


def _silent(text: str) -> None:
    pass


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A built ZFS in a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    place = tmp_path / "eofrace" / "zfs" / f"{RELEASE}-2.3.2-2"
    place.mkdir(parents=True)
    (place / "zfs.json").write_text(json.dumps({"release": RELEASE, "version": "2.3.2-2"}))
    return place


def test_what_is_built_is_taken_from_the_cache(entry: Path) -> None:
    found = zfs.prepare(_kernel(entry), _silent)
    assert found.version == "2.3.2-2"
    assert found.modules == entry.resolve() / "modules"
    assert found.environment["PATH"].startswith(f"{found.tools}/sbin:")
    assert found.environment["LD_LIBRARY_PATH"].startswith(f"{found.tools}/lib/")


def test_an_entry_of_another_kernel_or_half_an_entry_is_none(entry: Path) -> None:
    (entry / "zfs.json").write_text('{"release": "6.1.0-0-amd64-other", "version": "1"}')
    with pytest.raises(UnsupportedError, match="takes no modules"):
        zfs.prepare(_kernel(None), _silent)
    (entry / "zfs.json").unlink()
    with pytest.raises(UnsupportedError, match="takes no modules"):
        zfs.prepare(_kernel(None), _silent)


@pytest.mark.vm
@pytest.mark.slow
def test_the_probe_finds_the_race_of_openzfs() -> None:
    kernel = kernels.resolve("debian")
    if zfs.cached(kernel.release) is None:
        pytest.skip("ZFS is not built for this kernel: eofrace vm run --with zfs -- probe --fs zfs")
    modes = [word for mode in ("plain", "zero-range", "punch-hole") for word in ("--mode", mode)]
    with machine.boot(kernel) as guest:
        environment = zfs.provide(guest, _silent)
        words = ["probe", "--fs", "zfs", "--tries", "2", "--json", "-", *modes]
        done = guest.eofrace(words, timeout=600, environment=environment)
        assert not guest.run(["zpool", "list", "-H"], timeout=60, environment=environment).stdout
    results = {one["mode"]: one for one in json.loads(done.stdout)["results"]}
    assert done.status == 1, done.stderr.decode()
    assert results["plain"]["verdict"] == "racy"
    assert results["plain"]["size_found"] == 65536
    assert results["punch-hole"]["verdict"] == "racy"
    assert results["punch-hole"]["lost_bytes"] > 0
    assert results["zero-range"]["verdict"] == "safe"
