"""What strategies cost, told: `eofrace bench` while it is there, and `eofrace report FILE` of its JSON.

`source` is what there is to tell, `text` and `markdown` its tables, `plot` its one drawing, which `page` has, too.
"""

import importlib
from collections.abc import Callable

from tracer.errors import UsageError
from tracer.report.cost.source import Cost

FORMATS = ("text", "markdown", "html", "svg")


def writer(format_name: str) -> Callable[[Cost, str], None]:
    """What writes a format. Raises UsageError for one that has no costs."""
    if format_name not in FORMATS:
        raise UsageError(f"a result of bench has no {format_name} report: choose {', '.join(FORMATS)}")
    module = importlib.import_module(f"tracer.report.cost.{format_name}")
    write: Callable[[Cost, str], None] = module.write
    return write
