"""What the core says that features share: held against NumPy on small samples."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinydream._native import ffi, lib
from tinydream.errors import CoreError
from tinydream.packs.transforms import BIT, Transform, _Columns, apply_transforms, plan_transforms

QUICK = settings(max_examples=100, deadline=None)
Rows = npt.NDArray[np.uint32]


@st.composite
def samples(draw: st.DrawFn) -> tuple[Rows, int]:
    """Rows (n, features) below 2^width, of which some features are made of others."""
    n, d, width = draw(st.integers(1, 300)), draw(st.integers(1, 4)), draw(st.integers(1, 32))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows = random.integers(0, 2 ** draw(st.integers(0, width)), (n, d), dtype=np.uint64)
    for f in range(1, d):
        if draw(st.booleans()):
            rows[:, f] = (
                draw(st.integers(1, 900)) * rows[:, f - 1] // draw(st.sampled_from([1, 3, 64])) + rows[:, f] % 5
            )
    return (rows % 2**width).astype(np.uint32), width


def entropy(values: Rows, width: int) -> float:
    """Vasicek's estimate around the circle."""
    n = len(values)
    step = max(1, n // 64)
    ordered = np.sort(values)
    apart = (np.roll(ordered, -step) - ordered) & np.uint32(2**width - 1)
    return float(np.log2(np.maximum(apart.astype(np.float64) * (n / step), 1)).mean())


def clipped(values: Rows) -> npt.NDArray[np.float64]:
    low, high = np.sort(values)[[len(values) // 16, len(values) - 1 - len(values) // 16]]
    return np.clip(values, low, high).astype(np.float64)


def may_predict(rows: Rows, width: int, feature: int, other: int) -> bool:
    """Whether one feature correlates with another, and with a slope that a factor can say."""
    one, two = clipped(rows[:, feature]), clipped(rows[:, other])
    if np.ptp(one) == 0 or np.ptp(two) == 0:
        return False
    slope = abs(np.polyfit(two, one, 1)[0])
    return bool(np.corrcoef(one, two)[0, 1] ** 2 > 0.102 and slope * 2 ** (32 - width) > 0.51 and slope < 32767)


@QUICK
@given(case=samples())
def test_bits_are_those_of_the_spacings(case: tuple[Rows, int]) -> None:
    rows, width = case
    expected = [entropy(column, width) for column in rows.T]
    assert np.allclose(np.array(_Columns(rows, width).bits()) / BIT, expected, atol=0.02)


@QUICK
@given(case=samples())
def test_the_closest_pair_has_the_largest_correlation(case: tuple[Rows, int]) -> None:
    rows, width = case
    columns = [column for column in map(clipped, rows.T) if np.ptp(column) > 0]
    pairs = [np.corrcoef(a, b)[0, 1] ** 2 for i, a in enumerate(columns) for b in columns[:i]]
    assert _Columns(rows, width).closest() == pytest.approx(max(pairs, default=0.0), abs=2e-3)


@QUICK
@given(case=samples(), feature=st.integers(0, 3), data=st.data())
def test_what_is_promised_is_left(case: tuple[Rows, int], feature: int, data: st.DataObject) -> None:
    rows, width = case
    d, feature = rows.shape[1], feature % rows.shape[1]
    barred = data.draw(st.lists(st.integers(0, d - 1), max_size=2))
    sample = _Columns(rows, width)
    found = sample.promise(feature, barred, 0.1)
    if found is None:
        assert not any(g not in barred and may_predict(rows, width, feature, g) for g in range(d) if g != feature)
        return
    bits, transform = found
    assert transform.feature == feature != transform.other and transform.other not in barred and transform.factor
    assert sample.take(transform) == pytest.approx(bits, abs=2)  # as a turn moves values around the circle only
    left = apply_transforms((transform,), rows, width)
    assert np.array_equal(sample.left, left.T)
    assert bits / BIT == pytest.approx(entropy(left[:, feature], width), abs=0.02)
    values = np.sort(left[:, feature]).astype(np.int64)
    gaps = np.diff(values, append=values[0] + 2**width)
    # The widest gap holds the end, but for what 1/256 of all values cannot say.
    assert gaps[-1] >= gaps.max() - 1 and values[0] <= gaps.max() // 2 + 2**width // 256 + 1


def test_multiples_and_fractions_are_found() -> None:
    random = np.random.default_rng(3)
    other = random.integers(0, 60, 1000)
    for factor in (100, 7, 1, -1, -30):
        rows = np.column_stack((other, factor * other + 3000 + random.integers(0, 2, 1000))).astype(np.uint32)
        found = _Columns(rows, 14).promise(1, [], 0.5)
        assert found and (found[1].other, found[1].factor, found[1].shift) == (0, factor, 0)
    rows = np.column_stack((other * 100, other * 13 + random.integers(0, 3, 1000))).astype(np.uint32)
    found = _Columns(rows, 14).promise(1, [], 0.5)
    assert found and found[1].factor / 2 ** found[1].shift == pytest.approx(0.13, rel=0.01)


def test_far_features_are_not_looked_at_in_wide_rows() -> None:
    random = np.random.default_rng(3)
    for other, near in ((52, True), (51, False), (68, True), (69, False)):
        rows = random.integers(0, 256, (500, 100)).astype(np.uint32)
        rows[:, 60] = rows[:, other] + 3
        sample = _Columns(rows, 9)
        assert (sample.closest() > 0.99) == near == (sample.promise(60, [], 0.5) is not None)


def test_samples_out_of_range_are_refused() -> None:
    with pytest.raises(CoreError):
        _Columns(np.zeros((lib.TD_MAX_RELATED + 1, 2), np.uint32), 8)
    for width in (0, 33):
        with pytest.raises(CoreError):
            _Columns(np.zeros((10, 2), np.uint32), width)
    sample = _Columns(np.zeros((10, 2), np.uint32), 8)
    assert lib.td_relate_promise(sample._relation, 2, bytes(3), 0.5, sample._found) == lib.TD_E_ARGUMENT
    for wrong in (Transform(2), Transform(0, 2, 1), Transform(0, 1, 1, 32)):
        assert lib.td_relate_take(sample._relation, wrong.record(), ffi.new("uint32_t *")) == lib.TD_E_ARGUMENT


def test_the_larger_savings_are_kept_where_all_do_not_pay() -> None:
    """A size that says so: by each transform dearer, and for the first ones cheaper."""
    random = np.random.default_rng(7)
    a, b = random.integers(0, 4096, 1000), random.normal(4000, 500, 1000)
    rows = np.column_stack((a, a + random.integers(0, 2, 1000), b, b + random.normal(0, 600, 1000))).astype(np.uint32)
    measured: list[Rows] = []

    def size(some: Rows) -> int:
        measured.append(some)
        changed = int((some != rows).any(axis=0).sum())
        return [10_000, 5_000, 20_000][changed]

    chosen, share = plan_transforms(rows, 13, size)
    assert len(chosen) == 1 and share == 0.5 and len(measured) == 3
    assert plan_transforms(rows, 13, lambda some: 10_000) == ((), 1)
