"""What an earlier run has left in the directory of `verify -o`: the new one replaces it, when it has ended.

Traces of two runs beside each other would be judged together by `analyze DIR/*.parquet`.
"""

import stat
from pathlib import Path

from tracer.errors import UsageError
from tracer.report.source import VERIFY, document_of


def earlier_traces(directory: Path) -> list[Path]:
    """Traces in the directory that its verify.json lists; none if there is no verify.json that can be read.

    It may come from elsewhere, and what it lists will be removed: only a regular file, directly in the directory and
    with the name of a trace, is one.
    """
    try:
        cells = document_of(directory / VERIFY)["cells"]
    except UsageError:
        return []
    names = {Path(cell["trace"]).name for cell in cells if cell.get("trace") is not None}
    return [directory / name for name in sorted(names) if name.endswith(".parquet") and _is_plain(directory / name)]


def _is_plain(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (OSError, ValueError):
        return False
