"""Chooses what features go through before they are packed (docs/DESIGN.md, "Transforms")."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .._native import check, ffi, lib, view

__all__ = ["Chosen", "Transform", "apply_transforms", "may_save", "plan_transforms", "read_transforms"]

GLANCE = 128  # rows by which a search is found worth its time
SAMPLE = lib.TD_MAX_RELATED  # rows by which transforms are compared before their packs are
LEAST_BITS = 0.25  # a row, that a transform must promise to save
LEAST_SHARE = 256  # of a row's bits, that it must; and twice that when measured: it costs a board 45 instructions a row
BIT = 65536  # as relate.c has it
Rows = npt.NDArray[np.uint32]
Size = Callable[[Rows], int]


@dataclass(frozen=True)
class Transform:
    """A feature less floor(factor * other / 2^shift) and turn / 256 of all values; with a factor of 0 its Gray code."""

    feature: int
    other: int = 0
    factor: int = 0
    shift: int = 0
    turn: int = 0

    def record(self) -> bytes:
        """As in the file."""
        return struct.pack("<HHhBB", self.feature, self.other, self.factor, self.shift, self.turn)


class Chosen(NamedTuple):
    """Transforms in the order in which they are undone; the size under them as a share of that without, measured."""

    transforms: tuple[Transform, ...] = ()
    share: float = 1.0


def read_transforms(section: bytes) -> tuple[Transform, ...]:
    """The transforms of a section, in the order in which they are undone."""
    return tuple(Transform(*record) for record in struct.iter_unpack("<HHhBB", section))


def apply_transforms(transforms: tuple[Transform, ...], rows: Rows, width: int) -> Rows:
    """Rows (n, features) of values below 2^width as these transforms leave them."""
    rows = np.ascontiguousarray(rows, dtype=np.uint32)
    out, records = np.empty_like(rows), b"".join(transform.record() for transform in transforms)
    status = lib.td_transforms_apply(
        view(records), len(transforms), view(rows, "const uint32_t[]"), *rows.shape, width,
        ffi.from_buffer("uint32_t[]", out),
    )  # fmt: skip
    check(status, "applying transforms")
    return out


def may_save(rows: Rows, width: int, bits: float | None, *, gray: bool) -> bool:
    """Whether a search for transforms is worth its time, by a glance at some rows. `bits`: what a row takes without;
    None: not known, what its features take one by one.

    A feature less a multiple of another one keeps sqrt(1 - r^2) of its spread, r being their correlation: the search
    begins with the pair of which that is least. `gray`: Gray codes may save, too: half of what one must save is enough,
    as entropies of few rows are rough.
    """
    some = rows[:: len(rows) // GLANCE + 1]
    columns = _Columns(some, width)
    bits = sum(columns.bits()) / BIT if bits is None else bits
    least = max(LEAST_BITS, 2 * bits / LEAST_SHARE)
    if gray and _gray_saves(np.ascontiguousarray(some), width).max() >= least / 2:
        return True
    return columns.closest() >= 1 - 2 ** (-2 * least)


def plan_transforms(rows: Rows, width: int, size: Size, *, gray: bool = False) -> Chosen:
    """Transforms that make a pack of these rows (n, features) smaller.

    `size`: bytes of a pack of rows like these. One after another joins that promises to save the most bits by a sample.
    All together are kept if they save enough by `size`, too; else those that promise most, if these do. `gray`: Gray
    codes are tried, too.
    """
    search = _Search(rows, width)
    search.grow(2)
    if search.reconsider():
        search.grow(2)
    larger = search.ordered()
    search.grow(1)
    tried = [(), search.ordered()]
    for transform in search.gray_codes()[: lib.TD_MAX_TRANSFORMS - len(search.chosen)] if gray else []:
        search.take(transform)
    tried.append(search.ordered())
    sizes = {t: size(apply_transforms(t, rows, width)) for t in dict.fromkeys(tried)}
    each = lib.TD_TRANSFORM_RECORD + 2 * sizes[()] // LEAST_SHARE
    best = min(sizes, key=lambda t: sizes[t] + each * len(t))
    if not best and larger not in sizes:
        sizes[larger] = size(apply_transforms(larger, rows, width))
        best = larger if sizes[larger] + each * len(larger) < sizes[()] else ()
    return Chosen(best, sizes[best] / sizes[()])


class _Search:
    """What each transform promises to save, by a sample of rows; bits are in 1/65536.

    What a feature is predicted by is the others' values, so these have to be there first: no feature is predicted by
    one that is predicted by it.
    """

    def __init__(self, rows: Rows, width: int) -> None:
        self.chosen: tuple[Transform, ...] = ()
        self._sample = _Columns(rows[:: len(rows) // SAMPLE + 1], width)
        self._width = width
        self._plain = self._sample.bits()
        self._cost = list(self._plain)
        self._least = max(BIT * LEAST_BITS, sum(self._plain) / LEAST_SHARE)
        self._least_alike = 1 - 0.25 ** (self._least / BIT)  # a correlation of r saves log2(1 / (1 - r^2)) / 2 bits
        self._needs: dict[int, set[int]] = {}  # features that must be there before a changed one, and itself
        self._promised: dict[int, tuple[float, Transform] | None] = {}

    def ordered(self) -> tuple[Transform, ...]:
        """What was chosen, as it is undone: a feature before those that are predicted by it, its Gray code first."""
        return tuple(sorted(self.chosen, key=lambda t: (len(self._needed(t.feature)), t.factor != 0)))

    def grow(self, times: int) -> None:
        """Takes what promises most, while that is so many times what a transform must promise."""
        while len(self.chosen) < lib.TD_MAX_TRANSFORMS:
            saved, found = self._most_promising()
            if not found or saved < times * self._least:
                return
            self.take(found)

    def reconsider(self) -> bool:
        """Plans features anew without one that predicts them, as what promises most may lead astray; whether it did."""
        before, promised, self._promised = self.chosen, self._promised, {}
        for transform in before:
            feature = transform.feature
            chosen, left, cost = self.chosen, self._sample.left[feature].copy(), self._cost[feature]
            others = tuple(t for t in chosen if t.feature != feature)
            self._set(feature, others, self._sample.columns[feature], self._plain[feature])
            while len(self.chosen) < lib.TD_MAX_TRANSFORMS and (found := self._promise(feature, transform.other)):
                self.take(found[1])
            if self._cost[feature] >= cost - BIT * LEAST_BITS:
                self._set(feature, chosen, left, cost)
        self._promised = promised if self.chosen == before else {}
        return self.chosen != before

    def gray_codes(self) -> list[Transform]:
        """Those that lower the entropies of a feature's bits, also of what it has above its minimum; the best first."""
        saved = BIT * _gray_saves(np.ascontiguousarray(self._sample.left.T), self._width)
        order = np.argsort(-saved, kind="stable").tolist()
        return [Transform(feature) for feature in order if saved[feature] >= self._least]

    def take(self, transform: Transform) -> None:
        feature = transform.feature
        self._cost[feature] = self._sample.take(transform)
        self._choose(_joined(self.chosen, transform))
        self._promised = {f: item for f, item in self._promised.items()
                          if f != feature and not (item and f in self._needed(item[1].other))}  # fmt: skip

    def _set(self, feature: int, chosen: tuple[Transform, ...], left: Rows, cost: int) -> None:
        """With these transforms, which leave `left` of the feature."""
        self._sample.left[feature], self._cost[feature] = left, cost
        self._choose(chosen)

    def _choose(self, chosen: tuple[Transform, ...]) -> None:
        self.chosen, self._needs = chosen, {t.feature: {t.feature} for t in chosen}
        for t in chosen:
            more = self._needed(t.other) if t.factor else set()
            for needs in self._needs.values():
                if t.feature in needs:
                    needs |= more

    def _needed(self, feature: int) -> set[int]:
        return self._needs.get(feature, {feature})

    def _most_promising(self) -> tuple[float, Transform | None]:
        for feature in range(len(self._cost)):
            if feature not in self._promised:
                self._promised[feature] = self._promise(feature)
        promised = [item for item in self._promised.values() if item]
        return max(promised, key=lambda item: item[0], default=(0.0, None))

    def _promise(self, feature: int, without: int | None = None) -> tuple[float, Transform] | None:
        """What promises to save the most bits of a feature, if that is enough; `without`: not by this feature."""
        if self._cost[feature] < self._least:
            return None
        barred = [other for other, needs in self._needs.items() if feature in needs]
        found = self._sample.promise(feature, [*barred, without] if without is not None else barred, self._least_alike)
        if not found:
            return None
        saved = self._cost[feature] - found[0]
        return (saved, found[1]) if saved >= self._least else None


class _Columns:
    """A sample of rows, feature by feature, for relate.c. `left` is what transforms leave of `columns`."""

    def __init__(self, rows: Rows, width: int) -> None:
        self.columns = np.ascontiguousarray(rows.T)
        self.left = self.columns.copy()
        d, n = self.columns.shape
        self._relation = ffi.new("td_relation *", (n, d, width))
        self._facts, self._found = ffi.new("td_column[]", d), ffi.new("td_promise *")
        self._kept = (
            view(self.columns, "const uint32_t[]"), ffi.from_buffer("uint32_t[]", self.left),
            ffi.new("int16_t[]", (d + 1) * n), self._facts, ffi.new("uint32_t[]", 2 * n),
        )  # fmt: skip
        relation = self._relation
        relation.columns, relation.left, relation.clipped, relation.column, relation.work = self._kept
        check(lib.td_relate_survey(relation), "looking at columns")

    def bits(self) -> list[int]:
        """What a value of each feature takes."""
        return [column.bits for column in self._facts]

    def closest(self) -> float:
        """The largest square of a correlation of two features."""
        return float(lib.td_relate_closest(self._relation))

    def promise(self, feature: int, barred: list[int], least: float) -> tuple[int, Transform] | None:
        """The difference that leaves the fewest bits of a feature, and these. Neither what is `barred` predicts it, nor
        anything with a correlation whose square is below `least`."""
        flags = bytearray(len(self.columns))
        for other in barred:
            flags[other] = 1
        status = lib.td_relate_promise(self._relation, feature, view(flags), least, self._found)
        if not check(status, "relating columns"):
            return None
        return self._found.bits, read_transforms(bytes(self._found.record))[0]

    def take(self, transform: Transform) -> int:
        """Bits of what this leaves of its feature."""
        bits = ffi.new("uint32_t *")
        check(lib.td_relate_take(self._relation, transform.record(), bits), "applying a transform")
        return int(bits[0])


def _joined(transforms: tuple[Transform, ...], last: Transform) -> tuple[Transform, ...]:
    """With another one; whole multiples of one feature become one."""
    for at, t in enumerate(transforms):
        alike = (t.feature, t.other, t.shift) == (last.feature, last.other, 0) and t.factor and last.factor
        factor = t.factor + last.factor
        if alike and last.shift == 0 and 0 < abs(factor) < 2**15:
            merged = replace(t, factor=factor, turn=(t.turn + last.turn) % 256)
            return (*transforms[:at], merged, *transforms[at + 1 :])
    return (*transforms, last)


def _gray_saves(rows: Rows, width: int) -> npt.NDArray[np.float64]:
    """By how much a Gray code lowers the entropies of each feature's bits, as they are and above its minimum."""
    d = rows.shape[1]
    forms = np.concatenate((rows, rows - rows.min(axis=0), rows ^ rows >> np.uint32(1)), axis=1)
    ones = np.empty((3 * d, width), dtype=np.uint32)
    lib.td_count_ones(
        view(forms, "const uint32_t[]"), len(forms), 3 * d, width, ffi.from_buffer("uint32_t[]", ones),
        ffi.new("uint32_t[]", 8 * 3 * d),
    )  # fmt: skip
    share = np.clip(ones / len(rows), 1e-12, 1 - 1e-12)
    plain, moved, gray = -(share * np.log2(share) + (1 - share) * np.log2(1 - share)).sum(axis=1).reshape(3, d)
    return np.asarray(np.minimum(plain, moved) - gray)
