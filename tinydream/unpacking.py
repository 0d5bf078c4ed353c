"""Writes the rows of a pack to .npy, .npz, .csv or .parquet, their labels beside them."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import Any

import numpy as np

from .errors import UsageError
from .files import atomic_write
from .packs import Pack

__all__ = ["unpack"]


def unpack(pack: Pack, path: str | os.PathLike[str]) -> list[Path]:
    """Writes all rows in stored order to `path` and returns the files written.

    .npy: the rows, and the labels in NAME.labels.npy when there are any. .npz: `x`, `y` and `classes`, as `read` takes
    them. .csv and .parquet: a column a feature and one named "label".
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
    contents = {path: _saved(pack[:])}
    if pack.n_classes > 1:
        contents[path.with_suffix(".labels.npy")] = _saved(pack.labels)
    return contents


def _saved(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=False)
    return out.getvalue()


def _npz(pack: Pack, path: Path) -> dict[Path, bytes]:
    out = io.BytesIO()
    np.savez(out, x=pack[:], y=pack.labels, classes=np.array(pack.classes))
    return {path: out.getvalue()}


def _csv(pack: Pack, path: Path) -> dict[Path, bytes]:
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    names = pack.names
    columns = [column.tolist() for column in pack[:].T]
    if pack.n_classes > 1:
        names = (*names, "label")
        columns.append(np.array(pack.classes, dtype=object)[pack.labels].tolist())
    writer.writerow(names)
    writer.writerows(zip(*columns, strict=True))
    return {path: out.getvalue().encode()}


def _parquet(pack: Pack, path: Path) -> dict[Path, bytes]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UsageError("writing .parquet needs pyarrow; install it: pip install 'tinydream[parquet]'") from error
    columns = dict(zip(pack.names, pack[:].T, strict=True))
    table = pyarrow.table({name: pyarrow.array(column) for name, column in columns.items()})
    if pack.n_classes > 1:
        table = table.append_column("label", pyarrow.array(np.array(pack.classes, dtype=object)[pack.labels]))
    out = io.BytesIO()
    parquet.write_table(table, out)
    return {path: out.getvalue()}
