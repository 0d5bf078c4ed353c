"""Writes the rows of a pack to .npy, .npz, .csv or .parquet, their labels beside them."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import Any

import numpy as np

from .adapters import flat_columns, to_arrow
from .errors import DataError, UsageError
from .files import atomic_write
from .packs import Pack
from .sources import arrow
from .table import Column

__all__ = ["cells", "unpack"]


def unpack(pack: Pack, path: str | os.PathLike[str]) -> list[Path]:
    """Writes all rows in stored order to `path` and returns the files written.

    .npy: the rows, and the labels in NAME.labels.npy when there are any. .npz: `x`, `y` and `classes`, as `read` takes
    them; columns of different types as an array each, and which of their cells are missing in NAME.missing. .csv and
    .parquet: a column a feature, then the labels. Raises DataError when the file cannot hold what the pack does.
    """
    path = Path(path)
    writers = {".npy": _npy, ".npz": _npz, ".csv": _csv, ".parquet": _parquet}
    if path.suffix.lower() not in writers:
        raise UsageError(f"{path}: rows are written to {', '.join(writers)}; its name must end in one of these")
    contents = writers[path.suffix.lower()](pack, path)
    for target, content in contents.items():
        atomic_write(target, content)
    return list(contents)


def _npy(pack: Pack, path: Path) -> dict[Path, bytes]:
    contents = {path: _saved(pack[:], path)}
    if pack.n_classes > 1 or pack.schema.labels:
        contents[path.with_suffix(".labels.npy")] = _saved(pack.labels, path)
    return contents


def _saved(array: Any, path: Path) -> bytes:
    if isinstance(array, np.ma.MaskedArray):
        raise DataError(f"{path}: a .npy has no empty cells, but rows do; unpack to .npz, .csv or .parquet")
    if array.dtype.names is not None:
        texts = [name for name in array.dtype.names if array.dtype[name].kind == "O"]
        kind = [
            (name, array[name].astype(str).dtype if name in texts else array.dtype[name]) for name in array.dtype.names
        ]
        array = array.astype(kind)
    out = io.BytesIO()
    np.save(out, array, allow_pickle=False)
    return out.getvalue()


def _npz(pack: Pack, path: Path) -> dict[Path, bytes]:
    rows, out = pack[:], io.BytesIO()
    arrays: dict[str, Any] = {}
    if rows.dtype.names is None and not isinstance(rows, np.ma.MaskedArray):
        arrays["x"] = rows
    else:
        arrays.update(_by_name(pack.columns()))
    if pack.schema.labels and pack.labels.dtype.names is not None:
        arrays.update(_by_name(pack.targets()))
    else:
        arrays["y"] = np.ma.getdata(pack.labels)
    if pack.n_classes > 1:
        arrays["classes"] = np.array(pack.classes)
    np.savez(out, **arrays)
    return {path: out.getvalue()}


def _by_name(columns: tuple[Column, ...]) -> dict[str, Any]:
    arrays: dict[str, Any] = {}
    for column in columns:
        arrays[column.name] = column.values.astype(str) if column.values.dtype == object else column.values
        if column.missing is not None:
            arrays[f"{column.name}.missing"] = column.missing
    return arrays


def cells(column: Column) -> list[Any]:
    """Values as a text file has them: numbers and texts, dates in ISO 8601; None where they are missing."""
    values = column.values
    told = np.datetime_as_string(values).tolist() if values.dtype.kind == "M" else values.tolist()
    if values.dtype.kind == "m":
        told = values.view(np.int64).tolist()
    if column.missing is None:
        return list(told)
    return [None if gone else value for value, gone in zip(told, column.missing.tolist(), strict=True)]


def _csv(pack: Pack, path: Path) -> dict[Path, bytes]:
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    columns = flat_columns(pack)
    writer.writerow([column.name for column in columns])
    writer.writerows(zip(*map(cells, columns), strict=True))
    return {path: out.getvalue().encode()}


def _parquet(pack: Pack, path: Path) -> dict[Path, bytes]:
    arrow("writing .parquet")
    from pyarrow import parquet

    out = io.BytesIO()
    parquet.write_table(to_arrow(pack), out)
    return {path: out.getvalue()}
