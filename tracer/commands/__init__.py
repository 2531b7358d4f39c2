"""The command line: one small file per subcommand, loaded only when it is asked for.

A subcommand `name` is the click command `name` in tracer/commands/name.py. It lets every error out: the one place
that turns an error into a line on stderr and an exit status is `Eofrace.main`.
"""

import errno
import importlib
import importlib.util
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

import click

from tracer import interrupts
from tracer.errors import EofraceError, Status
from tracer.report.escape import printable

COMPLETE = "_EOFRACE_COMPLETE"
"""Environment variable by which a shell's completion asks (`eofrace completion`)."""

_FILE = click.Path(readable=False)
"""What a shell completes with file names. It checks nothing: whoever opens the file does."""

CRASHED = 70
"""EX_SOFTWARE of sysexits.h. Python's own 1 would read as "a hazard was found"."""

SUBCOMMANDS = {
    "verify": "Show on this host which workaround keeps guest data safe.",
    "doctor": "Say what this host can trace and mount, and what to install or change.",
    "probe": "Find out whether this kernel's fallocate can cut off a write in flight.",
    "trace": "Record what any process does to its files, and judge it.",
    "watch": "Tell of dangerous pairs of operations as they happen.",
    "bench": "Measure what each strategy costs, beside qemu-img bench.",
    "explore": "Try every schedule of a small workload on simulated file systems.",
    "campaign": "Run a matrix of verify, explore or bench; resume it, compare its runs.",
    "vm": "Run any command under another kernel, in a dedicated VM.",
    "analyze": "Judge recorded traces by the hazard rules.",
    "report": "Tell of a run or a trace: text, HTML, JUnit, JSON, Markdown, Perfetto.",
    "explain": "Say what a verdict, a rule or an exit status means.",
    "completion": "Print the script for a shell's completion.",
}
"""Name and one line of help, so that `eofrace --help` need not load them."""

_FULL = (errno.ENOSPC, errno.EDQUOT)

_SAID = (Status.OK, Status.HAZARD, Status.INCONCLUSIVE, Status.UNSUPPORTED)
"""Exit statuses that a command may have with a whole output: `doctor` has the last one."""

_EPILOG = """\b
Examples:
  eofrace doctor                         what can this host do?
  eofrace verify                         run the matrix; verdicts
  eofrace verify --json - | jq .verdict
  eofrace probe                          is this kernel safe?
  eofrace trace -- fio job.fio           what does this do to its files?
  eofrace watch --comm qemu-system-x86   for weeks; hazards only
  eofrace analyze run.parquet            judge a trace again
  eofrace report out --format junit      for the dashboard of a CI
  eofrace explain inconclusive           what does that mean?

\b
Exit status: 0 all is well, 1 a hazard or loss where none may be,
2 wrong usage or bad input, 3 inconclusive, 4 this host cannot do it
(the message says what is missing and how to get it)."""


class Eofrace(click.Group):
    """The command group, with lazy subcommands and the one place where errors end."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Subcommands that this installation has, in the order in which a user needs them."""
        return [name for name in SUBCOMMANDS if importlib.util.find_spec(f"{__name__}.{name}")]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load one subcommand; None if there is none of that name."""
        if cmd_name not in self.list_commands(ctx):
            return None
        command = getattr(importlib.import_module(f"{__name__}.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        for option in command.params:
            if option.metavar in ("FILE", "TRACE") and option.type is click.STRING:
                option.type = _FILE
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of subcommands, without loading them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, SUBCOMMANDS[name]) for name in self.list_commands(ctx)])

    def main(  # type: ignore[override]  # click overloads it on standalone_mode, which is ignored here
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        """Run, and leave with the documented exit status. Raises `SystemExit`, always."""
        extra.pop("standalone_mode", None)
        extra.pop("complete_var", None)  # always COMPLETE
        extra.pop("windows_expand_args", None)
        _open_standard_streams()
        with interrupts.as_exceptions():
            status = self._run(args, prog_name or "eofrace", extra)
            # Whatever a command says by its status, it says nothing if nobody got its output.
            if (error := _flush()) is not None and status in _SAID:
                status = _system_error(error)
            sys.exit(status)

    def _run(self, args: Sequence[str] | None, prog_name: str, extra: dict[str, Any]) -> int:
        _tolerant_streams()
        try:
            if COMPLETE in os.environ:
                self._main_shell_completion(extra, "eofrace", COMPLETE)
            # Not click's own main(): that prints for KeyboardInterrupt and exits with 1 for a closed pipe.
            words = list(sys.argv[1:] if args is None else args)
            with self.make_context(prog_name, words, **extra) as ctx:
                self.invoke(ctx)
        except click.exceptions.Exit as error:
            return error.exit_code
        except EofraceError as error:
            return _complain(str(error), error.status)
        except click.UsageError as error:
            return _complain(_usage(error), Status.USAGE)
        except click.ClickException as error:
            return _complain(error.format_message(), Status.USAGE)
        except (KeyboardInterrupt, click.Abort):
            interrupts.delivered()
            return _complain("interrupted", 128 + signal.SIGINT)
        except interrupts.Terminated as error:
            interrupts.delivered()
            return _complain("terminated", _status(error.code))
        except SystemExit as error:
            return _status(error.code)
        except MemoryError:
            return _complain("out of memory: give it more, or less to do", Status.UNSUPPORTED)
        except OSError as error:
            return _system_error(error)
        except Exception:
            traceback.print_exc()
            return _complain("this is a bug in eofrace: please report the lines above", CRASHED)
        return Status.OK


def _usage(error: click.UsageError) -> str:
    path = error.ctx.command_path if error.ctx else "eofrace"
    return f"{error.format_message().rstrip('.')} (see {path} --help)"


def _flush() -> OSError | None:
    """Write what is left of standard output. Returns what keeps it from being written; then it is dropped.

    The interpreter would try once more on its way out, and complain.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return error
    return None


def _is_closed(descriptor: int) -> bool:
    from tracer.output import writable

    return not writable(descriptor)


def _system_error(error: OSError) -> int:
    if isinstance(error, BrokenPipeError):
        _flush()
        return 128 + signal.SIGPIPE  # whoever reads has enough (`| head`)
    where = f"{error.filename}: " if error.filename else ""
    if error.errno == errno.EBADF and _is_closed(1):
        return _complain("write error: standard output is closed, or not open for writing", Status.USAGE)
    if error.errno in _FULL:
        return _complain(f"{where}{error.strerror}: free some space, or name another place", Status.UNSUPPORTED)
    if os.environ.get("EOFRACE_DEBUG"):
        traceback.print_exc()
    reason = error.strerror or str(error) or type(error).__name__
    return _complain(f"{where}{reason} (EOFRACE_DEBUG=1 shows where)", Status.UNSUPPORTED)


def _complain(message: str, status: int) -> int:
    _flush()
    with suppress(OSError):
        print(f"eofrace: {printable(' '.join(message.split()))}", file=sys.stderr, flush=True)
    return int(status)


def _status(code: object) -> int:
    if code is None:
        return 0
    return int(code) if isinstance(code, int) else _complain(str(code), Status.USAGE)


def _open_standard_streams() -> None:
    """Put /dev/null where descriptor 0, 1 or 2 is closed: an image opened there would get what somebody prints.

    Standard output gets it for reading: who writes there has to fail, as if it was closed.
    """
    streams = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))
    for number, (name, mode) in enumerate(streams):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free descriptor is this one: those below are open by now.
            os.open(os.devnull, os.O_RDONLY if number == 1 else os.O_RDWR)
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 - lives as long as the process


def _tolerant_streams() -> None:
    """Have what a terminal cannot show escaped: a report must not die of a name or of LANG=C."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version("eofrace")
    except PackageNotFoundError:
        found = "(not installed)"
    click.echo(f"eofrace {found}")
    ctx.exit()


@click.group(
    cls=Eofrace,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=False,
    invoke_without_command=True,
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Show the version and exit.",
)
@click.pass_context
def main(ctx: click.Context) -> None:
    """See in the kernel, and judge, whether a storage stack loses data.

    Growing, zeroing and writing one file at the same time has cost data again and again. eofrace runs a guest
    workload on a real file system, watches it with eBPF, and says which workaround keeps the operations apart.
    """
    if ctx.invoked_subcommand is None:
        raise click.UsageError("name a command: " + ", ".join(main.list_commands(ctx)), ctx)
