"""`eofrace verify`: which strategy keeps guest data safe, shown on this host."""

import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from blockstack.aio import ENGINES
from blockstack.fallocate import BEHAVIOURS, DEFAULT
from blockstack.guest.stamp import MAX_WRITES
from blockstack.strategies import AUTO, CONTROL, STRATEGIES
from tracer.errors import UsageError
from tracer.lab.scratch import KINDS
from tracer.verify.formats.registry import FORMATS

if TYPE_CHECKING:
    from tracer.verify.qemu.daemon import Build

DEFAULT_WRITES = 2000
_MOST_WRITES = min(100_000, MAX_WRITES)

_EPILOG = """\b
Examples:
  eofrace verify                                   all strategies, both columns, on a scratch XFS
  eofrace verify --strategy serialise --seed 7     one strategy (and its control), a run of yesterday again
  eofrace verify --evidence kernel --json -        JSON on stdout; refuse to do without eBPF
  eofrace verify --dir /mnt/images -o evidence     on a directory of yours; keep the traces
  eofrace verify --format parallels                what the thread says of other formats, put to the test
  eofrace verify --held --fs ext4                  no luck involved: writes held in flight, in a chosen order
  eofrace verify --driver qemu --qemu /opt/qemu/bin/qemu-storage-daemon   the real one, in a build of yours

\b
Exit status: 0 every protecting strategy is confirmed, 1 one is unsafe or corrupt,
2 wrong usage, 3 inconclusive, 4 this host cannot do it."""


@click.command(epilog=_EPILOG)
@click.option(
    "--strategy",
    "strategies",
    multiple=True,
    type=click.Choice(list(STRATEGIES)),
    help="Judge this strategy; may be repeated. The control `none` always runs; `auto` goes by a probe of this kernel. "
    " [default: all but auto]",
)
@click.option(
    "--format",
    "format_name",
    type=click.Choice(list(FORMATS)),
    default="qcow2",
    show_default=True,
    help="What the guest's disk is. Of others than qcow2 the thread says that they need no workaround: they run without"
    " one, unless --strategy names some, each beside a control of its own.",
)
@click.option(
    "--driver",
    type=click.Choice(["blockstack", "qemu"]),
    default="blockstack",
    show_default=True,
    help="The driver under test; qemu is the real one, a qemu-storage-daemon. Needs root, eBPF and python3-libnbd.",
)
@click.option(
    "--qemu",
    "qemu_paths",
    multiple=True,
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="With --driver qemu: judge this qemu-storage-daemon; may be repeated.  [default: the host's]",
)
@click.option(
    "--fs",
    type=click.Choice(list(KINDS)),
    help="File system of the scratch.  [default: xfs, or what --dir lies on]",
)
@click.option(
    "--aio",
    type=click.Choice(list(ENGINES)),
    help="How data writes reach the kernel.  [default: native]",
)
@click.option(
    "--fallocate",
    "fallocates",
    multiple=True,
    type=click.Choice(list(BEHAVIOURS)),
    help="As this kernel does it, as XFS did before 5.5, or without ZERO_RANGE; may be repeated.  [default: the first"
    " two]",
)
@click.option(
    "--writes",
    type=click.IntRange(1, _MOST_WRITES),
    default=DEFAULT_WRITES,
    show_default=True,
    help="Guest writes in each cell.",
)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="Of the workload.  [default: another one every time]")
@click.option(
    "--cluster-size",
    type=click.Choice(["4096", "8192", "16384", "32768", "65536", "131072", "262144"]),
    default="65536",
    show_default=True,
    help="Of the image, in bytes; small ones grow more metadata.",
)
@click.option(
    "--evidence",
    type=click.Choice(["auto", "kernel", "driver"]),
    default="auto",
    show_default=True,
    help="What eBPF sees, or the driver's own clock; auto falls back and says so.",
)
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path),
    help="Put the images into this directory instead of a scratch file system.",
)
@click.option(
    "--held",
    is_flag=True,
    help="Choose the schedule instead of hoping for it: a disk holds the write behind a zero-write in flight. "
    "Needs root, nbdkit and FUSE.",
)
@click.option(
    "-o",
    "--output",
    "output",
    type=click.Path(path_type=Path),
    help="Keep a trace of every cell (Parquet) and verify.json in this directory. They get there when the run has"
    " ended, and replace those of an earlier run.",
)
@click.option("--json", "json_file", metavar="FILE", help="Write the result as JSON; - is stdout.")
@click.option(
    "-v", "--verbose", is_flag=True, help="More on every cell: reasons, qemu-img check, block I/O delays, hooks."
)
@click.option("-q", "--quiet", is_flag=True, help="No progress and no table: the exit status and files alone.")
def verify(
    strategies: Sequence[str],
    format_name: str,
    driver: str,
    qemu_paths: Sequence[Path],
    fs: str | None,
    aio: str | None,
    fallocates: Sequence[str],
    writes: int,
    seed: int | None,
    cluster_size: str,
    evidence: str,
    directory: Path | None,
    held: bool,
    output: Path | None,
    json_file: str | None,
    verbose: bool,
    quiet: bool,
) -> None:
    """Run a guest workload under every strategy, and judge what the kernel saw.

    Each cell of the matrix (strategy x behaviour of fallocate) plays the same seeded writes on a fresh qcow2 image,
    watched by eBPF; then every byte is compared with what the guest wrote. `legacy-xfs` runs each fallocate in the
    racy order of XFS before 5.5, so that the harness shows on a healthy host that it sees the loss.

    With --format another format, a stack of filters or a mirror job is what is judged, as the thread left it: without
    a workaround, beside a control in which what its safety rests on is taken away.
    """
    from tracer.output import JsonFile, make_directory
    from tracer.verify.options import Options, refuse_with_held
    from tracer.verify.qemu.cell import FALLOCATE
    from tracer.verify.qemu.command import look
    from tracer.verify.session import Session

    if held:
        context = click.get_current_context()
        refuse_with_held(
            {name for name in context.params if context.get_parameter_source(name) is not ParameterSource.DEFAULT},
            format_name,
        )
    into = JsonFile(json_file)
    if output is not None:
        make_directory(output)
    qemus: tuple[Build, ...] = ()
    if driver == "qemu":
        if format_name != "qcow2":
            raise UsageError(f"--driver qemu has a qcow2 image: leave --format {format_name} out")
        qemus = look(tuple(qemu_paths), fallocates, evidence, held=held)
        strategies, fallocates, evidence = strategies or (CONTROL,), (FALLOCATE,), "kernel"
    elif qemu_paths:
        raise UsageError("--qemu is for --driver qemu: add that, or leave it out")
    options = Options(
        strategies=tuple(STRATEGIES[name] for name in dict.fromkeys(strategies or _default_strategies(format_name))),
        fallocates=tuple(dict.fromkeys(fallocates or DEFAULT)),
        fs=fs,
        aio=aio,
        evidence=evidence,
        directory=directory,
        writes=writes,
        seed=secrets.randbelow(2**31) if seed is None else seed,
        cluster_size=int(cluster_size),
        held=held,
        format=format_name,
        qemus=qemus,
    )
    session = Session(options, output, into, verbose=verbose, quiet=quiet)
    sys.exit(session.run())


def _default_strategies(format_name: str = "qcow2") -> list[str]:
    """Not `auto`: it is `serialise` or `none`, as a probe of this kernel says. None at all for other formats."""
    if format_name != "qcow2":
        return [CONTROL]
    return [name for name in STRATEGIES if name != AUTO]
