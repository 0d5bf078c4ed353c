"""Windows that overlap, stored once: a series is cut into blocks, and a window is a run of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .table import Column, Table, Windows

__all__ = ["Cut", "as_blocks"]

Array = npt.NDArray[Any]
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Cut:
    """Windows over rows that are blocks: of `span` rows each, the first of a run at its first row, the next `step` on.

    `runs`: windows of each run, in stored order.
    """

    span: int
    step: int
    runs: tuple[int, ...]

    def __len__(self) -> int:
        return sum(self.runs)

    @property
    def n_rows(self) -> int:
        """Rows of all runs."""
        return sum(self.span + (count - 1) * self.step for count in self.runs)

    def first_rows(self) -> Numbers:
        """The row at which each window starts."""
        counts = np.array(self.runs, dtype=np.int64)
        lengths = self.span + (counts - 1) * self.step
        starts = np.repeat(np.cumsum(lengths) - lengths, counts)
        inside = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.asarray(starts + inside * self.step, dtype=np.int64)

    def rows(self, windows: Numbers) -> Numbers:
        """The rows of these windows, (k, span)."""
        return self.first_rows()[windows][:, None] + np.arange(self.span)

    def as_map(self) -> dict[str, Any]:
        """For the metadata."""
        return {"span": self.span, "step": self.step, "runs": list(self.runs)}

    @classmethod
    def from_map(cls, given: Any, n_rows: int) -> Cut:
        """From a file, which is not trusted. Raises ValueError."""
        if (
            not isinstance(given, dict)
            or given.keys() != {"span", "step", "runs"}
            or not isinstance(given["runs"], list)
        ):
            raise ValueError("its windows are not described")
        numbers = (given["span"], given["step"], *given["runs"])
        if not given["runs"] or not all(type(number) is int and 0 < number < 2**28 for number in numbers):
            raise ValueError("its windows are out of range")
        made = cls(given["span"], given["step"], tuple(given["runs"]))
        if made.n_rows != n_rows:
            raise ValueError(f"its windows need {made.n_rows} rows, but there are {n_rows}")
        return made


def as_blocks(table: Table, *, keep_order: bool = False) -> tuple[Table, Cut]:
    """A table of overlapping windows as one of blocks that hold every sample once, and the way back.

    Runs come class by class, or with `keep_order` as they were given.
    """
    windows = table.windows
    assert windows is not None
    block = math.gcd(windows.length, windows.hop)
    given = np.array(windows.runs, dtype=np.int64)
    ends = np.cumsum(given)
    first = ends - given
    order = np.arange(len(first)) if keep_order else np.argsort(table.labels[first], kind="stable")
    pieces, labels, counts = [], [], []
    for run in order.tolist():
        own = table.values[first[run] : ends[run]]
        later = own[1:, windows.length - windows.hop :]
        samples = np.concatenate((own[0], later.reshape(-1, *own.shape[2:])))
        pieces.append(samples.reshape(-1, block, *own.shape[2:]))
        labels.append(np.full(len(pieces[-1]), table.labels[first[run]]))
        counts.append(windows.runs[run])
    targets = tuple(_repeated(column, first[order], [len(piece) for piece in pieces]) for column in table.targets)
    rows = Table(np.concatenate(pieces), np.concatenate(labels), table.classes, table.source, table.ordered,
                 targets=targets)  # fmt: skip
    return rows, Cut(windows.length // block, windows.hop // block, tuple(counts))


def _repeated(column: Column, at: Numbers, counts: list[int]) -> Column:
    missing = None if column.missing is None else np.repeat(column.missing[at], counts)
    return replace(column, values=np.repeat(column.values[at], counts), missing=missing)


def overlap(windows: Windows | None) -> bool:
    """Whether samples are in several windows."""
    return windows is not None and windows.hop < windows.length
