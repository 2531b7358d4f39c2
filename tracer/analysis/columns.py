"""Operations by column: what rules read, without a copy of what they do not read."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Columns:
    """Some operations (n,), of which each column is an array (n,); a selection is gathered when it is read.

    Columns have the names and units of `tracer.operations.OPERATION`, in-flight and unseen values included, and
    those that `tracer.analysis.emulation` derives. `row` (i64) says which operation of its trace each one is.
    """

    def __init__(
        self,
        arrays: Mapping[str, Array],
        rows: npt.NDArray[np.int64] | None = None,
        before: Mapping[str, Array] | None = None,
    ) -> None:
        """Operations by column; `before`: others, a few, that come first; `rows`: a selection of all of them."""
        self._arrays = arrays
        self._rows = rows
        self._before = before
        self._known = 0 if before is None else len(before["row"])
        self._ready: dict[str, Array] = {}

    def __len__(self) -> int:
        return self._known + len(self._arrays["row"]) if self._rows is None else len(self._rows)

    def __getitem__(self, name: str) -> Array:
        """A column. Raises KeyError for one that is not there."""
        if name not in self._ready:
            self._ready[name] = self._column(name)
        return self._ready[name]

    def _column(self, name: str) -> Array:
        values = self._arrays[name]
        if self._rows is None:
            return values if self._before is None else np.concatenate([self._before[name], values])
        if self._before is None:
            return values[self._rows]
        # Not joined and then selected: of most columns only a few values are ever looked at.
        early = self._rows < self._known
        if len(values) == 0 or early.all():
            return self._before[name][self._rows]
        found = values[np.maximum(self._rows - self._known, 0)]
        found[early] = self._before[name][self._rows[early]]
        return found

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def take(self, rows: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> "Columns":
        """Those at the given positions, or for which the mask is true."""
        if rows.dtype == np.bool_:
            rows = np.flatnonzero(rows)
        chosen = np.asarray(rows if self._rows is None else self._rows[rows], np.int64)
        return Columns(self._arrays, chosen, self._before)

    def kept(self) -> "Columns":
        """A copy of just these, for whoever keeps a few of many."""
        return Columns({name: np.array(self[name]) for name in self._arrays})

    def each(self) -> Iterator["Columns"]:
        """A copy of each one by itself (`kept`)."""
        columns = {name: self[name] for name in self._arrays}
        for at in range(len(self)):
            yield Columns({name: values[at : at + 1].copy() for name, values in columns.items()})

    @staticmethod
    def join(parts: Sequence["Columns"]) -> "Columns":
        """All of some, one or more, that have the same columns, in order."""
        return Columns({name: np.concatenate([part[name] for part in parts]) for name in parts[0]._arrays})
