"""Selections of operations by column: gathered when read, never more than what is selected."""

import numpy as np
import pytest

from tracer.analysis.columns import Columns


def columns() -> Columns:
    return Columns({"row": np.arange(6), "x": np.array([10, 11, 12, 13, 14, 15])})


def test_a_selection_of_a_selection() -> None:
    whole = columns()
    assert len(whole) == 6
    assert whole["x"].tolist() == [10, 11, 12, 13, 14, 15]
    some = whole.take(np.array([5, 1, 1, 3]))
    assert (len(some), some["x"].tolist()) == (4, [15, 11, 11, 13])
    fewer = some.take(np.array([True, False, True, True]))
    assert (len(fewer), fewer["x"].tolist(), fewer["row"].tolist()) == (3, [15, 11, 13], [5, 1, 3])
    assert fewer.take(np.array([2, 0]))["x"].tolist() == [13, 15]
    assert len(whole.take(np.zeros(6, np.bool_))) == 0


def test_a_column_is_gathered_once() -> None:
    some = columns().take(np.array([2]))
    assert some["x"] is some["x"]


def test_what_is_there() -> None:
    assert "x" in columns()
    assert "y" not in columns().take(np.array([1]))
    for some in (columns(), columns().take(np.array([1]))):
        with pytest.raises(KeyError):
            some["y"]


def test_what_is_kept_is_a_copy() -> None:
    whole = columns()
    kept = whole.kept()
    few = whole.take(np.array([4])).kept()
    whole["x"][:] = 0
    assert kept["x"].tolist() == [10, 11, 12, 13, 14, 15]
    assert (few["x"].tolist(), few["row"].tolist()) == ([14], [4])
    assert few["x"].base is None


def test_join() -> None:
    one, other = columns().take(np.array([1, 0])), columns().take(np.array([5]))
    joined = Columns.join([one, other])
    assert (len(joined), joined["x"].tolist(), joined["row"].tolist()) == (3, [11, 10, 15], [1, 0, 5])
