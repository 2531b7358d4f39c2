"""What `eofrace watch` finds in blockstack on XFS, without a workaround and with one: a script for the dedicated VM.

    python tests/tracer/vm_inside/watch.py

Prints one JSON object: by strategy the exit status, the summary, and how many pairs were told of.
"""

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

from tracer.watch import run  # noqa: E402 - this file is a script
from tracer.watch.result import Event  # noqa: E402


def watched(strategy: str) -> dict[str, Any]:
    events: list[Event] = []
    command = (sys.executable, str(ROOT / "tests/tracer/capture/load.py"), "guest", strategy)
    found = run.watch(run.Options(command=command), events.append, lambda state: None)
    told = sum(event.hazard.pairs for event in events)
    return {"status": int(found.status), "summary": found.to_json(), "told": told}


print(json.dumps({strategy: watched(strategy) for strategy in ("none", "serialise")}))
