"""Archives: a pack's rows in adaptive codes, for storage and transport (docs/DESIGN.md, "Archives")."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .._native import ffi, lib, view

__all__ = ["ArchivePlan", "Archived", "archive_rows", "plan_archive", "sorted_in_samples"]

SAMPLE = 2**14  # rows on which contexts are compared
WORK = 2**24  # values that this may code for all single contexts together
ALL_PAIRS = 16  # features up to which each difference of two is tried
GOOD = 4  # single contexts whose differences are tried where there are more
BLOCK = 2**16  # rows that share one set of probabilities, if their values do not become too many
BLOCK_BYTES, SAMPLE_BYTES = 24, 16  # that a value takes while blocks are coded, and while contexts are compared
NONE, LABEL = 0xFFFF, 0xFFFE
Rows = npt.NDArray[np.uint32]
Flags = npt.NDArray[np.bool_]
Context = tuple[int, int]  # features that a value depends on: its context is the first, or their difference


Read = Callable[[int, int], tuple[Rows, npt.NDArray[np.int64], Flags]]  # rows from one to before another


@dataclass(frozen=True)
class Archived:
    """`data` as in the data section; its row i is row `order[i]` of what was given."""

    data: bytes
    order: npt.NDArray[np.int64]


@dataclass(frozen=True)
class ArchivePlan:
    """How `n_rows` rows become an archive: `contexts` as in the file, rows a `block`, `bits` of an index of cells."""

    n_rows: int
    contexts: bytes
    block: int
    bits: int

    def blocks(self, read: Read) -> Iterator[bytes]:
        """The codes of each block."""
        for at in range(0, self.n_rows, self.block):
            yield _encode(*read(at, min(self.n_rows, at + self.block)), self.contexts, self.bits)

    def head(self, sizes: Sequence[int]) -> bytes:
        """What stands before the codes in the data section; `sizes`: the bytes of each block."""
        ends = np.cumsum(sizes).astype("<u4").tobytes()
        return self.block.to_bytes(4, "little") + bytes((self.bits, 0, 0, 0)) + self.contexts + ends


def archive_rows(rows: Rows, labels: npt.NDArray[np.int64], starts: Flags) -> Archived:
    """Rows (n, features) of a pack in stored order, their labels, and which of them begin samples."""
    order = sorted_in_samples(rows, starts)
    rows = np.ascontiguousarray(rows[order])

    def read(first: int, end: int) -> tuple[Rows, npt.NDArray[np.int64], Flags]:
        return rows[first:end], labels[first:end], starts[first:end]

    plan = plan_archive(read, len(rows), rows.max(axis=0))
    blobs = list(plan.blocks(read))
    return Archived(plan.head(list(map(len, blobs))) + b"".join(blobs), order)


def plan_archive(read: Read, n_rows: int, highest: Rows, memory: int = 2**40) -> ArchivePlan:
    """By some rows in the middle. `highest`: the largest value of each feature; `memory`: bytes to work in, about."""
    d = len(highest)
    widths = [int(high).bit_length() for high in highest.tolist()]
    n = min(n_rows, SAMPLE, max(1, memory // (SAMPLE_BYTES * d)))
    first = (n_rows - n) // 2
    contexts = bytearray()
    for width, (one, two) in zip(widths, _choose_contexts(*read(first, first + n), widths), strict=True):
        contexts += bytes((width, 0)) + one.to_bytes(2, "little") + two.to_bytes(2, "little")
    block = max(1, min(BLOCK, lib.TD_ARCHIVE_VALUES // d, memory // (BLOCK_BYTES * d)))
    most = max(8, (memory // 32).bit_length())  # a quarter of the memory for cells
    bits = min(22, most, max(8, (min(n_rows, block) * sum(widths)).bit_length()))
    return ArchivePlan(n_rows, bytes(contexts), block, bits)


def sorted_in_samples(rows: Rows, starts: Flags) -> npt.NDArray[np.int64]:
    """The order in which samples stay where they are, and their rows rise lexicographically."""
    samples = np.cumsum(starts).astype(">u4")
    keys = np.column_stack((samples.view(np.uint8).reshape(-1, 4), rows.astype(">u4").view(np.uint8)))
    return np.argsort(np.ascontiguousarray(keys).view(f"V{keys.shape[1]}").ravel(), kind="stable").astype(np.int64)


def _choose_contexts(rows: Rows, labels: npt.NDArray[np.int64], starts: Flags, widths: list[int]) -> Iterator[Context]:
    """Of each feature in turn, what says most about it: no other, the label, one before it, the difference of two."""
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


def _encode(rows: Rows, labels: npt.NDArray[np.int64], starts: Flags, contexts: bytes, bits: int) -> bytes:
    n, d = rows.shape
    capacity = 5 * n * d + 16  # the codes of values without any pattern are hardly longer than these
    while True:
        out = ffi.new("uint8_t[]", capacity)
        size = lib.td_archive_encode(
            ffi.from_buffer("uint32_t[]", rows), view(labels.astype(np.uint16), "const uint16_t[]"),
            view(starts.astype(np.uint8)), n, d, view(contexts), bits, _work(bits), out, capacity,
        )  # fmt: skip
        if size <= capacity:
            return bytes(ffi.buffer(out, size))
        capacity = int(size)


def _work(bits: int) -> object:
    return ffi.new("uint64_t[]", lib.td_archive_work_size(bits) // 8 + 1)
