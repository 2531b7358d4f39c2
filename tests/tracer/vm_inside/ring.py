"""What a trace has of the requests of tests/tracer/capture/ring.py: a script for the dedicated VM.

    python tests/tracer/vm_inside/ring.py

Prints one JSON object: what was dropped, what is not attached, and kind, offset, length and result of each operation.
"""

import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

from tracer import trace  # noqa: E402 - this file is a script
from tracer.capture.run import Options, capture  # noqa: E402
from tracer.lab.scratch import loop_scratch  # noqa: E402
from tracer.operations import Op  # noqa: E402

with (
    tempfile.TemporaryDirectory() as directory,
    loop_scratch("xfs", 320 << 20, Path(directory)) as scratch,
):
    path, output = scratch.path / "f", Path(directory, "out.parquet")
    ring = (sys.executable, str(ROOT / "tests/tracer/capture/ring.py"), str(path))
    captured = capture(Options(command=ring, output=output), lambda *_: None)
    inode = path.stat().st_ino
    rows = [
        [Op(int(op["op"])).label, int(op["offset"]), int(op["length"]), int(op["result"])]
        for op in trace.read(output).ops
        if op["ino"] == inode
    ]
found = {
    "dropped": captured.totals.dropped,
    "gaps": list(captured.gaps),
    "rows": rows,
    "exit_status": captured.exit_status,
}
print(json.dumps(found))
