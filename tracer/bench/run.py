"""One run of the command: the scratch file system, the timed rounds, the watched runs."""

from collections.abc import Callable
from contextlib import ExitStack

from tracer import host
from tracer.bench.figures import Watcher
from tracer.bench.result import Report
from tracer.bench.rounds import Measured, Options, play
from tracer.lab import children
from tracer.lab.held import held_scratch
from tracer.lab.scratch import KINDS, MIB, Scratch, default_directory, loop_scratch


def bench(options: Options, show: Callable[[str], None]) -> Report:
    """Measure; `show` hears what is being done. Raises UsageError, UnsupportedError, ChildError."""
    qemu = children.run(["qemu-img", "--version"]).stdout.partition("\n")[0]
    size = KINDS[options.fs].minimum + 512 * MIB + 4 * max(one.size for one in options.workloads)
    total = sum(len(options.sides(one)) for one in options.workloads)

    def told(measured: Measured, side: str) -> None:
        show(f"round {measured.rounds + 1}: {measured.workload.name}, {side}")

    with ExitStack() as stack:
        scratch = _scratch(options, size, stack)
        report = Report(options, host.facts_json(), qemu, play(options, scratch, told))
        watcher = Watcher(stack)
        for measured in report.measured:
            for side in measured.sides:
                show(f"watched, {len(report.figures) + 1} of {total}: {measured.workload.name}, {side}")
                found = watcher.figures(options, scratch, measured.workload, side)
                report.figures[measured.workload.name, side] = found
                if found.get("dropped"):
                    report.notes.append(
                        f"{measured.workload.name}, {side}: {found['dropped']} operations were not recorded: no figures"
                    )
        report.notes[:0] = watcher.missing
    return report


def _scratch(options: Options, size: int, stack: ExitStack) -> Scratch:
    if options.delay_ms:
        return stack.enter_context(held_scratch(options.fs, size, default_directory(), options.delay_ms)).scratch
    return stack.enter_context(loop_scratch(options.fs, size, default_directory()))
