"""Tables: rows of numbers with class labels, read from CSV, .npz, .npy or arrays."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import DataError

__all__ = ["Table", "read", "table_from_arrays"]

MAX_CLASSES = 1024


@dataclass(frozen=True)
class Table:
    """Rows and their classes.

    `values` is (n, *shape), integer or floating point and finite; `labels` is (n,), int64 in
    [0, n_classes); `classes` names them, in order. A class without rows is allowed here (a wearer may
    never have rowed) and left out of a pack. `ordered` is False when the labels were names and their order was
    not given: they are then sorted, which need not be the order of a model's outputs.
    """

    values: npt.NDArray[Any]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    source: str = "arrays"
    ordered: bool = True

    def __len__(self) -> int:
        return len(self.values)

    @property
    def n_classes(self) -> int:
        """Number of classes, with or without rows."""
        return len(self.classes)

    def flat(self) -> npt.NDArray[Any]:
        """The rows as (n, features)."""
        return self.values.reshape(len(self.values), -1)


def table_from_arrays(
    values: npt.ArrayLike,
    labels: npt.ArrayLike | None,
    *,
    classes: Sequence[str] | int | None = None,
    source: str = "arrays",
) -> Table:
    """Checks rows and labels and makes a Table of them.

    `values`: (n, ...) numbers. `labels`: (n,) class numbers, or names; None: all are of one class.
    `classes`: the names in order, or how many there are; by default what the labels show.
    Raises DataError for no rows, NaN or infinity, lengths that differ, and labels out of range.
    """
    array = np.asarray(values)
    if array.ndim < 2 or array.size == 0:
        raise DataError(
            f"{source}: rows must be an array (rows, values a row, ..) of at least one row and one value, "
            f"not {array.shape}"
        )
    if array.dtype.kind not in "iufb":
        raise DataError(f"{source}: values of type {array.dtype} are not numbers")
    _check_finite(array, source)
    given = np.zeros(len(array), dtype=np.int64) if labels is None else np.asarray(labels)
    if given.shape != (len(array),):
        raise DataError(f"{source}: {len(array)} rows but labels of shape {given.shape}; one label a row is needed")
    ordered = classes is not None or given.dtype.kind in "iufb"
    numbers, names = _number_labels(given, classes, source)
    return Table(np.ascontiguousarray(array), numbers, names, source, ordered)


def read(path: str | os.PathLike[str], *, label: str | None = None, labels: str | os.PathLike[str] | None = None,
         classes: Sequence[str] | int | None = None) -> Table:  # fmt: skip
    """Reads a Table from a file.

    .csv: a header line; `label` names the label column, every other column is a feature. Labels that are all whole
    numbers are class numbers; otherwise they are names.
    .npz: arrays `x` and `y` (or another name for the labels in `label`).
    .npy: the rows; `labels` is the .npy of the labels.
    Raises DataError that says where the file is wrong.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    readers = {".csv": _read_csv, ".npz": _read_npz, ".npy": _read_npy}
    if suffix not in readers:
        raise DataError(f"{path}: a {suffix or 'nameless'} file cannot be read; use {', '.join(readers)}")
    try:
        values, given = readers[suffix](path, label, labels)
    except FileNotFoundError as error:
        raise DataError(f"{error.filename}: no such file") from error
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as {suffix}: {error}") from error
    return table_from_arrays(values, given, classes=classes, source=str(path))


def read_array(path: str | Path) -> npt.NDArray[Any]:
    """The array of a .npy file. Raises DataError when it cannot be read as one."""
    path = Path(path)
    try:
        array: npt.NDArray[Any] = _load(path, np.ndarray)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    return array


def _check_finite(array: npt.NDArray[Any], source: str) -> None:
    if array.dtype.kind != "f":
        return
    bad = np.argwhere(~np.isfinite(array.reshape(len(array), -1)))
    if len(bad):
        row, column = (int(i) for i in bad[0])
        raise DataError(
            f"{source}: {len(bad)} values are NaN or infinite, the first in row {row}, feature {column}; "
            "fill them in or drop those rows"
        )


def _number_labels(
    given: npt.NDArray[Any], classes: Sequence[str] | int | None, source: str
) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    if given.dtype.kind in "US" or given.dtype == object:
        try:
            return _number_names(given.astype(str), classes, source)
        except UnicodeDecodeError as error:
            raise DataError(f"{source}: labels that are bytes must be ASCII: {error}") from error
    with np.errstate(invalid="ignore"):  # NaN is caught by the comparison
        numbers = given.astype(np.int64)
    if given.dtype.kind not in "iub" and not np.array_equal(numbers, given):
        raise DataError(f"{source}: labels must be class numbers or names, not fractions")
    if classes is None:
        classes = max(1, int(numbers.max()) + 1)
    n_classes = classes if isinstance(classes, int) else len(classes)
    _check_label_range(numbers, n_classes, source)
    return numbers, _class_names(range(n_classes) if isinstance(classes, int) else classes, source)


def _class_names(names: Iterable[object], source: str) -> tuple[str, ...]:
    given = tuple(str(name) for name in names)
    for i, name in enumerate(given):
        if name in given[:i]:
            raise DataError(f"{source}: the classes name {name!r} twice")
    return given


def _number_names(
    given: npt.NDArray[np.str_], classes: Sequence[str] | int | None, source: str
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
            f"with {n_classes} classes they go from 0 to {n_classes - 1}"
        )


def _read_csv(path: Path, label: str | None, labels: Any) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    if label is None:
        raise DataError(f"{path}: name the label column (--label COLUMN)")
    with path.open(newline="", encoding="utf-8-sig") as stream:  # spreadsheets write a byte order mark
        lines = csv.reader(stream)
        header = next(lines, [])
        if label not in header:
            raise DataError(f"{path}: no column {label!r}; the header has {', '.join(header[:12]) or 'nothing'}")
        if header.count(label) > 1:
            raise DataError(f"{path}: {header.count(label)} columns are named {label!r}; rename all but the labels")
        at = header.index(label)
        rows: list[list[float]] = []
        given: list[str] = []
        for cells in lines:
            if not cells:
                continue  # a blank line holds no row
            if len(cells) != len(header):
                raise DataError(f"{path}, line {lines.line_num}: {len(cells)} cells, but the header has {len(header)}")
            given.append(cells.pop(at))
            rows.append(_numbers(cells, path, lines.line_num, header[:at] + header[at + 1 :]))
    values = np.array(rows, dtype=np.float64)
    if len(rows) and np.array_equal(values, np.rint(values)) and np.abs(values).max(initial=0) < 2**31:
        values = values.astype(np.int64)
    names = np.array(given, dtype=str)
    try:
        return values, names.astype(np.int64)
    except (ValueError, OverflowError):
        return values, names


def _numbers(cells: list[str], path: Path, line: int, names: list[str]) -> list[float]:
    try:
        return [float(cell) for cell in cells]
    except ValueError:
        for name, cell in zip(names, cells, strict=True):
            try:
                float(cell)
            except ValueError:
                raise DataError(f"{path}, line {line}, column {name!r}: {cell!r} is not a number") from None
        raise


def _load(path: Path, kind: type) -> Any:
    """What numpy finds in the file, which is not trusted: its parsers raise whatever their depths do."""
    try:
        loaded = np.load(path, allow_pickle=False)
    except OSError:
        raise
    except Exception as error:
        raise DataError(f"{path}: cannot be read as {path.suffix}: {error}") from error
    if not isinstance(loaded, kind):
        raise DataError(f"{path}: holds {type(loaded).__name__}; its name should end in .npy for one array, else .npz")
    return loaded


def _read_npz(path: Path, label: str | None, labels: Any) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    name = label or "y"
    with _load(path, np.lib.npyio.NpzFile) as arrays:
        for wanted in ("x", name):
            if wanted not in arrays.files:
                raise DataError(f"{path}: no array {wanted!r}; it holds {', '.join(arrays.files) or 'nothing'}")
        try:
            return arrays["x"], arrays[name]
        except Exception as error:  # as in _load: members are parsed only now
            raise DataError(f"{path}: cannot be read as .npz: {error}") from error


def _read_npy(path: Path, label: str | None, labels: Any) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    if labels is None:
        raise DataError(f"{path}: give the labels as a second .npy file (--labels FILE)")
    return _load(path, np.ndarray), _load(Path(labels), np.ndarray)
