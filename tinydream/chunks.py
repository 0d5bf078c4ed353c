"""Rows in pieces that fit memory: what a source that is packed piece by piece has in common, and the sources."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from .cells import CellType
from .errors import DataError
from .packing import check_stateless, in_steps, model_inputs
from .sources import arrow, arrow_columns, csv_chunks, csv_header, label_names, read_array
from .table import Column, Table, make_column, table_from_columns

if TYPE_CHECKING:
    from .model import Model

__all__ = ["Chunk", "Embedded", "Labels", "Source", "TypesChangedError", "open_source", "rows_of"]

Labels = str | Sequence[str] | None
CELL = 200  # bytes that a cell of a CSV takes while its chunk is read and encoded, beside its letters
READ = 2**16  # bytes of a column of a Parquet file that are read ahead
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


class Source(Protocol):
    """Rows in pieces. `n_bytes` are read in a pass."""

    name: str
    n_bytes: int
    plain: bool  # one array, whose integers stay as they are, instead of columns

    def chunks(self) -> Iterator[Chunk]:
        """All rows, again with every call."""


class TypesChangedError(Exception):
    """Columns were read as types that later cells do not have; start again."""


def open_source(path: Path, label: Labels, labels: Any, memory: int) -> Source:
    """The source of a file, whose chunks take about `memory` bytes. Raises DataError."""
    suffix = path.suffix.lower()
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if suffix == ".csv":
        return _Csv(path, label_names(label), memory)
    if suffix == ".parquet":
        return _Parquet(path, label_names(label), memory)
    if suffix == ".npy":
        return _Npy(path, labels, memory)
    raise DataError(f"{path}: a {suffix or 'nameless'} file cannot be packed piece by piece; use .csv, .parquet, .npy")


def rows_of(chunk: Chunk, source: Source) -> Table:
    """A chunk as a table without labels. Raises DataError when its columns cannot be one."""
    if source.plain:
        values = chunk.features[0].values
        return Table(values, np.zeros(len(values), dtype=np.int64), ("0",), source.name)
    return table_from_columns(chunk.features, source=source.name)


def _split(columns: list[Column], labels: list[str], done: int) -> Chunk:
    by_name = {column.name: column for column in columns}
    features = [column for column in columns if column.name not in labels]
    return Chunk(features, [by_name[name] for name in labels], done)


# ------------------------------------------------------------------ files


class _Csv:
    plain = False

    def __init__(self, path: Path, labels: list[str], memory: int) -> None:
        self.name, self.n_bytes = str(path), path.stat().st_size
        self._path, self._labels, self._memory = path, labels, memory
        self._header = csv_header(path)
        _check_header(self._header, labels, self.name)
        self._types = [CellType(words=name not in labels) for name in self._header]
        self._settled = False

    def chunks(self) -> Iterator[Chunk]:
        """While no type widens. When one does, the rest is only looked at: the next pass knows."""
        with self._path.open("rb") as stream:
            start = stream.read(2**16)
        row = max(1, len(start) // max(1, start.count(b"\n")))
        n_rows = max(16, self._memory // (4 * row + CELL * len(self._header)))
        first, stable = True, True
        for cells, done in csv_chunks(self._path, n_rows):
            if not self._settled:
                changed = [kind.see(column) for kind, column in zip(self._types, cells, strict=True)]
                stable &= first or not any(changed)
                first = False
            if stable:
                named = zip(self._header, self._types, cells, strict=True)
                yield _split([kind.column(name, column) for name, kind, column in named], self._labels, done)
        self._settled = True
        if not stable:
            raise TypesChangedError


def _check_header(header: list[str], labels: list[str], source: str) -> None:
    for name in labels:
        if name not in header:
            raise DataError(f"{source}: no column {name!r}; the header has {', '.join(header[:12]) or 'nothing'}")
    for name in header:
        if header.count(name) > 1:
            raise DataError(f"{source}: {header.count(name)} columns are named {name!r}; rename all but one")
    if len(header) <= len(set(labels)):
        raise DataError(f"{source}: rows must have at least one value beside the labels")


class _Parquet:
    plain = False

    def __init__(self, path: Path, labels: list[str], memory: int) -> None:
        arrow("reading .parquet")
        from pyarrow import parquet

        self.name, self._labels, self._memory = str(path), labels, memory
        try:
            self._file = parquet.ParquetFile(path, buffer_size=READ)
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: cannot be read as .parquet: {error}") from error
        self.n_bytes = path.stat().st_size
        _check_header([str(name) for name in self._file.schema_arrow.names], labels, self.name)

    def chunks(self) -> Iterator[Chunk]:
        """Batches of rows."""
        total = max(1, self._file.metadata.num_rows)
        n_rows = max(16, min(2**20, self._memory // (CELL * len(self._file.schema_arrow.names))))
        done = 0
        for batch in self._file.iter_batches(batch_size=n_rows):
            done += batch.num_rows
            if batch.num_rows:
                yield _split(arrow_columns(batch, self.name), self._labels, self.n_bytes * done // total)


class _Npy:
    plain = True

    def __init__(self, path: Path, labels: Any, memory: int) -> None:
        self.name, self._path = str(path), path
        rows = read_array(path, mapped=True)
        if rows.ndim < 2 or rows.size == 0 or rows.dtype.kind not in "biuf":
            raise DataError(f"{path}: rows must be numbers (rows, values a row, ..), not {rows.dtype} {rows.shape}")
        self._label_path = None if labels is None else Path(labels)
        if self._label_path is not None:
            shape = read_array(self._label_path, mapped=True).shape
            if shape[:1] != rows.shape[:1] or len(shape) > 2:
                raise DataError(f"{path}: {len(rows)} rows but labels of shape {shape}; one label a row is needed")
        self.n_bytes, self._n = rows.nbytes, len(rows)
        self._row = self.n_bytes // self._n
        self._at_once = max(16, memory // (12 * self._row + CELL))

    def chunks(self) -> Iterator[Chunk]:
        """Slices of rows. The file is mapped for each anew: pages that were read would stay in memory."""
        for first in range(0, self._n, self._at_once):
            part = slice(first, first + self._at_once)
            rows = np.array(read_array(self._path, mapped=True)[part])
            features = [Column("x", rows.astype(rows.dtype.newbyteorder("=")))]
            yield Chunk(features, self._labels(part), (first + len(rows)) * self._row)

    def _labels(self, part: slice) -> list[Column]:
        if self._label_path is None:
            return []
        given = np.array(read_array(self._label_path, mapped=True)[part])
        if given.ndim == 1:
            return [make_column("label", given, source=self.name)]
        return [make_column(f"label{i}", column, source=self.name) for i, column in enumerate(given.T)]


# ------------------------------------------------------------------ through a model


class Embedded:
    """The embeddings of another source's rows. The first pass computes them and keeps them in `spool`."""

    plain = True

    def __init__(self, rows: Source, model: Model, resolution: float | None, spool: IO[bytes], memory: int) -> None:
        """`resolution`: the steps of float32 embeddings. Raises DataError for a model that remembers."""
        check_stateless(model, rows.name)
        self.name, self.n_bytes = rows.name, rows.n_bytes
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
