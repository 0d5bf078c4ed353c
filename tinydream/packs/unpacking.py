"""Writes the rows of a pack to .npy, .npz, .csv or .parquet, their labels beside them."""

from __future__ import annotations

import csv
import io
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..errors import DataError, UsageError
from ..files import atomic_stream
from ..progress import Progress
from ..tables.codes import numpy_type
from ..tables.sources import arrow
from ..tables.table import Column, are_named
from .adapters import flat_columns, to_arrow
from .pack import Pack

__all__ = ["cells", "unpack"]

PIECE = 65536  # rows that are decoded at once


def unpack(pack: Pack, path: str | os.PathLike[str], *, progress: Progress | None = None) -> list[Path]:
    """Writes all rows in stored order to `path` and returns the files written.

    .npy: the rows, and the labels in NAME.labels.npy when there are any. .npz: `x`, `y` and `classes`, as `read` takes
    them; columns of different types as an array each, and which of their cells are missing in NAME.missing. .csv and
    .parquet: a column a feature, then the labels. All but .npz are written piece by piece. Raises DataError when the
    file cannot hold what the pack does.
    """
    path = Path(path)
    writers = {".npy": _npy, ".npz": _npz, ".csv": _csv, ".parquet": _parquet}
    if path.suffix.lower() not in writers:
        raise UsageError(f"{path}: rows are written to {', '.join(writers)}; its name must end in one of these")
    with atomic_stream(path) as stream:
        writers[path.suffix.lower()](pack, stream, path, progress)
    if path.suffix.lower() != ".npy" or not (pack.class_label or pack.schema.labels):
        return [path]
    beside = path.with_suffix(".labels.npy")
    with atomic_stream(beside) as stream:
        np.save(stream, _savable(_labels(pack), beside), allow_pickle=False)
    return [path, beside]


def _labels(pack: Pack) -> Any:
    """Labels as they were given, but class numbers for classes that were no numbers."""
    return pack.labels if (own := _own_labels(pack)) is None else own


def _own_labels(pack: Pack) -> Any:
    """Labels that were numbers and name their classes; None for all others."""
    label = pack.class_label
    if label is None or numpy_type(label.dtype).kind not in "iuf" or not are_named(pack.classes):
        return None
    return label.values(pack.classes)[pack.class_numbers]


def _pieces(pack: Pack, progress: Progress | None) -> Iterator[slice]:
    for first in range(0, len(pack), PIECE):
        yield slice(first, first + PIECE)
        if progress:
            progress(min(len(pack), first + PIECE), len(pack))


def _npy(pack: Pack, stream: IO[bytes], path: Path, progress: Progress | None) -> None:
    if any(field.dtype == "text" for field in pack.schema.features):
        np.save(stream, _savable(pack[:], path), allow_pickle=False)  # the longest text says how wide all are
        return
    first = _savable(pack[:1], path)
    header = {"descr": np.lib.format.dtype_to_descr(first.dtype), "fortran_order": False,
              "shape": (len(pack), *first.shape[1:])}  # fmt: skip
    np.lib.format.write_array_header_2_0(stream, header)
    for piece in _pieces(pack, progress):
        stream.write(np.ascontiguousarray(_savable(pack[piece], path)).tobytes())


def _savable(array: Any, path: Path) -> Any:
    if isinstance(array, np.ma.MaskedArray):
        raise DataError(f"{path}: a .npy has no empty cells, but rows do; unpack to .npz, .csv or .parquet")
    if array.dtype.names is None:
        return _wide_texts(array, path) if array.dtype == object else array
    texts = [name for name in array.dtype.names if array.dtype[name].kind == "O"]
    kind = [
        (name, _wide_texts(array[name], path).dtype if name in texts else array.dtype[name])
        for name in array.dtype.names
    ]
    return array.astype(kind)


def _wide_texts(texts: Any, path: Path) -> Any:
    """Texts as NumPy has them in files. Raises DataError for some that would be cut."""
    wide = texts.astype(str)
    if (wide != texts).any():
        raise DataError(f"{path}: NumPy cuts off zeros at the end of texts; unpack to .csv or .parquet")
    return wide


def _npz(pack: Pack, stream: IO[bytes], path: Path, progress: Progress | None) -> None:
    with zipfile.ZipFile(stream, "w") as archive:  # np.savez takes no array named "file"
        for name, array in _arrays(pack, path):
            if f"{name}.npy" in archive.namelist():
                raise DataError(f"{path}: two arrays would be named {name!r}; unpack to .csv or .parquet")
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)


def _arrays(pack: Pack, path: Path) -> Iterator[tuple[str, Any]]:
    """What a .npz holds, by name."""
    rows = pack[:]
    if rows.dtype.names is None and not isinstance(rows, np.ma.MaskedArray):
        yield "x", rows
    else:
        yield from _by_name(pack.columns(), path)
    if pack.schema.labels and pack.labels.dtype.names is not None:
        yield from _by_name(pack.targets(), path)
    elif pack.schema.labels or pack.class_label:
        yield "y", _labels(pack)
    if pack.class_label and _own_labels(pack) is None:
        yield "classes", np.array(pack.classes)


def _by_name(columns: tuple[Column, ...], path: Path) -> Iterator[tuple[str, Any]]:
    for column in columns:
        yield column.name, _wide_texts(column.values, path) if column.values.dtype == object else column.values
        if column.missing is not None:
            yield f"{column.name}.missing", column.missing


def cells(column: Column) -> list[Any]:
    """Values as a text file has them: numbers and texts, dates in ISO 8601 (of a time zone: in UTC, with a Z).

    None where they are missing.
    """
    values = column.values
    if values.dtype.kind == "M":
        told = np.datetime_as_string(values, timezone="naive" if column.zone is None else "UTC").tolist()
    elif column.decimal is not None:
        told = [f"{value:.{column.decimal[1]}f}" for value in values.tolist()]
    else:
        told = values.tolist()
    if values.dtype.kind == "m":
        told = values.view(np.int64).tolist()
    if column.missing is None:
        return list(told)
    return [None if gone else value for value, gone in zip(told, column.missing.tolist(), strict=True)]


def _csv(pack: Pack, stream: IO[bytes], path: Path, progress: Progress | None) -> None:
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
    try:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([column.name for column in flat_columns(pack, slice(0, 1))])
        for piece in _pieces(pack, progress):
            writer.writerows(zip(*map(cells, flat_columns(pack, piece)), strict=True))
    finally:
        text.detach()  # the stream is not ours to close


def _parquet(pack: Pack, stream: IO[bytes], path: Path, progress: Progress | None) -> None:
    arrow("writing .parquet")
    from pyarrow import parquet

    with parquet.ParquetWriter(stream, to_arrow(pack, slice(0, 1)).schema) as writer:
        for piece in _pieces(pack, progress):
            writer.write_table(to_arrow(pack, piece))
