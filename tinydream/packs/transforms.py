"""Chooses what features go through before they are packed (docs/DESIGN.md, "Transforms")."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .._native import check, ffi, lib, view

__all__ = ["Transform", "apply_transforms", "may_save", "plan_transforms", "read_transforms"]

GLANCE = 128  # rows by which a search is found worth its time
SAMPLE = 1024  # rows by which transforms are compared before their packs are
ALL_PAIRS = 64  # features up to which each may be predicted by any other one
NEAR = 8  # beyond, by those so near
TRIED = 4  # features that are tried to predict one, those that resemble it most
LEAST_BITS = 0.25  # a row, that a transform must promise to save
LEAST_SHARE = 256  # of a row's bits, that it must; and twice that when measured: it costs a board 45 instructions a row
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
    least = max(LEAST_BITS, 2 * bits / LEAST_SHARE)
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

    `size`: bytes of a pack of rows like these. One after another joins that promises to save the most bits by a sample;
    all together are kept if they save enough by `size`, too. `gray`: Gray codes are tried, too.
    """
    search = _Search(rows, width)
    tried: list[tuple[Transform, ...]] = [()]
    search.grow(2)
    if search.reconsider():
        search.grow(2)
    tried.append(search.ordered())
    search.grow(1)
    tried.append(search.ordered())
    for transform in search.gray_codes()[: lib.TD_MAX_TRANSFORMS - len(search.chosen)] if gray else []:
        search.take(transform)
    tried.append(search.ordered())
    sizes = {t: size(apply_transforms(t, rows, width)) for t in dict.fromkeys(tried)}
    each = lib.TD_TRANSFORM_RECORD + 2 * sizes[()] // LEAST_SHARE
    return min(sizes, key=lambda t: sizes[t] + each * len(t))


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
        self._least = max(LEAST_BITS, float(self._cost.sum()) / LEAST_SHARE)
        self._clipped, self._norm = _clip(self._columns)
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
        before, self._promised = self.chosen, {}
        for transform in before:
            feature = transform.feature
            chosen, left, cost = self.chosen, self._left[feature].copy(), self._cost[feature]
            self._set(feature, tuple(t for t in chosen if t.feature != feature), self._columns[feature])
            while len(self.chosen) < lib.TD_MAX_TRANSFORMS and (found := self._promise(feature, transform.other)):
                self.take(found[1])
            if self._cost[feature] >= cost - LEAST_BITS:
                self._set(feature, chosen, left)
        self._promised = {}
        return self.chosen != before

    def gray_codes(self) -> list[Transform]:
        """Those that lower the entropies of a feature's bits, also of what it has above its minimum; the best first."""
        saved = _gray_saves(np.ascontiguousarray(self._left.T), self._width)
        order = np.argsort(-saved, kind="stable").tolist()
        return [Transform(feature) for feature in order if saved[feature] >= self._least]

    def take(self, transform: Transform) -> None:
        feature, chosen = transform.feature, _joined(self.chosen, transform)
        if transform.factor == 0:
            self._set(feature, chosen, self._left[feature] ^ self._left[feature] >> np.uint32(1))
        else:
            self._set(feature, chosen, self._residue(transform))
        self._promised = {f: item for f, item in self._promised.items()
                          if f != feature and not (item and f in self._needed(item[1].other))}  # fmt: skip

    def _set(self, feature: int, chosen: tuple[Transform, ...], left: Rows) -> None:
        """With these transforms, which leave `left` of the feature."""
        self.chosen, self._left[feature] = chosen, left
        self._cost[feature] = _spread(self._left[feature : feature + 1], self._width)[0]
        self._needs = {t.feature: {t.feature} for t in chosen}
        for t in chosen:
            more = self._needed(t.other) if t.factor else set()
            for needs in self._needs.values():
                if t.feature in needs:
                    needs |= more

    def _needed(self, feature: int) -> set[int]:
        return self._needs.get(feature, {feature})

    def _most_promising(self) -> tuple[float, Transform | None]:
        for feature in range(len(self._columns)):
            if feature not in self._promised:
                self._promised[feature] = self._promise(feature)
        promised = [item for item in self._promised.values() if item]
        return max(promised, key=lambda item: item[0], default=(0.0, None))

    def _promise(self, feature: int, without: int | None = None) -> tuple[float, Transform] | None:
        """What promises to save the most bits of a feature, if that is enough; `without`: not by this feature."""
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
            if alike[at] ** 2 >= least and near[at] != without and feature not in self._needed(near[at]):
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
        return [Transform(feature, other, *pair) for pair in sorted(factors) if 0 < abs(pair[0]) < 2**15]

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
    ends = np.sort(columns, axis=1)[:, [n // 16, n - 1 - n // 16]].astype(np.float64)
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
