"""Chooses what features go through before they are packed (docs/DESIGN.md, "Transforms")."""

from __future__ import annotations

import struct
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace
from graphlib import TopologicalSorter
from typing import Any

import numpy as np
import numpy.typing as npt

from ._native import check, ffi, lib, view

__all__ = ["Transform", "apply_transforms", "may_save", "plan_transforms", "read_transforms"]

GLANCE = 128  # rows by which a search is found worth its time
SAMPLE = 1024  # rows by which transforms are compared before their packs are
ALL_PAIRS = 64  # features up to which each may be predicted by any other one
NEAR = 8  # beyond, by those so near
TRIED = 4  # features that are tried to predict one, those that resemble it most
LEAST_BITS = 0.25  # a row, that a transform must promise to save
LEAST_SHARE = 128  # of a pack that it must save: each costs a board some 40 instructions a row
FAILURES = 3  # promises in a row that were not kept, and the search ends
PRECISION = 8  # bits of a factor that is not whole
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


def read_transforms(section: bytes) -> tuple[Transform, ...]:
    """The transforms of a section, in the order in which they are undone."""
    return tuple(Transform(*record) for record in struct.iter_unpack("<HHhBB", section))


def apply_transforms(transforms: tuple[Transform, ...], rows: Rows, width: int) -> Rows:
    """Rows (n, features) of values below 2^width as these transforms leave them."""
    rows = np.array(rows, dtype=np.uint32, order="C")
    records = b"".join(transform.record() for transform in transforms)
    status = lib.td_transforms_apply(
        view(records), len(transforms), ffi.from_buffer("uint32_t[]", rows), len(rows), rows.shape[1], width
    )
    check(status, "applying transforms")
    return rows


def may_save(rows: Rows, width: int, bits: float, *, gray: bool) -> bool:
    """Whether a search for transforms is worth its time, by a glance at some rows. `bits`: what a row takes without.

    A feature less a multiple of another one keeps sqrt(1 - r^2) of its spread, r being their correlation: the search
    begins with the pair of which that is least. `gray`: Gray codes may save, too: half of what one must save is enough,
    as entropies of few rows are rough.
    """
    some = np.ascontiguousarray(rows[:: len(rows) // GLANCE + 1])
    least = max(LEAST_BITS, bits / LEAST_SHARE)
    if gray and _gray_saves(some, width).max() >= least / 2:
        return True
    clipped = _clip(np.ascontiguousarray(some.T))[0]
    d = len(clipped)
    if d <= ALL_PAIRS:
        pairs = clipped @ clipped.T
        np.fill_diagonal(pairs, 0)
        alike = np.abs(pairs).max()
    else:
        alike = max(np.abs((clipped[k:] * clipped[:-k]).sum(axis=1)).max() for k in range(1, NEAR + 1))
    return bool(1 - alike**2 <= 2 ** (-2 * least))


def plan_transforms(rows: Rows, width: int, size: Size, *, gray: bool = False) -> tuple[Transform, ...]:
    """Transforms that make a pack of these rows (n, features) smaller, in the order in which they are undone.

    `size`: bytes of a pack of rows like these. One after another is chosen: the one that promises to save the most bits
    by a sample, and does so by `size`. `gray`: Gray codes are tried, too.
    """
    search = _Search(rows, width)
    if search.most_promising() is None and not (gray and search.gray_codes()):
        return ()
    plan = _Plan(rows, width, size, search)
    plan.grow()
    if plan.reconsider():
        plan.grow()
    if gray:
        plan.add(search.gray_codes())
    return search.ordered(search.chosen)


class _Plan:
    """Keeps of what is promised that which makes rows smaller."""

    def __init__(self, rows: Rows, width: int, size: Size, search: _Search) -> None:
        self._rows, self._width, self._size, self._search = rows, width, size, search
        self._best = size(rows)

    def grow(self) -> None:
        failures = 0
        while failures < FAILURES and (found := self._search.most_promising()):
            if self._saves((*self._search.chosen, found)):
                self._search.take(found)
                failures = 0
            else:
                self._search.refuse(found)
                failures += 1

    def reconsider(self) -> bool:
        """Plans changed features anew without a feature that predicts them: what promises most may lead astray."""
        found = False
        for transform in self._search.chosen:
            other = self._search.replanned(transform.feature, transform.other)
            if other and self._saves(other.chosen):
                self._search.become(other)
                found = True
        return found

    def add(self, promised: list[Transform]) -> None:
        failures = 0
        for transform in promised:
            if self._saves((*self._search.chosen, transform)):
                self._search.take(transform)
                failures = 0
            else:
                failures += 1
            if failures == FAILURES:
                break

    def _saves(self, transforms: tuple[Transform, ...]) -> bool:
        """Whether these take less than the best ones so far, a little for each that they are more."""
        if len(transforms) > lib.TD_MAX_TRANSFORMS:
            return False
        more = max(0, len(transforms) - len(self._search.chosen))
        measured = self._size(apply_transforms(self._search.ordered(transforms), self._rows, self._width))
        if (
            measured + more * (lib.TD_TRANSFORM_RECORD + self._best // LEAST_SHARE) > self._best
            or measured == self._best
        ):
            return False
        self._best = measured
        return True


class _Search:
    """What each transform promises to save, by a sample of rows.

    What a feature is predicted by is the others' values, so these have to be there first: no feature is predicted by
    one that is predicted by it.
    """

    def __init__(self, rows: Rows, width: int) -> None:
        self.chosen: tuple[Transform, ...] = ()
        self._columns = np.ascontiguousarray(rows[:: len(rows) // SAMPLE + 1].T)
        self._left = self._columns.copy()  # what the transforms chosen so far leave of them
        self._width = width
        self._cost = _spread(self._columns, width)
        self._least = max(LEAST_BITS, float(self._cost.sum()) / (2 * LEAST_SHARE))
        self._refused: set[Transform] = set()
        self._avoided: set[int] = set()
        self._clipped, self._norm = _clip(self._columns)
        self._promised: dict[int, tuple[float, Transform] | None] = {}

    def ordered(self, transforms: tuple[Transform, ...]) -> tuple[Transform, ...]:
        """As they are undone: a feature before those that are predicted by it."""
        needs = {t.feature: {u.other for u in transforms if u.feature == t.feature and u.factor} for t in transforms}
        order = list(TopologicalSorter(needs).static_order())
        return tuple(sorted(transforms, key=lambda t: order.index(t.feature)))

    def most_promising(self) -> Transform | None:
        for feature in range(len(self._columns)):
            if feature not in self._promised:
                self._promised[feature] = self._promise(feature)
        found = max((item for item in self._promised.values() if item), key=lambda item: item[0], default=None)
        return found[1] if found else None

    def gray_codes(self) -> list[Transform]:
        """Those that lower the entropies of a feature's bits, also of what it has above its minimum; the best first."""
        saved = _gray_saves(np.ascontiguousarray(self._left.T), self._width)
        order = np.argsort(-saved, kind="stable").tolist()
        return [Transform(feature) for feature in order if saved[feature] >= self._least]

    def replanned(self, feature: int, without: int) -> _Search | None:
        """With other transforms of this feature that promise more; None when there are none."""
        other = copy(self)
        other._avoided = {without}
        other.become(self)
        other.chosen = tuple(transform for transform in self.chosen if transform.feature != feature)
        other._left[feature] = self._columns[feature]
        other._cost[feature] = _spread(self._columns[feature : feature + 1], self._width)[0]
        while promised := other._promise(feature):
            other.take(promised[1])
        other._avoided = set()
        return other if other._cost[feature] < self._cost[feature] - LEAST_BITS else None

    def become(self, other: _Search) -> None:
        """What the other search has found."""
        self.chosen, self._left, self._cost = other.chosen, other._left.copy(), other._cost.copy()
        self._promised, self._refused = {}, set(other._refused)

    def take(self, transform: Transform) -> None:
        feature = transform.feature
        self.chosen = _joined(self.chosen, transform)
        if transform.factor == 0:
            self._left[feature] ^= self._left[feature] >> np.uint32(1)
            return
        self._left[feature] = self._residue(transform)
        self._cost[feature] = _spread(self._left[feature : feature + 1], self._width)[0]
        self._promised = {f: item for f, item in self._promised.items()
                          if f != feature and not (item and self._needs(item[1].other, f))}  # fmt: skip

    def refuse(self, transform: Transform) -> None:
        """Does not promise it again."""
        self._refused.add(replace(transform, turn=0))
        del self._promised[transform.feature]

    def _needs(self, feature: int, other: int) -> bool:
        """Whether a feature's values are there only when the other one's are."""
        return feature == other or any(self._needs(t.other, other) for t in self.chosen if t.feature == feature)

    def _promise(self, feature: int) -> tuple[float, Transform] | None:
        if self._cost[feature] < self._least:
            return None
        changed = any(transform.feature == feature for transform in self.chosen)
        clipped, norm = _clip(self._left[[feature]]) if changed else (self._clipped[[feature]], self._norm[[feature]])
        d = len(self._columns)
        near = range(d) if d <= ALL_PAIRS else range(max(0, feature - NEAR), min(d, feature + NEAR + 1))
        alike = self._clipped[near.start : near.stop] @ clipped[0]
        least = 1 - 0.25**self._least  # a correlation of r saves log2(1 / (1 - r^2)) / 2 bits
        found: list[Transform] = []
        for at in np.argsort(-np.abs(alike), kind="stable")[: TRIED + 1].tolist():
            if alike[at] ** 2 >= least and near[at] not in self._avoided and not self._needs(near[at], feature):
                found += self._differences(feature, near[at], float(alike[at] * norm[0] / self._norm[near[at]]))
        if not found:
            return None
        left = _spread(np.stack([self._residue(t) for t in found]), self._width)
        at = int(np.argmin(left))
        saved = float(self._cost[feature] - left[at])
        return (saved, self._turned(found[at])) if saved >= self._least else None

    def _differences(self, feature: int, other: int, slope: float) -> list[Transform]:
        shift = min(max(0, PRECISION - int(np.floor(np.log2(abs(slope))))), 32 - self._width)
        factors = {(int(np.sign(slope)), 0), (round(slope), 0), (round(slope * 2**shift), shift)}
        found = [Transform(feature, other, *pair) for pair in sorted(factors) if 0 < abs(pair[0]) < 2**15]
        return [t for t in found if t not in self._refused]  # which are not turned yet

    def _residue(self, transform: Transform) -> Rows:
        product = self._columns[transform.other] * np.uint32(transform.factor % 2**32)
        residue: Any = self._left[transform.feature] - (product >> np.uint32(transform.shift))
        residue -= np.uint32((transform.turn << self._width) >> 8)
        return np.asarray(residue & np.uint32(2**self._width - 1))

    def _turned(self, transform: Transform) -> Transform:
        """With a turn that brings the widest range without values to the end."""
        values = np.sort(self._residue(transform)).astype(np.int64)
        gaps = np.diff(values, append=values[0] + 2**self._width)
        at = int(np.argmax(gaps))
        middle = int(values[at] + gaps[at] // 2) % 2**self._width
        return replace(transform, turn=(middle << 8) >> self._width)


def _joined(transforms: tuple[Transform, ...], last: Transform) -> tuple[Transform, ...]:
    """With another one; whole multiples of one feature become one."""
    for at, t in enumerate(transforms):
        alike = (t.feature, t.other, t.shift) == (last.feature, last.other, 0) and t.factor and last.factor
        factor = t.factor + last.factor
        if alike and last.shift == 0 and 0 < abs(factor) < 2**15:
            merged = replace(t, factor=factor, turn=(t.turn + last.turn) % 256)
            return (*transforms[:at], merged, *transforms[at + 1 :])
    return (*transforms, last)


def _clip(columns: Rows) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Columns without their rare values, which would hide what they share: of mean 0 and length 1; their lengths."""
    n = columns.shape[1]
    ends = np.partition(columns, (n // 16, n - 1 - n // 16), axis=1)[:, [n // 16, n - 1 - n // 16]].astype(np.float64)
    clipped = np.clip(columns, ends[:, :1], ends[:, 1:])
    clipped -= clipped.mean(axis=1, keepdims=True)
    norm = np.sqrt((clipped**2).sum(axis=1))
    return clipped / np.where(norm > 0, norm, 1)[:, None], norm


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


def _spread(columns: Rows, width: int) -> npt.NDArray[np.float64]:
    """Bits a value of each row of `columns` takes, by how far apart its values are around a circle of 2^width.

    That is Vasicek's estimate of entropy, 1976.
    """
    n = columns.shape[1]
    step = max(1, n // 64)
    values = np.sort(columns, axis=1)
    apart = (np.roll(values, -step, axis=1) - values) & np.uint32(2**width - 1)
    return np.asarray(np.log2(np.maximum(apart * (n / step), 1)).mean(axis=1))
