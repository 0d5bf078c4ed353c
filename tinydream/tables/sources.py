"""Where rows come from: CSV, Parquet, NumPy files, data frames, folders of recordings. All become a Table."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError, UsageError
from .cells import CellType
from .codes import DECIMAL_LIMIT, MAX_DECIMAL_SCALE
from .folders import class_files
from .images import SUFFIXES, read_images
from .recordings import read_waves, series
from .table import Column, Table, make_column, table_from_arrays, table_from_columns

__all__ = ["from_frame", "read", "read_array", "read_waves", "series"]

FILES = (".csv", ".tsv", ".npz", ".npy", ".parquet")
TEXT = (".csv", ".tsv")  # one reader: what separates cells is seen in the header
READ_ROWS = 16384  # of a CSV at once
Array = npt.NDArray[Any]


def read(
    path: Any,
    *,
    label: str | Sequence[str] | None = None,
    labels: str | os.PathLike[str] | None = None,
    classes: Sequence[str] | int | None = None,
    real: bool | None = None,
    window: int | None = None,
    hop: int | None = None,
) -> Table:
    """Reads a Table from a file, a folder or a data frame.

    .csv and .tsv: a header line; types are found column by column, empty cells are missing, empty lines are no rows.
    .parquet: needs pyarrow.
    A data frame (pandas, polars, anything with the Arrow PyCapsule interface): needs pyarrow. Of these `label` names
    the label column, or several. .npz: arrays `x` and `y` (or another name for the labels in `label`; without `y`
    there are no labels). .npy: the rows; `labels` is the .npy of the labels. A folder: images in a folder for each
    class (see `read_images`), or .wav files likewise, cut into windows of `window` samples every `hop`.
    `classes` and `real`: see `table_from_arrays`. Raises DataError that says where the file is wrong.
    """
    if not isinstance(path, (str, os.PathLike)):
        return from_frame(path, label=label, classes=classes, real=real)
    path = Path(path)
    if path.is_dir() and path.suffix.lower() not in FILES:
        return _read_folder(path, window, hop, classes)
    suffix = path.suffix.lower()
    if not path.exists():
        raise DataError(f"{path}: no such file")
    if suffix not in FILES:
        raise DataError(f"{path}: a {suffix or 'nameless'} file cannot be read; use {', '.join(FILES)}")
    try:
        if suffix in (*TEXT, ".parquet"):
            columns, told = _read_csv(path, label_names(label)) if suffix in TEXT else _read_parquet(path)
            made = table_from_columns(columns, label=label, classes=classes, real=real, source=str(path))
            return replace(made, left_out=told)
        values, given, names = _read_npz(path, label) if suffix == ".npz" else (*_read_npy(path, labels), None)
        if not isinstance(values, np.ndarray):
            label = "y" if label is None and any(column.name == "y" for column in values) else label
            classes = names if classes is None and label == "y" else classes
            return table_from_columns(values, label=label, classes=classes, real=real, source=str(path))
        if values.dtype.names is not None and given is None:
            columns = [make_column(name, values[name], source=str(path)) for name in values.dtype.names]
            return table_from_columns(columns, label=label, classes=classes, real=real, source=str(path))
        classes = names if classes is None else classes
    except FileNotFoundError as error:
        raise DataError(f"{error.filename}: no such file") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: no UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from error
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as {suffix}: {error}") from error
    return table_from_arrays(values, given, classes=classes, real=real, source=str(path))


def _read_folder(path: Path, window: int | None, hop: int | None, classes: Sequence[str] | int | None) -> Table:
    if folder_kind(path, window, hop) == "recordings":
        return read_waves(path, window=window, hop=hop, classes=classes)
    return read_images(path, classes=None if isinstance(classes, int) else classes)


def folder_kind(path: Path, window: int | None, hop: int | None) -> str:
    """What a folder holds: "images" or "recordings". Raises DataError for both and neither, UsageError for windows of
    images."""
    images, recordings = (class_files(path, suffixes).files for suffixes in (SUFFIXES, (".wav",)))
    if images and recordings:
        raise DataError(f"{path}: holds images and recordings, such as {images[0][0]} and {recordings[0][0]}")
    if not images and not recordings:
        raise DataError(f"{path}: no images and no .wav files in it or in its folders")
    if images and (window is not None or hop is not None):
        raise UsageError(f"{path}: images have no windows; leave window and hop (--window, --hop) out")
    return "images" if images else "recordings"


def label_names(label: str | Sequence[str] | None) -> list[str]:
    """The label columns that a `label` argument names."""
    return [label] if isinstance(label, str) else list(label or ())


def read_array(path: str | Path, *, mapped: bool = False) -> Array:
    """The array of a .npy file; `mapped`: it stays on disk. Raises DataError when it cannot be read as one."""
    path = Path(path)
    try:
        array: Array = _load(path, np.ndarray, "r" if mapped else None)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    return array


# ------------------------------------------------------------------ CSV


def csv_header(path: Path) -> list[str]:
    """Names of the columns."""
    with path.open(newline="", encoding="utf-8-sig") as stream:  # spreadsheets write a byte order mark
        return next(_records(path, stream), [])


def _records(path: Path, stream: Iterable[str]) -> Iterator[list[str]]:
    """The cells of lines that are not empty. Raises DataError, also for a quote that would swallow what follows."""
    lines = csv.reader(stream, delimiter=_delimiter(path), strict=True)
    first = 1
    try:
        for cells in lines:
            if cells:
                yield cells
            first = lines.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}, line {first}: {error}; is a quote not closed? A cell with quotes in it is in quotes, each of its "
            "own doubled"
        ) from error


def _delimiter(path: Path) -> str:
    """What separates cells: of comma, semicolon and tab what makes most cells of the header, and as many of a row."""
    found = ","
    most = 1
    for delimiter in ",;\t":
        with path.open(newline="", encoding="utf-8-sig") as stream:
            lines = csv.reader(stream, delimiter=delimiter)
            header = next(filter(None, lines), [])
            first = next(filter(None, lines), header)
        if len(header) > most and len(first) == len(header):
            found, most = delimiter, len(header)
    return found


def csv_chunks(path: Path, n_rows: int) -> Iterator[tuple[list[list[str]], int]]:
    """The cells of each column, `n_rows` rows at a time, and the bytes of the file read so far. Raises DataError."""
    with path.open("rb") as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as stream:
        records = _records(path, stream)
        header = next(records, [])
        while rows := list(islice(records, n_rows)):
            if set(map(len, rows)) - {len(header)}:
                raise _ragged(path, header)
            yield list(map(list, zip(*rows, strict=True))), raw.tell()


def _ragged(path: Path, header: list[str]) -> DataError:
    with path.open(newline="", encoding="utf-8-sig") as stream:
        lines = csv.reader(stream, delimiter=_delimiter(path))
        for cells in lines:
            if cells and len(cells) != len(header):
                return DataError(f"{path}, line {lines.line_num}: {len(cells)} cells, but the header has {len(header)}")
    return DataError(f"{path} changed while it was read")


def _read_csv(path: Path, labels: Sequence[str]) -> tuple[list[Column], tuple[str, ...]]:
    header = csv_header(path)
    types = [CellType(words=name not in labels) for name in header]
    columns: list[list[str]] = [[] for _ in header]
    for chunk, _ in csv_chunks(path, READ_ROWS):
        for found, kind, cells in zip(columns, types, chunk, strict=True):
            kind.see(cells)
            found += cells
    return [kind.column(name, cells) for name, kind, cells in zip(header, types, columns, strict=True)], ()


# ------------------------------------------------------------------ Arrow: Parquet and data frames


def arrow(purpose: str) -> Any:
    """pyarrow, or a UsageError that says what to install for `purpose`."""
    try:
        import pyarrow
    except ImportError as error:
        raise UsageError(f"{purpose} needs pyarrow; install it: pip install 'tinydream[parquet]'") from error
    return pyarrow


def as_table(source: Any) -> Table:
    """A Table as it is; of anything else what `read` reads, or the rows of an array, without labels."""
    if isinstance(source, Table):
        return source
    return table_from_arrays(source, None) if isinstance(source, np.ndarray) else read(source)


def from_frame(
    frame: Any, *, label: str | Sequence[str] | None = None, classes: Sequence[str] | int | None = None,
    real: bool | None = None,
) -> Table:  # fmt: skip
    """A Table of a data frame: pandas, polars, pyarrow, or any other with the Arrow PyCapsule interface."""
    kind = type(frame).__name__
    if not hasattr(frame, "__arrow_c_stream__"):
        raise DataError(
            f"a {kind} is no data frame: it has no Arrow interface (__arrow_c_stream__). Arrays become tables by "
            "table_from_arrays, columns by table_from_columns"
        )
    pyarrow = arrow("reading a data frame")
    try:
        table = pyarrow.table(frame)
    except (pyarrow.ArrowException, ValueError, TypeError) as error:
        raise DataError(f"a {kind} that Arrow cannot hold as a table: {error}") from error
    made = table_from_columns(arrow_columns(table, kind), label=label, classes=classes, real=real, source=kind)
    return replace(made, left_out=arrow_left_out(table.schema.names))


def _read_parquet(path: Path) -> tuple[list[Column], tuple[str, ...]]:
    arrow("reading .parquet")
    from pyarrow import parquet

    table = parquet.read_table(path)
    return arrow_columns(table, str(path)), arrow_left_out(table.schema.names)


def arrow_columns(table: Any, source: str) -> list[Column]:
    """The columns of an Arrow table or record batch but `arrow_left_out`. Raises DataError."""
    names = [str(name) for name in table.schema.names]
    return [_arrow_column(name, table.column(i), source) for i, name in enumerate(names) if not _is_index(name)]


def arrow_left_out(names: Sequence[Any]) -> tuple[str, ...]:
    """What of these columns `arrow_columns` leaves out, for people: what pandas calls an index without a name."""
    found = [str(name) for name in names if _is_index(str(name))]
    return (f"row index left out ({', '.join(found)}); name it, and it is a column",) if found else ()


def _is_index(name: str) -> bool:
    return name.startswith("__index_level_") and name.endswith("__")


def is_arrow_text(kind: Any) -> bool:
    """Whether values of this Arrow type become texts."""
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _arrow_column(name: str, given: Any, source: str) -> Column:
    import pyarrow
    from pyarrow import types

    chunk = given.combine_chunks() if isinstance(given, pyarrow.ChunkedArray) else given
    kind = chunk.type
    if types.is_dictionary(kind):
        entries = _arrow_column(name, chunk.dictionary, source)
        own = _arrow_column(name, chunk.indices, source)
        if not len(entries):
            return Column(name, np.zeros(len(chunk)), np.ones(len(chunk), dtype=bool))
        gone = own.missing
        if entries.missing is not None:  # an entry may be null, as an index may
            gone = entries.missing[own.values] if gone is None else gone | entries.missing[own.values]
        gone = gone if gone is not None and gone.any() else None
        return replace(entries, values=entries.values[own.values], missing=gone)
    if types.is_null(kind):
        return Column(name, np.zeros(len(chunk)), np.ones(len(chunk), dtype=bool))
    missing = chunk.is_null().to_numpy(zero_copy_only=False) if chunk.null_count else None
    if is_arrow_text(kind):
        whole = chunk.cast(pyarrow.large_string())
        texts = np.empty(len(chunk), dtype=object)
        texts[:] = (whole.fill_null("") if missing is not None else whole).to_pylist()
        return Column(name, texts, missing)
    if types.is_decimal(kind):
        values = _arrow_decimals(chunk, missing, f"{source}: column {name!r}")
        return Column(name, values, missing, decimal=(kind.precision, kind.scale))
    zone = kind.tz if types.is_timestamp(kind) else None  # the times of a zone are in UTC
    return Column(name, _arrow_numbers(chunk, f"{source}: column {name!r}"), missing, zone)


def _arrow_numbers(chunk: Any, where: str) -> Array:
    import pyarrow
    from pyarrow import types

    kind = chunk.type
    if types.is_boolean(kind):
        filled = chunk.fill_null(False) if chunk.null_count else chunk
        return np.asarray(filled.to_numpy(zero_copy_only=False), dtype=bool)
    if types.is_date32(kind):
        return _raw_integers(chunk, pyarrow.int32()).astype("M8[D]")
    if types.is_date64(kind):
        times = _raw_integers(chunk, pyarrow.int64()).view("M8[ms]")
        days = times.astype("M8[D]")
        if (days != times).any():  # Arrow says that there are none, but does not look
            raise DataError(f"{where} is of type {kind}, but holds times of day; cast it to a timestamp")
        return days
    if types.is_timestamp(kind) or types.is_duration(kind):
        letter = "M" if types.is_timestamp(kind) else "m"
        counts = _raw_integers(chunk, pyarrow.int64())
        if (counts == np.iinfo(np.int64).min).any():
            raise DataError(f"{where} holds -2^63 {kind.unit}, which NumPy takes for a missing time; make it null")
        return counts.view(f"{letter}8[{kind.unit}]")
    if types.is_integer(kind) or types.is_floating(kind):
        filled = chunk.fill_null(pyarrow.scalar(0).cast(kind)) if chunk.null_count else chunk
        return np.array(filled.to_numpy(zero_copy_only=False))
    nested = "spread its parts over columns of their own" if types.is_nested(kind) else "cast it to one of these"
    raise DataError(f"{where} is of type {kind}; numbers, texts, dates and durations can be packed: {nested}, or leave "
                    "it out")  # fmt: skip


def _arrow_decimals(chunk: Any, missing: Array | None, where: str) -> Array:
    """Decimals as the real numbers nearest to them, from which they come back."""
    from pyarrow import types

    kind, n = chunk.type, len(chunk)
    fits = types.is_decimal128(kind) and 0 <= kind.scale <= MAX_DECIMAL_SCALE
    if fits and n:
        pairs = np.frombuffer(chunk.buffers()[1], "<i8", 2 * (chunk.offset + n))[2 * chunk.offset :].reshape(n, 2)
        low, high = (pairs if missing is None else np.where(missing[:, None], 0, pairs)).T
        fits = bool(((high == low >> 63) & (low > -DECIMAL_LIMIT) & (low < DECIMAL_LIMIT)).all())
    if not fits:
        raise DataError(
            f"{where} is of type {kind}: of decimals, those of decimal128 with at most 15 digits in all and "
            f"{MAX_DECIMAL_SCALE} after the point can be packed; cast it to float64 or to text, or leave it out"
        )
    return low / 10.0**kind.scale if n else np.empty(0)


def _raw_integers(chunk: Any, kind: Any) -> Array:
    whole = chunk.view(kind)
    return np.array((whole.fill_null(0) if whole.null_count else whole).to_numpy(zero_copy_only=False))


# ------------------------------------------------------------------ NumPy files


def _load(path: Path, kind: type, mode: Any = None) -> Any:
    """What numpy finds in the file, which is not trusted: its parsers raise whatever their depths do."""
    try:
        loaded = np.load(path, allow_pickle=False, mmap_mode=mode)
    except OSError:
        raise
    except Exception as error:
        why = "no NumPy file, or one of Python objects" if "pickle" in str(error) else error
        raise DataError(f"{path}: cannot be read as {path.suffix}: {why}") from error
    if not isinstance(loaded, kind):
        raise DataError(f"{path}: holds {type(loaded).__name__}; its name should end in .npy for one array, else .npz")
    return loaded


def _read_npz(path: Path, label: str | Sequence[str] | None) -> tuple[Any, Array | None, list[str] | None]:
    """Rows, labels and names of the classes; columns in place of the rows where there is no array "x"."""
    with _load(path, np.lib.npyio.NpzFile) as arrays:
        if "x" not in arrays.files and arrays.files:
            return _columns_of_npz(path, arrays), None, _class_names(path, arrays)
        if label is not None and not isinstance(label, str):
            raise DataError(f"{path}: of a .npz one array holds the labels; an array (rows, k) holds k labels a row")
        name = label or ("y" if "y" in arrays.files else None)
        for wanted in ("x", name):
            if wanted is not None and wanted not in arrays.files:
                raise DataError(f"{path}: no array {wanted!r}; it holds {', '.join(arrays.files) or 'nothing'}")
        try:
            names = _class_names(path, arrays) if name else None
            return arrays["x"], None if name is None else arrays[name], names
        except Exception as error:  # as in _load: members are parsed only now
            raise DataError(f"{path}: cannot be read as .npz: {error}") from error


def _class_names(path: Path, arrays: Any) -> list[str] | None:
    """What `unpack` writes beside class numbers."""
    if not {"y", "classes"} <= set(arrays.files):
        return None
    try:
        names: list[str] = np.atleast_1d(arrays["classes"]).astype(str).tolist()
    except Exception as error:  # as in _load: members are parsed only now
        raise DataError(f"{path}: cannot be read as .npz: {error}") from error
    return names


def _columns_of_npz(path: Path, arrays: Any) -> list[Column]:
    """Arrays by name as columns, as `unpack` writes them: NAME.missing says which cells of NAME are."""
    columns = []
    try:
        for name in arrays.files:
            told = name.endswith(".missing") and name.removesuffix(".missing") in arrays.files
            if told or (name == "classes" and "y" in arrays.files):
                continue
            gone = f"{name}.missing"
            values = np.ma.MaskedArray(arrays[name], arrays[gone]) if gone in arrays.files else arrays[name]
            columns.append(make_column(name, values, source=str(path)))
    except DataError:
        raise
    except Exception as error:  # as in _load: members are parsed only now
        raise DataError(f"{path}: cannot be read as .npz: {error}") from error
    return columns


def _read_npy(path: Path, labels: Any) -> tuple[Array, Array | None]:
    return _load(path, np.ndarray), None if labels is None else _load(Path(labels), np.ndarray)
