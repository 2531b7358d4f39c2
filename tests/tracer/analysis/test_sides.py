"""What rules ask of operations, asked of operations that no rule would ask it of."""

import numpy as np

from tracer.analysis.columns import Columns
from tracer.analysis.examples import as_operations, operation
from tracer.analysis.sides import acknowledged, data_writes, took_place
from tracer.operations import OPERATION, Op

WRITES = as_operations(
    (
        operation(Op.AIO_WRITE, 1, 2, 0, 512),
        operation(Op.AIO_WRITE, 3, 4, 0, 512, result=1),
        operation(Op.AIO_WRITE, 5, 6, 0, 512, result=0),
        operation(Op.AIO_WRITE, 7, 8, 0, 512, result=-5),
        operation(Op.AIO_WRITE, 9, 0, 0, 512),
        operation(Op.AIO_WRITE, 11, 0, 0, 512, result=512),
        operation(Op.TRUNCATE, 13, 14, 0, result=512),
        operation(Op.TRUNCATE, 15, 16, 0),
    )
)


def test_who_was_told_of_a_write() -> None:
    ops = Columns({name: WRITES[name] for name in OPERATION.names or ()} | {"row": np.arange(len(WRITES))})
    assert acknowledged(ops).nonzero()[0].tolist() == [0, 1, 6]
    assert data_writes(ops).nonzero()[0].tolist() == [0, 1, 4, 5]
    assert took_place(ops).nonzero()[0].tolist() == [2, 4, 5, 7]
