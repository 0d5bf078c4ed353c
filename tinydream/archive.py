"""Archives: a pack's rows in adaptive codes, for storage and transport (docs/DESIGN.md, "Archives")."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ._native import ffi, lib, view

__all__ = ["Archived", "archive_rows"]

SAMPLE = 2**14  # rows on which contexts are compared
WORK = 2**24  # values that this may code for all single contexts together
ALL_PAIRS = 16  # features up to which each difference of two is tried
GOOD = 4  # single contexts whose differences are tried where there are more
BLOCK = 2**16  # rows that share one set of probabilities, if their values do not become too many
NONE, LABEL = 0xFFFF, 0xFFFE
Rows = npt.NDArray[np.uint32]
Flags = npt.NDArray[np.bool_]
Context = tuple[int, int]  # features that a value depends on: its context is the first, or their difference


@dataclass(frozen=True)
class Archived:
    """`data` as in the data section; its row i is row `order[i]` of what was given."""

    data: bytes
    order: npt.NDArray[np.int64]


def archive_rows(rows: Rows, labels: npt.NDArray[np.int64], starts: Flags) -> Archived:
    """Rows (n, features) of a pack in stored order, their labels, and which of them begin samples."""
    order = _sorted_in_samples(rows, starts)
    rows = np.ascontiguousarray(rows[order])
    n, d = rows.shape
    widths = [int(high).bit_length() for high in rows.max(axis=0).tolist()]
    plan = bytearray()
    for width, (first, second) in zip(widths, _choose_contexts(rows, labels, starts, widths), strict=True):
        plan += bytes((width, 0)) + first.to_bytes(2, "little") + second.to_bytes(2, "little")
    block = max(1, min(BLOCK, lib.TD_ARCHIVE_VALUES // d))
    bits = min(22, max(8, (min(n, block) * sum(widths)).bit_length()))
    blobs = [
        _encode(rows[at : at + block], labels[at : at + block], starts[at : at + block], bytes(plan), bits)
        for at in range(0, n, block)
    ]
    ends = np.cumsum([len(blob) for blob in blobs]).astype("<u4").tobytes()
    head = block.to_bytes(4, "little") + bytes((bits, 0, 0, 0))
    return Archived(head + bytes(plan) + ends + b"".join(blobs), order)


def _sorted_in_samples(rows: Rows, starts: Flags) -> npt.NDArray[np.int64]:
    """The order in which samples stay where they are, and their rows rise lexicographically."""
    samples = np.cumsum(starts).astype(">u4")
    keys = np.column_stack((samples.view(np.uint8).reshape(-1, 4), rows.astype(">u4").view(np.uint8)))
    return np.argsort(np.ascontiguousarray(keys).view(f"V{keys.shape[1]}").ravel(), kind="stable").astype(np.int64)


def _choose_contexts(rows: Rows, labels: npt.NDArray[np.int64], starts: Flags, widths: list[int]) -> Iterator[Context]:
    """Of each feature in turn, what says most about it: no other, the label, one before it, the difference of two."""
    first = max(0, (len(rows) - SAMPLE) // 2)
    part = slice(first, first + SAMPLE)
    rows, labels, starts = rows[part], labels[part], starts[part]
    n, d = rows.shape
    columns = np.ascontiguousarray(rows.T)
    reach = max(8, WORK // (n * d))
    same = ~starts
    same[0] = False
    for f, width in enumerate(widths):
        column, before = columns[f], np.concatenate((columns[f][:1], columns[f][:-1]))
        values = np.where(same, column - before, column)
        costs: dict[Context, int] = {}

        def cost(
            context: Context, f: int = f, width: int = width, values: Rows = values, same: Flags = same,
            costs: dict[Context, int] = costs,
        ) -> int:  # fmt: skip
            if context not in costs:
                costs[context] = _cost(values, np.where(same, np.uint32(1), _context(columns, labels, context)), width)
            return costs[context]

        if width:
            singles = [(NONE, NONE), *([(LABEL, NONE)] if labels[0] != labels[-1] else [])]
            singles += [(p, NONE) for p in range(max(0, f - reach), f)]
            singles.sort(key=cost)
            good = range(f) if d <= ALL_PAIRS else [p for p, _ in singles[: GOOD + 2] if p < LABEL][:GOOD]
            pairs = [(p, q) for p in good for q in good if p > q]
            yield min([*singles, *pairs], key=cost)
        else:
            yield NONE, NONE
        same = same & (column == before)


def _context(columns: Rows, labels: npt.NDArray[np.int64], context: Context) -> Rows:
    first, second = context
    if first == NONE:
        return np.zeros(columns.shape[1], dtype=np.uint32)
    if first == LABEL:
        return (labels + 2).astype(np.uint32)
    value: Rows = columns[first] + np.uint32(2)
    return value if second == NONE else np.subtract(value, columns[second])


def _cost(values: Rows, contexts: Rows, width: int) -> int:
    bits = min(18, max(12, len(values).bit_length() + 4))
    return int(
        lib.td_archive_cost(
            view(values, "const uint32_t[]"), view(contexts, "const uint32_t[]"), len(values), width, bits, _work(bits)
        )
    )


def _encode(rows: Rows, labels: npt.NDArray[np.int64], starts: Flags, plan: bytes, bits: int) -> bytes:
    n, d = rows.shape
    capacity = 5 * n * d + 16  # the codes of values without any pattern are hardly longer than these
    while True:
        out = ffi.new("uint8_t[]", capacity)
        size = lib.td_archive_encode(
            ffi.from_buffer("uint32_t[]", rows), view(labels.astype(np.uint16), "const uint16_t[]"),
            view(starts.astype(np.uint8)), n, d, view(plan), bits, _work(bits), out, capacity,
        )  # fmt: skip
        if size <= capacity:
            return bytes(ffi.buffer(out, size))
        capacity = int(size)


def _work(bits: int) -> object:
    return ffi.new("uint64_t[]", lib.td_archive_work_size(bits) // 8 + 1)
