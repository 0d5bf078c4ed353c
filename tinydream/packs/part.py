"""Rows of one class as a part: which bits are their base, whether a key sorts them, and the smallest bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .._native import check, ffi, lib, view
from ..errors import DataError
from ..tables.table import Table
from .keys import encode_sorted, plan_sorted
from .reduction import PUBLISHED, condense_published, unsigned_rows
from .transforms import Chosen, may_save, plan_transforms

__all__ = [
    "Groups",
    "Members",
    "PartPlan",
    "SharedPlan",
    "best_part",
    "choose_transforms",
    "plan_bits",
    "plan_part",
    "published_size",
    "shared_plan",
]

Groups = npt.NDArray[np.uint32] | None
Members = slice | npt.NDArray[np.int64]  # the rows of a class
SharedPlan = tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32] | None]  # base bits of all classes; offsets
WIDE = 256  # bits a row beside its key, from which on long bases are tried too: they take the time of a large sort
MEASURED = 2048  # rows, of at most so many classes, by whose planned size transforms are chosen
MEASURED_CLASSES = 8
MAX_PART = 2**29 - 1  # bytes of one class: the core counts its bits in 32 bits


def plan_bits(
    rows: npt.NDArray[np.uint32], width: int, method: str, patience: int = 0
) -> tuple[npt.NDArray[np.uint32], Any]:
    """The base bits of each feature by a published method, and what they lead to."""
    n, d = rows.shape
    mask = np.zeros(d, dtype=np.uint32)
    scratch = ffi.new("uint32_t[]", 2 * d * width)
    result = ffi.new("td_plan_result *")
    size = lib.td_plan_work_size(n)
    work = ffi.new("uint64_t[]", size // 8 + 1)
    planned = lib.td_plan_greedy if method == "greedygd" else lib.td_plan_compress
    status = planned(
        view(rows, "const uint32_t[]"), n, d, width, patience, ffi.from_buffer("uint32_t[]", mask), scratch, result,
        work, size,
    )  # fmt: skip
    check(status, "planning bits")
    return mask, result


def published_size(table: Table, *, method: str = "entrogede", patience: int = 0) -> int:
    """Bytes by a published method's own formula: bases, deviations and ids of all rows under one bit plan, and labels.

    `method`: "entrogede" or "greedygd".
    """
    rows, _, width = unsigned_rows(table.flat())
    result = plan_bits(rows, width, method, patience)[1]
    n, d = rows.shape
    return (int(result.size_bits) + 7) // 8 + (int(d) * width + 7) // 8 + (int(n) if table.n_classes > 1 else 0)


def best_part(
    rows: npt.NDArray[np.uint32],
    width: int,
    method: str,
    group: npt.NDArray[np.uint32] | None,
    members: Members,
    most: int,
    shared: SharedPlan | None,
    plain: npt.NDArray[np.uint32] | None = None,
) -> tuple[bytes, Any, npt.NDArray[np.bool_], npt.NDArray[Any]]:
    """The smallest part that holds these rows: bytes, header, which stored rows begin a sample, the rows' order.

    `members`: which they are of the table. `plain`: all its rows before transforms, when these went through some.
    """
    by_key = encode_sorted(rows, width) if not shared and _sortable(method, group, members) else None
    if by_key and group is None and by_key.header.deviation_bits <= WIDE:
        return by_key.data, by_key.header, by_key.cells(most), by_key.order
    if group is None:
        own = condense_published(rows if plain is None else np.ascontiguousarray(plain[members]), width, most)
        order = np.argsort(own, kind="stable")
        rows, own = rows[order], own[order]
    else:
        order, own = np.arange(len(rows)), group[members]
    data, header = _encode_shared(rows, width, shared) if shared else _encode_part(rows, width, method)
    if by_key and len(by_key.data) <= len(data):
        starts = by_key.cells(most) if group is None else np.ones(len(rows), dtype=bool)
        return by_key.data, by_key.header, starts, by_key.order
    starts = np.ones(len(rows), dtype=bool)
    starts[1:] = own[1:] != own[:-1]
    return data, header, starts, order


def _sortable(method: str, group: Groups, members: Members) -> bool:
    """Rows may be sorted by a key only where their order is free: when each is a sample of its own, or in a large
    table, whose samples are made to suit."""
    if method in PUBLISHED:
        return False
    return group is None or len(np.unique(group[members])) == len(group[members])


def shared_plan(
    rows: npt.NDArray[np.uint32], width: int, method: str, offsets: npt.NDArray[np.uint32] | None = None
) -> SharedPlan:
    """One plan for all classes: on the values, or on those less `offsets`, by default their minimum over all rows."""
    mask, result = plan_bits(rows, width, method)
    if method in PUBLISHED:
        return mask, None
    if offsets is None:
        offsets = np.ascontiguousarray(rows.min(axis=0))
    other, moved = plan_bits(rows - offsets, width, method)
    return (mask, None) if result.size_bits <= moved.size_bits else (other, offsets)


def _encode_shared(rows: npt.NDArray[np.uint32], width: int, shared: SharedPlan) -> tuple[bytes, Any]:
    mask, offsets = shared
    return _encode_mask(rows if offsets is None else rows - offsets, width, offsets, mask)


@dataclass(frozen=True)
class PartPlan:
    """Base bits of a part; what is taken off its values, if anything; its rows then; its bytes."""

    mask: npt.NDArray[np.uint32]
    offsets: npt.NDArray[np.uint32] | None
    rows: npt.NDArray[np.uint32]
    size: int


def plan_part(rows: npt.NDArray[np.uint32], width: int, method: str) -> PartPlan:
    """The published plan, or the smaller of it and the one of the values less their minimum in this part."""
    n, d = rows.shape
    if method in PUBLISHED:
        mask, result = plan_bits(rows, width, method)
        offsets, moved = None, rows
    else:
        mask, minima, less = np.empty(d, np.uint32), np.empty(2 * d, np.uint32), np.empty_like(rows)
        result, size = ffi.new("td_plan_result *"), lib.td_plan_work_size(n)
        status = check(lib.td_plan_part(
            view(rows, "const uint32_t[]"), n, d, width, ffi.from_buffer("uint32_t[]", mask),
            ffi.from_buffer("uint32_t[]", minima), ffi.from_buffer("uint32_t[]", less),
            ffi.new("uint32_t[]", 2 * d * width), result, ffi.new("uint64_t[]", size // 8 + 1), size,
        ), "planning bits")  # fmt: skip
        offsets, moved = (minima[:d], less) if status else (None, rows)
    size = lib.td_part_size(n, d, width, view(mask, "const uint32_t[]"), offsets is not None, result.n_bases)
    return PartPlan(mask, offsets, moved, int(size))


def _encode_part(rows: npt.NDArray[np.uint32], width: int, method: str) -> tuple[bytes, Any]:
    plan = plan_part(rows, width, method)
    return _encode_mask(plan.rows, width, plan.offsets, plan.mask)


def _encode_mask(
    rows: npt.NDArray[np.uint32], width: int, offsets: npt.NDArray[np.uint32] | None, mask: npt.NDArray[np.uint32]
) -> tuple[bytes, Any]:
    n, d = rows.shape
    group = np.zeros(n, dtype=np.uint32)
    size = lib.td_plan_work_size(n)
    work = ffi.new("uint64_t[]", size // 8 + 1)
    rows_view, mask_view = view(rows, "const uint32_t[]"), view(mask, "const uint32_t[]")
    group_view = ffi.from_buffer("uint32_t[]", group)
    n_bases = check(lib.td_plan_group(rows_view, n, d, width, mask_view, group_view, work, size), "grouping rows")
    header = ffi.new("td_part_header *")
    # The plan's own size, masks and offsets at full width, and the padding of four blocks.
    base_bits = int(np.unpackbits(mask.view(np.uint8)).sum())
    size_bits = n_bases * base_bits + n * (d * width - base_bits + (n_bases - 1).bit_length())
    capacity = (size_bits + 2 * d * width) // 8 + 4
    if capacity > MAX_PART:
        raise DataError(f"{n} rows of one class take {capacity} bytes; at most {MAX_PART} fit a pack. Split the table")
    out = ffi.new("uint8_t[]", capacity)
    offsets_view = ffi.NULL if offsets is None else view(offsets, "const uint32_t[]")
    length = check(
        lib.td_encode_part(rows_view, n, d, width, mask_view, offsets_view, group_view, n_bases, out, capacity, header),
        "encoding rows",
    )
    return bytes(ffi.buffer(out, length)), header


def choose_transforms(
    rows: npt.NDArray[np.uint32], width: int, labels: npt.NDArray[np.int64], group: Groups, method: str,
    size: int | None = None,
) -> Chosen:  # fmt: skip
    """Transforms that make a pack of these rows (n, features) smaller, measured on some rows of the largest classes.

    `size`: bytes of its parts without, if known: where transforms cannot save a share of that, none are looked for.
    """
    if not may_save(rows, width, None if size is None else 8 * size / len(rows), gray=group is not None):
        return Chosen()
    counts = np.bincount(labels)
    largest = np.sort(np.argsort(-counts, kind="stable")[: min(MEASURED_CLASSES, np.count_nonzero(counts))])
    step = int(counts[largest].sum()) // MEASURED + 1
    members = [np.flatnonzero(labels == label)[::step] for label in largest]
    ends = np.cumsum([len(some) for some in members])[:-1]
    sortable = [_sortable(method, group, some) for some in members]

    def measure(some: npt.NDArray[np.uint32]) -> int:
        pieces = zip(np.split(some, ends), sortable, strict=True)
        return sum(_planned_size(np.ascontiguousarray(piece), width, method, by_key) for piece, by_key in pieces)

    return plan_transforms(rows[np.concatenate(members)], width, measure, gray=not all(sortable))


def _planned_size(rows: npt.NDArray[np.uint32], width: int, method: str, sortable: bool) -> int:
    """Bytes of a part of these rows, about."""
    by_key = plan_sorted(rows, width) if sortable else None
    return by_key.size // 8 if by_key else plan_part(rows, width, method).size
