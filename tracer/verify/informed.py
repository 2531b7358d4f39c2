"""Tells the strategy `auto` what a probe of this kernel has found out, before the run."""

from blockstack.probe import known_safe
from blockstack.strategies import Auto, Strategy
from tracer.errors import EofraceError
from tracer.lab.scratch import filesystem_of
from tracer.probe.result import to_json
from tracer.probe.run import FILE_SYSTEMS, probe
from tracer.verify.options import Options

_TRIES = 2


def informed(options: Options, notes: list[str]) -> list[Strategy]:
    """The strategies of `options`, where an `auto` that nobody has told anything goes by a probe of its file system.

    Where that cannot be probed `auto` serialises, and `notes` gets the reason.
    """
    if not any(isinstance(strategy, Auto) and strategy.known_safe is None for strategy in options.strategies):
        return list(options.strategies)
    fs = options.fs or "xfs"
    if options.directory is not None:
        try:
            fs = filesystem_of(options.directory)
        except OSError:
            return list(options.strategies)  # the run itself will say what is wrong with it
    safe = _probed(fs, notes)
    return [Auto(safe) if isinstance(strategy, Auto) else strategy for strategy in options.strategies]


def _probed(fs: str, notes: list[str]) -> frozenset[str]:
    if fs not in FILE_SYSTEMS:
        notes.append(f"auto serialises: {fs} was not probed, as no held disk is made with it")
        return frozenset()
    try:
        report = probe((fs,), tries=_TRIES)
    except EofraceError as error:
        notes.append(f"auto serialises: {fs} could not be probed: {error}")
        return frozenset()
    safe = known_safe(to_json(report))
    said = ", ".join(f"{result.mode} {result.verdict}" for result in report.results)
    notes.append(f"auto {'relies on the kernel' if fs in safe else 'serialises'}: the probe says of {fs}: {said}")
    return safe
