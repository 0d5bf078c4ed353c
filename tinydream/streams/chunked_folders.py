"""Folders in pieces that fit memory: images by class, and recordings in windows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from ..tables.images import ImageFolder
from ..tables.recordings import Recordings
from ..tables.table import Column, class_numbers
from ..tables.windows import Cut
from .chunks import Chunk, Source

__all__ = ["ImageChunks", "WaveChunks"]

Array = npt.NDArray[Any]
Pieces = Iterator[tuple[str | None, Array]]  # a class, or none, and some of its rows
BYTES = 12  # that a byte of the rows takes while a chunk is encoded
ROW = 200  # bytes that a row takes beside its values
WHOLE = 4  # times that the pixels of one file are in memory


class ImageChunks(Source):
    """A folder of images by class, file by file."""

    def __init__(self, folder: Path, tile: int | None, classes: Sequence[str] | None, memory: int) -> None:
        """Raises DataError for images of different sizes or strange kinds, and for one that does not fit `memory`."""
        self._folder = ImageFolder(folder, tile, classes)
        self.name, self.left_out = self._folder.source, self._folder.left_out
        self.names = list(self._folder.classes) or None
        if self._folder.largest * WHOLE > memory:
            raise DataError(
                f"{folder}: an image has {self._folder.largest:,} bytes of pixels, and a file is read whole, which "
                f"{memory:,} bytes are not enough for. Cut it into smaller files, or give more memory"
            )
        self._row = math.prod(self._folder.shape) * self._folder.dtype.itemsize
        self.n_bytes = self._folder.n_rows * self._row
        self._at_once = max(16, memory // (BYTES * self._row + ROW))

    def chunks(self) -> Iterator[Chunk]:
        """Rows of some files, or of a part of one."""
        named = self._folder.read()
        return _gathered(named if self.names else ((None, rows) for _, rows in named), self._at_once)


class WaveChunks(Source):
    """Windows of the recordings of a folder; or the blocks that windows share, run by run."""

    def __init__(
        self, folder: Path, window: int | None, hop: int | None, classes: Sequence[str] | int | None, memory: int, *,
        blocks: bool, keep_order: bool,
    ) -> None:  # fmt: skip
        """`blocks`: where windows overlap, blocks are the rows; without `keep_order` they come class by class."""
        self._recordings = Recordings(folder, window, hop)
        self.name, self.left_out = self._recordings.source, self._recordings.left_out
        self._window = window = self._recordings.window
        self._hop = window if hop is None else hop
        self._runs = list(range(len(self._recordings)))
        self._counts = [(n - window) // self._hop + 1 for n in self._recordings.lengths]
        blocks = blocks and self._hop < window
        self._block = math.gcd(window, self._hop) if blocks else 0
        if blocks and not keep_order and self._recordings.classes:
            numbers, _ = class_numbers(np.array(self._recordings.names, dtype=object), classes, self.name)
            self._runs = np.argsort(numbers, kind="stable").tolist()
        if blocks:
            counts = tuple(self._counts[run] for run in self._runs)
            self.cut = Cut(window // self._block, self._hop // self._block, counts)
        n_rows = self.cut.n_rows if self.cut else sum(self._counts)
        self.n_bytes = n_rows * (self._block or window) * self._recordings.sample_bytes
        read = self._block or max(window, self._hop)
        self._at_once = max(16, memory // (BYTES * read * self._recordings.sample_bytes + ROW))

    def chunks(self) -> Iterator[Chunk]:
        """Rows of some recordings, or of a part of one."""
        return _gathered(self._read(), self._at_once)

    def _read(self) -> Iterator[tuple[str | None, Array]]:
        for run in self._runs:
            name = self._recordings.names[run] if self._recordings.classes else None
            for rows in self._blocks(run) if self._block else self._windows(run):
                yield name, rows

    def _blocks(self, run: int) -> Iterator[Array]:
        n_rows = (self._window + (self._counts[run] - 1) * self._hop) // self._block
        for first in range(0, n_rows, self._at_once):
            n = min(self._at_once, n_rows - first)
            samples = self._recordings.read(run, first * self._block, n * self._block)
            yield samples.reshape(n, self._block, -1)

    def _windows(self, run: int) -> Iterator[Array]:
        for first in range(0, self._counts[run], self._at_once):
            n = min(self._at_once, self._counts[run] - first)
            samples = self._recordings.read(run, first * self._hop, (n - 1) * self._hop + self._window)
            windows = np.lib.stride_tricks.sliding_window_view(samples, self._window, axis=0)[:: self._hop]
            yield np.ascontiguousarray(windows.transpose(0, 2, 1))


def _gathered(pieces: Pieces, at_once: int) -> Iterator[Chunk]:
    """Chunks of so many rows from pieces of any size."""
    waiting: list[tuple[str | None, Array]] = []
    n_waiting = done = 0
    for name, rows in pieces:
        for first in range(0, len(rows), at_once):
            waiting.append((name, rows[first : first + at_once]))
            n_waiting += len(waiting[-1][1])
            if n_waiting >= at_once:
                done += sum(part.nbytes for _, part in waiting)
                yield _chunk(waiting, done)
                waiting, n_waiting = [], 0
    if waiting:
        yield _chunk(waiting, done + sum(part.nbytes for _, part in waiting))


def _chunk(waiting: list[tuple[str | None, Array]], done: int) -> Chunk:
    rows = np.concatenate([part for _, part in waiting])
    names = [name for name, part in waiting for _ in part]
    if names[0] is None:
        return Chunk([Column("x", rows)], [], done)
    labels = np.empty(len(rows), dtype=object)
    labels[:] = names
    return Chunk([Column("x", rows.astype(rows.dtype.newbyteorder("=")))], [Column("label", labels)], done)
