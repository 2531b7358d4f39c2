"""What `vm run` makes of the inner command before it boots anything."""

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from tracer.commands import main
from tracer.errors import UsageError
from tracer.vm import inner

SOURCE = Path(__file__).resolve().parents[3]


def shared(*arguments: str) -> list[str]:
    return [str(share.path) for share in inner.parse(main, arguments).shares]


def test_a_command_without_outputs_shares_nothing() -> None:
    assert shared("verify", "--seed", "1", "--json", "-") == []
    assert shared("verify", "--json", "/dev/stdout") == []


def test_the_directory_of_a_json_file_is_shared(tmp_path: Path) -> None:
    assert shared("verify", "--json", str(tmp_path / "v.json")) == [str(tmp_path)]


def test_an_output_directory_is_shared_itself_where_it_exists(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert shared("verify", "-o", str(out)) == [str(out)]


def test_of_one_that_does_not_exist_the_nearest_above(tmp_path: Path) -> None:
    assert shared("verify", "-o", str(tmp_path / "a" / "b")) == [str(tmp_path)]


def test_a_directory_inside_another_is_not_shared_twice(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert shared("verify", "-o", str(out), "--json", str(tmp_path / "v.json")) == [str(tmp_path)]
    (tmp_path / "out2").mkdir()
    assert shared("verify", "-o", str(out), "--json", str(tmp_path / "out2" / "j")) == [
        str(out),
        str(tmp_path / "out2"),
    ]


def test_relative_names_and_links_lead_where_they_lead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    assert shared("verify", "-o", "link") == [str(tmp_path / "real")]


@pytest.mark.parametrize("name", ["a b", "a,b", "a=b", "ü\udcff", '"', "a\nb", "$(x)", "-x"])
def test_hostile_names_are_plain_names(tmp_path: Path, name: str) -> None:
    directory = tmp_path / name
    directory.mkdir()
    assert shared("verify", "-o", str(directory)) == [str(directory)]


@pytest.mark.parametrize("path", ["/x.json", "/etc/x.json", "/usr/x.json", "/tmp/x.json", "/proc/x/y"])
def test_places_that_no_guest_may_write_to(path: str) -> None:
    with pytest.raises(UsageError, match="not shared"):
        shared("verify", "--json", path)


def test_a_wrong_option_is_refused_before_the_boot() -> None:
    with pytest.raises(click.UsageError, match="No such option"):
        shared("verify", "--nonsense")
    with pytest.raises(click.UsageError, match="No such command"):
        shared("nonsense")


def test_what_makes_no_sense_inside() -> None:
    with pytest.raises(UsageError, match="no VM inside"):
        shared("vm", "kernels")
    with pytest.raises(UsageError, match="lies on the host"):
        shared("verify", "--dir", "/srv")


def eofrace(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.path.insert(0, {str(SOURCE)!r}); from tracer.commands import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
        timeout=60,
    )


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["run", "--", "verify", "--nonsense"], 2, "No such option '--nonsense'"),
        (["run"], 2, "Missing argument"),
        (["run", "--memory", "lots", "--", "doctor"], 2, "no amount of memory"),
        (["run", "--memory", "10M", "--", "doctor"], 2, "too little"),
        (["run", "--kernel", "nonsense", "--", "doctor"], 2, "no kernel nonsense"),
        (["run", "--kernel", "/etc/passwd", "--", "doctor"], 2, "not an x86 bzImage"),
        (["run", "--kernel", "/no/such.deb", "--", "doctor"], 2, "No such file"),
        (["run", "--kernel", "racy", "--", "doctor"], 2, "not built yet: eofrace vm build racy"),
        (["build", "debian"], 2, "Invalid value"),
        (["nonsense"], 2, "No such command"),
    ],
)
def test_mistakes_cost_one_line_and_no_boot(tmp_path: Path, words: list[str], status: int, said: str) -> None:
    done = eofrace("vm", *words, XDG_CACHE_HOME=str(tmp_path))
    assert done.returncode == status
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_help_of_the_inner_command_needs_no_boot() -> None:
    done = eofrace("vm", "run", "--", "verify", "--help")
    assert done.returncode == 0
    assert "Run a guest workload" in done.stdout


def test_the_list_of_kernels_on_an_empty_cache(tmp_path: Path) -> None:
    done = eofrace("vm", "kernels", "--json", "-", XDG_CACHE_HOME=str(tmp_path))
    assert done.returncode == 0
    data = json.loads(done.stdout)
    assert data["schema"] == "eofrace.vm.kernels/1"
    assert [(line["name"], line["cached"]) for line in data["kernels"]] == [
        ("debian", False),
        ("racy", False),
        ("stock", False),
    ]
    assert data["kvm"]["works"] in (None, False)


def test_a_cache_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = eofrace("vm", "kernels", XDG_CACHE_HOME=str(tmp_path / "file"))
    assert done.returncode == 4
    assert "XDG_CACHE_HOME" in done.stderr
