"""Writes the rows of a pack that come in pieces: parts as memory fills, an archive's blocks, and where rows lie."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import IO

import numpy as np
import numpy.typing as npt

from .._native import ffi, lib
from ..errors import DataError
from ..packs.archive import plan_archive, sorted_in_samples
from ..packs.part import best_part
from ..packs.sections import part_record, sample_starts
from ..packs.transforms import Transform, apply_transforms
from .scanning import Found, Plan, Rows

__all__ = ["Archive", "Parts", "Positions"]

MOST_PARTS = 65535
PIECE = 2**13  # rows whose positions are read and written at once; a multiple of 8
Numbers = npt.NDArray[np.int64]
Unsigned = npt.NDArray[np.uint32]


class Positions:
    """Where each row that was given is stored, in a file of 4 bytes a row: the section `order`."""

    def __init__(self, spool: IO[bytes], n_rows: int) -> None:
        self._spool, self._n = spool, n_rows

    def put(self, given: npt.NDArray[np.uint32], first: int) -> None:
        """Row given[i] is stored as row first + i."""
        order = np.argsort(given, kind="stable")
        rows, at = given[order].astype(np.int64), 0
        while at < len(rows):
            start = int(rows[at])
            end = int(np.searchsorted(rows, start + PIECE))
            self._spool.seek(4 * start)
            places = np.zeros(int(rows[end - 1]) + 1 - start, dtype="<u4")
            known = np.frombuffer(self._spool.read(places.nbytes), dtype="<u4")
            places[: len(known)] = known
            places[rows[at:end] - start] = first + order[at:end]
            self._spool.seek(4 * start)
            self._spool.write(places.tobytes())
            at = end

    def section(self) -> Iterator[bytes]:
        """The bytes of the section."""
        n_bits = (self._n - 1).bit_length()
        self._spool.seek(0)
        while data := self._spool.read(4 * PIECE):
            places = np.frombuffer(data, dtype="<u4")
            bits = (places[:, None] >> np.arange(n_bits, dtype=np.uint32) & 1).astype(np.uint8)
            yield np.packbits(bits.ravel(), bitorder="little").tobytes()


class Archive:
    """Keeps the rows of an archive as narrow integers in a file, until all are there and contexts can be chosen."""

    def __init__(self, rows: IO[bytes], codes: IO[bytes], width: int, memory: int) -> None:
        self._rows, self._codes, self._memory = rows, codes, memory
        self._dtype = np.dtype(f"<u{1 if width <= 8 else 2 if width <= 16 else 4}")
        self._highest: Unsigned | None = None
        self._labels: list[tuple[int, int]] = []  # class and end of each part
        self._starts: list[Numbers] = []
        self._n = 0

    def put(self, rows: Unsigned, number: int, starts: npt.NDArray[np.bool_]) -> None:
        """The next part: stored rows of a class, and which of them begin samples."""
        highest = rows.max(axis=0)
        self._highest = highest if self._highest is None else np.maximum(self._highest, highest)
        self._rows.write(rows.astype(self._dtype).tobytes())
        self._starts.append(np.flatnonzero(starts) + self._n)
        self._n += len(rows)
        self._labels.append((number, self._n))

    def section(self, tell: Callable[[int, int], None]) -> Iterator[bytes]:
        """The data section. `tell` hears of rows coded, and of how many there are."""
        assert self._highest is not None
        plan = plan_archive(self._read, self._n, self._highest, self._memory)
        sizes = []
        for blob in plan.blocks(self._read):
            sizes.append(len(blob))
            self._codes.write(blob)
            tell(min(self._n, plan.block * len(sizes)), self._n)
        yield plan.head(sizes)
        self._codes.seek(0)
        for size in sizes:
            yield self._codes.read(size)

    def _read(self, first: int, end: int) -> tuple[Unsigned, Numbers, npt.NDArray[np.bool_]]:
        assert self._highest is not None
        d = len(self._highest)
        self._rows.seek(first * d * self._dtype.itemsize)
        rows = np.frombuffer(self._rows.read((end - first) * d * self._dtype.itemsize), dtype=self._dtype)
        numbers, ends = np.array(self._labels).T
        labels = numbers[np.searchsorted(ends, np.arange(first, end), side="right")]
        starts = np.concatenate(self._starts)
        begins = np.zeros(end - first, dtype=bool)
        begins[starts[np.searchsorted(starts, first) : np.searchsorted(starts, end)] - first] = True
        return rows.reshape(-1, d).astype(np.uint32), labels, begins


class Parts:
    """Collects rows class by class; makes a part of a class when enough of its rows, or too many in all, are there."""

    def __init__(
        self, plan: Plan, found: Found, *, per_class: int, method: str, memory: int, sequence: bool = False,
        transforms: tuple[Transform, ...] = (),
        positions: Positions | None = None, archive: Archive | None = None,
    ) -> None:  # fmt: skip
        """`memory`: bytes that this may take, about. `sequence`: rows of a class stay as they came."""
        self.width = max(1, (plan.high - plan.low).bit_length())
        self.low = self.high = plan.low
        self.records: list[bytes] = []
        self.n_rows = self.n_samples = 0
        self._most_value, self._method, self._sequence = plan.high, method, sequence
        self._positions, self._archive, self._shared = positions, archive, plan.shared
        self._transforms = transforms
        # While a part is encoded there are its rows a few times, its keys, their order and its bytes.
        value = 48 if transforms else 32
        self._part_rows = max(16, memory * 2 // 3 // (value * plan.n_stored + 150))
        self._most_rows = max(16, memory // 3 // (4 * plan.n_stored + 4))
        self._waiting: dict[int, list[tuple[Rows, Unsigned]]] = {}  # rows and their numbers
        self._n_waiting: dict[int, int] = {}
        self._at = self._n_taken = 0
        self._starts: list[Numbers] = []
        n_parts = -(-found.n_rows // self._part_rows)
        self._most = max(1, per_class // max(1, n_parts // len(found.classes)))

    def take(self, rows: Rows, classes: Numbers) -> Iterator[bytes]:
        """More rows (n, features) and their classes; parts come out when memory is full."""
        order = np.argsort(classes, kind="stable")
        ends = np.flatnonzero(np.diff(classes[order])) + 1
        for members in np.split(order, ends):
            number = int(classes[members[0]])
            if self._sequence and not self._positions:  # parts then follow each other as the rows do
                for other in [waiting for waiting in self._waiting if waiting != number]:
                    while self._n_waiting.get(other):
                        yield self._flush(other)
            given = (members + self._n_taken).astype(np.uint32)
            self._waiting.setdefault(number, []).append((rows[members], given))
            self._n_waiting[number] = self._n_waiting.get(number, 0) + len(members)
            while self._n_waiting.get(number, 0) >= self._part_rows:
                yield self._flush(number)
        self._n_taken += len(rows)
        while sum(self._n_waiting.values()) > self._most_rows:
            yield self._flush(max(self._n_waiting, key=lambda number: self._n_waiting[number]))

    def rest(self) -> Iterator[bytes]:
        """What is still waiting."""
        for number in sorted(self._waiting):
            while self._n_waiting.get(number):
                yield self._flush(number)

    def _flush(self, number: int) -> bytes:
        waiting = self._waiting.pop(number)
        rows, given = (np.concatenate(pieces) for pieces in zip(*waiting, strict=True))
        self._n_waiting.pop(number)
        if len(rows) > self._part_rows:
            later = rows[self._part_rows :].copy(), given[self._part_rows :].copy()
            self._waiting[number], self._n_waiting[number] = [later], len(later[0])
            rows, given = rows[: self._part_rows], given[: self._part_rows]
        self.high = max(self.high, int(rows.max()))
        if self.high > self._most_value or int(rows.min()) < self.low:
            raise DataError("values are not what was there when the codes were planned; the file changed meanwhile")
        if len(self.records) == MOST_PARTS:
            raise DataError(f"more than {MOST_PARTS} parts; give more memory, or split the rows over several packs")
        del waiting
        return self._part((rows.astype(np.int64) - self.low).astype(np.uint32), given, number)

    def _part(self, rows: Unsigned, given: Unsigned, number: int) -> bytes:
        group = np.zeros(len(rows), dtype=np.uint32) if self._sequence else None
        coded = apply_transforms(self._transforms, rows, self.width) if self._transforms else rows
        data, header, begins, order = best_part(
            coded, self.width, self._method, group, slice(0, len(rows)), self._most, self._shared, rows
        )
        if self._archive:
            data, header = b"", ffi.new("td_part_header *", {"n_bases": 1, "flags": lib.TD_PART_ARCHIVE})
            header.n_rows = len(rows)
            order = order[sorted_in_samples(rows[order], begins)]
            self._archive.put(rows[order], number, begins)
        if self._positions:
            self._positions.put(given[order], self.n_rows)
        self.records.append(part_record(header, self._at, number))
        self._starts.append(np.flatnonzero(begins) + self.n_rows)
        self._at += len(data)
        self.n_rows += len(rows)
        self.n_samples += len(self._starts[-1])
        return data

    def begins(self) -> bytes:
        """The samples section."""
        return sample_starts(np.concatenate(self._starts), self.n_rows)
