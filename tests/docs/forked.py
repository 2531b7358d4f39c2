"""Runs command lines of eofrace one after the other, each in a child of its own: they load no module again.

Reads a line of JSON for each, [directory, words], from standard input; answers each with one, [status, stdout, stderr].
"""

import importlib
import json
import os
import sys
import tempfile
from typing import IO

LOADED = (
    "tracer.commands.analyze",
    "tracer.commands.bench",
    "tracer.commands.campaign",
    "tracer.commands.probe",
    "tracer.commands.report",
    "tracer.commands.trace",
    "tracer.commands.verify",
    "tracer.commands.watch",
    "tracer.explore.run",
    "tracer.report.document",
    "tracer.report.junit",
    "tracer.report.markdown",
    "tracer.report.perfetto",
    "tracer.report.text",
    "tracer.verify.matrix",
)

MOST = 1 << 20
"""Bytes of an output that are told, from its end."""


def run(place: str, words: list[str], out: IO[bytes], err: IO[bytes]) -> int:
    """One command. Returns its exit status, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        os.chdir(place)
        for number, descriptor in enumerate((os.open(os.devnull, os.O_RDONLY), out.fileno(), err.fileno())):
            os.dup2(descriptor, number)
        from tracer.commands import main

        status = 70
        try:
            main(words)
        except SystemExit as error:
            status = int(error.code or 0)
        finally:
            sys.stdout.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def serve() -> None:
    """All of them."""
    for name in LOADED:
        importlib.import_module(name)
    for line in sys.stdin:
        place, words = json.loads(line)
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            status = run(place, words, out, err)
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode(errors="replace")[-MOST:])
        print(json.dumps([status, *texts]), flush=True)


if __name__ == "__main__":
    serve()
