"""Plans and writes parts whose rows are sorted by a key (docs/DESIGN.md, "Rows have no order")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ._native import check, ffi, lib, view

__all__ = ["SortedPart", "encode_sorted"]

SAMPLE = 16384  # rows on which the two orders of a key's bits are compared
MANY_BLOCKS = 200  # of TD_KEY_BLOCK rows: the length of the key is chosen on about as many
STEP = 3  # of the lengths of the key that are tried
Rows = npt.NDArray[np.uint32]
Keys = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class SortedPart:
    """`data` as in the data section with its `header`; row i of it is row `order[i]` of what was encoded."""

    data: bytes
    header: Any
    order: npt.NDArray[np.int64]
    keys: Keys
    n_key: int

    def cells(self, most: int) -> npt.NDArray[np.bool_]:
        """Which rows begin a cell: the rows that agree in the key's first bits, as many bits as give `most` cells."""
        steps = self.keys[1:] ^ self.keys[:-1]
        starts = np.zeros(len(self.keys), dtype=bool)
        starts[0] = True
        for shift in range(self.n_key):
            inside = steps >> np.uint64(shift) != 0
            if np.count_nonzero(inside) < most:
                starts[1:] = inside
                break
        return starts


def encode_sorted(rows: Rows, width: int) -> SortedPart | None:
    """The rows as a part with keys; None when all rows are equal, or they do not fit one."""
    offsets = rows.min(axis=0)
    ranked, n_entries, entries = _ranks(rows - offsets, width)
    varying = np.bitwise_or.reduce(ranked ^ ranked[0], axis=0)
    if not varying.any():
        return None
    bits = _choose_bits(ranked, varying)
    keys = _keys(ranked, bits)
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    drop = _choose_length(keys, len(bits))
    keys >>= np.uint64(drop)
    bits = bits[: len(bits) - drop]
    constant = ~varying & np.uint32(2**width - 1)
    coded = _encode(ranked[order], keys, width, constant, offsets, n_entries, entries, bits)
    return SortedPart(*coded, order, keys, len(bits)) if coded else None


def _ranks(rows: Rows, width: int) -> tuple[Rows, npt.NDArray[np.uint16], Rows]:
    """Values as numbers in a sorted list of their feature's values, where that saves more bits than the list takes."""
    n_entries, lists = np.zeros(rows.shape[1], dtype=np.uint16), []
    ranked = rows
    for f, high in enumerate(rows.max(axis=0).tolist()):
        if high > 64 * len(rows) or high >= 2**20:
            continue  # seldom worth the time of a table of all values
        present = np.bincount(rows[:, f], minlength=1) > 0
        n = int(np.count_nonzero(present))
        saved = len(rows) * (high.bit_length() - (n - 1).bit_length())
        if n <= 65535 and saved > n * width + 16 * rows.shape[1]:
            if ranked is rows:
                ranked = rows.copy()
            ranked[:, f] = (np.cumsum(present, dtype=np.uint32) - np.uint32(1))[rows[:, f]]
            n_entries[f] = n
            lists.append(np.flatnonzero(present).astype(np.uint32))
    return ranked, n_entries, np.concatenate(lists) if lists else np.zeros(0, dtype=np.uint32)


def _choose_bits(rows: Rows, varying: Rows) -> Rows:
    """The key's bits, first one first, as feature * 32 + bit: by significance or by entropy, what packs smaller."""
    sample = np.ascontiguousarray(rows[:: len(rows) // SAMPLE + 1])
    places = [(f, b) for f, word in enumerate(varying.tolist()) for b in range(word.bit_length()) if word >> b & 1]
    ones = {place: int(np.count_nonzero(sample[:, place[0]] >> np.uint32(place[1]) & 1)) for place in places}
    orders = (
        sorted(places, key=lambda place: (-place[1], place[0])),
        sorted(places, key=lambda place: (min(ones[place], len(sample) - ones[place]), place[0], -place[1])),
    )
    tried = []
    for order in orders:
        bits = np.array([32 * f + b for f, b in order[: lib.TD_MAX_KEY]], dtype=np.uint32)
        keys = np.sort(_keys(sample, bits))
        drop = _choose_length(keys, len(bits))
        tried.append((_cost(keys, len(bits), drop) + drop * len(sample), bits))
    return min(tried, key=lambda item: item[0])[1]


def _choose_length(keys: Keys, n_key: int) -> int:
    """How many of the last bits of the sorted keys are better stored as they are; some blocks stand for many."""
    blocks = keys[: len(keys) // lib.TD_KEY_BLOCK * lib.TD_KEY_BLOCK].reshape(-1, lib.TD_KEY_BLOCK)
    if len(blocks) > MANY_BLOCKS:
        keys = np.ascontiguousarray(blocks[:: len(blocks) // MANY_BLOCKS]).ravel()
    return min(range(0, n_key, STEP), key=lambda drop: _cost(keys, n_key, drop) + drop * len(keys))


def _cost(keys: Keys, n_key: int, drop: int) -> int:
    return int(lib.td_key_cost(view(keys, "const uint64_t[]"), len(keys), n_key, drop))


def _keys(rows: Rows, bits: Rows) -> Keys:
    keys = np.empty(len(rows), dtype=np.uint64)
    lib.td_key_rows(
        view(rows, "const uint32_t[]"), len(rows), rows.shape[1], view(bits, "const uint32_t[]"), len(bits),
        ffi.from_buffer("uint64_t[]", keys),
    )  # fmt: skip
    return keys


def _encode(
    rows: Rows, keys: Keys, width: int, constant: Rows, offsets: Rows, n_entries: npt.NDArray[np.uint16],
    entries: Rows, bits: Rows,
) -> tuple[bytes, Any] | None:  # fmt: skip
    n, d = rows.shape
    plan = ffi.new("td_key_plan *")
    kept = [view(array, "const uint32_t[]") for array in (constant, offsets, entries, bits)]
    kept.append(view(n_entries, "const uint16_t[]"))
    plan.constant, plan.key_bits, plan.n_key = kept[0], kept[3], len(bits)
    plan.offsets = kept[1] if offsets.any() else ffi.NULL
    plan.n_entries, plan.entries = (kept[4], kept[2]) if n_entries.any() else (ffi.NULL, ffi.NULL)
    # Rows, differences and index at what they cost at most here; then lists, four arrays of values and the key's bits.
    size_bits = n * (d * width - len(bits)) + _cost(keys, len(bits), 0) + (len(entries) + 4 * d) * width + 16 * d
    capacity = size_bits // 8 + 4 * len(bits) + 64
    if capacity >= 2**31:
        return None
    out, base, header = ffi.new("uint8_t[]", capacity), ffi.new("uint32_t[]", d), ffi.new("td_part_header *")
    length = lib.td_encode_keys(
        view(rows, "const uint32_t[]"), view(keys, "const uint64_t[]"), n, d, width, plan, base, out, capacity, header
    )
    if length == lib.TD_E_FULL:
        return None
    return bytes(ffi.buffer(out, check(length, "encoding sorted rows"))), header
