"""Tables: rows of numbers, or columns of several types, with their labels: what all the rest of the package takes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from .codes import numpy_type, type_name

__all__ = ["ClassLabel", "Column", "Table", "Windows", "array_columns", "table_from_arrays", "table_from_columns"]

MAX_CLASSES = 1024
Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Column:
    """A named column: `values` (n,) of bool, integers, reals, datetime64, timedelta64 or str (as objects).

    `missing` (n,) says which cells are empty, whatever `values` holds there; None: no cell is. `zone`: the time zone of
    datetime64, which are in UTC then; None: times of no zone. `decimal`: digits, and those of them after the point, of
    float64 that were decimals.
    """

    name: str
    values: Array
    missing: npt.NDArray[np.bool_] | None = None
    zone: str | None = None
    decimal: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.values)

    @property
    def any_missing(self) -> bool:
        """Whether a cell is empty."""
        return self.missing is not None and bool(self.missing.any())

    def part(self, first: int, end: int) -> Column:
        """The cells from `first` to before `end`."""
        missing = None if self.missing is None else self.missing[first:end]
        return replace(self, values=self.values[first:end], missing=missing)

    def rows(self, numbers: npt.NDArray[np.int64]) -> Column:
        """The cells of these numbers, copied."""
        missing = None if self.missing is None else self.missing[numbers]
        return replace(self, values=self.values[numbers], missing=missing)


@dataclass(frozen=True)
class ClassLabel:
    """The labels that became classes: the `name` of their column, and their type as a field has it."""

    name: str
    dtype: str

    @classmethod
    def usual(cls, classes: Sequence[str]) -> ClassLabel:
        """What labels are where nobody says otherwise: numbers, or if classes have names, these."""
        return cls("label", "text" if are_named(classes) else "i8")

    def values(self, classes: Sequence[str]) -> Array:
        """The label of each class, (n_classes,). Raises ValueError when a class has a name that is no such label."""
        kind = numpy_type(self.dtype)
        if self.dtype == "text":
            return np.array([*classes, None], dtype=object)[:-1]
        if kind.kind in "Mm":
            return np.array(classes, dtype=kind)
        numbers = [float(name) if kind.kind == "f" else int(name) for name in classes]
        return np.array(numbers, dtype=object).astype(kind)

    def as_meta(self, classes: Sequence[str]) -> dict[str, Any]:
        """For the metadata; nothing when that says it already."""
        return {} if self == self.usual(classes) else {"label": {"name": self.name, "type": self.dtype}}


def are_named(classes: Sequence[str]) -> bool:
    """Whether classes have names other than their numbers."""
    return any(name != str(i) for i, name in enumerate(classes))


@dataclass(frozen=True)
class Windows:
    """Rows that are windows of `length` samples, each `hop` after the one before; they overlap where hop < length.

    `runs`: how many windows each series has, in order; the next series starts a new one.
    """

    length: int
    hop: int
    runs: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Table:
    """Rows and their labels.

    `values` is (n, *shape), integer or floating point; of a table with `columns` it is what they hold as one array
    (n, columns) when all are numbers and none is missing, else (n, 0). `labels` is (n,), int64 in [0, n_classes);
    `classes` names them, in order. A class without rows is allowed here (a wearer may never have rowed) and left out of
    a pack. `ordered` is False when the labels were names, or integers that are no class numbers (negative, or above
    1,023), and their order was not given: they are then sorted, which need not be the order of a model's outputs.
    `targets` are labels that are no classes: real numbers, or several columns; all rows are then of one class.
    `windows`: rows are windows of longer series, in their order. `label`: what the classes were; None where there are
    none. `left_out`: what of the source is not in the table, for people.
    """

    values: Array
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    source: str = "arrays"
    ordered: bool = True
    columns: tuple[Column, ...] = ()
    targets: tuple[Column, ...] = ()
    windows: Windows | None = None
    label: ClassLabel | None = None
    left_out: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def n_classes(self) -> int:
        """Number of classes, with or without rows."""
        return len(self.classes)

    def flat(self) -> Array:
        """The rows as (n, features). Raises DataError when they are not all numbers."""
        if self.columns and not self.values.shape[1]:
            wrong = next(
                column for column in self.columns if column.values.dtype.kind not in "biuf" or column.any_missing
            )
            what = "has empty cells" if wrong.any_missing else f"holds {_kind_name(wrong.values)}"
            raise DataError(f"{self.source}: column {wrong.name!r} {what}; numbers in all cells are needed here")
        return self.values.reshape(len(self), -1)

    def real_labels(self) -> npt.NDArray[np.float64]:
        """The targets as (n, targets); NaN where one is missing. Raises DataError when they are not numbers."""
        for column in self.targets:
            if column.values.dtype.kind not in "biuf":
                raise DataError(f"{self.source}: label {column.name!r} holds {_kind_name(column.values)}, not numbers")
        real = np.empty((len(self), len(self.targets)))
        for i, column in enumerate(self.targets):
            real[:, i] = column.values if column.missing is None else np.where(column.missing, np.nan, column.values)
        return real


def table_from_arrays(
    values: npt.ArrayLike,
    labels: npt.ArrayLike | None,
    *,
    classes: Sequence[str] | int | None = None,
    real: bool | None = None,
    source: str = "arrays",
) -> Table:
    """Checks rows and labels and makes a Table of them.

    `values`: (n, ...) numbers; a structured array (n,), and rows (n, k) with masked cells, of dates or of texts, become
    columns, named by the array or x0, x1, .. `labels`: (n,) class numbers, names or real numbers, or (n, k) of k
    labels a row; None: there are none. `classes`: the names in order, or how many there are; by default what the
    labels show. `real`: whether labels are real numbers rather than classes; by default those are that have a fraction.
    Raises DataError for no rows, lengths that differ, and labels out of range.
    """
    columns = array_columns(np.asanyarray(values), source)
    table = _of_numbers(np.asarray(values), source) if columns is None else table_from_columns(columns, source=source)
    if labels is None:
        return _with_classes(table, table.labels, classes) if classes is not None else table
    given = labels if isinstance(labels, np.ma.MaskedArray) else np.asarray(labels)
    if given.shape[:1] != (len(table),) or given.ndim > 2:
        raise DataError(f"{source}: {len(table)} rows but labels of shape {given.shape}; one label a row is needed")
    if given.ndim == 1:
        return with_labels(table, [make_column("label", given, source=source)], classes=classes, real=real)
    several = [make_column(f"label{i}", column, source=source) for i, column in enumerate(given.T)]
    return with_labels(table, several, classes=classes, real=real)


def _of_numbers(array: Array, source: str) -> Table:
    if array.ndim < 2 or array.size == 0:
        raise DataError(
            f"{source}: rows must be an array (rows, values a row, ..) of at least one row and one value, "
            f"not {array.shape}"
        )
    if array.dtype.kind not in "iufb" or array.dtype.itemsize > 8:
        raise DataError(f"{source}: values of type {array.dtype} are not numbers")
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    return Table(array, np.zeros(len(array), dtype=np.int64), ("0",), source)


def array_columns(array: Array, source: str) -> list[Column] | None:
    """The columns of rows that are no plain numbers; None: they are."""
    if array.dtype.names is not None and array.ndim == 1:
        return [make_column(name, array[name], source=source) for name in array.dtype.names]
    masked = np.ma.is_masked(array)
    if masked and array.ndim != 2:
        raise DataError(
            f"{source}: cells are masked in rows of shape {array.shape[1:]}; fill them in, or give rows of columns"
        )
    if masked or (array.ndim == 2 and array.dtype.kind in "MmUO"):
        return [make_column(f"x{i}", array[:, i], source=source) for i in range(array.shape[1])]
    return None


def table_from_columns(
    columns: Mapping[str, npt.ArrayLike] | Iterable[Column],
    *,
    label: str | Sequence[str] | None = None,
    classes: Sequence[str] | int | None = None,
    real: bool | None = None,
    source: str = "columns",
) -> Table:
    """Makes a Table of named columns of any types; masked arrays have missing values, and so have None and NaT objects.

    `label` names the label column or columns; `classes` and `real` are as in `table_from_arrays`. Raises DataError.
    """
    if isinstance(columns, Mapping):
        columns = [make_column(str(name), values, source=source) for name, values in columns.items()]
    given = list(columns)
    names = [column.name for column in given]
    wanted = [label] if isinstance(label, str) else list(label or ())
    check_header(names, wanted, source)
    features = tuple(column for column in given if column.name not in wanted)
    n = len(given[0]) if given else 0
    if not features or n == 0 or any(len(column) != n for column in given):
        raise DataError(f"{source}: rows must have at least one row and one value, not {(n, len(features))}")
    none = np.zeros(n, dtype=np.int64)
    table = Table(_as_array(features, n), none, ("0",), source, columns=features)
    return with_labels(table, [given[names.index(name)] for name in wanted], classes=classes, real=real)


def check_header(names: Sequence[str], labels: Sequence[str], source: str) -> None:
    """Raises DataError for a label that no column is named by, and for columns of one name."""
    counts = Counter(names)
    for name, count in Counter(labels).items():
        if count > 1:
            raise DataError(f"{source}: the label {name!r} is named {count} times")
    for name in labels:
        if name not in counts:
            raise DataError(f"{source}: no column {name!r}; the header has {', '.join(names[:12]) or 'nothing'}")
    for name, count in counts.items():
        if count > 1:
            raise DataError(f"{source}: {count} columns are named {name!r}; rename all but one")


def _as_array(columns: tuple[Column, ...], n: int) -> Array:
    if any(column.values.dtype.kind not in "biuf" or column.any_missing for column in columns):
        return np.empty((n, 0))
    return np.column_stack([column.values for column in columns])


def make_column(name: str, values: npt.ArrayLike, *, source: str = "columns") -> Column:
    """A column of any array (n,): masked values, and None and NaT among objects, are missing. Raises DataError."""
    missing = None
    if isinstance(values, np.ma.MaskedArray):
        missing = np.ma.getmaskarray(values).copy()
        values = values.data
    if isinstance(values, (list, tuple)) and any(type(item) is str for item in values):
        values = np.array([*values, None], dtype=object)[:-1]  # NumPy's texts end before zeros
    array = np.asarray(values)
    if array.ndim != 1:
        raise DataError(f"{source}: column {name!r} has shape {array.shape}; one value a row is needed")
    if array.dtype == object:
        array, gone = _plain_objects(array, f"{source}: column {name!r}")
        missing = gone if missing is None else missing | gone
    if array.dtype.kind == "S":
        try:
            array = array.astype(str)
        except UnicodeDecodeError as error:
            raise DataError(f"{source}: labels or texts that are bytes must be ASCII: {error}") from error
    if array.dtype.kind == "U":
        array = array.astype(object)
    if array.dtype.kind not in "biufMmO" or (array.dtype.kind in "f" and array.dtype.itemsize > 8):
        raise DataError(f"{source}: column {name!r} is of type {array.dtype}, which cannot be packed")
    if array.dtype.kind in "Mm":
        array = _whole_units(array, f"{source}: column {name!r}")
    array = array.astype(array.dtype.newbyteorder("="))
    return Column(name, array, missing if missing is not None and missing.any() else None)


def _plain_objects(array: Array, where: str) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Objects as an array of their one type, and which of them are None."""
    missing = np.array([item is None for item in array], dtype=bool)
    kept = array[~missing].tolist()
    if all(type(item) is str for item in kept):
        texts = array.copy()
        texts[missing] = ""
        return texts, missing
    try:
        found = np.array(kept)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{where} holds objects that are not of one type: {error}") from error
    if found.ndim != 1 or found.dtype.kind not in "biufMm" or found.dtype.itemsize > 8:
        kinds = sorted({type(item).__name__ for item in kept})
        raise DataError(f"{where} holds {', '.join(kinds)}; texts, numbers or dates of one type are needed")
    whole = np.zeros(len(array), dtype=found.dtype)
    whole[~missing] = found
    return whole, missing


def _whole_units(array: Array, where: str) -> Array:
    unit, count = np.datetime_data(array.dtype)
    if unit == "generic":
        raise DataError(f"{where}: times without a unit")
    return array if count == 1 else array.astype(f"{array.dtype.kind}8[{unit}]")


def _kind_name(values: Array) -> str:
    return {"O": "texts", "M": "dates", "m": "durations"}.get(values.dtype.kind, "numbers")


# ------------------------------------------------------------------ labels


def with_labels(
    table: Table, labels: Sequence[Column], *, classes: Sequence[str] | int | None = None, real: bool | None = None
) -> Table:
    """The table with these labels: one column of classes, or targets (real numbers, or several columns)."""
    if not labels:
        if classes is not None:
            return _with_classes(table, table.labels, classes)
        return table
    for column in labels:
        if len(column) != len(table):
            raise DataError(f"{table.source}: {len(table)} rows but {len(column)} labels {column.name!r}")
    if len(labels) == 1 and not (_is_real(labels[0]) if real is None else real):
        if labels[0].any_missing:
            row = int(np.argmax(labels[0].missing is not None and labels[0].missing))
            raise DataError(f"{table.source}: row {row} has no label; leave out rows without one")
        return replace(_with_classes(table, labels[0].values, classes), label=class_label(labels[0], classes))
    if classes is not None:
        raise DataError(f"{table.source}: classes are named, but the labels are real numbers or several")
    if real and any(column.values.dtype.kind not in "biuf" for column in labels):
        raise DataError(f"{table.source}: labels are {_kind_name(labels[0].values)}, not real numbers")
    return replace(table, targets=tuple(labels))


def class_label(column: Column, classes: Sequence[str] | int | None) -> ClassLabel:
    """What the labels of a column are that become these classes. Raises DataError for times of a time zone."""
    if column.zone is not None:
        raise DataError(
            f"label {column.name!r} has the time zone {column.zone}, which names of classes do not keep; take "
            "the times in UTC without a zone, or as texts"
        )
    named = classes is not None and not isinstance(classes, int) and numbers_as_names(column.values, classes) is None
    return ClassLabel(column.name, "text" if named or column.values.dtype.kind == "m" else type_name(column.values))


def _is_real(column: Column) -> bool:
    """Numbers of which some have fractions; NaN alone is a mistake rather than a measurement."""
    values = column.values
    if values.dtype.kind != "f" or not np.isfinite(values).all():
        return False
    return bool((values != np.rint(values)).any())


def _with_classes(table: Table, given: Array, classes: Sequence[str] | int | None) -> Table:
    numbers, names = class_numbers(given, classes, table.source)
    ordered = classes is not None or (given.dtype.kind in "iufb" and not are_named(names))
    return replace(table, labels=numbers, classes=names, ordered=ordered)


def class_numbers(
    given: npt.NDArray[Any], classes: Sequence[str] | int | None, source: str
) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """The class of each label, and the names of the classes. Raises DataError for labels that are no classes."""
    if given.dtype.kind in "OMm":
        return _number_names(given.astype(str).astype(object) if given.dtype.kind != "O" else given, classes, source)
    with np.errstate(invalid="ignore"):  # NaN is caught by the comparison
        numbers = given.astype(np.int64)
    if given.dtype.kind not in "iub" and not np.array_equal(numbers, given):
        if np.isnan(given.astype(np.float64)).any():
            raise DataError(f"{source}: labels are missing (NaN) in some rows; leave these rows out")
        raise DataError(
            f"{source}: labels must be class numbers or names, not fractions; are they real numbers: real=True, --real?"
        )
    names = numbers_as_names(given, classes)
    if names is not None:
        _check_n_classes(len(names), source)
        return number_by_name(given, names), _class_names(names, source)
    if classes is None:
        classes = max(1, int(numbers.max()) + 1)
    n_classes = classes if isinstance(classes, int) else len(classes)
    _check_label_range(numbers, n_classes, source)
    return numbers, _class_names(range(n_classes) if isinstance(classes, int) else classes, source)


def numbers_as_names(given: Array, classes: Sequence[str] | int | None) -> tuple[str, ...] | None:
    """The names of classes whose labels are whole numbers but no class numbers; None when labels are class numbers.

    Numbers are names when one of them is negative or above the limit of classes, in rising order then; or when
    `classes` names them all, and names a number that no class has.
    """
    if given.dtype.kind not in "iufb" or isinstance(classes, int) or not np.isfinite(given).all():
        return None
    if classes is not None:
        named = [number for number in map(_whole, classes) if number is not None]
        outside = any(not 0 <= number < len(classes) for number in named)
        return tuple(classes) if outside and set(np.unique(given).tolist()) <= set(named) else None
    if given.min() >= 0 and given.max() < MAX_CLASSES:
        return None
    return tuple(str(int(number)) for number in np.unique(given).tolist())


def number_by_name(given: Array, names: Sequence[str]) -> npt.NDArray[np.int64]:
    """The class of each label that is a whole number, by the name of its class. Raises KeyError for one of no name."""
    place = {_whole(name): i for i, name in enumerate(names)}
    distinct, at = np.unique(given, return_inverse=True)
    return np.array([place[number] for number in distinct.tolist()], dtype=np.int64)[at]


def _whole(name: str) -> int | None:
    """The number of which this is the name."""
    try:
        return int(name) if str(int(name)) == name else None
    except ValueError:
        return None


def _class_names(names: Iterable[object], source: str) -> tuple[str, ...]:
    given = tuple(str(name) for name in names)
    for i, name in enumerate(given):
        if name in given[:i]:
            raise DataError(f"{source}: the classes name {name!r} twice")
    return given


def _number_names(
    given: Array, classes: Sequence[str] | int | None, source: str
) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    if isinstance(classes, int):
        raise DataError(f"{source}: labels are names; give the class names in order, not their number")
    found = sorted(set(given.tolist()), key=_natural) if classes is None else classes
    _check_n_classes(len(found), source)
    names = _class_names(found, source)
    place = {name: i for i, name in enumerate(names)}
    for row, name in enumerate(given.tolist()):
        if name not in place:
            raise DataError(f"{source}: row {row} has label {name!r}, which is none of {', '.join(names)}")
    return np.array([place[name] for name in given.tolist()], dtype=np.int64), names


def _natural(name: str) -> tuple[int, float, str]:
    """Sorts numbers by value, before names; "nan" has no place among numbers."""
    try:
        value = float(name)
    except ValueError:
        value = math.nan
    return (0, value, name) if math.isfinite(value) else (1, 0.0, name)


def _check_n_classes(n_classes: int, source: str) -> None:
    if not 0 < n_classes <= MAX_CLASSES:
        raise DataError(f"{source}: {n_classes} classes; between 1 and {MAX_CLASSES} are possible")


def _check_label_range(numbers: npt.NDArray[np.int64], n_classes: int, source: str) -> None:
    _check_n_classes(n_classes, source)
    bad = np.flatnonzero((numbers < 0) | (numbers >= n_classes))
    if len(bad):
        row = int(bad[0])
        raise DataError(
            f"{source}: {len(bad)} labels are out of range, the first in row {row}: {int(numbers[row])}; "
            f"with {n_classes} classes they go from 0 to {n_classes - 1}. Number them from 0 on, or give names"
        )
