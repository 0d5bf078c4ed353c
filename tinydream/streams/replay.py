"""Replay sets of sources that do not fit memory: what `reduce` gives of all rows, from some passes over them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .._native import lib
from ..errors import DataError, UsageError
from ..packs.reduction import LARGE, METHODS, WeightedSamples, check_integers, check_range, draw, per_class_of, reduce
from ..tables.table import Table
from .chunks import Chunk, Source, rows_of
from .scanning import Found, Tell

__all__ = ["Integers", "Reducer"]

SAMPLE_BYTES = 100  # that a value of a sample takes while samples are found and packed
COLLECTED_BYTES = 40  # that a value takes while all rows are condensed at once
Array = npt.NDArray[np.int64]
Unsigned = npt.NDArray[np.uint32]


class Integers:
    """The range of rows of integers, and what they look like."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.low, self.high = 0, 0
        self.like: npt.NDArray[Any] = np.empty((0, 0))  # of their shape and type

    def see(self, chunk: Chunk) -> None:
        """The next rows. Raises DataError when they are no integers."""
        table = rows_of(chunk, self._source)
        flat = table.flat()
        check_integers(flat)
        low, high = int(flat.min()), int(flat.max())
        first = not self.like.size
        self.low, self.high = (low, high) if first else (min(self.low, low), max(self.high, high))
        check_range(self.low, self.high)
        self.like = table.values[:1].copy()

    @property
    def n_features(self) -> int:
        """Values a row."""
        return self.like.size


class Reducer:
    """Reduces the rows of a source to at most `budget` samples."""

    def __init__(self, source: Source, found: Found, seen: Integers, budget: int, method: str, memory: int) -> None:
        """Raises DataError or UsageError when that cannot be done in `memory` bytes, about."""
        if found.targets:
            raise DataError(
                f"{source.name}: replay sets have classes; labels that are real numbers or several do not go"
            )
        if method not in METHODS:
            raise UsageError(f"no method {method!r} reduces rows; there are {', '.join(METHODS)}")
        self._source, self._found, self._seen, self._method, self._budget = source, found, seen, method, budget
        self._per_class = per_class_of(budget, len(found.counts))
        n, d = found.n_rows, seen.n_features
        if min(n, budget) * d * SAMPLE_BYTES > memory:
            raise UsageError(
                f"{budget} samples of {d} values take more than {memory:,} bytes while they are found; take fewer, or "
                "give more memory"
            )
        work = lib.td_condense_variance_work_size(n, d, budget) if n <= LARGE else 0
        fits = n * d * COLLECTED_BYTES + work <= memory
        self._collects = fits and (method == "greedygd" or (method == "variance" and n <= LARGE))
        if method == "greedygd" and not fits:
            raise UsageError(
                f"greedygd looks at all rows for every bit that it chooses, and {n:,} of {d} values do not fit "
                f"{memory:,} bytes; take entrogede or variance, or give more memory"
            )

    def run(self, seed: int, tells: Sequence[Tell]) -> WeightedSamples:
        """The samples that `reduce` gives of all rows at once; of few rows that do not fit, by the published rule.

        `tells` hear of the passes, of which "random" takes one and the others at most two.
        """
        if self._collects:
            return reduce(self._collected(tells[-1]), self._budget, method=self._method, seed=seed)
        if self._method == "random":
            return self._drawn(seed, tells[-1])
        return self._condensed(*tells)

    def _chunks(self, tell: Tell) -> Iterator[tuple[npt.NDArray[Any], Array]]:
        n_rows = 0
        for chunk in self._source.chunks():
            flat, numbers = rows_of(chunk, self._source).flat(), self._found.numbers(chunk)
            n_rows += len(flat)
            same = self._seen.low <= int(flat.min()) and int(flat.max()) <= self._seen.high
            same &= n_rows <= self._found.n_rows and set(np.unique(numbers).tolist()) <= self._found.counts.keys()
            if not same:
                raise DataError(f"{self._source.name}: rows are not what was there before; the file changed meanwhile")
            yield flat, numbers
            tell(chunk.done)

    def _collected(self, tell: Tell) -> Table:
        chunks = list(self._chunks(tell))
        rows, numbers = (np.concatenate(arrays) for arrays in zip(*chunks, strict=True))
        return Table(rows, numbers, self._found.classes, self._source.name)

    def _drawn(self, seed: int, tell: Tell) -> WeightedSamples:
        generator = np.random.default_rng(seed)
        counts = sorted(self._found.counts.items())
        wanted = {number: np.sort(draw(n, self._per_class, generator)) for number, n in counts}
        seen = dict.fromkeys(wanted, 0)
        picked = []
        for flat, numbers in self._chunks(tell):
            kept = np.zeros(len(flat), dtype=bool)
            for number in np.unique(numbers).tolist():
                members, before = np.flatnonzero(numbers == number), seen[number]
                first, end = np.searchsorted(wanted[number], (before, before + len(members)))
                kept[members[wanted[number][first:end] - before]] = True
                seen[number] += len(members)
            picked.append((flat[kept].astype(np.float64), numbers[kept]))
        values, labels = (np.concatenate(arrays) for arrays in zip(*picked, strict=True))
        return WeightedSamples(values, np.ones(len(values)), labels, self._found.classes)

    def _condensed(self, tell_first: Tell, tell: Tell) -> WeightedSamples:
        low, d = self._seen.low, self._seen.n_features
        varying: dict[int, tuple[Unsigned, Unsigned]] = {}  # the class's first row, and where others differ from it
        for flat, numbers in self._chunks(tell_first):
            for number, rows in _by_class(flat, numbers, low):
                first, differ = varying.get(number, (rows[0], np.zeros(d, dtype=np.uint32)))
                varying[number] = first, differ | np.bitwise_or.reduce(rows ^ first, axis=0)
        width = max(1, (self._seen.high - low).bit_length())
        bases = {number: _Bases(differ, width, self._per_class) for number, (_, differ) in sorted(varying.items())}
        for flat, numbers in self._chunks(tell):
            for number, rows in _by_class(flat, numbers, low):
                bases[number].add(rows)
        means = [own.means(low) for own in bases.values()]
        labels = np.repeat(list(bases), [len(weights) for _, weights in means])
        values, weights = (np.concatenate(arrays) for arrays in zip(*means, strict=True))
        return WeightedSamples(values, weights, labels, self._found.classes)


def _by_class(flat: npt.NDArray[Any], numbers: Array, low: int) -> Iterator[tuple[int, Unsigned]]:
    for number in np.unique(numbers).tolist():
        yield number, (flat[numbers == number].astype(np.int64) - low).astype(np.uint32)


class _Bases:
    """The published Condense of one class's rows, which come in pieces.

    Its bits join the base in an order that does not depend on the rows' values but through those in which they differ,
    and more bits never make fewer bases. So the longest run of bits that some rows allow is known without the others;
    with them it becomes shorter, and bases that agree in what is left become one: sums and numbers add up.
    """

    def __init__(self, varying: Unsigned, width: int, most: int) -> None:
        left = [[bit for bit in reversed(range(width)) if word >> bit & 1] for word in varying.tolist()]
        rounds = range(max(map(len, left)))
        self._order = [(f, bits[turn]) for turn in rounds for f, bits in enumerate(left) if turn < len(bits)]
        self._most, self._n_bits, self._d = most, len(self._order), len(varying)
        self._rows = np.zeros((0, self._d), dtype=np.uint32)  # one of each base
        self._sums = np.zeros((0, self._d), dtype=np.int64)
        self._counts = np.zeros(0, dtype=np.int64)

    def add(self, rows: Unsigned) -> None:
        """The next rows (n, features)."""
        rows = np.concatenate((self._rows, rows))
        first, group = self._grouped(rows, self._n_bits)
        if len(first) > self._most:
            fits, fails = 0, self._n_bits
            while fails - fits > 1:
                middle = (fits + fails) // 2
                fits, fails = (middle, fails) if len(self._grouped(rows, middle)[0]) <= self._most else (fits, middle)
            self._n_bits = fits
            first, group = self._grouped(rows, fits)
        n = len(self._rows)
        sums, counts = np.zeros((len(first), self._d), dtype=np.int64), np.zeros(len(first), dtype=np.int64)
        order = np.argsort(group[n:], kind="stable")
        begins = np.flatnonzero(np.diff(group[n:][order], prepend=-1))
        there = group[n:][order][begins]
        sums[there] = np.add.reduceat(rows[n:][order], begins, axis=0, dtype=np.int64)
        counts[there] = np.diff(begins, append=len(order))
        np.add.at(sums, group[:n], self._sums)
        np.add.at(counts, group[:n], self._counts)
        self._rows, self._sums, self._counts = rows[first], sums, counts

    def _grouped(self, rows: Unsigned, n_bits: int) -> tuple[Array, Array]:
        """The first row of each base of so many bits, in their order, and the base of each row."""
        mask = np.zeros(self._d, dtype=np.uint32)
        for f, bit in self._order[:n_bits]:
            mask[f] |= np.uint32(1 << bit)
        used = np.flatnonzero(mask)
        if not len(used):
            return np.zeros(1, dtype=np.int64), np.zeros(len(rows), dtype=np.int64)
        keys = np.ascontiguousarray(rows[:, used] & mask[used])
        _, first, group = np.unique(keys.view(f"V{4 * len(used)}").ravel(), return_index=True, return_inverse=True)
        place = np.argsort(np.argsort(first))  # bases in the order in which they turn up
        return np.sort(first), place[group.ravel()]

    def means(self, low: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """The mean of each base's rows (bases, features), which were given less `low`, and their number."""
        counts = self._counts[:, None]
        return (self._sums + low * counts) / counts, self._counts.astype(np.float64)
