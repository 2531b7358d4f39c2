"""apt with sources of its own: what the host's apt knows, and what it has installed, stay as they are.

Lists, caches and the list of sources lie in a private directory, which APT_CONFIG names. Packages are checked against
the archive's own keyring, as the host's apt would.
"""

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tracer.errors import UnsupportedError
from tracer.lab import children
from tracer.report.escape import printable

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
MIRROR = "http://deb.debian.org/debian"
SECURITY = "http://deb.debian.org/debian-security"

_UPDATE_SECONDS = 300.0
_DOWNLOAD_SECONDS = 900.0


class PrivateApt:
    """apt over the suites of one Debian release, `contrib` and backports included. `directory` is empty, and private.

    Raises `UnsupportedError` where there is no apt, no keyring or no archive.
    """

    def __init__(self, directory: Path, codename: str) -> None:
        if not KEYRING.exists():
            raise UnsupportedError(f"{KEYRING} is missing: this needs Debian (apt-get install debian-archive-keyring)")
        children.find("apt-get")
        for name in ("lists/partial", "cache/archives/partial", "parts"):
            (directory / name).mkdir(parents=True)
        suites = [(MIRROR, codename), (MIRROR, f"{codename}-updates"), (MIRROR, f"{codename}-backports")]
        suites.append((SECURITY, f"{codename}-security"))
        lines = [f"deb [signed-by={KEYRING}] {mirror} {suite} main contrib" for mirror, suite in suites]
        (directory / "sources.list").write_text("\n".join(lines) + "\n")
        settings = {
            "Dir::Etc::sourcelist": directory / "sources.list",
            "Dir::Etc::sourceparts": directory / "parts",
            # The host's own settings may add hooks that run after an update; of them we keep how to fetch (proxies).
            "Dir::Etc::parts": directory / "parts",
            "Dir::State::lists": directory / "lists",
            "Dir::Cache": directory / "cache",
            # `_apt` cannot write into a private directory.
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
        }
        self._config = directory / "apt.conf"
        fetching = children.run(["apt-config", "dump", "--no-empty", "--format", '%F "%v";%n', "Acquire"]).stdout
        self._config.write_text(fetching + "".join(f'{name} "{value}";\n' for name, value in settings.items()))
        self._run(["apt-get", "-q", "update"], _UPDATE_SECONDS)

    def newest(self, package: str) -> str:
        """The newest version of a package in any of the suites. Raises `UnsupportedError`."""
        lines = self._run(["apt-cache", "madison", package]).splitlines()
        if not lines:
            raise UnsupportedError(f"Debian has no {package} for this release")
        return lines[0].split("|")[1].strip()  # madison prints them newest first

    def siblings(self, package: str, version: str) -> list[str]:
        """The packages that it needs in exactly its own version."""
        said = self._run(["apt-cache", "show", f"{package}={version}"])
        depends = re.search(r"^Depends: (.*)$", said, re.MULTILINE)
        if depends is None:
            return []
        return re.findall(rf"([\w.+-]+) \(= {re.escape(version)}\)", depends.group(1))

    def download(self, packages: Sequence[str], target: Path) -> None:
        """`apt-get download` of NAME or NAME=VERSION into `target`. Raises `UnsupportedError`."""
        self._run(["apt-get", "-q", "download", *packages], _DOWNLOAD_SECONDS, target)

    def _run(self, words: Sequence[str], seconds: float = 60.0, directory: Path | None = None) -> str:
        try:
            done = subprocess.run(
                children.dying_with_us(words),
                env={**os.environ, "APT_CONFIG": str(self._config), "LC_ALL": "C"},
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise UnsupportedError(
                f"{' '.join(words[:3])} took more than {seconds:g} s: is the mirror slow?"
            ) from error
        if done.returncode != 0:
            lines = [line for line in done.stdout.splitlines() if line.strip()] or ["no reason given"]
            raise UnsupportedError(f"{' '.join(words)} failed ({printable(lines[-1])}): is the network there?")
        return done.stdout


def codename() -> str:
    """The Debian release of this host. Raises `UnsupportedError` where it is none."""
    try:
        lines = Path("/etc/os-release").read_text().splitlines()
    except OSError:
        lines = []
    values = dict(line.split("=", 1) for line in lines if "=" in line)
    if values.get("ID") != "debian" or not re.fullmatch(r"[a-z]+", values.get("VERSION_CODENAME", "")):
        raise UnsupportedError("this host is no Debian release: use one to get its packages")
    return values["VERSION_CODENAME"]
