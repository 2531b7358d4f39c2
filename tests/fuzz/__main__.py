"""Puts hostile images on trial in this process, which a test can limit and lose.

python -m tests.fuzz corpus                     the committed ones
python -m tests.fuzz extremes                   as large as can be
python -m tests.fuzz random COUNT SEED          so many spoilt seeds; findings are kept in the directory `findings`
python -m tests.fuzz save INPUT NAME WHY        an input of the atheris target, or a finding, into the corpus
python -m tests.fuzz control WHAT [NAME]        breaks what has to be noticed: overlap, memory, hang, exception
"""

import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from blockstack.qcow2.header import Header
from blockstack.qcow2.overlap import MetadataMap
from tests.fuzz import seeds, trial
from tests.fuzz.extremes import EXTREMES
from tests.fuzz.mutate import mutate, plant, solid
from tests.fuzz.seeds import Seed
from tests.fuzz.sparse import Entry

CORPUS = Path(__file__).with_name("corpus")
FINDINGS = Path("findings")
PROGRAM_BYTES = 64


def planted() -> list[Seed]:
    """The seeds, in the order that programs count them."""
    with tempfile.TemporaryDirectory() as directory:
        return [plant(name, entry, Path(directory)) for name, entry in sorted(seeds.make(Path(directory)).items())]


def corpus() -> dict[str, Entry]:
    """The committed inputs by name."""
    return {path.stem: Entry.load(path) for path in sorted(CORPUS.glob("*.json"))}


def _try_all(entries: Iterable[tuple[str, Entry]], *, keep: bool = False) -> int:
    trial.limit_memory()
    os.fdatasync = lambda fd: None  # nobody pulls the plug, and the disk is others', too
    summary, found = trial.Summary(), 0
    with tempfile.TemporaryDirectory() as directory:
        for name, entry in entries:
            print(f"trying {name}", file=sys.stderr)
            for wrong in trial.judge(entry, Path(directory), summary):
                found += 1
                print(json.dumps({"name": name, "seed": entry.why, "wrong": wrong}), flush=True)
                if keep:
                    FINDINGS.mkdir(exist_ok=True)
                    solid(entry).dump(FINDINGS / f"{name}.json")
    print(json.dumps(asdict(summary)))
    return 1 if found else 0


def _random(count: int, seed: int) -> Iterable[tuple[str, Entry]]:
    sown, chance = planted(), random.Random(seed)
    for index in range(count):
        # Each seed in turn: chance would leave some out of a short run.
        program = bytes([index % len(sown)]) + chance.randbytes(PROGRAM_BYTES)
        yield f"{seed}-{index}", mutate(sown, program)


def _save(source: Path, name: str, why: str) -> None:
    entry = Entry.load(source) if source.suffix == ".json" else solid(mutate(planted(), source.read_bytes()))
    CORPUS.mkdir(exist_ok=True)
    Entry(why, entry.image, entry.others).dump(CORPUS / f"{name}.json")


def _control(what: str, names: list[str]) -> int:
    """Each is a fault that a trial exists to find."""
    real = Header.parse

    def parse(data: bytes, file_length: int) -> Header:
        match what:
            case "memory":
                bytearray(trial.MEMORY + (32 << 20))
            case "hang":
                time.sleep(3600)
            case "exception":
                raise IndexError("on purpose")
        return real(data, file_length)

    Header.parse = parse  # type: ignore[method-assign]
    if what == "overlap":
        MetadataMap.check = lambda *_: None  # type: ignore[method-assign]
    trial.SECONDS = 3
    return _try_all((name, entry) for name, entry in corpus().items() if not names or name in names)


def main(words: list[str]) -> int:
    """The program; exits with 1 where something was wrong."""
    match words:
        case ["corpus"]:
            return _try_all(corpus().items())
        case ["extremes", *names]:
            return _try_all((name, make()) for name, make in EXTREMES.items() if not names or name in names)
        case ["random", count, seed]:
            return _try_all(_random(int(count), int(seed)), keep=True)
        case ["save", source, name, why]:
            _save(Path(source), name, why)
            return 0
        case ["control", what, *names]:
            return _control(what, names)
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
