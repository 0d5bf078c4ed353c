"""What a source takes in memory when all of it is read and packed at once, about: told from its first rows."""

from __future__ import annotations

import csv
import os
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

from ..errors import TinyDreamError
from ..tables.cells import CellType
from ..tables.folders import class_files
from ..tables.images import holds_images, image_bytes
from ..tables.sources import csv_chunks, csv_header, is_arrow_text
from .chunked_files import csv_row, first_batch, n_first, parquet_file

__all__ = ["bytes_at_once"]

# Bytes, measured: the highest peak of reading and packing, beyond an interpreter that packed two rows.
ROW = 32  # a row beside its values
CELL, CELL_LETTER = 75, 2  # a cell of a CSV, which is a text first
NARROW, WIDE = 64, 116  # a value of a Parquet file; a wide one, of 8 bytes, may take two integers of the pack
TEXT, LETTER = 140, 4  # a text of a Parquet file
CELL_TEXT = 25  # a cell that stays a text, more than others
DIFFERENT, DIFFERENT_LETTER = 140, 6  # a text that no other row has, more than others
ARRAYS = 12  # a byte of .npy and .npz
IMAGES, WAVES = 24, 6  # a byte of pixels, and of a .wav


def bytes_at_once(path: str | os.PathLike[str], window: int | None, hop: int | None) -> int:
    """The bytes; 0 of what is no source or damaged, as reading it says so. `window`, `hop`: as for `read`."""
    path = Path(path)
    if path.is_dir():
        return image_bytes(path) * IMAGES if holds_images(path) else _waves(path, window, hop)
    measure = {".csv": _csv, ".tsv": _csv, ".parquet": _parquet, ".npy": _array, ".npz": _arrays}.get(
        path.suffix.lower()
    )
    if measure is None or not path.is_file():
        return 0
    try:
        return measure(path)
    except (TinyDreamError, OSError, ValueError, csv.Error, zipfile.BadZipFile):
        return 0


def _waves(folder: Path, window: int | None, hop: int | None) -> int:
    n_bytes = sum(file.stat().st_size for file, _ in class_files(folder, (".wav",)).files)
    copies = -(-window // hop) if window and hop and hop > 0 else 1
    return n_bytes * max(1, copies) * WAVES


def _array(path: Path) -> int:
    return path.stat().st_size * ARRAYS


def _arrays(path: Path) -> int:
    with zipfile.ZipFile(path) as members:
        return sum(member.file_size for member in members.infolist()) * ARRAYS


def _csv(path: Path) -> int:
    """As many rows as there would be if all were as long as the first."""
    n_columns = len(csv_header(path))
    columns, _ = next(csv_chunks(path, n_first(n_columns, csv_row(path))), ([], 0))
    if not columns:
        return 0
    n_rows = len(columns[0])
    first_bytes = sum(len("".join(cells).encode()) for cells in columns) + n_columns * n_rows
    row = ROW + sum(map(_cell, columns))
    return round(path.stat().st_size * n_rows / first_bytes * row)


def _cell(cells: list[str]) -> float:
    kind = CellType()
    kind.see(cells)
    return CELL + CELL_LETTER * _letters(cells) + (CELL_TEXT + _different(cells) if kind.kind == "text" else 0)


def _parquet(path: Path) -> int:
    """By rows and types: how well columns are compressed, or texts listed, says nothing of what they are in memory."""
    with parquet_file(path) as file:
        first = first_batch(file)
        return round(file.metadata.num_rows * (ROW + sum(map(_value, first.columns)))) if len(first) else 0


def _value(column: Any) -> float:
    from pyarrow import types

    column = column.dictionary_decode() if types.is_dictionary(column.type) else column
    if not is_arrow_text(column.type):
        return WIDE if column.nbytes > 5 * len(column) else NARROW  # which are values, and bits for missing ones
    texts = [text or "" for text in column.to_pylist()]
    return TEXT + LETTER * _letters(texts) + _different(texts)


def _letters(texts: list[str]) -> float:
    return sum(map(len, texts)) / len(texts)


def _different(texts: list[str]) -> float:
    """Bytes of a text more, by how likely the next one is new: as likely as one is found once (Good and Turing)."""
    once = sum(count == 1 for count in Counter(texts).values())
    return once / len(texts) * (DIFFERENT + DIFFERENT_LETTER * _letters(texts))
