"""`python -m blockstack check IMAGE`: the check of qcow2 images, with the exit status of `qemu-img check`."""

import argparse
import asyncio
import dataclasses
import json
import sys

from blockstack.errors import ImageError
from blockstack.qcow2.check import check


def main(words: list[str] | None = None) -> int:
    """Returns 0 clean, 1 the check could not be done, 2 corrupt, 3 leaks only."""
    parser = argparse.ArgumentParser(prog="python -m blockstack")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("check", help="compare the refcounts of a qcow2 image with its tables")
    command.add_argument("image")
    command.add_argument("--repair", choices=["leaks", "all"], help="what to repair")
    command.add_argument("--json", action="store_true", help="print a JSON object")
    options = parser.parse_args(words)
    try:
        report = asyncio.run(
            check(options.image, repair_leaks=options.repair == "leaks", repair_all=options.repair == "all")
        )
    except (ImageError, OSError) as error:
        print(f"{options.image}: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps({"image": options.image, **dataclasses.asdict(report)}))
    else:
        print(
            f"{report.corruptions} corruptions, {report.corruptions_fixed} of them repaired; "
            f"{report.leaks} leaked clusters, {report.leaks_fixed} of them repaired"
        )
    return report.exit_status


if __name__ == "__main__":
    sys.exit(main())
