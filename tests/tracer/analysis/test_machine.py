"""A machine that computes wrongly gives no verdict."""

from collections.abc import Iterator

import numpy as np
import pytest

from tracer.analysis import machine
from tracer.errors import UnsupportedError


@pytest.fixture(autouse=True)
def afresh() -> Iterator[None]:
    machine.require_sound.cache_clear()
    yield
    machine.require_sound.cache_clear()


def test_this_machine_is_sound() -> None:
    machine.require_sound()


def test_one_that_sorts_wrongly_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As QEMU 7.2 with AVX2: some arrays, two elements swapped."""
    right = np.argsort

    def wrong(values: "np.ndarray[tuple[int], np.dtype[np.uint64]]") -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
        order = right(values)
        if len(values) > 500:
            order[[100, 300]] = order[[300, 100]]
        return order

    monkeypatch.setattr(np, "argsort", wrong)
    with pytest.raises(UnsupportedError, match="sorts numbers wrongly"):
        machine.require_sound()


@pytest.mark.parametrize("larger", [False, True])
def test_one_that_loses_a_number_is_refused(larger: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same place twice, beside the right one: all is in order, and one that is larger, or smaller, is gone."""
    right = np.argsort

    def wrong(values: "np.ndarray[tuple[int], np.dtype[np.uint64]]") -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
        order = right(values)
        at = int(np.argmax((order[1:] < order[:-1]) == larger))
        order[at + 1] = order[at]
        return order

    monkeypatch.setattr(np, "argsort", wrong)
    with pytest.raises(UnsupportedError, match="sorts numbers wrongly"):
        machine.require_sound()
