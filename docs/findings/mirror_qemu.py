"""How many ZERO_RANGE fallocates a mirror job of the real QEMU makes: `python3 mirror_qemu.py [CLUSTER_SIZE]...`

Needs qemu-img, qemu-storage-daemon and strace. From a raw source of 64 MiB, of every three chunks of 64 KiB two
with data, to a fresh qcow2 image; no guest.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHUNK, CHUNKS = 65536, 1024


def mirror(directory: Path, cluster_size: str) -> int:
    """Mirror to clusters of `cluster_size`; the number of fallocate(2) calls with ZERO_RANGE."""
    source, target, monitor, trace = (directory / name for name in ("source", "target", "monitor", "trace"))
    with source.open("wb") as file:
        file.truncate(CHUNK * CHUNKS)
        for chunk in range(CHUNKS):
            if chunk % 3 != 2:
                os.pwrite(file.fileno(), os.urandom(CHUNK), chunk * CHUNK)
    words = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", f"cluster_size={cluster_size}", target]
    subprocess.run([*words, str(CHUNK * CHUNKS)], check=True)
    nodes = [
        f"driver=file,filename={source},node-name=source-file",
        "driver=raw,file=source-file,node-name=source",
        f"driver=file,filename={target},node-name=target-file,aio=native,cache.direct=on",
        "driver=qcow2,file=target-file,node-name=target",
    ]
    words = ["strace", "-f", "-e", "trace=fallocate", "-o", str(trace), "qemu-storage-daemon"]
    words += [word for node in nodes for word in ("--blockdev", node)]
    words += ["--chardev", f"socket,id=m,path={monitor},server=on,wait=off", "--monitor", "chardev=m"]
    with subprocess.Popen(words) as daemon, socket.socket(socket.AF_UNIX) as connection:
        while not monitor.exists():
            time.sleep(0.05)
        connection.connect(str(monitor))
        stream = connection.makefile("rw")
        stream.readline()

        def ask(command: str, **arguments: str) -> object:
            stream.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
            stream.flush()
            while "return" not in (answer := json.loads(stream.readline())):
                if "error" in answer:
                    raise SystemExit(f"{command}: {answer['error']['desc']}")
            return answer["return"]

        ask("qmp_capabilities")
        ask("blockdev-mirror", **{"job-id": "job", "device": "source", "target": "target", "sync": "full"})
        while not all(job["ready"] for job in ask("query-block-jobs")):  # type: ignore[attr-defined]
            time.sleep(0.05)
        ask("block-job-cancel", device="job")
        while ask("query-block-jobs"):
            time.sleep(0.05)
        ask("quit")
        daemon.wait()
    subprocess.run(["qemu-img", "compare", "-q", "-f", "raw", "-F", "qcow2", source, target], check=True)
    return trace.read_text().count("ZERO_RANGE")


if __name__ == "__main__":
    for size in sys.argv[1:] or ["64k", "128k", "256k"]:
        with tempfile.TemporaryDirectory() as scratch:
            print(f"clusters of {size}: {mirror(Path(scratch), size)} fallocate(ZERO_RANGE) calls")
