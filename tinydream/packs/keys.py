"""Plans and writes parts whose rows are sorted by a key (docs/DESIGN.md, "Rows have no order")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .._native import check, ffi, lib, view

__all__ = ["KeyPlan", "SortedPart", "encode_sorted", "plan_sorted"]

SAMPLE = 8192  # rows on which keys are compared, at most, unless these were less than one of MOST_STEP
MOST_STEP = 64
MOST_VALUES = 2**22  # of features looked at together, in tables of all values up to their highest
Rows = npt.NDArray[np.uint32]
Keys = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SortedPart:
    """`data` as in the data section with its `header`; row i of it is row `order[i]` of what was encoded."""

    data: bytes
    header: Any
    order: Rows
    keys: Keys
    n_key: int

    def cells(self, most: int) -> npt.NDArray[np.bool_]:
        """Which rows begin a cell: the rows that agree in the key's first bits, as many bits as give `most` cells."""
        n = len(self.keys)
        starts = np.empty(n, dtype=np.bool_)
        lib.td_key_cells(view(self.keys, "const uint64_t[]"), n, min(most, n), ffi.from_buffer("uint8_t[]", starts))
        return starts


@dataclass(frozen=True)
class KeyPlan:
    """How rows are to be stored: less `low`, some features as numbers in lists, and sorted by a key of some bits.

    `lists`: of each feature, its values less `low` that occur, rising; empty: no list. `varying`: bits in which rows
    differ then. `bits`: the key's, first one first, as feature * 32 + bit. `size`: bits that all this takes, about.
    """

    low: Rows
    high: Rows
    lists: list[Rows]
    varying: Rows
    bits: Rows
    size: int


def plan_sorted(rows: Rows, width: int) -> KeyPlan | None:
    """The plan of a part with keys; None when all rows are equal.

    What must be exact is found in all rows: ranges, lists, and which bits vary. The key is chosen by a sample of them.
    """
    n, d = rows.shape
    scratch = np.empty((2, 4 * d), dtype=np.uint32)
    lib.td_key_survey(view(rows, "const uint32_t[]"), n, d, *(ffi.from_buffer("uint32_t[]", part) for part in scratch))
    low, high = scratch[:, :d].copy()
    if not high.any():
        return None
    step = 1
    while step < MOST_STEP and n > SAMPLE * step:
        step *= 2
    sample = np.empty((-(-n // step), d), dtype=np.uint32)
    lib.td_key_sample(
        view(rows, "const uint32_t[]"), n, d, view(low, "const uint32_t[]"), step, ffi.from_buffer("uint32_t[]", sample)
    )
    lists = _lists(rows, sample, width, low, high)
    listed = [f for f, found in enumerate(lists) if len(found)]
    for f in listed:
        sample[:, f] = _numbers(lists[f], high[f])[sample[:, f]]
    varying = _varying(rows, sample, low, high, lists)
    bits, cost = _choose_bits(sample, n, step, varying)
    others = sum(word.bit_count() for word in varying.tolist()) - len(bits)
    return KeyPlan(low, high, lists, varying, bits, cost + n * others + width * sum(len(lists[f]) for f in listed))


def encode_sorted(rows: Rows, width: int) -> SortedPart | None:
    """The rows as a part with keys; None when all rows are equal, or they do not fit one."""
    plan = plan_sorted(rows, width)
    if plan is None:
        return None
    stored, low = _stored(rows, plan)
    keys, order = _sort(_keys(stored, low, plan.bits), len(plan.bits))
    coded = _encode(stored, low, order, keys, width, plan)
    return SortedPart(*coded, order, keys, len(plan.bits)) if coded else None


def _lists(rows: Rows, sample: Rows, width: int, low: Rows, high: Rows) -> list[Rows]:
    """The values of each feature that it is better stored as numbers of; none of the others."""
    n, d = rows.shape
    bits, shorter = np.array([[top.bit_length()] for top in high.tolist()]), np.arange(width)
    # A list of up to 2^k entries saves bits - k of each row.
    most = np.minimum(2**shorter, (n * (bits - shorter) - 16 * d - 1) // width)
    most = np.where(shorter < bits, np.minimum(most, 65535), 0).max(axis=1)
    # Nothing to save, or seldom worth the time of a table of all values.
    most[(most < 1) | (high > 64 * n) | (high >= 2**20)] = 0
    some = np.where(most < len(sample), most, 0) if len(sample) < n else most[:0]
    for f, found in enumerate(_values(sample, np.zeros_like(low), high, some)):
        if some[f] and not len(found):
            most[f] = 0  # what has too many values in some rows has so in all
    return _values(rows, low, high, most)


def _values(rows: Rows, low: Rows, high: Rows, most: Numbers) -> list[Rows]:
    """The different values of each feature less `low`, rising; none if these are more than `most`."""
    lists = [np.zeros(0, dtype=np.uint32)] * len(most)
    for features in _groups(np.flatnonzero(most), high):
        wanted, counts = np.zeros((2, len(low)), dtype=np.uint32)
        wanted[features] = most[features]
        ends = np.cumsum(high[features].astype(np.int64) + 1)
        seen = np.zeros(int(ends[-1]), dtype=np.bool_)
        lib.td_key_values(
            view(rows, "const uint32_t[]"), *rows.shape, view(low, "const uint32_t[]"), view(high, "const uint32_t[]"),
            view(wanted, "const uint32_t[]"), ffi.from_buffer("uint32_t[]", counts), ffi.from_buffer("uint8_t[]", seen),
        )  # fmt: skip
        for f, end in zip(features.tolist(), ends.tolist(), strict=True):
            if counts[f] <= wanted[f]:
                lists[f] = np.flatnonzero(seen[end - int(high[f]) - 1 : end]).astype(np.uint32)
    return lists


def _groups(features: Numbers, high: Rows) -> list[Numbers]:
    """The features in groups whose tables of all values fit in memory."""
    if not len(features):
        return []
    before = np.cumsum(high[features].astype(np.int64) + 1) // MOST_VALUES
    return np.split(features, np.flatnonzero(np.diff(before)) + 1)


def _numbers(found: Rows, high: int) -> Rows:
    """The number in a list of each value up to `high` that is in it."""
    numbers = np.zeros(int(high) + 1, dtype=np.uint32)
    numbers[found] = np.arange(len(found), dtype=np.uint32)
    return numbers


def _varying(rows: Rows, sample: Rows, low: Rows, high: Rows, lists: list[Rows]) -> Rows:
    """The bits in which rows differ: those of the sample, unless it leaves some of a feature's range open."""
    tops = [len(found) - 1 if len(found) else top for found, top in zip(lists, high.tolist(), strict=True)]
    possible = np.array([2 ** top.bit_length() - 1 for top in tops], dtype=np.uint32)
    listed = np.array([len(found) > 0 for found in lists])
    varying = np.where(listed, possible, _differing(sample, np.zeros_like(low)))
    if len(sample) < len(rows) and not np.array_equal(varying, possible):
        varying = np.where(listed, possible, _differing(rows, low))
    return varying


def _differing(rows: Rows, low: Rows) -> Rows:
    """The bits in which values less `low` differ."""
    d = len(low)
    varying = np.empty(4 * d, dtype=np.uint32)
    lib.td_key_varying(
        view(rows, "const uint32_t[]"), len(rows), d, view(low, "const uint32_t[]"),
        ffi.from_buffer("uint32_t[]", varying), ffi.new("uint32_t[]", 8 * d),
    )  # fmt: skip
    return varying[:d]


def _stored(rows: Rows, plan: KeyPlan) -> tuple[Rows, Rows]:
    """The rows, as numbers in the plan's lists, and what is still to be taken off them. Without lists no copy."""
    low, listed = plan.low, np.flatnonzero([len(found) for found in plan.lists])
    if not len(listed):
        return rows, low
    stored = np.empty_like(rows)
    for features in _groups(listed, plan.high):
        start, tables, at = np.full(len(low), lib.TD_KEY_NO_LIST, dtype=np.uint32), [np.zeros(1, dtype=np.uint32)], 1
        for f in features.tolist():
            tables.append(_numbers(plan.lists[f], plan.high[f]))
            start[f], at = at, at + len(tables[-1])
        lib.td_key_stored(
            view(rows, "const uint32_t[]"), *rows.shape, view(low, "const uint32_t[]"), view(start, "const uint32_t[]"),
            view(np.concatenate(tables), "const uint32_t[]"), ffi.from_buffer("uint32_t[]", stored),
        )  # fmt: skip
        rows, low = stored, np.zeros_like(low)
    return stored, low


def _sort(keys: Keys, n_key: int) -> tuple[Keys, Rows]:
    """The keys in order, and which rows they are of. Changes `keys`."""
    n = len(keys)
    order, spare = np.empty(n, dtype=np.uint32), np.empty(n, dtype=np.uint64)
    lib.td_key_sort(
        ffi.from_buffer("uint64_t[]", keys), ffi.from_buffer("uint32_t[]", order), n, n_key,
        ffi.from_buffer("uint64_t[]", spare), ffi.from_buffer("uint32_t[]", np.empty(n, dtype=np.uint32)),
    )  # fmt: skip
    return keys, order


def _choose_bits(sample: Rows, n: int, step: int, varying: Rows) -> tuple[Rows, int]:
    """The key's bits, as KeyPlan has them, and what they and those left over of TD_MAX_KEY cost: by significance or by
    entropy, what packs smaller, and as many as make the smallest part. `sample`: one row of `step`, of `n` in all."""
    m = len(sample)
    features, bits = np.nonzero(varying[:, None] >> np.arange(32, dtype=np.uint32) & 1)
    ones = _count_ones(sample)[features, 31 - bits]
    orders = np.lexsort((features, -bits)), np.lexsort((-bits, features, np.minimum(ones, m - ones)))
    tried = []
    for order in orders:
        chosen = (32 * features + bits)[order[: lib.TD_MAX_KEY]].astype(np.uint32)
        keys, length = _keys(sample, np.zeros_like(sample[0]), chosen), ffi.new("uint32_t *")
        whole, spare = ffi.from_buffer("uint64_t[]", keys), ffi.from_buffer("uint64_t[]", np.empty_like(keys))
        lib.td_key_sort(whole, ffi.NULL, m, len(chosen), spare, ffi.NULL)
        size = int(lib.td_key_length(whole, n, step, len(chosen), length))
        tried.append((size - n * (len(chosen) - length[0]), size, chosen[: length[0]]))
    cost, _, best = min(tried, key=lambda item: item[1])
    return best, cost


def _count_ones(sample: Rows) -> Numbers:
    """How many rows have each bit: (features, 32), most significant first. Several rows are counted as one, as short
    ones take longer."""
    m, d = sample.shape
    beside = max(1, min(m, 64 // d))
    together, rest = sample[: m // beside * beside].reshape(-1, beside * d), sample[m // beside * beside :]
    counts: Numbers = _ones(together).reshape(beside, d, 32).sum(axis=0, dtype=np.int64)
    if len(rest):
        counts += _ones(rest)
    return counts


def _ones(rows: Rows) -> npt.NDArray[np.uint32]:
    ones = np.empty((rows.shape[1], 32), dtype=np.uint32)
    lib.td_count_ones(
        view(rows, "const uint32_t[]"), *rows.shape, 32, ffi.from_buffer("uint32_t[]", ones),
        ffi.new("uint32_t[]", 8 * rows.shape[1]),
    )  # fmt: skip
    return ones


def _keys(rows: Rows, low: Rows, bits: Rows) -> Keys:
    keys = np.empty(len(rows), dtype=np.uint64)
    lib.td_key_rows(
        view(rows, "const uint32_t[]"), len(rows), rows.shape[1], view(low, "const uint32_t[]"),
        view(bits, "const uint32_t[]"), len(bits), ffi.from_buffer("uint64_t[]", keys),
        ffi.new("uint64_t[]", lib.td_key_work_size(len(bits)) // 8),
    )  # fmt: skip
    return keys


def _encode(rows: Rows, low: Rows, order: Rows, keys: Keys, width: int, plan: KeyPlan) -> tuple[bytes, Any] | None:
    n, d = rows.shape
    entries = np.concatenate(plan.lists)
    n_entries = np.array([len(found) for found in plan.lists], dtype=np.uint16)
    constant = ~plan.varying & np.uint32(2**width - 1)
    wanted = ffi.new("td_key_plan *")
    kept = [view(array, "const uint32_t[]") for array in (constant, plan.low, entries, plan.bits)]
    kept.append(view(n_entries, "const uint16_t[]"))
    wanted.constant, wanted.key_bits, wanted.n_key = kept[0], kept[3], len(plan.bits)
    wanted.offsets = kept[1] if plan.low.any() else ffi.NULL
    wanted.n_entries, wanted.entries = (kept[4], kept[2]) if len(entries) else (ffi.NULL, ffi.NULL)
    # Rows, differences and index at what they cost at most here; then lists, four arrays of values and the key's bits.
    cost = int(lib.td_key_cost(view(keys, "const uint64_t[]"), n, 1, len(plan.bits), 0))
    size_bits = n * (d * width - len(plan.bits)) + cost + (len(entries) + 4 * d) * width + 16 * d
    capacity = size_bits // 8 + 4 * len(plan.bits) + 64
    if capacity >= 2**31:
        return None
    out, base, header = np.empty(capacity, dtype=np.uint8), ffi.new("uint32_t[]", d), ffi.new("td_part_header *")
    length = lib.td_encode_keys(
        view(rows, "const uint32_t[]"), view(low, "const uint32_t[]"), view(order, "const uint32_t[]"),
        view(keys, "const uint64_t[]"), n, d, width, wanted, base, ffi.from_buffer("uint8_t[]", out), capacity, header,
    )  # fmt: skip
    if length == lib.TD_E_FULL:
        return None
    return out[: check(length, "encoding sorted rows")].tobytes(), header
