"""Plans of parts with keys: what the core finds in rows against NumPy, and a key chosen by some rows against all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_reduction import bit_rows

from tinydream._native import ffi, lib, view
from tinydream.cli.wearables import load_recordings
from tinydream.packs import keys
from tinydream.packs.keys import KeyPlan, encode_sorted, plan_sorted
from tinydream.packs.packing import pack
from tinydream.packs.part import plan_part
from tinydream.tables.table import table_from_arrays

QUICK = settings(max_examples=100, deadline=None)


def tables_of(rows: np.ndarray) -> Any:
    return view(np.ascontiguousarray(rows), "const uint32_t[]")


@QUICK
@given(case=bit_rows())
def test_ranges_and_varying_bits_are_those_of_all_rows(case: tuple[np.ndarray, int]) -> None:
    rows, _ = case
    n, d = rows.shape
    low, high, varying = (np.empty(4 * d, dtype=np.uint32) for _ in range(3))
    out = [ffi.from_buffer("uint32_t[]", array) for array in (low, high, varying)]
    lib.td_key_survey(tables_of(rows), n, d, out[0], out[1])
    assert np.array_equal(low[:d], rows.min(axis=0)) and np.array_equal(high[:d], np.ptp(rows, axis=0))
    lib.td_key_varying(tables_of(rows), n, d, out[0], out[2], ffi.new("uint32_t[]", 8 * d))
    moved = rows - low[:d]
    assert np.array_equal(varying[:d], np.bitwise_or.reduce(moved ^ moved[0], axis=0))


@QUICK
@given(case=bit_rows(), fold=st.sampled_from([1, 300]))
def test_ones_are_counted(case: tuple[np.ndarray, int], fold: int) -> None:
    rows, width = np.tile(case[0], (fold, 1)), case[1]  # more rows than a byte counts
    n, d = rows.shape
    ones = np.empty((d, width), dtype=np.uint32)
    lib.td_count_ones(tables_of(rows), n, d, width, ffi.from_buffer("uint32_t[]", ones), ffi.new("uint32_t[]", 8 * d))
    expected = [(rows >> np.uint32(width - 1 - place) & 1).sum(axis=0) for place in range(width)]
    assert np.array_equal(ones.T, expected)


@QUICK
@given(case=bit_rows(), step=st.sampled_from([1, 2, 4, 8, 64]))
def test_a_sample_has_a_row_of_every_few(case: tuple[np.ndarray, int], step: int) -> None:
    rows, _ = case
    n, d = rows.shape
    low = rows.min(axis=0)
    out = np.empty((-(-n // step), d), dtype=np.uint32)
    lib.td_key_sample(tables_of(rows), n, d, view(low, "const uint32_t[]"), step, ffi.from_buffer("uint32_t[]", out))
    for k, found in enumerate((out + low).tolist()):
        assert found in rows[k * step : (k + 1) * step].tolist()


def block_cost(span: int, n: int) -> int:
    """Bits of the codes of a block, by every number of low bits."""
    return min(n * (low + 1) + (span >> low) for low in range(65)) if n else 0


@QUICK
@example(found=[0, 2**64 - 1], n_key=64, drop=0)
@given(found=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=400), n_key=st.integers(1, 64),
       drop=st.integers(0, 63))  # fmt: skip
def test_codes_take_the_fewest_bits(found: list[int], n_key: int, drop: int) -> None:
    own = sorted(key >> (64 - n_key) for key in found)
    drop %= n_key
    sorted_keys = np.array(own, dtype=np.uint64)
    blocks = [own[i : i + lib.TD_KEY_BLOCK] for i in range(0, len(own), lib.TD_KEY_BLOCK)]
    expected = sum(block_cost((b[-1] >> drop) - (b[0] >> drop), len(b) - 1) + n_key - drop + 38 for b in blocks)
    cost = lib.td_key_cost(view(sorted_keys, "const uint64_t[]"), len(own), 1, n_key, drop)
    assert cost == expected

    def size(drop: int) -> int:
        return int(lib.td_key_cost(view(sorted_keys, "const uint64_t[]"), len(own), 1, n_key, drop)) + drop * len(own)

    length = ffi.new("uint32_t *")
    least = lib.td_key_length(view(sorted_keys, "const uint64_t[]"), len(own), 1, n_key, length)
    assert least == min(size(drop) for drop in range(0, n_key, lib.TD_KEY_TRIED)) == size(n_key - length[0])


@QUICK
@example(found=[0, 2**64 - 1], most=2)
@given(found=st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 40), min_size=1, max_size=200),
       most=st.integers(1, 220))  # fmt: skip
def test_cells_are_the_most_that_leading_bits_give(found: list[int], most: int) -> None:
    own = sorted(found)
    starts = np.empty(len(own), dtype=np.bool_)
    lib.td_key_cells(np_view(own), len(own), most, ffi.from_buffer("uint8_t[]", starts))
    cells = [[i == 0 or own[i - 1] >> drop != own[i] >> drop for i in range(len(own))] for drop in range(65)]
    assert starts.tolist() == next(cell for cell in cells if sum(cell) <= most)


def np_view(keys: list[int]) -> Any:
    return view(np.array(keys, dtype=np.uint64), "const uint64_t[]")


def some_table(seed: int) -> tuple[np.ndarray, int]:
    """Columns of all kinds: signals, categories, counters, what repeats with a rhythm."""
    random = np.random.default_rng(seed)
    n, width = int(random.integers(20_000, 60_000)), int(random.choice([4, 8, 12, 16, 24]))
    scale = 2.0**width

    def column() -> Any:
        return [
            lambda: random.normal(scale / 2, scale / random.uniform(4, 40), n),
            lambda: random.integers(0, int(random.integers(1, 2**width + 1)), n),
            lambda: random.integers(0, int(random.integers(1, 300)), n) * int(random.integers(1, 50)),
            lambda: np.arange(n) * random.uniform(0.01, 2),
            lambda: np.cumsum(random.normal(0, scale / 1000, n)) + scale / 2,
            lambda: random.exponential(scale / 50, n),
            lambda: np.arange(n) % int(random.integers(2, 100)) * scale / 100 + random.integers(0, 3, n),
        ][int(random.integers(7))]()

    columns = [np.clip(column(), 0, 2**width - 1) for _ in range(int(random.integers(1, 8)))]
    return np.column_stack(columns).astype(np.uint32), width


def by_all_rows(monkeypatch: pytest.MonkeyPatch, rows: np.ndarray, width: int) -> tuple[KeyPlan | None, int]:
    with monkeypatch.context() as patch:
        patch.setattr(keys, "SAMPLE", len(rows))
        plan, made = plan_sorted(rows, width), encode_sorted(rows, width)
    return plan, len(made.data) if made else 0


def test_a_key_chosen_by_a_sample_is_as_good(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = []
    for seed in range(24):
        rows, width = some_table(seed)
        exact, least = by_all_rows(monkeypatch, rows, width)
        plan, made = plan_sorted(rows, width), encode_sorted(rows, width)
        assert made is not None and plan is not None and exact is not None
        for name in ("low", "high", "varying"):  # what has to be exact is so
            assert np.array_equal(getattr(plan, name), getattr(exact, name))
        assert [found.tolist() for found in plan.lists] == [found.tolist() for found in exact.lists]
        assert abs(plan.size / 8 - len(made.data)) <= 0.05 * len(made.data) + 4000
        lost.append(len(made.data) / least - 1)
    assert max(lost) < 0.03 and np.mean(lost) < 0.003


def test_a_key_of_recordings_chosen_by_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = load_recordings().windows.reshape(-1, 6)
    rows = np.rint((steps - steps.min(axis=0)) / np.ptp(steps, axis=0) * 255).astype(np.uint32)
    made = encode_sorted(rows, 8)
    assert made is not None and len(rows) > 8 * keys.SAMPLE
    assert len(made.data) <= 1.005 * by_all_rows(monkeypatch, rows, 8)[1]


def test_values_that_few_rows_have_are_not_lost() -> None:
    rows = np.random.default_rng(0).integers(0, 50, (40_000, 3)).astype(np.uint32)
    rows[12_345] = [2**20, 51, 2**30 + 1]  # a bit more than all others, in one row
    plan, made = plan_sorted(rows, 31), encode_sorted(rows, 31)
    assert plan is not None and made is not None and plan.high.tolist() == [2**20, 51, 2**30 + 1]
    back = np.array(pack(table_from_arrays(rows.astype(np.int64), None))[:])
    assert np.array_equal(back[np.lexsort(back.T)], rows[np.lexsort(rows.T)])


def test_rows_with_a_rhythm_are_seen_in_all_its_places() -> None:
    """One row in 16 is of another kind: every 16th row would be of one kind only."""
    rows = (np.arange(2**17, dtype=np.uint32) % 16 == 0).astype(np.uint32).reshape(-1, 1)
    out, low = np.empty((2**13, 1), dtype=np.uint32), ffi.new("uint32_t[]", 1)
    lib.td_key_sample(tables_of(rows), len(rows), 1, low, 16, ffi.from_buffer("uint32_t[]", out))
    assert 0.04 < out.mean() < 0.09


def test_lists_of_many_features_are_looked_at_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(2)
    rows = (random.integers(0, 9, (3000, 12)) * random.integers(1, 4000, 12)).astype(np.uint32)
    together = plan_sorted(rows, 16), encode_sorted(rows, 16)
    monkeypatch.setattr(keys, "MOST_VALUES", 20_000)
    apart = plan_sorted(rows, 16), encode_sorted(rows, 16)
    assert together[0] is not None and apart[0] is not None and together[1] is not None and apart[1] is not None
    assert sum(len(found) > 0 for found in apart[0].lists) > 3 and together[1].data == apart[1].data


def test_plans_do_not_change_from_run_to_run() -> None:
    rows, width = some_table(3)
    first, second = encode_sorted(rows, width), encode_sorted(rows.copy(), width)
    assert first is not None and second is not None and first.data == second.data


@QUICK
@given(case=bit_rows(), low=st.integers(0, 2**31))
def test_a_plan_of_a_part_is_the_smaller_one(case: tuple[np.ndarray, int], low: int) -> None:
    rows, width = case
    rows = np.minimum(rows.astype(np.int64) + low % 2**width, 2**width - 1).astype(np.uint32)
    plan = plan_part(rows, width, "variance")
    published = [plan_part(less, width, "entrogede") for less in (rows, rows - rows.min(axis=0))]
    more = -(-width * rows.shape[1] // 8)  # what offsets take
    assert plan.size == min(published[0].size, published[1].size + (more if rows.min(axis=0).any() else 0))
    moved = rows if plan.offsets is None else rows - plan.offsets
    assert np.array_equal(plan.rows, moved)
    made = pack(table_from_arrays(rows.astype(np.int64), None), per_class=1)
    assert len(made.data) < plan.size + 400
