"""`eofrace vm`: any command under another kernel, in a dedicated VM over the host's own files."""

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import click

from blockstack.strategies import STRATEGIES

_EPILOG = """\b
Examples:
  eofrace vm run -- verify --seed 7               on Debian's newest kernel
  eofrace vm build racy                           XFS with the race back (8 minutes)
  eofrace vm run --kernel racy -- probe --fs xfs
  eofrace vm run --kernel ~/linux/arch/x86/boot/bzImage -- verify -o evidence
  eofrace vm kernels
  eofrace vm matrix --kernel debian --kernel racy --fs xfs --fs ext4

\b
Exit status of `run`: that of the command inside; 3 the guest died, hung or took
too long (its console's last lines are shown), 4 it cannot be booted here."""


class _Memory(click.ParamType[str]):
    """An amount of memory as QEMU takes it: at least 1 GiB."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        match = re.fullmatch(r"(\d{1,6})([MG])", str(value).upper())
        if match is None:
            self.fail(f"{value!r} is no amount of memory such as 5G or 3000M", param, ctx)
        if int(match[1]) * (1024 if match[2] == "G" else 1) < 1024:
            self.fail(f"{value!r} is too little: at least 1G", param, ctx)
        return match[0]


@click.group(epilog=_EPILOG)
def vm() -> None:
    """Run any command under another kernel, in a dedicated VM.

    The guest sees this host's files, read-only, so nothing has to be installed in it. Outputs appear on the host where
    they would without the VM.
    """


@vm.command(epilog="Exit status: that of the command; 3 the guest died or took too long, 4 it cannot be booted here.")
@click.option("--kernel", "kernel_name", metavar="KERNEL", default="debian", show_default=True,
              help="debian, racy, stock, a bzImage or vmlinuz, or a linux-image .deb.")  # fmt: skip
@click.option("--memory", type=_Memory(), default="5G", show_default=True, help="Of the guest; 6/10 are its scratch.")
@click.option("--cpus", type=click.IntRange(1, 64), default=2, show_default=True, help="Of the guest.")
@click.option("--timeout", type=click.FloatRange(min=1, max=86400), default=1800, show_default=True,
              metavar="SECONDS", help="Limit of the command inside.")  # fmt: skip
@click.option("--with", "extras", type=click.Choice(["zfs"]), multiple=True,
              help="Add OpenZFS, built for that kernel and cached.")  # fmt: skip
@click.option("-v", "--verbose", is_flag=True, help="Say which kernel runs, how, and how long the boot took.")
@click.argument("arguments", nargs=-1, required=True, metavar="-- COMMAND [ARGS]...", type=click.UNPROCESSED)
def run(
    kernel_name: str,
    memory: str,
    cpus: int,
    timeout: float,
    extras: Sequence[str],
    verbose: bool,
    arguments: Sequence[str],
) -> None:
    """Run an eofrace command inside the VM.

    Its arguments are checked before the boot; its output, exit status and files are as if it had run here.
    """
    from tracer.commands import main
    from tracer.vm import inner, kernels, session

    parsed = inner.parse(main, arguments)
    kernel = kernels.resolve(kernel_name)
    options = session.Options(memory=memory, cpus=cpus, timeout=timeout, extras=tuple(dict.fromkeys(extras)))
    sys.exit(session.run(kernel, parsed, options, note=_note if verbose or sys.stderr.isatty() else _silent))


@vm.command()
@click.argument("variant", type=click.Choice(["racy", "stock"]))
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def build(variant: str, quiet: bool) -> None:
    """Build a kernel from Debian's linux-source-6.1.

    `racy` has the race back that Linux 5.5 closed in XFS (249bd9087a52); `stock` is the same source and configuration
    without our patch: the control. Needs 4 GB of disk while it builds; the second one takes a minute.
    """
    from tracer.vm import build as builder

    try:
        with _progress(quiet) as progress:
            kernel = builder.make(variant, progress)
    except builder.BuildError as error:
        click.echo(error.log, err=True)
        raise
    click.echo(f"{variant}: {kernel.release}, {kernel.image}")


@vm.command()
@click.option("--json", "json_file", metavar="FILE", help="Write the list as JSON; - is stdout.")
def kernels(json_file: str | None) -> None:
    """List the kernels that are there, and say whether KVM works."""
    from tracer.output import JsonFile
    from tracer.vm import kernels as known
    from tracer.vm import kvm

    into = JsonFile(json_file)
    lines = known.listing()
    finding = kvm.known()
    data = {
        "schema": "eofrace.vm.kernels/1",
        "kernels": [line.to_json() for line in lines],
        "kvm": finding.to_json(),
    }
    into.write(data)
    if into.is_stdout:
        return
    for line in lines:
        size = "" if line.size is None else f"{line.size / 1e6:.1f} MB"
        click.echo(
            f"{line.name:8} {line.release or '-':24} {size:>8}  {line.detail or ('with modules' * line.modules)}"
        )
    works = {True: "yes", False: "no", None: "unknown"}[finding.works]
    click.echo(f"KVM: {works} ({finding.reason})")


@vm.command(
    epilog="Exit status: 0 every protecting strategy is confirmed on every kernel, 1 one is not safe, "
    "3 inconclusive, or a kernel did not get to the end."
)
@click.option("--kernel", "names", metavar="KERNEL", multiple=True,
              help="As for run; may be repeated.  [default: debian, and those built]")  # fmt: skip
@click.option("--strategy", "strategies", multiple=True, type=click.Choice(list(STRATEGIES)),
              help="May be repeated. The control `none` always runs.  [default: all]")  # fmt: skip
@click.option("--fs", "file_systems", multiple=True, type=click.Choice(["xfs", "ext4", "btrfs"]),
              help="May be repeated.  [default: xfs]")  # fmt: skip
@click.option("--writes", type=click.IntRange(1, 100_000), default=600, show_default=True, help="In each cell.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=1, show_default=True, help="Of the workload.")
@click.option("--memory", type=_Memory(), default="5G", show_default=True, help="Of each guest.")
@click.option("--cpus", type=click.IntRange(1, 64), default=2, show_default=True, help="Of each guest.")
@click.option("--json", "json_file", metavar="FILE", help="Write all results as JSON; - is stdout.")
def matrix(
    names: Sequence[str],
    strategies: Sequence[str],
    file_systems: Sequence[str],
    writes: int,
    seed: int,
    memory: str,
    cpus: int,
    json_file: str | None,
) -> None:
    """Kernels x strategies x file systems, in one table.

    Each kernel is booted once: `probe`, then `verify` on each file system. A kernel that dies has its reason below the
    table, and the others go on.
    """
    from tracer.output import JsonFile
    from tracer.vm import kernels as known
    from tracer.vm import matrix as maker

    into = JsonFile(json_file)
    chosen = names or ["debian", *(line.name for line in known.listing() if line.cached and line.name != "debian")]
    found = [known.resolve(name) for name in dict.fromkeys(chosen)]
    plan = maker.Plan(
        file_systems=tuple(dict.fromkeys(file_systems)) or ("xfs",),
        strategies=tuple(dict.fromkeys(strategies)),
        writes=writes,
        seed=seed,
        memory=memory,
        cpus=cpus,
    )
    columns = [maker.run(kernel, plan, _note) for kernel in found]
    into.write(maker.to_json(plan, columns))
    if not into.is_stdout:
        from tracer.report.escape import printable

        for line in maker.table(plan, columns).splitlines():
            click.echo(printable(line))
    sys.exit(maker.status(columns))


def _note(text: str) -> None:
    print(f"eofrace: {text}", file=sys.stderr, flush=True)


def _silent(text: str) -> None:
    pass


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[int, int, str], None]]:
    """A bar on a terminal, nothing elsewhere."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from tracer.report.console import Console
    from tracer.report.escape import printable

    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda *_: None
        return
    columns = (
        BarColumn(30),
        TextColumn("{task.percentage:3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    width = max(20, os.get_terminal_size(sys.stderr.fileno()).columns - 60)
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("preparing")
        yield lambda done, steps, what: bar.update(
            task, completed=min(done, steps - 1), total=steps, description=printable(what)[:width].replace("[", r"\[")
        )
