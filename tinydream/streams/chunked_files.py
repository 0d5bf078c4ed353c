"""Files in pieces that fit memory: CSV, Parquet and NumPy's."""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from ..tables.cells import CellType
from ..tables.sources import arrow, arrow_columns, arrow_left_out, csv_chunks, csv_header, label_names, read_array
from ..tables.table import Column, array_columns, check_header, make_column
from .chunks import Chunk, Source, TypesChangedError

__all__ = ["CsvChunks", "NpyChunks", "NpzChunks", "ParquetChunks", "csv_row", "first_batch", "n_first",
           "parquet_file"]  # fmt: skip

CELL = 200  # bytes that a cell of a CSV takes while its chunk is read and encoded, beside its letters
LEAST = 16  # rows of a piece, whatever memory there is
READ = 2**16  # bytes of a column of a Parquet file that are read ahead
FIRST = 2**14  # cells of the first rows that stand for all
FIRST_BYTES = 2**20  # that these take, about


def _split(columns: list[Column], labels: list[str], done: int) -> Chunk:
    by_name = {column.name: column for column in columns}
    features = [column for column in columns if column.name not in labels]
    return Chunk(features, [by_name[name] for name in labels], done)


def csv_row(path: Path) -> int:
    """Bytes of a row of a CSV, about: by its first ones."""
    with path.open("rb") as stream:
        start = stream.read(2**16)
    return max(1, len(start) // max(1, start.count(b"\n")))


class CsvChunks(Source):
    """A .csv: types are found column by column, and may change while the file is read for the first time."""

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
        n_rows = max(LEAST, self._memory // (4 * csv_row(self._path) + CELL * len(self._header)))
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
    check_header(header, labels, source)
    if len(header) <= len(set(labels)):
        raise DataError(f"{source}: rows must have at least one value beside the labels")


def parquet_file(path: Path) -> Any:
    """A Parquet file, of which no more is read than is asked for. Raises DataError."""
    arrow("reading .parquet")
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(path, buffer_size=READ, pre_buffer=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as .parquet: {error}") from error


def first_batch(file: Any) -> Any:
    """The first rows of a Parquet file as a record batch; without rows an empty one."""
    import pyarrow

    few = next(file.iter_batches(batch_size=LEAST, use_threads=False), None)
    if few is None or not len(few):
        return pyarrow.RecordBatch.from_pylist([], file.schema_arrow)
    n_rows = n_first(few.num_columns, few.nbytes // len(few))
    return next(file.iter_batches(batch_size=n_rows, use_threads=False))


def n_first(n_columns: int, row: int) -> int:
    """How many rows, which take about `row` bytes each, stand for all."""
    return max(LEAST, min(FIRST // max(1, n_columns), FIRST_BYTES // max(1, row)))


class ParquetChunks(Source):
    """A .parquet."""

    plain = False

    def __init__(self, path: Path, labels: list[str], memory: int) -> None:
        self.name, self._labels = str(path), labels
        self._file = parquet_file(path)
        self.n_bytes = path.stat().st_size
        _check_header([str(name) for name in self._file.schema_arrow.names], labels, self.name)
        self.left_out = arrow_left_out(self._file.schema_arrow.names)
        # Long texts may be short in the file, where each is listed once: the first rows say what all take.
        first = first_batch(self._file)
        row = first.nbytes // max(1, len(first))
        self._at_once = max(LEAST, min(2**20, memory // (4 * row + CELL * first.num_columns)))

    def chunks(self) -> Iterator[Chunk]:
        """Batches of rows."""
        total = max(1, self._file.metadata.num_rows)
        done = 0
        for batch in self._file.iter_batches(batch_size=self._at_once, use_threads=False):
            done += batch.num_rows
            if batch.num_rows:
                yield _split(arrow_columns(batch, self.name), self._labels, self.n_bytes * done // total)


class NpyChunks(Source):
    """A .npy of rows, and perhaps one of their labels; of records, dates or texts, rows are columns."""

    def __init__(self, path: Path, label: list[str], labels: Any, memory: int) -> None:
        """`label`: names of the columns that are labels. Raises DataError."""
        self.name, self._path, self._label = str(path), path, label
        rows = read_array(path, mapped=True)
        self.plain = rows.dtype.kind in "biuf" and rows.ndim > 1
        if rows.size == 0:
            raise DataError(f"{path}: rows must have at least one row and one value")
        columns = array_columns(rows[:1], self.name)
        if not self.plain and columns is None:
            raise DataError(f"{path}: rows must be numbers (rows, values a row, ..), not {rows.dtype} {rows.shape}")
        if rows.dtype.names is not None and labels is None:
            _check_header(list(rows.dtype.names), label, self.name)
        self._label_path = None if labels is None else Path(labels)
        if self._label_path is not None:
            _check_labels(read_array(self._label_path, mapped=True).shape, len(rows), self.name)
        self.n_bytes, self._n = rows.nbytes, len(rows)
        self._row = self.n_bytes // self._n
        self._at_once = max(LEAST, memory // (12 * self._row + CELL * len(columns or "x")))

    def chunks(self) -> Iterator[Chunk]:
        """Slices of rows. The file is mapped for each anew: pages that were read would stay in memory."""
        for first in range(0, self._n, self._at_once):
            part = slice(first, first + self._at_once)
            rows = np.array(read_array(self._path, mapped=True)[part])
            done = (first + len(rows)) * self._row
            columns = array_columns(rows, self.name) or [Column("x", rows.astype(rows.dtype.newbyteorder("=")))]
            if self._label_path is None:
                yield _split(columns, self._label, done)
            else:
                yield Chunk(columns, self._labels(self._label_path, part), done)

    def _labels(self, path: Path, part: slice) -> list[Column]:
        return _labels(np.array(read_array(path, mapped=True)[part]), self.name)


def _labels(given: npt.NDArray[Any], source: str) -> list[Column]:
    """A column (n,), or the columns of (n, k)."""
    if given.ndim == 1:
        return [make_column("label", given, source=source)]
    return [make_column(f"label{i}", column, source=source) for i, column in enumerate(given.T)]


def _check_labels(shape: tuple[int, ...], n_rows: int, source: str) -> None:
    if shape[:1] != (n_rows,) or len(shape) > 2:
        raise DataError(f"{source}: {n_rows} rows but labels of shape {shape}; one label a row is needed")


class NpzChunks(Source):
    """A .npz with rows in `x`, and labels in `y` or another array; or of columns by name, NAME.missing beside NAME.

    Its members are read from their beginning on.
    """

    def __init__(self, path: Path, label: Any, classes: Any, memory: int) -> None:
        """`label`: the array of labels; of columns, those that are. `classes`: names in place of the file's."""
        self.name, self._path = str(path), path
        try:
            with zipfile.ZipFile(path) as members:
                held = [name.removesuffix(".npy") for name in members.namelist()]
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError(f"{path}: cannot be read as .npz: {error}") from error
        self.plain = "x" in held or not held
        named = {"y", "classes"} <= set(held)
        if self.plain and label is not None and not isinstance(label, str):
            raise DataError(f"{path}: of a .npz one array holds the labels; an array (rows, k) holds k labels a row")
        label = "y" if label is None and "y" in held else label
        self._label = label_names(label)
        for wanted in ("x", *self._label) if self.plain else self._label:
            if wanted not in held:
                raise DataError(f"{path}: no array {wanted!r}; it holds {', '.join(held) or 'nothing'}")
        if named and self._label and classes is None and (self.plain or self._label == ["y"]):
            with _Member(path, "classes") as names:
                self.names = names.read(names.shape[0] if names.shape else 1).ravel().astype(str).tolist()
        told = {name for name in held if name.endswith(".missing") and name.removesuffix(".missing") in held}
        self._gone = {} if self.plain else {name.removesuffix(".missing"): name for name in told}
        skipped = told | ({"classes"} if "y" in held else set())
        self._arrays = ["x", *self._label] if self.plain else [name for name in held if name not in skipped]
        self._n, self._row, n_values = self._look()
        self.n_bytes = self._n * self._row
        self._at_once = max(LEAST, memory // (12 * self._row + CELL * n_values))

    def _look(self) -> tuple[int, int, int]:
        """Rows, bytes of one, and columns. Raises DataError when the arrays do not fit each other."""
        if not self.plain:
            _check_header(self._arrays, self._label, self.name)
        row, n_rows = 0, 0
        for place, name in enumerate([*self._arrays, *self._gone.values()]):
            with _Member(self._path, name) as member:
                n_rows, row = n_rows if place else (member.shape or (0,))[0], row + member.row
                if self.plain and place == 0:
                    if len(member.shape) < 2 or 0 in member.shape or member.dtype.kind not in "biuf":
                        raise DataError(f"{self.name}: rows must be numbers (rows, values a row, ..), not "
                                        f"{member.dtype} {member.shape}; save columns by name, or give more "
                                        "memory")  # fmt: skip
                elif self.plain:
                    _check_labels(member.shape, n_rows, self.name)
                elif member.shape != (n_rows,) or not n_rows:
                    raise DataError(f"{self.name}: array {name!r} has shape {member.shape}; columns have one value a "
                                    "row, and there must be one row")  # fmt: skip
        return n_rows, row, len(self._arrays)

    def chunks(self) -> Iterator[Chunk]:
        """Rows as they are unpacked."""
        with contextlib.ExitStack() as opened:
            names = [*self._arrays, *self._gone.values()]
            members = {name: opened.enter_context(_Member(self._path, name)) for name in names}
            for first in range(0, self._n, self._at_once):
                n = min(self._at_once, self._n - first)
                read = {name: member.read(n) for name, member in members.items()}
                yield self._chunk(read, (first + n) * self._row)

    def _chunk(self, read: dict[str, npt.NDArray[Any]], done: int) -> Chunk:
        if self.plain:
            features = [Column("x", read["x"].astype(read["x"].dtype.newbyteorder("=")))]
            return Chunk(features, _labels(read[self._label[0]], self.name) if self._label else [], done)
        columns = []
        for name in self._arrays:
            gone = self._gone.get(name)
            values = read[name] if gone is None else np.ma.MaskedArray(read[name], read[gone])
            columns.append(make_column(name, values, source=self.name))
        return _split(columns, self._label, done)


class _Member:
    """An array of a .npz, row by row."""

    def __init__(self, path: Path, name: str) -> None:
        """Raises DataError when it cannot be read so."""
        self._where = f"{path}: array {name!r}"
        self._members = zipfile.ZipFile(path)
        try:
            self._stream: IO[bytes] = self._members.open(f"{name}.npy")
            version = np.lib.format.read_magic(self._stream)
            header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            self.shape, by_column, self.dtype = header[version](self._stream)
        except Exception as error:  # the bytes are not trusted, and many parsers run here
            self._members.close()
            raise DataError(f"{self._where} cannot be read: {error}") from error
        if self.dtype.hasobject or (by_column and len(self.shape) > 1):
            self._members.close()
            what = "holds objects" if self.dtype.hasobject else "lies column by column, so that rows have no end"
            raise DataError(f"{self._where} {what}; save it as a plain .npy, or give more memory")
        self.row = int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize

    def __enter__(self) -> _Member:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._members.close()

    def read(self, n: int) -> npt.NDArray[Any]:
        """The next rows."""
        try:
            data = self._stream.read(n * self.row)
        except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(f"{self._where} cannot be read: {error}") from error
        if len(data) < n * self.row:
            raise DataError(f"{self._where} ends before its last row")
        return np.frombuffer(data, dtype=self.dtype).reshape(n, *self.shape[1:])
