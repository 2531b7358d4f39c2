"""./run: what it decides, tried in a copy of the checkout with stand-ins for the Python that it would install."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent.parent

PYTHON = """#!/bin/sh
# Stands in for a distribution's Python: writes down what is asked of it, and makes a .venv like itself.
echo "$*" >>"$RECORD"
case $* in
*"-m venv --system-site-packages --without-pip "*) venv=$5; touch "$RECORD.nopip" ;;
*"-m venv "*) [ -z "${NO_ENSUREPIP-}" ] || exit 1; venv=$4 ;;
*"-m pip --version"*) exit "${NO_PIP:-0}" ;;
*"-m pip install"*) [ -z "${KILL_IN_PIP-}" ] || kill -9 $PPID; exit "${PIP_FAILS:-0}" ;;
*) exit 0 ;;
esac
mkdir -p "$venv/bin" && cp "$0" "$venv/bin/python"
printf '#!/bin/sh\\necho "eofrace: $*"\\n' >"$venv/bin/eofrace" && chmod +x "$venv/bin/eofrace"
"""


class Checkout:
    """A checkout with nothing but what ./run looks at, and a PATH that leads to stand-ins first."""

    def __init__(self, base: Path) -> None:
        self.path = base / "a checkout"
        self.path.mkdir()
        text = (HERE / "run").read_text()
        # As an ordinary user on a system without packages of its own: no test installs anything.
        text = text.replace('$(id -u)" -eq 0', '$(id -u)" -eq -1').replace("/usr/bin/python3", "/no/python3")
        (self.path / "run").write_text(text)
        (self.path / "run").chmod(0o755)
        shutil.copy(HERE / "pyproject.toml", self.path)
        self.bin = base / "bin"
        self.bin.mkdir()
        (self.bin / "python3").write_text(PYTHON)
        (self.bin / "python3").chmod(0o755)
        self.record = base / "record"

    def run(self, *words: str, cwd: Path | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
        """Call it; `record` starts empty."""
        self.record.write_text("")
        env = {**os.environ, "PATH": f"{self.bin}:{os.environ['PATH']}", "RECORD": str(self.record), **environ}
        return subprocess.run(
            [self.path / "run", *words], capture_output=True, text=True, check=False, env=env, cwd=cwd
        )

    @property
    def installed(self) -> bool:
        return "-m pip install" in self.record.read_text()

    @property
    def made(self) -> bool:
        return "-m venv" in self.record.read_text()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_it_is_a_posix_shell_script() -> None:
    assert os.access(HERE / "run", os.X_OK)
    for shell in ("sh", "dash", "bash"):
        if shutil.which(shell):
            subprocess.run([shell, "-n", HERE / "run"], check=True)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="no shellcheck: apt install shellcheck")
def test_shellcheck() -> None:
    subprocess.run(["shellcheck", HERE / "run", HERE / ".ci" / "run"], check=True)


def test_the_second_start_installs_nothing(checkout: Checkout, tmp_path: Path) -> None:
    done = checkout.run("verify", "--seed", "7", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "eofrace: verify --seed 7\n"), done.stderr
    assert checkout.made
    assert checkout.installed
    done = checkout.run("doctor")
    assert (done.stdout, done.stderr) == ("eofrace: doctor\n", "")
    assert checkout.record.read_text() == ""
    link = tmp_path / "link"
    link.symlink_to(checkout.path / "run")
    done = subprocess.run([link, "x"], capture_output=True, text=True, check=True)
    assert done.stdout == "eofrace: x\n"


def test_a_changed_pyproject_is_installed_into_the_same_venv(checkout: Checkout) -> None:
    checkout.run()
    with (checkout.path / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    checkout.run()
    assert (checkout.made, checkout.installed) == (False, True)
    checkout.run()
    assert not checkout.installed


def test_a_checkout_that_was_moved_gets_a_new_venv(checkout: Checkout) -> None:
    checkout.run()
    checkout.path = checkout.path.rename(checkout.path.with_name("elsewhere"))
    done = checkout.run("x")
    assert done.stdout == "eofrace: x\n"
    assert checkout.made


def test_an_interrupted_installation_is_made_again(checkout: Checkout) -> None:
    checkout.run(KILL_IN_PIP="1")
    assert not (checkout.path / ".venv/.eofrace-stamp").exists()
    done = checkout.run("x")
    assert done.stdout == "eofrace: x\n"
    assert checkout.made


def test_a_failure_of_pip_is_told(checkout: Checkout) -> None:
    done = checkout.run("x", PIP_FAILS="1")
    assert (done.returncode, done.stdout) == (4, "")
    assert "network" in done.stderr
    assert checkout.run("x").returncode == 0


def test_without_ensurepip_another_pip_serves(checkout: Checkout) -> None:
    done = checkout.run("x", NO_ENSUREPIP="1")
    assert done.stdout == "eofrace: x\n"
    assert Path(f"{checkout.record}.nopip").exists()


def test_without_any_pip_it_says_what_to_install(checkout: Checkout) -> None:
    # The other Pythons of this host must not serve, either.
    for minor in range(11, 15):
        shutil.copy(checkout.bin / "python3", checkout.bin / f"python3.{minor}")
    done = checkout.run("x", NO_ENSUREPIP="1", NO_PIP="1")
    assert (done.returncode, done.stdout) == (4, "")
    assert "python3-venv" in done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_checkout_is_told(checkout: Checkout) -> None:
    checkout.path.chmod(0o500)
    done = checkout.run("x")
    checkout.path.chmod(0o700)
    assert done.returncode == 4
    assert "not writable" in done.stderr


def test_two_at_once_install_once(checkout: Checkout) -> None:
    checkout.record.write_text("")
    env = {**os.environ, "PATH": f"{checkout.bin}:{os.environ['PATH']}", "RECORD": str(checkout.record)}
    both = [
        subprocess.Popen([checkout.path / "run", "x"], env=env, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    assert [process.communicate()[0] for process in both] == ["eofrace: x\n"] * 3
    assert checkout.record.read_text().count("-m pip install") == 1
