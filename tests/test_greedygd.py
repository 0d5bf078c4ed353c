"""GreedyGD against a slow reference: bases counted as sets of bit strings, every candidate tried."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_reduction import bit_rows, n_distinct

from tinydream._native import ffi, lib, view
from tinydream.errors import CoreError
from tinydream.packs.packing import pack
from tinydream.packs.part import plan_bits, published_size
from tinydream.packs.reduction import condense, condense_published
from tinydream.tables.table import table_from_arrays

QUICK = settings(max_examples=80, deadline=None)
Bits = list[tuple[int, int]]


def candidates(rows: np.ndarray, width: int, chosen: Bits) -> Bits:
    """The leftmost bit of each feature that is not chosen yet."""
    found = []
    for f in range(rows.shape[1]):
        unused = [place for place in range(width) if (f, place) not in chosen]
        found += [(f, unused[0])] if unused else []
    return found


def constant_bits(rows: np.ndarray, width: int) -> Bits:
    every = [(f, place) for f in range(rows.shape[1]) for place in range(width)]
    return [b for b in every if n_distinct(rows, width, [b]) == 1]


def states(rows: np.ndarray, width: int) -> list[tuple[Bits, int]]:
    """Base bits and number of bases after each greedy step, from the constant bits to all of them."""
    chosen = constant_bits(rows, width)
    found = [(list(chosen), n_distinct(rows, width, chosen))]
    while tried := [(n_distinct(rows, width, [*chosen, b]), b) for b in candidates(rows, width, chosen)]:
        n_bases, best = min(tried, key=lambda item: item[0])  # of equals the first feature's
        chosen.append(best)
        found.append((list(chosen), n_bases))
    return found


def size_bits(rows: np.ndarray, width: int, base_bits: int, n_bases: int) -> int:
    n, d = rows.shape
    return n_bases * base_bits + n * (d * width - base_bits + (n_bases - 1).bit_length())


@QUICK
@given(table=bit_rows(12), patience=st.sampled_from([0, 0, 1, 4]))
def test_the_plan_is_the_reference_s(table: tuple[np.ndarray, int], patience: int) -> None:
    rows, width = table
    best: tuple[int, Bits, int] | None = None
    since = 0
    for bits, n_bases in states(rows, width):
        size = size_bits(rows, width, len(bits), n_bases)
        if best is None or size < best[0]:
            best, since = (size, bits, n_bases), 0
        else:
            since += 1
        if patience and since == patience:
            break
    assert best is not None
    mask, result = plan_bits(rows, width, "greedygd", patience)
    masks = [sum(1 << (width - 1 - place) for f, place in best[1] if f == feature) for feature in range(rows.shape[1])]
    assert mask.tolist() == masks
    assert (result.size_bits, result.base_bits, result.n_bases) == (best[0], len(best[1]), best[2])
    assert result.deviation_bits == rows.shape[1] * width - len(best[1])


@QUICK
@given(table=bit_rows(12), max_groups=st.integers(1, 24))
def test_the_groups_are_the_reference_s(table: tuple[np.ndarray, int], max_groups: int) -> None:
    rows, width = table
    bits = next(bits for bits, n in reversed(states(rows, width)) if n <= max_groups)
    group = condense_published(rows, width, max_groups, "greedygd")
    strings = [tuple(row[f] >> (width - 1 - place) & 1 for f, place in bits) for row in rows.tolist()]
    assert len(set(zip(strings, group.tolist(), strict=True))) == len(set(strings)) == len(set(group.tolist()))


def test_a_better_plan_than_entropy_order_finds() -> None:
    """Two features that repeat each other: entropy takes both top bits first, greed takes what is free."""
    random = np.random.default_rng(2)
    column = random.integers(0, 16, 400)
    table = table_from_arrays(np.column_stack((column, column, random.integers(0, 256, 400))), None)
    assert published_size(table, method="greedygd") < published_size(table)


def test_the_file_is_as_large_as_the_formula_says() -> None:
    rows = np.random.default_rng(3).integers(0, 6, (500, 4)) * [1, 16, 33, 40]
    table = table_from_arrays(rows, np.arange(500) % 2)
    made = pack(table, method="greedygd", per_class=8)
    assert sorted(made[:].tolist()) == sorted(rows.tolist())
    # A plan a class and a label a class: within the fixed sections of the formula's size, or below it.
    assert len(made.data) < published_size(table, method="greedygd") + 300
    group = condense(table, 8, method="greedygd")
    assert made.n_samples == len(set(group.tolist())) <= 16


def call(function: Any, *changes: tuple[int, Any]) -> int:
    rows = np.zeros((4, 2), dtype=np.uint32)
    out, left, work = np.zeros(4, np.uint32), ffi.new("uint32_t[]", 2), ffi.new("uint64_t[]", 64)
    result = ffi.new("td_plan_result *")
    group = ffi.from_buffer("uint32_t[]", out)
    arguments = [view(rows, "const uint32_t[]"), 4, 2, 3, 2, group, left]
    arguments += [result, work, 512] if function == lib.td_plan_greedy else [work, 512]
    for at, value in changes:
        arguments[at] = value
    return int(function(*arguments))


@pytest.mark.parametrize("function", [lib.td_plan_greedy, lib.td_condense_greedy], ids=["plan", "condense"])
def test_wrong_arguments(function: Any) -> None:
    assert call(function) >= 0
    for change in ((1, 0), (1, 2**28), (2, 0), (2, 4097), (3, 0), (3, 33)):
        assert call(function, change) == lib.TD_E_ARGUMENT
    assert call(function, (-1, 4 * 4 * 4 - 1)) == lib.TD_E_MEMORY
    if function == lib.td_condense_greedy:
        assert call(function, (4, 0)) == lib.TD_E_ARGUMENT


def test_core_errors_are_errors() -> None:
    with pytest.raises(CoreError, match="planning bits"):
        plan_bits(np.zeros((1, 1), dtype=np.uint32), 33, "greedygd")
