"""Mutation of tracer/analysis: what cosmic-ray runs for each mutant, and a sample of the mutants.

    python -m tests.mutation test                     in a worker's clone: the tests, those of the changed module first
    python -m tests.mutation sample N SEED FILE       leave N of the pending mutants of a session, the others skipped

tests/mutation/analysis.toml says how it is all run.
"""

import random
import subprocess
import sys
from pathlib import Path

TESTS = Path("tests/tracer/analysis")

# What tests a module whose own name no file of tests has.
ELSEWHERE = {
    "engine": ("hazards", "executing"),
    "examples": ("rules",),
    "findings": ("hazards", "baseline"),
    "processes": ("executing",),
    "stream": ("sweep", "shares"),
}

SELDOM = {"executing": ("processes", "cluster", "engine"), "third_party": ("third_party",)}
"""Tests that take long and have to do with few modules -> which."""

OPTIONS = ("-x", "-q", "-p", "no:cacheprovider", "--hypothesis-profile=mutation", "-m", "not root and not vm")


def first(module: str) -> list[str]:
    """Files of tests that are likely to see a mutant of the module at this path."""
    stem = Path(module).stem
    names = ELSEWHERE.get(stem, (stem,))
    if "/rules/" in module:
        names = ("rules", *names)
    return [str(path) for name in names if (path := TESTS / f"test_{name}.py").is_file()]


def test() -> int:
    """pytest's exit status, 0 if the mutant survived."""
    changed = subprocess.run(["git", "diff", "--name-only"], capture_output=True, text=True, check=True).stdout.split()
    files = [name for module in changed for name in first(module)]
    stems = {Path(module).stem for module in changed}
    left_out = [name for name, those in SELDOM.items() if stems and not stems & set(those)]
    ignored = [f"--ignore={TESTS}/test_{name}.py" for name in left_out]
    words = [sys.executable, "-m", "pytest", *OPTIONS, *ignored, *files, str(TESTS)]
    return subprocess.run(words, check=False).returncode


def sample(count: int, seed: int, session: str) -> None:
    """Skip all pending mutants of a session but `count`."""
    from cosmic_ray.work_db import use_db
    from cosmic_ray.work_item import WorkerOutcome, WorkResult

    with use_db(session) as database:
        pending = sorted(item.job_id for item in database.pending_work_items)
        places = {item.job_id: sorted(str(one) for one in item.mutations) for item in database.pending_work_items}
        pending.sort(key=places.__getitem__)  # the numbers of the jobs are random
        for job in random.Random(seed).sample(pending, max(len(pending) - count, 0)):
            database.set_result(job, WorkResult(output="not in the sample", worker_outcome=WorkerOutcome.SKIPPED))


def main() -> int:
    """The exit status."""
    match sys.argv[1:]:
        case ["test"]:
            return test()
        case ["sample", count, seed, session]:
            sample(int(count), int(seed), session)
            return 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
