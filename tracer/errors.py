"""What can go wrong for a user, each kind with the exit status that design.md documents.

A command catches `EofraceError` in one place (`tracer.commands`), prints the message on one line and exits
with `status`: nobody sees a traceback for something they did or for something their host lacks.
"""

import enum


class Status(enum.IntEnum):
    """Exit status of every command."""

    OK = 0
    HAZARD = 1
    USAGE = 2
    INCONCLUSIVE = 3
    UNSUPPORTED = 4


class EofraceError(Exception):
    """Base of all errors a user can cause or mend. The message says what is wrong and what to do."""

    status = Status.USAGE


class UsageError(EofraceError):
    """Wrong option or argument, or input that cannot be used."""


class TraceError(UsageError):
    """A trace file that is missing, truncated, foreign, or breaks the schema."""


class RuleError(UsageError):
    """A hazard rule of another package that cannot be loaded, or breaks; the message names both."""


class UnsupportedError(EofraceError):
    """This host cannot do what was asked; the message says what is missing and how to get it."""

    status = Status.UNSUPPORTED


class InconclusiveError(EofraceError):
    """The run ended without the evidence that a verdict needs."""

    status = Status.INCONCLUSIVE
