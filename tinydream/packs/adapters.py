"""A pack in the words of other libraries. Each is imported when it is asked for; none needs the whole pack unpacked."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DataError, UsageError
from ..tables.codes import DECIMAL_LIMIT
from ..tables.sources import arrow
from ..tables.table import Column

if TYPE_CHECKING:
    from .pack import Pack

__all__ = ["flat_columns", "to_arrow", "to_tf", "to_torch"]


def flat_columns(pack: Pack, index: Any = slice(None)) -> list[Column]:
    """Some rows as columns of one value a row: x0, x1, .. of an array x; then the labels, as they were given."""
    flat: list[Column] = []
    for column in pack.columns(index):
        values = column.values.reshape(len(column), math.prod(column.values.shape[1:]))
        gone = None if column.missing is None else column.missing.reshape(values.shape)
        if column.values.ndim == 1:
            flat.append(column)
            continue
        for i in range(values.shape[1]):
            flat.append(Column(f"{column.name}{i}", values[:, i], None if gone is None else gone[:, i], column.zone,
                               column.decimal))  # fmt: skip
    flat += pack.targets(index)
    if pack.class_label is not None:
        taken = {column.name for column in flat}
        wanted = (pack.class_label.name, "label", "class", "class label", *map(str, range(len(flat))))
        name = next(name for name in wanted if name not in taken)
        flat.append(Column(name, pack.class_label.values(pack.classes)[pack.classes_of(index)]))
    names = [column.name for column in flat]
    if len(set(names)) < len(names):
        raise DataError(f"{pack.source}: a feature and a label have the same name; rename one before packing")
    return flat


def to_arrow(pack: Pack, index: Any = slice(None)) -> Any:
    """Some rows as a pyarrow.Table, a column each as in `flat_columns`. Raises UsageError without pyarrow."""
    pyarrow = arrow("an Arrow table")
    columns = flat_columns(pack, index)
    arrays = [_arrow_array(pyarrow, column) for column in columns]
    return pyarrow.Table.from_arrays(arrays, names=[column.name for column in columns])


def _arrow_array(pyarrow: Any, column: Column) -> Any:
    values, mask = column.values, column.missing
    if values.dtype == object:
        return pyarrow.array(values, pyarrow.string(), mask=mask)
    if column.decimal is not None:
        return _decimals(pyarrow, column, *column.decimal)
    if values.dtype.kind not in "Mm":
        return pyarrow.array(np.ascontiguousarray(values), mask=mask)
    unit = np.datetime_data(values.dtype)[0]
    nat = np.isnat(values)
    mask = nat if mask is None else nat | mask
    if values.dtype == np.dtype("M8[D]"):
        return pyarrow.array(values.view(np.int64).astype(np.int32), pyarrow.int32(), mask=mask).cast(pyarrow.date32())
    if unit not in ("s", "ms", "us", "ns"):
        raise DataError(f"column {column.name!r} counts in the unit {unit}, which Arrow does not have")
    kind = pyarrow.timestamp(unit, column.zone) if values.dtype.kind == "M" else pyarrow.duration(unit)
    return pyarrow.array(values.view(np.int64), pyarrow.int64(), mask=mask).cast(kind)


def _decimals(pyarrow: Any, column: Column, digits: int, scale: int) -> Any:
    there = np.ones(len(column), dtype=bool) if column.missing is None else ~column.missing
    with np.errstate(over="ignore", invalid="ignore"):  # of packs that are not ours; refused below
        units = np.rint(np.where(there, column.values, 0) * 10.0**scale)
    if not (np.abs(units) < min(10**digits, DECIMAL_LIMIT)).all():
        raise DataError(f"column {column.name!r} holds numbers that are no decimals of {digits} digits")
    low = units.astype(np.int64)
    pairs = np.stack((low, low >> 63), axis=1).astype("<i8")  # 128 bits each
    bits = np.packbits(there, bitorder="little")
    buffers = [pyarrow.py_buffer(bits.tobytes()), pyarrow.py_buffer(pairs.tobytes())]
    return pyarrow.Array.from_buffers(pyarrow.decimal128(digits, scale), len(column), buffers)


def numbers(rows: Any) -> np.ndarray[Any, Any]:
    """Rows as an array of numbers (k, *shape), which other libraries take. Raises DataError when they are not."""
    if isinstance(rows, np.ma.MaskedArray):
        raise DataError("cells are missing; fill them in from columns(), or pack them filled in")
    if rows.dtype.names is None:
        return np.asarray(rows)
    for name in rows.dtype.names:
        if rows.dtype[name].kind not in "biuf":
            raise DataError(f"column {name!r} holds no numbers; take the columns that do from columns()")
    kind = np.result_type(*(rows.dtype[name] for name in rows.dtype.names))
    return np.stack([_as_type(rows[name], kind, name) for name in rows.dtype.names], axis=1)


def _as_type(values: np.ndarray[Any, Any], kind: np.dtype[Any], name: str) -> np.ndarray[Any, Any]:
    with np.errstate(invalid="ignore"):
        same = values.astype(kind)
        if values.dtype.kind in "iu" and (same.astype(values.dtype) != values).any():
            raise DataError(
                f"column {name!r} holds whole numbers that {kind}, the type of all columns together, does not; take "
                "columns one by one from columns()"
            )
    return same


def to_tf(pack: Pack, size: int, *, shuffle: int | None = None) -> Any:
    """A tf.data.Dataset of batches (rows, labels), decoded as they are asked for; `shuffle` is a seed.

    Raises UsageError without TensorFlow, DataError for columns that are not numbers.
    """
    try:
        import tensorflow
    except ImportError as error:
        raise UsageError("to_tf needs TensorFlow; install it: pip install 'tinydream[train]'") from error
    first = numbers(pack[:1])
    as_numbers = numbers(pack.labels_of(slice(1)))

    def batches() -> Iterator[tuple[Any, Any]]:
        for rows, some in pack.batches(size, shuffle=shuffle):
            yield numbers(rows), numbers(some)

    return tensorflow.data.Dataset.from_generator(batches, output_signature=(
        tensorflow.TensorSpec((None, *first.shape[1:]), first.dtype),
        tensorflow.TensorSpec((None, *as_numbers.shape[1:]), as_numbers.dtype),
    ))  # fmt: skip


def to_torch(pack: Pack) -> Any:
    """A map-style torch Dataset of (row, label), each decoded when it is asked for; lists of rows at once.

    Raises UsageError without PyTorch, DataError for columns that are not numbers.
    """
    try:
        import torch
        from torch.utils.data import Dataset
    except ImportError as error:
        raise UsageError("to_torch needs PyTorch; install it: pip install torch") from error
    numbers(pack.labels_of(slice(1)))
    numbers(pack[:1])

    class Rows(Dataset):  # type: ignore[misc]  # torch is not there when types are checked
        def __len__(self) -> int:
            return len(pack)

        def __getitem__(self, index: int) -> tuple[Any, Any]:
            return self.__getitems__([index])[0]

        def __getitems__(self, indices: list[int]) -> list[tuple[Any, Any]]:
            rows = torch.as_tensor(numbers(pack[indices]))
            return list(zip(rows, torch.as_tensor(numbers(pack.labels_of(indices))), strict=True))

        def __reduce__(self) -> Any:  # to a worker process that is not forked
            return to_torch, (pack,)

    return Rows()
