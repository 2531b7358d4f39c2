"""Operations as the kernel's side of `watch` lets them out, in any portions: the rule's pairs, each once."""

import random

import numpy as np
import pytest

from tracer.analysis.hazards import Counts
from tracer.analysis.rules.post_eof_fallocate import RULE
from tracer.operations import NONE_RESULT, NONE_SIZE, OPERATION, Op, Operations
from tracer.watch.pairs import Pairs

NONE = np.empty(0, OPERATION)


def some(seed: int, count: int, *, unfinished: int = 0) -> Operations:
    """Fallocates that extend their file and writes on two files; the last `unfinished` to end have not ended."""
    chance = random.Random(seed)
    ops = np.zeros(count, OPERATION)
    numbers = list(range(1, 2 * count + 1))
    window = []
    for i in range(count):  # begins in order; ends up to a dozen numbers later
        ops[i]["seq_begin"] = numbers.pop(0)
        window.append(i)
        while len(window) > chance.randrange(6) or i == count - 1:
            if not window:
                break
            ops[window.pop(chance.randrange(len(window)))]["seq_end"] = numbers.pop(0)
    for row in ops:
        row["op"] = Op.FALLOCATE if chance.random() < 0.4 else Op.AIO_WRITE
        row["ino"] = chance.randrange(1, 3)
        row["offset"], row["length"] = chance.randrange(8) << 16, 1 << 16
        row["size_begin"], row["size_end"] = 0, NONE_SIZE
        fails = chance.random() < 0.2
        row["result"] = -5 if fails else 0 if row["op"] == Op.FALLOCATE else 1 << 16
    flying = np.argsort(ops["seq_end"])[count - unfinished :]
    ops["seq_end"][flying] = 0
    ops["result"][flying] = NONE_RESULT
    return ops


def let_out(ops: Operations) -> list[tuple[int, int]]:
    """What bpf/watch.c does: (number of the moment, row) of each operation that leaves the kernel, in order."""
    left: list[tuple[int, int]] = []
    met: set[int] = set()
    for i in np.argsort(ops["seq_end"]):
        moment = int(ops["seq_end"][i])
        if not moment:
            continue
        if ops["op"][i] == Op.FALLOCATE:
            if i in met:
                left.append((moment, int(i)))
            continue
        if ops["result"][i] <= 0:
            continue
        others = [
            int(j)
            for j in np.flatnonzero(ops["op"] == Op.FALLOCATE)
            if ops["ino"][j] == ops["ino"][i]
            and ops["offset"][j] < ops["offset"][i]
            and ops["seq_begin"][j] < moment
            and (ops["seq_end"][j] == 0 or ops["seq_end"][j] > ops["seq_begin"][i])
        ]
        met.update(others)
        left += [(moment, int(j)) for j in others if 0 < ops["seq_end"][j] < moment]
        if others:
            left.append((moment, int(i)))
    return left


def in_flight(ops: Operations, moment: int) -> Operations:
    found: Operations = ops[(ops["seq_begin"] < moment) & ((ops["seq_end"] == 0) | (ops["seq_end"] > moment))]
    found["seq_end"] = 0
    found["result"] = NONE_RESULT
    return found


@pytest.mark.parametrize("seed", range(60))
def test_every_pair_once_however_they_come(seed: int) -> None:
    ops = some(seed, 60)
    chance = random.Random(seed)
    pairs, total = Pairs(), Counts()
    out = let_out(ops)
    moment = 0
    while out:
        looked, moment = moment, moment + chance.randrange(1, 20)
        now = [row for at, row in out if at <= moment]
        out = out[len(now) :]
        flying = in_flight(ops, looked) if pairs.waiting else NONE
        flying = flying[~np.isin(flying["seq_begin"], ops["seq_begin"][now])]
        hazards, counts = pairs.add(ops[now], flying)
        total += counts
        assert sum(hazard.pairs for hazard in hazards) == counts.exposed
    wanted = RULE.pairs(ops)
    assert total.exposed == len(wanted.first)
    assert pairs.forgotten == 0


@pytest.mark.parametrize("seed", range(30))
def test_at_the_end_what_is_in_flight_counts_too(seed: int) -> None:
    ops = some(seed, 40, unfinished=6)
    pairs = Pairs()
    rows = [row for _, row in let_out(ops)]
    flying = ops[ops["seq_end"] == 0]
    remembered = ops[(ops["op"] == Op.FALLOCATE) & (ops["seq_end"] != 0)]
    _, counts = pairs.close(ops[rows], flying, remembered)
    assert counts.exposed == len(RULE.pairs(ops).first)


def test_nothing_waits_for_ever() -> None:
    ops = some(1, 60)
    pairs = Pairs()
    pairs.add(ops[[row for _, row in let_out(ops)]], NONE)
    assert pairs.waiting > 0  # new: one more look
    pairs.add(NONE, NONE)
    assert pairs.waiting == 0


def test_more_than_may_wait_is_counted() -> None:
    ops = some(2, 60)
    writes = ops[ops["op"] == Op.AIO_WRITE]
    pairs = Pairs(limit=5)
    pairs.add(writes, NONE)
    assert (pairs.waiting, pairs.forgotten) == (5, len(writes) - 5)
