"""Rows in pieces that fit memory: what sources that are packed piece by piece have in common, and their embeddings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from ..packs.embeddings import check_stateless, in_steps, model_inputs
from ..tables.table import Column, Table, table_from_columns
from ..tables.windows import Cut

if TYPE_CHECKING:
    from ..models.model import Model

__all__ = ["Chunk", "Embedded", "Labels", "Source", "TypesChangedError", "rows_of"]

Labels = str | Sequence[str] | None
INPUT = 64  # bytes that a value takes while it becomes an input of a model
MOST_INPUTS = 1024  # embedded from one report of progress to the next


@dataclass(frozen=True)
class Chunk:
    """Some rows: their columns, their labels, and the bytes read so far."""

    features: list[Column]
    labels: list[Column]
    done: int

    def __len__(self) -> int:
        return len(self.features[0])

    def part(self, first: int, end: int, done: int) -> Chunk:
        """The rows from `first` to before `end`."""
        features, labels = ([column.part(first, end) for column in columns] for columns in (self.features, self.labels))
        return Chunk(features, labels, done)

    def rows(self, numbers: npt.NDArray[np.int64]) -> Chunk:
        """The rows of these numbers, copied."""
        features, labels = ([column.rows(numbers) for column in columns] for columns in (self.features, self.labels))
        return Chunk(features, labels, self.done)


class Source(ABC):
    """Rows in pieces. `n_bytes` are read in a pass."""

    name: str
    n_bytes: int
    plain = True  # one array, whose integers stay as they are, instead of columns
    left_out: tuple[str, ...] = ()  # what of the source is not among the rows, for people
    names: list[str] | None = None  # of the classes in their order, where the source knows them
    cut: Cut | None = None  # windows over its rows, which are blocks in the order of their series then

    @abstractmethod
    def chunks(self) -> Iterator[Chunk]:
        """All rows, again with every call."""


class TypesChangedError(Exception):
    """Columns were read as types that later cells do not have; start again."""


def rows_of(chunk: Chunk, source: Source) -> Table:
    """A chunk as a table without labels. Raises DataError when its columns cannot be one."""
    if source.plain:
        values = chunk.features[0].values
        return Table(values, np.zeros(len(values), dtype=np.int64), ("0",), source.name)
    return table_from_columns(chunk.features, source=source.name)


class Embedded(Source):
    """The embeddings of another source's rows. The first pass computes them and keeps them in `spool`."""

    def __init__(self, rows: Source, model: Model, resolution: float | None, spool: IO[bytes], memory: int) -> None:
        """`resolution`: the steps of float32 embeddings. Raises DataError for a model that remembers."""
        check_stateless(model, rows.name)
        self.name, self.n_bytes, self.names, self.left_out = rows.name, rows.n_bytes, rows.names, rows.left_out
        self.model, self.scale = model, model.embedding_scale
        self._rows, self._resolution, self._spool = rows, resolution, spool
        self._at_once = max(1, min(MOST_INPUTS, memory // (INPUT * model.input_size)))
        self._real = model.output_dtype.kind == "f"
        self._dtype = np.dtype(np.int32) if self._real else model.output_dtype
        self._lost = np.zeros(2)  # of float32 embeddings: the largest error, and the sum of squares
        self._n_rows = 0
        self._whole = False

    @property
    def error(self) -> tuple[float, float] | None:
        """The largest and the root mean square error of float32 embeddings, when they have been computed."""
        if not self._real:
            return None
        return float(self._lost[0]), float(np.sqrt(self._lost[1] / (self._n_rows * self.model.embedding_size)))

    def chunks(self) -> Iterator[Chunk]:
        """Embeddings and labels."""
        self._spool.seek(0)
        if not self._whole:
            self._lost[:] = 0
            self._n_rows = 0
        before = 0
        for chunk in self._rows.chunks():
            for first in range(0, len(chunk), self._at_once):
                end = min(len(chunk), first + self._at_once)
                piece = chunk.part(first, end, before + (chunk.done - before) * end // len(chunk))
                found = self._kept(len(piece)) if self._whole else self._embed(piece)
                yield replace(piece, features=[Column("x", found)])
            before = chunk.done
        self._whole = True

    def _embed(self, chunk: Chunk) -> npt.NDArray[Any]:
        table = rows_of(chunk, self._rows)
        found = self.model.embed(model_inputs(table, self.model))
        if self._real:
            stepped, self.scale, (most, rms) = in_steps(Table(found, table.labels, ("0",), self.name), self._resolution)
            found = stepped.values
            self._lost[0] = max(self._lost[0], most)
            self._lost[1] += rms**2 * found.size
        self._n_rows += len(found)
        self._spool.write(np.ascontiguousarray(found).tobytes())
        return found

    def _kept(self, n: int) -> npt.NDArray[Any]:
        size = self.model.embedding_size
        data = self._spool.read(n * size * self._dtype.itemsize)
        if len(data) < n * size * self._dtype.itemsize:
            raise DataError(f"{self.name}: more rows than before; the file changed meanwhile")
        return np.frombuffer(data, dtype=self._dtype).reshape(n, size)
