"""Operations that begin at a word: a script that other processes run.

python tests/tracer/capture/held_load.py FILE MARKER OFFSET   each line of input begins one, in a thread of its own

Writes are direct, of 64 KiB at OFFSET, and begin with MARKER (hexadecimal), so that a held disk holds them.
"""

import mmap
import os
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from tracer.probe.workers import AioWrite

LENGTH = 65536


def main(path: str, marker: str, offset: int) -> None:
    data = bytes.fromhex(marker).ljust(LENGTH, b"\1")
    direct = os.open(path, os.O_RDWR | os.O_DIRECT)
    buffer = mmap.mmap(-1, LENGTH)
    buffer.write(data)
    threads: list[threading.Thread] = []
    for line in sys.stdin:
        match line.strip():
            case "aio_write":
                threads.append(AioWrite(direct, data, offset))
            case "direct_write":
                threads.append(threading.Thread(target=os.pwrite, args=[direct, buffer, offset]))
            case "fallocate":
                threads.append(threading.Thread(target=os.posix_fallocate, args=[direct, 0, LENGTH]))
        threads[-1].start()
    for thread in threads:
        thread.join()
    os.fsync(direct)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
