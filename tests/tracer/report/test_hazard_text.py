"""What a sentence about a pair may say."""

from typing import Any

import pytest

from tracer.analysis.hazards import Pair
from tracer.analysis.rules import Outcome
from tracer.report.hazard_text import is_short

K = 1024
FALLOCATE = {"op": "fallocate", "seq_begin": 2, "seq_end": 4, "size_end": 64 * K, "flags": 0x10}
WRITE = {"op": "aio_write", "seq_begin": 1, "seq_end": 3, "offset": 64 * K, "result": 64 * K}


@pytest.mark.parametrize(
    ("first", "second", "outcome", "short"),
    [
        ({}, {}, Outcome.EXPOSED, True),
        ({"op": "mark_fallocate"}, {}, Outcome.EXPOSED, True),
        ({}, {}, Outcome.LOST, False),
        ({}, {}, Outcome.KERNEL_SERIALISED, False),
        ({"op": "truncate"}, {}, Outcome.EXPOSED, False),
        ({"flags": 0x08}, {}, Outcome.EXPOSED, False),
        ({"size_end": 128 * K}, {}, Outcome.EXPOSED, False),
        ({"size_end": None}, {}, Outcome.EXPOSED, False),
        ({"seq_end": None}, {}, Outcome.EXPOSED, False),
        ({}, {"seq_end": 5}, Outcome.EXPOSED, False),
        ({}, {"seq_end": None, "result": None}, Outcome.EXPOSED, False),
        ({}, {"result": -5}, Outcome.EXPOSED, False),
        ({}, {"result": 0}, Outcome.EXPOSED, False),
    ],
)
def test_a_size_below_what_was_acknowledged(
    first: dict[str, Any], second: dict[str, Any], outcome: Outcome, short: bool
) -> None:
    assert is_short(Pair(FALLOCATE | first, WRITE | second, outcome, -1000)) is short
