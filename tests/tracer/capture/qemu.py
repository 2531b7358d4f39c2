"""`python qemu.py IMAGE COMMANDS [misled]`: qemu-io does to the image what the file says (aio=native, O_DIRECT).

`misled`: the file is longer when QEMU opens it than when the first command comes. QEMU goes by the length that it
knows, takes every zero-write for one within the file, and orders none (raw_do_pwrite_zeroes, bs->total_sectors).
"""

import os
import subprocess
import sys


def main() -> int:
    """The exit status of qemu-io."""
    image, commands = sys.argv[1:3]
    misled = "misled" in sys.argv[3:]
    size = os.stat(image).st_size
    if misled:
        os.truncate(image, 1 << 30)
    words = ["qemu-io", "-n", "-i", "native", "-f", "qcow2", image]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"length\n")
        process.stdin.flush()
        process.stdout.readline()  # it has opened the image
        if misled:
            os.truncate(image, size)
        with open(commands, "rb") as file:
            process.stdin.write(file.read())
        process.stdin.close()
        process.stdout.read()
    return process.returncode


if __name__ == "__main__":
    sys.exit(main())
