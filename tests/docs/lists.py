"""What becomes of each command of the documents: executed, as it stands or reduced, or checked otherwise, and why.

First match counts. A command that no line speaks of fails the tests, and so does a line without a use.
"""

import re
from dataclasses import dataclass

from tests.docs.blocks import commands

OURS = r"(\./run|eofrace) "


@dataclass(frozen=True, slots=True)
class Executed:
    """A command of eofrace that is executed."""

    pattern: str
    more: str
    """Arguments that make it small, behind those that it has."""
    says: str
    """What is in its output, or on standard error if that is all, as a regular expression: it has done something."""
    why: str
    """Of its form."""
    where: str = "anywhere"
    """Anywhere, root (by it), long (by root, and on request: it takes minutes), vm (on request: it boots one), kernels
    (on request, where kernels of our own are built) or zfs (on request: it may have to build it)."""


@dataclass(frozen=True, slots=True)
class Other:
    """What is no command of eofrace: its syntax is checked by bash -n, and what else `how` says."""

    pattern: str
    how: str
    why: str


_DRIVER = "--evidence driver --fallocate kernel --writes 50"
_VERDICT = r"(?m)^verdict: (confirmed|unsafe|corrupt|inconclusive) "
_BENCH = "--workload sub-cluster --strategy none --count 60 --budget 1"
_ROUNDS = r"60 requests, \d+ in flight; \d+ rounds \("
_RECORDED = r"(?m)^[0-9,]+ operations in "

EXECUTED = (
    Executed(OURS + r"analyze (?!.*--(scheduler|workers))", "", _VERDICT, "as it stands, on small traces"),
    Executed(OURS + r"analyze .*--workers", "--workers 1", _VERDICT, "a cluster of one process"),
    Executed(OURS + r"report .*-o ", "", "^$", "as it stands, on a small run: it says nothing"),
    Executed(OURS + r"report .*--format markdown", "", "(?m)^## eofrace: ", "as it stands, on a small run"),
    Executed(OURS + r"report ", "", _VERDICT, "as it stands, on a small run or a trace"),
    Executed(OURS + r"explore --replay", "", "the guest sends it", "as it stands"),
    Executed(OURS + r"explore --strategy", "", r"xfs-pre-5\.5", "as it stands"),
    Executed(
        OURS + r"explore$",
        "--strategy serialise --model xfs-pre-5.5",
        r"xfs-pre-5\.5",
        "all strategies and models take half a minute",
    ),
    Executed(OURS + r"doctor$", "--no-attach", "Kernel evidence: ", "attaching eBPF takes seconds, and root"),
    Executed(
        OURS + r"verify .*--driver qemu", _DRIVER.replace("driver", "kernel"), _VERDICT, "50 writes", where="root"
    ),
    Executed(
        OURS + r"verify --evidence kernel", "--strategy serialise --writes 50", _VERDICT, "50 writes", where="root"
    ),
    Executed(OURS + r"verify .*--json -$", _DRIVER, r'"schema": "eofrace\.verify/1"', "50 writes, no eBPF"),
    Executed(OURS + r"verify .*--format mirror", _DRIVER.replace("50", "10"), _VERDICT, "10 writes, no eBPF"),
    Executed(OURS + r"verify .*--format", _DRIVER, _VERDICT, "50 writes, no eBPF"),
    Executed(OURS + r"verify(?! .*--held)", f"{_DRIVER} --strategy serialise", _VERDICT, "50 writes, no eBPF"),
    Executed(OURS + r"campaign .*\.toml(?! --scheduler)", "", r"1 of 1 cells finished", "a campaign of one cell"),
    Executed(OURS + r"campaign status", "", r"1 of 1 cells finished", "of that campaign"),
    Executed(OURS + r"campaign compare", "", r"results compared: nothing got worse", "of that campaign"),
    Executed(OURS + r"probe$", "--fs xfs --mode plain --tries 1", "xfs plain: (safe|racy): ", "one try", where="root"),
    Executed(OURS + r"trace .*-- fio", "", r"\b4 direct_write\b", "as it stands; fio is a script", where="root"),
    Executed(OURS + r"trace (?!.*\$!)(?!.*qemu-io)", "--duration 0.3", _RECORDED, "less than a second", where="root"),
    Executed(OURS + r"watch .*-- fio", "", r"\b4 direct_write\b", "as it stands; fio is a script", where="root"),
    Executed(
        OURS + r"watch .*--json-lines",
        "--duration 0.3",
        "0 post-EOF fallocates",
        "less than a second; there are no hazards",
        where="root",
    ),
    Executed(OURS + r"watch ", "--duration 0.3", r"0 post-EOF fallocates", "less than a second", where="root"),
    Executed(
        OURS + r"bench .*--workload \S+ --workload \S+ -v",
        "--strategy none --count 60 --budget 1",
        _ROUNDS,
        "60 requests",
        where="root",
    ),
    Executed(
        OURS + r"bench .*--workload(?!.*--budget)",
        "--count 60 --budget 1",
        _ROUNDS,
        "60 requests",
        where="root",
    ),
    Executed(OURS + r"bench($| --budget)", _BENCH, _ROUNDS, "one workload of 60 requests", where="root"),
    Executed(
        OURS + r"verify --held", "--strategy serialise", _VERDICT, "one strategy beside its control", where="long"
    ),
    Executed(
        OURS + r"bench .*--(strategy|block-size|budget \d+ --seed)",
        "--count 60 --budget 1",
        rf"{_ROUNDS}|^$",
        "60 requests; with -q it says nothing",
        where="long",
    ),
    Executed(OURS + r"campaign .*--scheduler", "", r"1 of 1 cells finished", "on a cluster of one", where="long"),
    Executed(OURS + r"analyze .*--scheduler", "", _VERDICT, "on a cluster of one", where="long"),
    Executed(OURS + r"vm run (?!.*(racy|zfs)).*-- probe", "--tries 1", "(?m)^xfs plain: safe: ", "one try", where="vm"),
    Executed(
        OURS + r"vm run (?!.*(racy|zfs)).*-- verify",
        f"{_DRIVER} --strategy serialise",
        _VERDICT,
        "50 writes, no eBPF",
        where="vm",
    ),
    Executed(OURS + r"vm build racy", "", r"(?m)^racy: \d", "it is built, and says where", where="kernels"),
    Executed(OURS + r"vm run .*racy.*-- probe", "--tries 1", "(?m)^xfs plain: racy: ", "one try", where="kernels"),
    Executed(
        OURS + r"vm run .*racy.*-- verify",
        f"{_DRIVER} --strategy serialise",
        _VERDICT,
        "50 writes, no eBPF",
        where="kernels",
    ),
    Executed(
        OURS + r"vm matrix",
        "--strategy serialise --writes 50",
        r"(?m)^  fallocate plain .*\bracy\b",
        "50 writes, one strategy beside its control",
        where="kernels",
    ),
    Executed(OURS + r"vm run .*zfs.*-- probe", "--tries 1", "(?m)^zfs .*: racy: ", "one try", where="zfs"),
    Executed(OURS + r"vm run .*zfs.*-- verify", "--strategy serialise --writes 50", _VERDICT, "50 writes", where="zfs"),
)

OTHERS = (
    Other(
        r"\./run test|EOFRACE_\w+=.* \./run test|\.venv/bin/python -m pytest",
        "tests",
        "the tests themselves, or all night",
    ),
    Other(r"\./run setup|\.ci/run$", "scripts", "installs from scratch; tests/test_run.py does it in a copy"),
    Other(r"\.venv/bin/python -m tracer\.reference", "module", "tests/tracer/reference says what it would write"),
    Other(r"\.venv/bin/python -m bench ", "bench", "minutes: parsed; tests/bench runs them small"),
    Other(
        r"\.venv/bin/pip install .* -m tests\.fuzz\.target", "module", "fuzzes for an hour; tests/fuzz does for seconds"
    ),
    Other(r"duckdb -c ", "sql", "its query is executed by the library: the program is another package"),
    Other(r"make -j", "", "builds somebody's kernel"),
    Other(r"git clone", "clone", "with this repository in place of that address"),
    Other(
        r"truncate -s 8G xfs\.img|qemu-img|rm mnt/disk|size=\$\(|seq 0 999|qemu-storage-daemon|"
        + OURS
        + r"trace .*(\$!|qemu-io)",
        "qemu",
        "executed, with all that stands around it, by test_documented_root.py::test_the_worked_example_of_qemu",
    ),
)

EVERY = list(commands())

Line = Executed | Other


def line_of(text: str) -> Line | None:
    """The line that speaks of a command."""
    lines: tuple[Line, ...] = (*EXECUTED, *OTHERS)
    return next((line for line in lines if re.match(line.pattern, text)), None)


def executed(where: str) -> list[tuple[str, Executed]]:
    """Commands that are executed there, each once, in the order of the documents: some read what others wrote."""
    texts = dict.fromkeys(text for command in EVERY for text in alternatives(command.text))
    found = [(text, line_of(text)) for text in texts]
    return [(text, line) for text, line in found if isinstance(line, Executed) and line.where == where]


def alternatives(text: str) -> list[str]:
    """A command line for each of some words that it names as `a|b|c`."""
    match = re.search(r"\b[a-z]+(\|[a-z]+)+\b", text)
    return [text.replace(match[0], word) for word in match[0].split("|")] if match else [text]
