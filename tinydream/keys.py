"""Plans and writes parts whose rows are sorted by a key (docs/DESIGN.md, "Rows have no order")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ._native import check, ffi, lib, view

__all__ = ["KeyPlan", "SortedPart", "encode_sorted", "plan_sorted"]

SAMPLE = 16384  # rows on which the two orders of a key's bits are compared
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
        starts = np.zeros(len(self.keys), dtype=bool)
        starts[0] = True
        steps = self.keys[1:] ^ self.keys[:-1]
        if most > len(steps):
            starts[1:] = steps != 0
        elif most > 1:  # a step of its bit length divides rows; less than `most` of them may
            least = 1 << int(np.partition(steps, len(steps) - most)[len(steps) - most]).bit_length()
            starts[1:] = steps >= least if least < 2**64 else False
        return starts


@dataclass(frozen=True)
class KeyPlan:
    """How rows are to be sorted: `rows` less `offsets` and as numbers of list entries, `bits` of the longest key."""

    rows: Rows
    offsets: Rows
    n_entries: npt.NDArray[np.uint16]
    entries: Rows
    varying: Rows
    bits: Rows


def plan_sorted(rows: Rows, width: int) -> KeyPlan | None:
    """The plan of a part with keys; None when all rows are equal."""
    rows = rows.copy()
    n, d = rows.shape
    offsets, high, varying = (np.empty(d, dtype=np.uint32) for _ in range(3))
    out = (ffi.from_buffer("uint32_t[]", array) for array in (rows, offsets, high, varying))
    lib.td_key_survey(next(out), n, d, *out)
    n_entries, entries = _rank(rows, width, high, varying)
    if not varying.any():
        return None
    return KeyPlan(rows, offsets, n_entries, entries, varying, _choose_bits(rows, varying))


def encode_sorted(rows: Rows, width: int) -> SortedPart | None:
    """The rows as a part with keys; None when all rows are equal, or they do not fit one."""
    plan = plan_sorted(rows, width)
    if plan is None:
        return None
    bits = plan.bits
    keys, order = _sort(_keys(plan.rows, bits), len(bits))
    drop = _choose_length(keys, len(bits))
    keys >>= np.uint64(drop)
    bits = bits[: len(bits) - drop]
    constant = ~plan.varying & np.uint32(2**width - 1)
    coded = _encode(plan.rows, order, keys, width, constant, plan.offsets, plan.n_entries, plan.entries, bits)
    return SortedPart(*coded, order.astype(np.int64), keys, len(bits)) if coded else None


def _rank(rows: Rows, width: int, high: Rows, varying: Rows) -> tuple[npt.NDArray[np.uint16], Rows]:
    """Puts numbers in a sorted list of a feature's values for the values, where that saves more than the list takes.

    Changes `rows` and `varying`; returns the lengths of the lists, and the lists.
    """
    n, d = rows.shape
    n_entries, lists = np.zeros(d, dtype=np.uint16), []
    whole = ffi.from_buffer("uint32_t[]", rows)
    for f, highest in enumerate(high.tolist()):
        bits = highest.bit_length()
        # A list of up to 2^k entries saves bits - k of each row.
        most = max((min(2**k, (n * (bits - k) - 16 * d - 1) // width, 65535) for k in range(bits)), default=0)
        if most < 1 or highest > 64 * n or highest >= 2**20:
            continue  # nothing to save, or seldom worth the time of a table of all values
        found = np.empty(most, dtype=np.uint32)
        scratch = ffi.new("uint32_t[]", highest + 1)
        count = lib.td_key_rank(whole + f, n, d, highest, most, ffi.from_buffer("uint32_t[]", found), scratch)
        if count <= most:
            n_entries[f] = count
            varying[f] = 2 ** (count - 1).bit_length() - 1
            lists.append(found[:count])
    return n_entries, np.concatenate(lists) if lists else np.zeros(0, dtype=np.uint32)


def _sort(keys: Keys, n_key: int) -> tuple[Keys, Rows]:
    """The keys in order, and which rows they are of. Changes `keys`."""
    n = len(keys)
    order, spare = np.empty(n, dtype=np.uint32), ffi.new("uint64_t[]", n)
    lib.td_key_sort(
        ffi.from_buffer("uint64_t[]", keys), ffi.from_buffer("uint32_t[]", order), n, n_key, spare,
        ffi.new("uint32_t[]", n),
    )  # fmt: skip
    return keys, order


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
        keys = _sort(_keys(sample, bits), len(bits))[0]
        drop = _choose_length(keys, len(bits))
        tried.append((_cost(keys, len(bits), drop) + drop * len(sample), bits))
    return min(tried, key=lambda item: item[0])[1]


def _choose_length(keys: Keys, n_key: int) -> int:
    """How many of the last bits of the sorted keys are better stored as they are."""
    return min(range(0, n_key, STEP), key=lambda drop: _cost(keys, n_key, drop) + drop * len(keys))


def _cost(keys: Keys, n_key: int, drop: int) -> int:
    return int(lib.td_key_cost(view(keys, "const uint64_t[]"), len(keys), n_key, drop))


def _keys(rows: Rows, bits: Rows) -> Keys:
    keys = np.empty(len(rows), dtype=np.uint64)
    lib.td_key_rows(
        view(rows, "const uint32_t[]"), len(rows), rows.shape[1], view(bits, "const uint32_t[]"), len(bits),
        ffi.from_buffer("uint64_t[]", keys), ffi.new("uint64_t[]", lib.td_key_work_size(len(bits)) // 8),
    )  # fmt: skip
    return keys


def _encode(
    rows: Rows, order: Rows, keys: Keys, width: int, constant: Rows, offsets: Rows, n_entries: npt.NDArray[np.uint16],
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
        view(rows, "const uint32_t[]"),
        view(order, "const uint32_t[]"),
        view(keys, "const uint64_t[]"),
        n,
        d,
        width,
        plan,
        base,
        out,
        capacity,
        header,
    )
    if length == lib.TD_E_FULL:
        return None
    return bytes(ffi.buffer(out, check(length, "encoding sorted rows"))), header
