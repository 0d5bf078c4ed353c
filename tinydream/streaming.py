"""Packs files that are larger than memory: a first pass plans fields and classes, a second one encodes part by part."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

import cbor2
import numpy as np
import numpy.typing as npt

from ._native import lib
from .cells import CellType
from .errors import DataError, UsageError
from .files import SectionStream, atomic_stream
from .packing import best_part, part_record, sample_starts, schema_section
from .reduction import PUBLISHED
from .schema import Field, FieldPlanner, Lossy, Schema, add_error
from .sources import arrow, arrow_columns, csv_chunks, csv_header, label_names, read_array
from .table import MAX_CLASSES, Column, class_numbers

__all__ = ["DEFAULT_MEMORY", "Summary", "pack_file", "too_large"]

Progress = Callable[[int, int], None]
Labels = str | Sequence[str] | None
DEFAULT_MEMORY = 2**28  # bytes
LEAST_MEMORY = 2**22
MOST_ROWS = 2**28 - 1  # of a pack
MOST_PARTS = 65535
CELL = 200  # bytes that a cell of a CSV takes while its chunk is read and encoded, beside its letters
# What a file's bytes become in memory when it is read whole, at most about that many times as many.
GROWTH = {".csv": 20, ".parquet": 40, ".npy": 6}


@dataclass(frozen=True)
class Summary:
    """What was packed: `rows` by `features` integers in `parts`, `samples` condensed, `bytes` of file, its `schema`."""

    rows: int
    features: int
    parts: int
    samples: int
    bytes: int
    schema: Schema


def too_large(path: str | os.PathLike[str], max_memory: int) -> bool:
    """Whether a file should be packed by `pack_file` rather than read whole."""
    path = Path(path)
    return path.suffix.lower() in GROWTH and path.is_file() and path.stat().st_size * GROWTH[path.suffix] > max_memory


def pack_file(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    label: Labels = None,
    labels: str | os.PathLike[str] | None = None,
    classes: Sequence[str] | int | None = None,
    real: bool | None = None,
    per_class: int = 16,
    method: str = "variance",
    lossy_bits: int | None = None,
    resolution: float | None = None,
    max_memory: int = DEFAULT_MEMORY,
    progress: Progress | None = None,
) -> Summary:
    """Packs a .csv, .parquet or .npy of any size in about `max_memory` bytes, and writes it to `output`.

    The rest is as in `read` and `pack`; rows are in parts of their own that fit memory, and condensed part by part.
    Until the new file is whole, `output` holds the old one. `progress` counts bytes of the source, twice. Raises
    DataError when rows or labels cannot be packed.
    """
    if max_memory < LEAST_MEMORY:
        raise UsageError(f"{max_memory} bytes of memory; at least {LEAST_MEMORY} are needed")
    if method not in ("variance", *PUBLISHED):
        raise UsageError(f"no method {method!r} packs files; there are variance, {', '.join(PUBLISHED)}")
    lossy = None if lossy_bits is None and resolution is None else Lossy(lossy_bits, resolution)
    try:
        found = _source(Path(source), label, labels, max_memory // 4)
        planned = _first_pass(found, lossy, classes, real, max_memory // 4, progress)
        with atomic_stream(output) as stream:
            return _second_pass(found, planned, stream, per_class, method, max_memory, progress)
    except FileNotFoundError as error:
        raise DataError(f"{error.filename}: no such file") from error
    except (ValueError, csv.Error) as error:
        raise DataError(f"{source}: cannot be read as {Path(source).suffix}: {error}") from error


# ------------------------------------------------------------------ sources


class _Source(Protocol):
    """Rows in pieces. `n_bytes` are read in a pass; `settled`: the types of the columns are known for sure."""

    name: str
    labels: list[str]
    n_bytes: int
    settled: bool
    plain: bool  # integers stay as they are

    def chunks(self) -> Iterator[tuple[list[Column], int]]:
        """Some rows, and the bytes read so far. All rows again with every call."""


def _source(path: Path, label: Labels, labels: Any, memory: int) -> _Source:
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


class _Csv:
    plain = False

    def __init__(self, path: Path, labels: list[str], memory: int) -> None:
        self.name, self.labels, self.n_bytes = str(path), labels, path.stat().st_size
        self._path, self._memory = path, memory
        self._header = csv_header(path)
        _check_header(self._header, labels, self.name)
        self._types = [CellType(words=name not in labels) for name in self._header]
        self.settled = False

    def chunks(self) -> Iterator[tuple[list[Column], int]]:
        """While no type widens. When one does, the rest is only looked at: the next pass knows."""
        with self._path.open("rb") as stream:
            start = stream.read(2**16)
        row = max(1, len(start) // max(1, start.count(b"\n")))
        n_rows = max(16, self._memory // (4 * row + CELL * len(self._header)))
        first, stable = True, True
        for cells, done in csv_chunks(self._path, n_rows):
            if not self.settled:
                changed = [kind.see(column) for kind, column in zip(self._types, cells, strict=True)]
                stable &= first or not any(changed)
                first = False
            if stable:
                named = zip(self._header, self._types, cells, strict=True)
                yield [kind.column(name, column) for name, kind, column in named], done
        self.settled = stable or self.settled
        if not stable:
            self.settled = True
            raise _TypesChangedError


class _TypesChangedError(Exception):
    """Columns were read as types that later cells do not have; start again."""


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
    settled, plain = True, False

    def __init__(self, path: Path, labels: list[str], memory: int) -> None:
        arrow("reading .parquet")
        from pyarrow import parquet

        self.name, self.labels, self._memory = str(path), labels, memory
        try:
            self._file = parquet.ParquetFile(path)
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: cannot be read as .parquet: {error}") from error
        self.n_bytes = path.stat().st_size
        _check_header([str(name) for name in self._file.schema_arrow.names], labels, self.name)

    def chunks(self) -> Iterator[tuple[list[Column], int]]:
        """Batches of rows."""
        total = max(1, self._file.metadata.num_rows)
        n_rows = max(16, min(2**20, self._memory // (CELL * len(self._file.schema_arrow.names))))
        done = 0
        for batch in self._file.iter_batches(batch_size=n_rows):
            done += batch.num_rows
            if batch.num_rows:
                yield arrow_columns(batch, self.name), self.n_bytes * done // total


class _Npy:
    settled, plain = True, True

    def __init__(self, path: Path, labels: Any, memory: int) -> None:
        self.name, self._memory = str(path), memory
        self._rows = read_array(path, mapped=True)
        if self._rows.ndim < 2 or self._rows.size == 0 or self._rows.dtype.kind not in "biuf":
            raise DataError(f"{path}: rows must be numbers (rows, values a row, ..), not {self._rows.dtype} "
                            f"{self._rows.shape}")  # fmt: skip
        self._labels = None if labels is None else read_array(Path(labels))
        if self._labels is not None and self._labels.shape != self._rows.shape[:1]:
            raise DataError(f"{path}: {len(self._rows)} rows but labels of shape {self._labels.shape}")
        self.labels = [] if labels is None else ["label"]
        self.n_bytes = self._rows.nbytes

    def chunks(self) -> Iterator[tuple[list[Column], int]]:
        """Slices of rows."""
        row = self._rows[:1].nbytes
        n_rows = max(16, self._memory // (12 * row + CELL))
        for first in range(0, len(self._rows), n_rows):
            rows = np.array(self._rows[first : first + n_rows])
            columns = [Column("x", rows.astype(rows.dtype.newbyteorder("=")))]
            if self._labels is not None:
                columns.append(Column("label", self._labels[first : first + n_rows]))
            yield columns, (first + len(rows)) * row


# ------------------------------------------------------------------ first pass


@dataclass
class _Classes:
    """What the labels of one column are: their names, or numbers up to the highest, or real numbers."""

    texts: set[str] = field(default_factory=set)
    low: float = 0
    high: float = 0
    numeric: bool = True
    fraction: bool = False
    finite: bool = True
    n_rows: int = 0

    def see(self, column: Column, source: str, real: bool | None) -> None:
        if column.any_missing and not real:
            row = self.n_rows + int(np.argmax(column.missing is not None and column.missing))
            raise DataError(f"{source}: row {row} has no label; leave out rows without one")
        self.n_rows += len(column)
        values = column.values
        self.numeric = values.dtype.kind in "biuf"
        if not self.numeric:
            self.texts.update(values.astype(str).tolist() if values.dtype.kind in "Mm" else values.tolist())
            if len(self.texts) > MAX_CLASSES and not real:
                raise DataError(f"{source}: more than {MAX_CLASSES} classes")
            return
        finite = values[np.isfinite(values)]
        self.finite &= len(finite) == len(values)
        if len(finite):
            self.low, self.high = min(self.low, float(finite.min())), max(self.high, float(finite.max()))
            self.fraction |= bool((finite != np.rint(finite)).any())

    def names(self, classes: Sequence[str] | int | None, source: str) -> tuple[str, ...]:
        """Names of the classes, checked. Raises DataError."""
        if self.numeric:
            ends = np.array([self.low, self.high if self.finite else np.nan])
            return class_numbers(ends, classes, source)[1]
        return class_numbers(np.array(sorted(self.texts), dtype=object), classes, source)[1]


@dataclass(frozen=True)
class _Plan:
    """`schema` of the stored rows, whose values go from `low` to `high`; `classes`: names, none without labels."""

    schema: Schema
    low: int
    high: int
    classes: tuple[str, ...]
    n_rows: int


def _first_pass(
    source: _Source, lossy: Lossy | None, classes: Sequence[str] | int | None, real: bool | None, memory: int,
    progress: Progress | None,
) -> _Plan:  # fmt: skip
    try:
        planners, labels, n_rows = _survey(source, lossy, real, memory, progress)
    except _TypesChangedError:
        planners, labels, n_rows = _survey(source, lossy, real, memory, progress)
    single = len(source.labels) == 1
    is_real = single and (real if real is not None else labels.numeric and labels.fraction and labels.finite)
    names: tuple[str, ...] = ()
    if single and not is_real:
        names = labels.names(classes, source.name)
        del planners[source.labels[0]]
    elif classes is not None:
        raise DataError(f"{source.name}: classes are named, but labels are none, real numbers or several")
    fields = sorted(((planner.field(), planner) for planner in planners.values()), key=lambda pair: pair[0].label)
    ranges = [planner.stored_range(item) for item, planner in fields]
    schema = Schema(tuple(item for item, _ in fields))
    return _Plan(schema, min(low for low, _ in ranges), max(high for _, high in ranges), names, n_rows)


def _survey(
    source: _Source, lossy: Lossy | None, real: bool | None, memory: int, progress: Progress | None
) -> tuple[dict[str, FieldPlanner], _Classes, int]:
    planners: dict[str, FieldPlanner] = {}
    labels, n_rows = _Classes(), 0
    for columns, done in source.chunks():
        for column in columns:
            label = column.name in source.labels
            if column.name not in planners:
                planners[column.name] = FieldPlanner.of(
                    column.name, column.values, label=label, lossy=lossy, plain=source.plain and not label,
                    max_list=memory // len(columns),
                )  # fmt: skip
            if label and len(source.labels) == 1:
                labels.see(column, source.name, real)
            planners[column.name].see(column.values, column.missing)
        n_rows += len(columns[0])
        if progress:
            progress(done, 2 * source.n_bytes)
    if n_rows == 0:
        raise DataError(f"{source.name}: rows must have at least one row and one value")
    if n_rows > MOST_ROWS:
        raise DataError(f"{source.name}: {n_rows:,} rows; a pack holds {MOST_ROWS:,}. Split them over several")
    return planners, labels, n_rows


# ------------------------------------------------------------------ second pass


def _second_pass(
    source: _Source, plan: _Plan, stream: IO[bytes], per_class: int, method: str, max_memory: int,
    progress: Progress | None,
) -> Summary:  # fmt: skip
    meta: dict[str, Any] = {}
    if any(name != str(i) for i, name in enumerate(plan.classes)):
        meta["classes"] = list(plan.classes)
    n_features = plan.schema.n_stored
    lossy = any(code.kind == "step" for item in plan.schema.fields for code in item.codes)
    encoder = _Encoder(plan, per_class, method, max_memory)
    sections = SectionStream(stream, int(lib.TD_MAGIC_PACK), 4 + 1)
    sections.add(int(lib.TD_PACK_SCHEMA), [bytes(lib.TD_PACK_SCHEMA_SIZE)])
    errors = [np.zeros((len(item.codes), 2)) if lossy else None for item in plan.schema.fields]
    sections.add(int(lib.TD_PACK_DATA), _parts(source, plan, encoder, errors, progress))
    schema = add_error(plan.schema, errors, encoder.n_rows)
    if schema != Schema.of_integers(n_features):
        meta["fields"] = schema.as_list()
    sections.add(int(lib.TD_PACK_PARTS), [b"".join(encoder.records)])
    begins = encoder.begins()
    sections.add(int(lib.TD_PACK_SAMPLES), [begins])
    sections.add(int(lib.TD_PACK_META), [cbor2.dumps(meta)])
    sections.rewrite(int(lib.TD_PACK_SCHEMA), schema_section(
        n_rows=encoder.n_rows, n_samples=encoder.n_samples, n_features=n_features, n_classes=max(1, len(plan.classes)),
        n_parts=len(encoder.records), width=encoder.width, low=plan.low, high=encoder.high,
    ))  # fmt: skip
    sections.finish()
    stream.seek(0, os.SEEK_END)
    return Summary(encoder.n_rows, n_features, len(encoder.records), encoder.n_samples, stream.tell(), schema)


def _parts(
    source: _Source, plan: _Plan, encoder: _Encoder, errors: list[Any], progress: Progress | None
) -> Iterator[bytes]:
    """The parts of the data section, as memory fills."""
    place = {name: i for i, name in enumerate(plan.classes)}
    for columns, done in source.chunks():
        by_name = {column.name: column for column in columns}
        stored = [
            _stored(item, by_name[item.name], error) for item, error in zip(plan.schema.fields, errors, strict=True)
        ]
        numbers = np.zeros(len(columns[0]), dtype=np.int64)
        if plan.classes:
            numbers = _numbers(by_name[source.labels[0]].values, place)
        yield from encoder.take(np.concatenate(stored, axis=1), numbers)
        if progress:
            progress(source.n_bytes + done, 2 * source.n_bytes)
    yield from encoder.rest()


def _stored(item: Field, column: Column, error: Any) -> npt.NDArray[np.int32]:
    stored = item.encode(column.values, column.missing).astype(np.uint32).view(np.int32)
    if error is not None:
        item.measure(column.values, stored, error)
    return stored


def _numbers(values: npt.NDArray[Any], place: dict[str, int]) -> npt.NDArray[np.int64]:
    if values.dtype.kind in "biuf":
        return values.astype(np.int64)
    texts = values.astype(str).tolist() if values.dtype.kind in "Mm" else values.tolist()
    try:
        return np.fromiter(map(place.__getitem__, texts), dtype=np.int64, count=len(texts))
    except KeyError as error:
        raise DataError(f"label {error} is none of {', '.join(list(place)[:12])}") from None


class _Encoder:
    """Collects rows class by class; makes a part of a class when enough of its rows, or too many in all, are there."""

    def __init__(self, plan: _Plan, per_class: int, method: str, max_memory: int) -> None:
        n_features = plan.schema.n_stored
        self.width = max(1, (plan.high - plan.low).bit_length())
        self.high = plan.low
        self.records: list[bytes] = []
        self.n_rows = self.n_samples = 0
        self._low, self._most_value, self._method = plan.low, plan.high, method
        # While a part is encoded there are its rows a few times, its keys, their order and its bytes.
        self._part_rows = max(16, max_memory // 2 // (32 * n_features + 150))
        self._most_rows = max(16, max_memory // 4 // (4 * n_features))
        self._waiting: dict[int, list[npt.NDArray[np.int32]]] = {}
        self._n_waiting: dict[int, int] = {}
        self._at = 0
        self._starts: list[npt.NDArray[np.int64]] = []
        n_parts = -(-plan.n_rows // self._part_rows)
        self._most = max(1, per_class // max(1, n_parts // max(1, len(plan.classes))))

    def take(self, rows: npt.NDArray[np.int32], classes: npt.NDArray[np.int64]) -> Iterator[bytes]:
        """More rows (n, features) and their classes; parts come out when memory is full."""
        order = np.argsort(classes, kind="stable")
        ends = np.flatnonzero(np.diff(classes[order])) + 1
        for members in np.split(order, ends):
            number = int(classes[members[0]])
            self._waiting.setdefault(number, []).append(rows[members])
            self._n_waiting[number] = self._n_waiting.get(number, 0) + len(members)
            while self._n_waiting[number] >= self._part_rows:
                yield self._flush(number)
        while sum(self._n_waiting.values()) > self._most_rows:
            yield self._flush(max(self._n_waiting, key=lambda number: self._n_waiting[number]))

    def rest(self) -> Iterator[bytes]:
        """What is still waiting."""
        for number in sorted(self._waiting):
            while self._n_waiting.get(number):
                yield self._flush(number)

    def _flush(self, number: int) -> bytes:
        rows = np.concatenate(self._waiting.pop(number))
        self._n_waiting.pop(number)
        if len(rows) > self._part_rows:
            later = rows[self._part_rows :].copy()
            self._waiting[number], self._n_waiting[number] = [later], len(later)
            rows = rows[: self._part_rows]
        self.high = max(self.high, int(rows.max()))
        if self.high > self._most_value or int(rows.min()) < self._low:
            raise DataError("values are not what was there when the codes were planned; the file changed meanwhile")
        if len(self.records) == MOST_PARTS:
            raise DataError(f"more than {MOST_PARTS} parts; give more memory, or split the rows over several packs")
        unsigned = (rows.astype(np.int64) - self._low).astype(np.uint32)
        members = np.arange(len(rows))
        data, header, begins, _ = best_part(unsigned, self.width, self._method, None, members, self._most, None)
        self.records.append(part_record(header, self._at, number))
        self._starts.append(np.flatnonzero(begins) + self.n_rows)
        self._at += len(data)
        self.n_rows += len(rows)
        self.n_samples += len(self._starts[-1])
        return data

    def begins(self) -> bytes:
        """The samples section."""
        return sample_starts(np.concatenate(self._starts), self.n_rows)
