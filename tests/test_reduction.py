"""Condensing against slow references written from the published rules, and what every method promises."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tinydream._native import ffi, lib, view
from tinydream.errors import DataError, UsageError
from tinydream.packs.reduction import condense, reduce, unsigned_rows
from tinydream.tables.table import Table, table_from_arrays

QUICK = settings(max_examples=80, deadline=None)


@st.composite
def bit_rows(draw: Any, max_width: int = 32) -> tuple[np.ndarray, int]:
    """Rows (n, d) uint32 below 2^width: repeated rows, constant columns and constant bits turn up."""
    width = draw(st.integers(1, max_width))
    n, d = draw(st.integers(1, 24)), draw(st.sampled_from([1, 1, 2, 3, 5, 9]))
    kept = draw(st.integers(0, 2**width - 1)) | 1
    distinct = draw(st.integers(1, 2**16))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows = random.integers(0, 2**width, (n, d)) % distinct & kept
    rows[:, random.random(d) < 0.2] = 2**width - 1
    return rows.astype(np.uint32), width


@st.composite
def tables(draw: Any) -> Table:
    rows, width = draw(bit_rows(31))
    low = draw(st.integers(-(2**31), 2**31 - 2**width))
    labels = draw(st.lists(st.integers(0, 4), min_size=len(rows), max_size=len(rows)))
    return table_from_arrays(rows.astype(np.int64) + low, labels, classes=5)


def bit(rows: np.ndarray, width: int, feature: int, place: int) -> np.ndarray:
    """Bit `place` of a feature, counted from the most significant one."""
    return rows[:, feature] >> np.uint32(width - 1 - place) & 1


def n_distinct(rows: np.ndarray, width: int, bits: list[tuple[int, int]]) -> int:
    return len({tuple(row) for row in np.array([bit(rows, width, *b) for b in bits]).T.tolist()}) if bits else 1


def reference_condense(rows: np.ndarray, width: int, max_groups: int) -> list[tuple[int, int]]:
    """Base bits of the published Condense: the constant bits, then each feature's leftmost unused bit in turn."""
    every = [(f, p) for f in range(rows.shape[1]) for p in range(width)]
    chosen = [b for b in every if len(set(bit(rows, width, *b).tolist())) == 1]
    while len(chosen) < len(every):
        for f in range(rows.shape[1]):
            unused = [p for p in range(width) if (f, p) not in chosen]
            if not unused:
                continue
            if n_distinct(rows, width, [*chosen, (f, unused[0])]) > max_groups:
                return chosen
            chosen.append((f, unused[0]))
    return chosen


def entropy(bits: np.ndarray) -> float:
    p = bits.mean()
    return 0.0 if p in (0, 1) else float(-p * np.log2(p) - (1 - p) * np.log2(1 - p))


def reference_compress(rows: np.ndarray, width: int, patience: int) -> tuple[int, int, int]:
    """(size, l_b, n_b) of the published Compress."""
    n, l_c = len(rows), rows.shape[1] * width
    every = [(f, p) for f in range(rows.shape[1]) for p in range(width)]
    order = sorted(every, key=lambda b: round(entropy(bit(rows, width, *b)), 12))
    l_b = sum(entropy(bit(rows, width, *b)) == 0 for b in every)

    def size(l_b: int) -> tuple[int, int, int]:
        n_b = n_distinct(rows, width, order[:l_b])
        return n_b * l_b + n * (l_c - l_b) + n * (n_b - 1).bit_length(), l_b, n_b

    best, since = size(l_b), 0
    while l_b < l_c and (patience == 0 or since < patience):
        l_b, since = l_b + 1, since + 1
        if size(l_b)[0] < best[0]:
            best, since = size(l_b), 0
    return best


def plan_condense(rows: np.ndarray, width: int, max_groups: int) -> np.ndarray:
    group, size = np.zeros(len(rows), np.uint32), lib.td_plan_work_size(len(rows))
    rows_view, work = view(rows, "const uint32_t[]"), ffi.new("uint64_t[]", size // 8 + 1)
    group_view = ffi.from_buffer("uint32_t[]", group)
    n_groups = lib.td_plan_condense(rows_view, *rows.shape, width, max_groups, group_view, work, size)
    assert n_groups == len(set(group.tolist())) == group.max() + 1
    return group


def same_partition(a: Any, b: Any) -> bool:
    pairs = set(zip(a, b, strict=True))
    return len(pairs) == len(set(a)) == len(set(b))


@QUICK
@given(case=bit_rows(), max_groups=st.integers(1, 30))
def test_condense_is_the_published_rule(case: tuple[np.ndarray, int], max_groups: int) -> None:
    rows, width = case
    group = plan_condense(rows, width, max_groups)
    assert group.max() + 1 <= max_groups
    chosen = reference_condense(rows, width, max_groups)
    bases = [tuple(int(bit(rows[i : i + 1], width, *b)[0]) for b in chosen) for i in range(len(rows))]
    assert same_partition(group.tolist(), bases)


@QUICK
@example(case=(np.array([[5], [5], [5], [6], [5]], np.uint32), 3), patience=0)  # two plans of the smallest size
@given(case=bit_rows(), patience=st.integers(0, 6))
def test_compress_is_the_published_rule(case: tuple[np.ndarray, int], patience: int) -> None:
    rows, width = case
    n, d = rows.shape
    mask, order, result = np.zeros(d, np.uint32), ffi.new("uint32_t[]", 2 * d * width), ffi.new("td_plan_result *")
    size = lib.td_plan_work_size(n)
    work = ffi.new("uint64_t[]", size // 8 + 1)
    rows_view, mask_view = view(rows, "const uint32_t[]"), ffi.from_buffer("uint32_t[]", mask)
    status = lib.td_plan_compress(rows_view, n, d, width, patience, mask_view, order, result, work, size)
    assert status == 0
    expected, l_b, n_b = reference_compress(rows, width, patience)
    assert (result.size_bits, result.base_bits, result.n_bases) == (expected, l_b, n_b)
    assert result.deviation_bits == d * width - l_b and sum(int(m).bit_count() for m in mask) == l_b
    assert (mask.astype(np.int64) < 2**width).all()

    group = np.zeros(n, np.uint32)
    n_groups = lib.td_plan_group(rows_view, n, d, width, mask_view, ffi.from_buffer("uint32_t[]", group), work, size)
    assert n_groups == n_b and same_partition(group.tolist(), [tuple(row) for row in (rows & mask).tolist()])


def squared_error(rows: np.ndarray, group: np.ndarray) -> float:
    rows = rows.astype(np.float64)
    return float(sum(((rows[group == g] - rows[group == g].mean(axis=0)) ** 2).sum() for g in np.unique(group)))


@QUICK
@given(table=tables(), per_class=st.integers(1, 8), method=st.sampled_from(["variance", "entrogede"]))
def test_budget_and_classes_hold(table: Table, per_class: int, method: str) -> None:
    group = condense(table, per_class, method=method)
    present = len(set(table.labels.tolist()))
    n_groups = int(group.max()) + 1
    assert sorted(set(group.tolist())) == list(range(n_groups)) and n_groups <= per_class * present
    for g in range(n_groups):
        assert len(set(table.labels[group == g].tolist())) == 1
    if method == "entrogede":
        assert max(len(set(group[table.labels == c].tolist())) for c in set(table.labels.tolist())) <= per_class
    else:  # every row that differs gets a group of its own while the budget lasts
        distinct = len({(*row, label) for row, label in zip(table.flat().tolist(), table.labels.tolist(), strict=True)})
        assert n_groups <= distinct
        if per_class * present >= len(table):
            assert squared_error(table.flat(), group) == 0


@pytest.mark.parametrize("seed", range(8))
def test_variance_beats_the_published_rule_on_clusters(seed: int) -> None:
    random = np.random.default_rng(seed)
    centres = random.integers(0, 200, (3, 6, 10))
    values = np.concatenate([centres[c] + random.integers(0, 12, (20, 6, 10)).astype(int) for c in range(3)])
    labels = np.repeat(np.arange(3), 20 * 6)
    values = values.reshape(-1, 10)
    table = table_from_arrays(values.astype(np.uint8), labels)
    published = condense(table, 8, method="entrogede")
    rows, _, _ = unsigned_rows(table.flat())
    n = int(published.max()) + 1
    ours = variance_groups(rows, labels, n)
    assert ours.max() + 1 <= n
    assert squared_error(rows, ours) <= squared_error(rows, published)


def variance_groups(rows: np.ndarray, labels: np.ndarray, max_groups: int, lloyd: int = 2) -> np.ndarray:
    group, size = np.zeros(len(rows), np.uint32), lib.td_condense_variance_work_size(*rows.shape, max_groups)
    rows_view, label_view = view(rows, "const uint32_t[]"), view(labels.astype(np.uint16), "const uint16_t[]")
    group_view, work = ffi.from_buffer("uint32_t[]", group), ffi.new("uint64_t[]", size // 8 + 1)
    status = lib.td_condense_variance(rows_view, label_view, *rows.shape, max_groups, lloyd, group_view, work, size)
    assert status == group.max() + 1
    return group


def best_split(rows: np.ndarray) -> float:
    """Least squared error of two groups cut by a threshold on one feature."""
    cuts = [rows[:, f] < t for f in range(rows.shape[1]) for t in np.unique(rows[:, f])[1:]]
    return min(squared_error(rows, cut.astype(int)) for cut in cuts)


@QUICK
@given(seed=st.integers(0, 2**32), n=st.integers(2, 20), d=st.integers(1, 6), width=st.sampled_from([1, 4, 8, 16]))
def test_a_cut_is_the_best_there_is(seed: int, n: int, d: int, width: int) -> None:
    rows = np.random.default_rng(seed).integers(0, 2**width, (n, d)).astype(np.uint32)
    rows[0, 0], rows[1, 0] = 0, 1
    group = variance_groups(rows, np.zeros(n), 2, lloyd=0)
    assert group.max() == 1 and squared_error(rows, group) == pytest.approx(best_split(rows.astype(float)), rel=1e-9)


@QUICK
@given(seed=st.integers(0, 2**32), n=st.integers(2, 40), d=st.integers(1, 5), max_groups=st.integers(2, 9))
def test_lloyd_rounds_never_hurt(seed: int, n: int, d: int, max_groups: int) -> None:
    random = np.random.default_rng(seed)
    rows, labels = random.integers(0, 256, (n, d)).astype(np.uint32), random.integers(0, 2, n)
    errors = [squared_error(rows, variance_groups(rows, labels, max_groups, lloyd)) for lloyd in range(4)]
    assert all(after <= before * (1 + 1e-12) for before, after in pairwise(errors))


def test_small_differences_between_large_values_are_cut() -> None:
    rows = np.array([[0, 0]] + [[2**32 - 1 - i % 4, 2**31] for i in range(200)], np.uint32)
    assert squared_error(rows, variance_groups(rows, np.zeros(len(rows)), 5)) == 0


def test_a_budget_far_above_the_rows() -> None:
    table = table_from_arrays([[1], [2], [2]], [0, 1, 1])
    for method in ("variance", "entrogede"):
        assert condense(table, 10**12, method=method).tolist() == [0, 1, 1]


@QUICK
@given(table=tables(), budget=st.integers(5, 60), method=st.sampled_from(["variance", "entrogede", "random"]))
def test_reduce_keeps_its_contract(table: Table, budget: int, method: str) -> None:
    samples = reduce(table, budget, method=method, seed=1)
    flat = table.flat().astype(np.float64)
    assert len(samples) <= budget and samples.values.shape == (len(samples), flat.shape[1])
    assert (samples.weights > 0).all() and set(samples.labels.tolist()) == set(table.labels.tolist())
    if method == "random":
        rows = [(*row, label) for row, label in zip(flat.tolist(), table.labels.tolist(), strict=True)]
        picked = [(*row, label) for row, label in zip(samples.values.tolist(), samples.labels.tolist(), strict=True)]
        assert all(picked.count(row) <= rows.count(row) for row in picked) and set(samples.weights) == {1.0}
        return
    assert samples.weights.sum() == len(table)
    for label in set(table.labels.tolist()):
        of_class = samples.labels == label
        assert samples.weights[of_class].sum() == (table.labels == label).sum()
        mean = samples.weights[of_class] @ samples.values[of_class] / samples.weights[of_class].sum()
        np.testing.assert_allclose(mean, flat[table.labels == label].mean(axis=0), rtol=1e-9, atol=1e-9)


def test_random_takes_as_many_of_each_class_and_the_seed_decides() -> None:
    table = table_from_arrays(np.arange(40).reshape(-1, 1), [0] * 30 + [1] * 8 + [2] * 2)
    samples = reduce(table, 12, method="random", seed=3)
    assert np.bincount(samples.labels).tolist() == [4, 4, 2]
    assert np.array_equal(samples.values, reduce(table, 12, method="random", seed=3).values)
    assert not np.array_equal(samples.values, reduce(table, 12, method="random", seed=4).values)


def test_unsigned_rows() -> None:
    rows, low, width = unsigned_rows(np.array([[-3, 4]], np.int8))
    assert (rows.tolist(), low, width) == ([[0, 7]], -3, 3)
    assert unsigned_rows(np.array([[True], [False]]))[1:] == (0, 1)
    assert unsigned_rows(np.array([[7], [7]]))[1:] == (7, 1)
    rows, low, width = unsigned_rows(np.array([[-(2**31), 2**31 - 1]]))
    assert (rows.tolist(), low, width) == ([[0, 2**32 - 1]], -(2**31), 32)


@pytest.mark.parametrize("values", [
    np.array([[2**31]]), np.array([[-(2**31) - 1]]), np.array([[2**64 - 1]], np.uint64), np.array([[2**63]], np.uint64),
    np.array([[-(2**63)]]), np.array([[2**32 - 1]], np.uint32),
])  # fmt: skip
def test_values_beyond_32_bits_are_refused(values: np.ndarray) -> None:
    with pytest.raises(DataError, match=f"{values[0, 0]}.* 32 bits"):
        unsigned_rows(values)


def test_wrong_calls_are_refused() -> None:
    table = table_from_arrays([[1], [2]], [0, 1])
    with pytest.raises(UsageError, match="per_class is 0"):
        condense(table, 0)
    with pytest.raises(UsageError, match="no method 'magic'"):
        condense(table, 1, method="magic")
    with pytest.raises(UsageError, match="less than one sample for each of 2 classes"):
        reduce(table, 1)
    with pytest.raises(DataError, match="floating point"):
        condense(table_from_arrays([[0.5], [2]], [0, 1]), 1)


def test_the_core_refuses_what_it_cannot_do() -> None:
    rows, group, work = ffi.new("uint32_t[]", 8), ffi.new("uint32_t[]", 8), ffi.new("uint64_t[]", 128)
    label = ffi.new("uint16_t[]", list(range(8)))
    for n, d, width, most, size in [(0, 1, 8, 1, 512), (8, 0, 8, 1, 512), (8, 1, 0, 1, 512), (8, 1, 33, 1, 512),
                                    (8, 1, 8, 0, 512), (2**31, 1, 8, 1, 512), (8, 4097, 8, 1, 512)]:  # fmt: skip
        assert lib.td_plan_condense(rows, n, d, width, most, group, work, size) == lib.TD_E_ARGUMENT
    assert lib.td_plan_condense(rows, 8, 1, 8, 1, group, work, 127) == lib.TD_E_MEMORY
    for n, d, most in [(0, 1, 1), (8, 0, 1), (8, 1, 0), (2**32 - 1, 1, 1), (8, 4097, 1)]:
        assert lib.td_condense_variance(rows, label, n, d, most, 0, group, work, 512) == lib.TD_E_ARGUMENT
    assert lib.td_condense_variance(rows, label, 8, 1, 8, 0, group, work, 64) == lib.TD_E_MEMORY
    assert lib.td_condense_variance(rows, label, 8, 1, 7, 0, group, work, 1024) == lib.TD_E_RANGE
    with pytest.raises(DataError, match="4097 values a row"):
        condense(table_from_arrays(np.zeros((1, 4097), np.int8), [0]), 1)


def test_large_tables_take_the_published_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).normal(0, 30, (200, 4)).astype(np.int64)
    table = table_from_arrays(rows, np.arange(200) % 3)
    ours, published = condense(table, 5), condense(table, 5, method="entrogede")
    assert not np.array_equal(ours, published)
    monkeypatch.setattr("tinydream.packs.reduction.LARGE", 199)
    assert np.array_equal(condense(table, 5), published)
    monkeypatch.setattr("tinydream.packs.reduction.LARGE", 200)
    assert np.array_equal(condense(table, 5), ours)
