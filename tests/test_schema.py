"""Fields: what comes out of a pack is what went in, bit for bit and type for type."""

from __future__ import annotations

import struct
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import board_kit
import cbor2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from spec_fields import read_fields
from spec_reader import read_tdz

import tinydream as td
from tinydream._native import lib
from tinydream.errors import DataError, FormatError, UsageError
from tinydream.files import write_sections
from tinydream.packs.pack import Pack
from tinydream.packs.packing import pack
from tinydream.tables.code_planner import GAP_AT, GAPS
from tinydream.tables.schema import Code, FieldPlanner, Lossy, Schema
from tinydream.tables.table import Column, Table, table_from_arrays, table_from_columns

QUICK = settings(max_examples=120, deadline=None)
INTEGERS = ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"]
REALS = ["f2", "f4", "f8"]
TIMES = ["M8[D]", "M8[s]", "M8[ns]", "m8[ms]"]


def bits(values: np.ndarray) -> list[Any]:
    """Values as something that tells all NaN and zeros apart."""
    if values.dtype.kind == "f":
        return values.view(f"u{values.dtype.itemsize}").tolist()
    if values.dtype.kind in "Mm":
        return values.view(np.int64).tolist()
    return values.tolist()


@st.composite
def real_values(draw: Any, dtype: np.dtype, n: int) -> np.ndarray:
    """Any bit patterns; or decimals, or sixteenths, with a few special values among them."""
    kind = draw(st.sampled_from(["any", "decimals", "sixteenths", "few"]))
    if kind == "any":
        return draw(hnp.arrays(dtype, n, elements=hnp.from_dtype(dtype)))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    whole = random.integers(-(10 ** draw(st.integers(0, 9))), 10 ** draw(st.integers(0, 9)), n)
    with np.errstate(over="ignore"):
        if kind == "few":
            values = random.normal(size=3).astype(dtype)[random.integers(0, 3, n)]
        else:
            over = 16 if kind == "sixteenths" else 10 ** draw(st.integers(0, 6))
            values = (whole / over).astype(dtype)
    for special in draw(st.lists(st.sampled_from([np.nan, np.inf, -np.inf, -0.0]), max_size=2)):
        values[random.integers(0, n)] = special
    return values


@st.composite
def columns(draw: Any, n: int, name: str) -> Column:
    kind = draw(st.sampled_from(["b1", *INTEGERS, *REALS, *TIMES, "text"]))
    if kind == "text":
        values = np.empty(n, dtype=object)
        values[:] = draw(st.lists(st.text(max_size=3), min_size=n, max_size=n))
    elif kind in REALS:
        values = draw(real_values(np.dtype(kind), n))
    elif kind in TIMES:
        values = draw(hnp.arrays(np.int64, n)).view(kind)
    else:
        ends = draw(hnp.arrays(kind, 2))
        picked = draw(hnp.arrays(kind, n))
        values = np.where(np.random.default_rng(n).random(n) < draw(st.sampled_from([0.0, 1.0])), ends[0], picked)
        values = values.astype(kind)
    missing = draw(st.one_of(st.none(), hnp.arrays(np.bool_, n)))
    return Column(name, values, missing)


@st.composite
def mixed(draw: Any) -> Table:
    n = draw(st.integers(1, 30))
    made = [draw(columns(n, f"c{i}")) for i in range(draw(st.integers(1, 5)))]
    targets = [draw(columns(n, f"y{i}")) for i in range(draw(st.sampled_from([0, 0, 2])))]
    if targets:
        return table_from_columns([*made, *targets], label=["y0", "y1"])
    labels = np.array(draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)))
    table = table_from_columns(made)
    return Table(table.values, labels, ("0", "1", "2"), columns=table.columns)


def rows_of(found: tuple[Column, ...]) -> list[tuple[Any, ...]]:
    """Rows of values that can be compared; None where one is missing."""
    lists = []
    for column in found:
        gone = np.zeros(len(column), dtype=bool) if column.missing is None else column.missing
        lists.append(
            [
                None if m else (value, column.values.dtype.str)
                for value, m in zip(bits(column.values), gone, strict=True)
            ]
        )
    return list(zip(*lists, strict=True))


@QUICK
@given(table=mixed(), large=st.booleans(), method=st.sampled_from(["variance", "entrogede"]))
def test_columns_come_back(table: Table, large: bool, method: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if large:
            patch.setattr("tinydream.packs.packing.LARGE", 0)
        made = pack(table, per_class=2, method=method)
    want = Counter(zip(rows_of((*table.columns, *table.targets)), table.labels.tolist(), strict=True))
    found = Counter(zip(rows_of((*made.columns(), *made.targets())), made.class_numbers.tolist(), strict=True))
    assert found == want
    assert [column.name for column in made.columns()] == [column.name for column in table.columns]
    reopened = Pack(made.data)
    assert rows_of(reopened.columns([0, -1])) == [rows_of(reopened.columns())[i] for i in (0, -1)]


@QUICK
@given(table=mixed())
def test_the_specified_reader_finds_the_same_values(table: Table) -> None:
    made = pack(table, per_class=2)
    spec = read_tdz(made.data)
    fields = cbor2.loads(spec.meta)["fields"]
    for column, field, values in zip(
        (*made.columns(), *made.targets()), fields, read_fields(spec.rows, fields), strict=True
    ):
        gone = np.zeros(len(column), dtype=bool) if column.missing is None else column.missing
        kept = [value for value, m in zip(bits(column.values), gone.tolist(), strict=True) if not m]
        assert [value for value in values if value is not None] == kept
        assert [value is None for value in values] == gone.tolist()
        assert field["name"] == column.name


@QUICK
@given(
    dtype=st.sampled_from(["b1", *INTEGERS, *REALS]),
    shape=hnp.array_shapes(min_dims=2, max_dims=4, max_side=5),
    data=st.data(),
)
def test_arrays_come_back(dtype: str, shape: tuple[int, ...], data: Any) -> None:
    if dtype in REALS:
        values = data.draw(real_values(np.dtype(dtype), int(np.prod(shape)))).reshape(shape)
    else:
        values = data.draw(hnp.arrays(dtype, shape))
    made = pack(table_from_arrays(values, None))
    assert made[:].shape == values.shape and made[:].dtype == values.dtype and made[0].shape == shape[1:]
    assert Counter(row.tobytes() for row in made[:]) == Counter(row.tobytes() for row in values)


def plan(values: Any, dtype: str, **options: Any) -> Code:
    planner = FieldPlanner("c", dtype, **options)
    for piece in np.array_split(np.asarray(values), 3):
        planner.see(piece)
    return planner.field().codes[0]


def test_codes_are_the_short_ones() -> None:
    prices = np.round(np.random.default_rng(1).permutation(300) * 0.05 - 3.5, 2)
    assert plan(prices, "f8") == Code("number", low=-350, by=5, over=100)
    assert plan(prices.astype(np.float32), "f4") == Code("number", low=-350, by=5, over=100)
    assert plan(np.arange(200) / 1024, "f8") == Code("number", over=1024)
    assert plan([-0.0, np.nan, 1.0], "f8").special == (0x7FF8 << 48, 1 << 63)
    noise = np.random.default_rng(0).normal(size=1000)
    assert plan(noise, "f8").kind == "bits" and plan(noise, "f8").wide
    assert plan(noise[np.arange(2000) % 5], "f8").kind == "list"
    assert plan(np.arange(100) * 3600 * 10**9 + 17, "i8") == Code("number", low=17, by=3600 * 10**9)
    assert plan(np.array([7, 2**40, 7, 2**62 + 1] * 30), "i8").kind == "list"
    assert (
        plan(np.array([-5, 300]), "i8", plain=True) == Code() and plan(np.array([2**31]), "i8", plain=True).low == 2**31
    )
    assert plan(np.array(["b", "a"], dtype=object), "text") == Code("list", entries=("a", "b"))


@pytest.mark.filterwarnings("error")
def test_large_numbers_beside_fine_ones_are_kept_as_bits() -> None:
    assert plan([1e15, 1e-9, 2.0, 3e14], "f8").kind != "number"


def test_a_plan_does_not_depend_on_the_pieces() -> None:
    values = np.array([1.5, 2.25, 1e3, 7.125, -0.5, 3.0])
    planners = [FieldPlanner("c", "f8") for _ in range(2)]
    planners[0].see(values)
    for value in values:
        planners[1].see(np.array([value]))
    assert planners[0].field() == planners[1].field()


def test_types_share_a_pack() -> None:
    made = pack(
        table_from_columns({"a": np.array([1, 2], np.uint8), "b": [0.5, -1.25], "c": ["x", None], "d": [True, False]})
    )
    assert made[:].dtype.names == ("a", "b", "c", "d") and made[0]["a"] == made[:]["a"][0]
    order = np.argsort(made[:]["a"].data)
    assert made[:]["c"][order].tolist() == ["x", None] and made[:]["b"].data[order].tolist() == [0.5, -1.25]
    assert made.names == ("a", "b", "c", "d") and made.schema.features[3].dtype == "b1"


def test_columns_of_one_type_are_one_array() -> None:
    made = pack(table_from_columns({"a": [0.5, 1.5], "b": [1e300, 2.0]}))
    assert made[:].shape == (2, 2) and sorted(made[:].tolist()) == [[0.5, 1e300], [1.5, 2.0]]
    assert made.names == ("a", "b.hi", "b.lo")


def test_condensed_samples_are_in_the_users_units() -> None:
    random = np.random.default_rng(0)
    values = np.concatenate([random.normal(m, 0.1, (50, 2)).round(3) for m in (-5, 5)])
    table = table_from_columns({"a": values[:, 0], "b": values[:, 1] * 1e6}, source="t")
    made = pack(table, per_class=2)
    assert sorted(made.condensed.values[:, 0].round().tolist()) == [-5, 5] and made.condensed.weights.tolist() == [
        50,
        50,
    ]
    starts = [0, 50]
    np.testing.assert_allclose(made.condensed.values, [made[:][s : s + 50].mean(axis=0) for s in starts])
    missing = np.ma.array(np.arange(4.0), mask=[0, 1, 0, 0])
    assert pack(table_from_columns({"a": missing}), per_class=1).condensed.values.tolist() == [[5 / 3]]
    with pytest.raises(DataError, match="no mean"):
        _ = pack(table_from_columns({"a": ["x", "y"]})).condensed


def test_real_labels_take_part_and_come_back() -> None:
    x, y = np.arange(60).reshape(20, 3), np.arange(20) / 8 - 1
    made = pack(table_from_arrays(x, y), per_class=4)
    assert made.labels.dtype == np.float64 and made.n_classes == 1 and made.n_features == 4
    assert sorted(zip(made[:].tolist(), made.labels.tolist(), strict=True)) == list(
        zip(x.tolist(), y.tolist(), strict=True)
    )
    condensed = made.condensed
    assert condensed.labels.shape == (4, 1) and condensed.values.shape == (4, 3)
    np.testing.assert_allclose(condensed.weights @ condensed.labels[:, 0] / 20, y.mean())
    several = pack(table_from_arrays(x, np.stack((y, -y), axis=1)))
    assert several.labels.shape == (20, 2) and np.array_equal(several.labels[:, 0], -several.labels[:, 1])
    with pytest.raises(DataError, match="replay sets have classes"):
        pack(table_from_arrays(x, y), replay=4)


LOSSY: list[dict[str, Any]] = [{"lossy_bits": 8}, {"lossy_bits": 1}, {"resolution": 0.5}, {"resolution": 1e3}]
NUMBERS = hnp.arrays(st.sampled_from(["f4", "f8"]), st.integers(1, 40), elements=st.floats(-1e6, 1e6, width=32))


def test_real_labels_beside_embeddings() -> None:
    model, windows = board_kit.model(), board_kit.windows()
    y = np.arange(160) / 4
    made = pack(table_from_arrays(windows, y), through=model, per_class=8)
    rows = sorted(zip(board_kit.embeddings().tolist(), y.tolist(), strict=True))
    assert sorted(zip(made[:].tolist(), made.labels.tolist(), strict=True)) == rows
    assert made[:].dtype == np.int8 and made.n_features == model.embedding_size + 1
    condensed = made.condensed
    real = model.embedding_scale * (board_kit.embeddings().astype(float) - model.embedding_zero_point)
    np.testing.assert_allclose(condensed.weights @ condensed.values / 160, real.mean(axis=0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(condensed.weights @ condensed.labels / 160, [y.mean()])


@QUICK
@given(values=NUMBERS.filter(lambda values: values.any()), lossy=st.sampled_from(LOSSY))
def test_what_is_lossy_says_how_much(values: np.ndarray, lossy: dict[str, Any]) -> None:
    table = table_from_columns({"n": np.arange(len(values)), "v": values}, label="n", real=True)
    made = pack(table, **lossy)
    back = made[:][np.argsort(made.labels), 0]
    error = np.abs(back.astype(float) - values)
    code = made.schema.features[0].codes[0]
    step = lossy.get("resolution") or (float(values.max()) - float(values.min())) / (2 ** lossy["lossy_bits"] - 1)
    assert error.max() <= (step / 2 + 1e-6 * np.abs(values).max(initial=1) if code.lossy else 0)
    if code.error is not None:
        assert code.error == pytest.approx((error.max(), np.sqrt(np.mean(error**2))))
    assert np.array_equal(np.sort(made.labels), np.arange(len(values)))  # labels are never lossy


@pytest.mark.parametrize("resolution", [0.01, 0.1, 0.3, 0.4, 0.5, 2.0, 25.0, 1 / 3])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_resolution_gives_the_numbers_nearest_to_its_multiples(resolution: float, dtype: Any) -> None:
    """What people read in a .csv: 0.67, not 0.6700000000000004."""
    values = np.random.default_rng(1).normal(scale=40 * resolution, size=(400, 3)).astype(dtype)
    back = pack(table_from_arrays(values, None), keep_order=True, resolution=resolution)[:]
    multiples = np.rint(values.astype(float) / resolution)
    ratio = Fraction(repr(resolution))
    if ratio.denominator < 1000:
        nearest = np.array([[float(int(m) * ratio) for m in row] for row in multiples]).astype(dtype)
        assert (np.abs(back - nearest) <= resolution * (np.abs(values / resolution % 1 - 0.5) < 1e-5)).all()
    assert np.abs(back - values).max() <= resolution / 2 * (1 + 1e-5)


def test_what_is_exact_as_cheaply_is_not_changed() -> None:
    values = np.round(np.random.default_rng(0).normal(size=(300, 3)), 2)
    exact = pack(table_from_arrays(values, None), keep_order=True)
    made = pack(table_from_arrays(values, None), keep_order=True, resolution=0.01)
    assert np.array_equal(made[:], values) and len(made.data) <= len(exact.data)
    assert not any(code.lossy for code in made.schema.features[0].codes)
    mixed = table_from_arrays(np.column_stack((values[:, 0], np.pi * values[:, 1])), None)  # one is exact, one is not
    back = pack(mixed, keep_order=True, resolution=0.01)[:]
    assert np.array_equal(back[:, 0], values[:, 0]) and np.abs(back[:, 1] - mixed.values[:, 1]).max() <= 0.005 + 1e-9


def test_rows_that_take_too_many_integers(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(3, 3000)))
    message = r"x\.npy: 6000 values a row \(3000 numbers take two each; --resolution"
    with pytest.raises(DataError, match=message):
        pack(td.read(tmp_path / "x.npy"))
    with pytest.raises(DataError, match=message):
        td.pack_file(tmp_path / "x.npy", tmp_path / "x.tdz", max_memory=2**22)
    assert len(pack(td.read(tmp_path / "x.npy"), resolution=0.01)) == 3


def test_lossy_keeps_what_is_not_a_number() -> None:
    made = pack(table_from_columns({"v": np.array([0.0, np.nan, 0.3, np.inf, 1.0])}), lossy_bits=2)
    assert sorted(map(str, made[:].ravel().tolist())) == ["0.0", "0.3333333333333333", "1.0", "inf", "nan"]
    assert made.schema.features[0].codes[0].error == pytest.approx((1 / 30, 1 / 30 / 3**0.5))  # of three numbers
    for options in ({"lossy_bits": 0}, {"lossy_bits": 32}, {"resolution": 0.0}, {"resolution": float("nan")},
                    {"lossy_bits": 8, "resolution": 0.5}):  # fmt: skip
        with pytest.raises(UsageError):
            pack(table_from_columns({"v": [0.5, 0.25]}), **options)
    with pytest.raises(DataError, match=r"column 'v': .* at most 2\^32"):
        pack(table_from_columns({"v": [0.5, 1e9]}), resolution=1e-9)


HUGE = np.finfo(float).max


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("values", "lossy"),
    [
        ([1.7e308, -1.7e308, 1.5], {"lossy_bits": 8}),
        ([1.7e308, -1.7e308, 1.5], {"lossy_bits": 1}),
        ([1.7e308, -1.7e308, 1.5], {"resolution": 1e306}),
        ([0.89e308, -0.89e308, 1.5], {"resolution": 1e308}),  # the first multiple is too far from the last
        ([1e300, 1e300], {"resolution": 1e-10}),
    ],
)
def test_a_range_that_steps_cannot_cross_is_refused(values: list[float], lossy: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"column 'v': values from .*(without loss|larger steps|smaller steps)"):
        pack(table_from_columns({"n": np.arange(len(values)), "v": values}), **lossy)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bits", [1, 3, 8, 11, 31])
@pytest.mark.parametrize("ends", [(0.0, HUGE), (-HUGE, 0.0), (-HUGE / 2, HUGE / 2)])
def test_the_last_step_of_the_largest_range_is_no_infinity(ends: tuple[float, float], bits: int) -> None:
    values = np.linspace(*ends, 99) if np.isfinite(ends[1] - ends[0]) else np.array(ends)
    made = pack(table_from_columns({"v": values + 0.0}), keep_order=True, lossy_bits=bits)
    assert np.abs(made[:].ravel() / 2 - values / 2).max() <= HUGE / (2**bits - 1) / 4 * (1 + 1e-9)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("lossy", [{}, {"lossy_bits": 3}, {"resolution": 0.5}, {"resolution": 1 / 3}])
def test_what_a_missing_cell_holds_does_not_matter(lossy: dict[str, Any]) -> None:
    random = np.random.default_rng(0)
    values, gone = random.integers(0, 999, 99) / 100, random.random(99) < 0.2
    values[gone] = random.choice([1.7e308, -1.7e308, np.inf, np.nan, 5e-324], gone.sum())
    made, same = (
        pack(table_from_columns({"v": np.ma.MaskedArray(cells, gone)}), **lossy)
        for cells in (values, np.where(gone, 0, values))
    )
    assert made.data == same.data


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scale", [1.0, 1e300, 1e-300])
def test_the_error_is_that_of_the_cells_with_numbers(scale: float) -> None:
    random = np.random.default_rng(0)
    values, gone = random.normal(size=(600, 3)) * scale, np.zeros(600, dtype=bool)
    values[random.random(600) < 0.1, 0] = np.nan
    values[random.random(600) < 0.1, 1] = np.inf
    gone[random.random(600) < 0.1] = True
    table = table_from_columns({"a": values[:, 0], "b": values[:, 1], "c": np.ma.MaskedArray(values[:, 2], gone)})
    made = pack(table, keep_order=True, lossy_bits=8)
    for column, back, field in zip(table.columns, made.columns(), made.schema.features, strict=True):
        kept = np.isfinite(column.values) & ~(gone & (column.name == "c"))
        off = np.abs(back.values[kept] - column.values[kept])
        rms = off.max() * np.sqrt(np.mean((off / off.max()) ** 2))
        assert field.codes[0].error == pytest.approx((off.max(), rms), rel=1e-9)


def with_ends(dtype: str, n: int, low: int) -> np.ndarray:
    """Numbers from the least to the greatest that 64 bits hold, `low` the least."""
    values = np.random.default_rng(0).integers(0, 2**64, n, dtype=np.uint64)
    values[:2] = [low % 2**64, (low - 1) % 2**64]
    return values.view(dtype)


@pytest.mark.parametrize("dtype", ["i8", "u8", "M8[s]", "m8[ms]"])
@pytest.mark.parametrize("pieces", [1, 7])
def test_the_full_range_of_64_bits_has_room_for_missing_cells(dtype: str, pieces: int) -> None:
    values, gone = with_ends(dtype, 3000, 0 if dtype == "u8" else -(2**63)), np.zeros(3000, dtype=bool)
    gone[3::7] = True
    made = pack(table_from_columns([Column("a", values, gone)]), keep_order=True)
    assert made.columns()[0].missing.tolist() == gone.tolist()  # type: ignore[union-attr]
    assert bits(made.columns()[0].values[~gone]) == bits(values[~gone])
    fields = cbor2.loads(read_tdz(made.data).meta)["fields"]
    planner = FieldPlanner("a", dtype)
    for part, missing in zip(np.array_split(values, pieces), np.array_split(gone, pieces), strict=True):
        planner.see(part, missing)
    assert planner.field().as_map() == fields[0]  # streams plan alike
    (found,) = read_fields(read_tdz(made.data).rows, fields)
    assert found == [None if m else value for value, m in zip(bits(values), gone.tolist(), strict=True)]


def test_numbers_that_leave_no_room_for_missing_cells_are_refused() -> None:
    every = np.arange(GAPS, dtype=np.uint64) * np.uint64(2**64 // GAPS) + np.uint64(GAP_AT)
    values = np.concatenate((every, with_ends("u8", 2, 0)))
    assert np.array_equal(pack(table_from_columns({"a": values}), keep_order=True)[:].ravel(), values)
    gone = np.zeros(len(values), dtype=bool)
    gone[5] = True  # one place is free
    made = pack(table_from_columns([Column("a", values, gone)]), keep_order=True)
    assert np.array_equal(made.columns()[0].values[~gone], values[~gone])
    with pytest.raises(DataError, match=r"column 'a': .*no room for missing cells.*as text"):
        pack(table_from_columns([Column("a", np.append(values, every[5]), np.append(gone, False))]))


def test_patterns_that_leave_no_room_for_missing_cells_are_a_list_or_refused() -> None:
    ends = np.array([2**64 - 1, 2**63 - 1], dtype=np.uint64).view(np.float64)  # NaN of all ones, with either sign
    for n in (100, 3000):
        values, gone = np.append(ends, np.random.default_rng(0).normal(size=n)), np.zeros(n + 2, dtype=bool)
        assert bits(pack(table_from_columns({"a": values}), keep_order=True)[:].ravel()) == bits(values)
        gone[5] = True
        table = table_from_columns([Column("a", values, gone)])
        if n == 100:
            assert bits(pack(table, keep_order=True).columns()[0].values[~gone]) == bits(values[~gone])
        else:
            with pytest.raises(DataError, match=r"column 'a': .*no room for missing cells.*NaN"):
                pack(table)


def test_too_many_texts_are_refused() -> None:
    planner = FieldPlanner("id", "text", max_list=1000)
    with pytest.raises(DataError, match=r"column 'id': .* different texts"):
        planner.see(np.array([str(i) for i in range(100)], dtype=object))


def test_a_value_that_would_not_come_back_is_never_written() -> None:
    schema = FieldPlanner("c", "f8")
    schema.see(np.array([0.5, 1.5]))
    with pytest.raises(DataError, match="row 1 is not what was there"):
        schema.field().encode(np.array([0.5, 0.25]), None)


# ------------------------------------------------------------------ fields that are not to be trusted


def hostile(meta: Any) -> bytes:
    made = pack(table_from_columns({"a": [1, 2, 3], "b": ["x", "y", None], "c": [0.5, -1.5, 2.0]}))
    n = struct.unpack_from("<H", made.data, 6)[0]
    entries = struct.iter_unpack("<IIII", made.data[16 : 16 + 16 * n])
    sections = {kind: made.data[at : at + size] for kind, at, size, _ in entries}
    return write_sections(lib.TD_MAGIC_PACK, {**sections, lib.TD_PACK_META: cbor2.dumps(meta)})


A, B, C = (
    {"name": "a", "type": "i8"},
    {"name": "b", "type": "text", "codes": [{"is": "list"}]},
    {"name": "c", "type": "i4"},
)
T: dict[str, Any] = {"type": "M8[s]", "codes": [{"is": "number"}]}
F: dict[str, Any] = {"type": "f8", "codes": [{"is": "number", "low": 10**8, "over": 100}]}
WRONG = [
    {}, [], [A], [A, A, C], [A, B, {**C, "type": "f8"}], [A, B, {**C, "type": "c8"}], [A, B, {**C, "name": 5}],
    [A, B, {**C, "zone": "UTC"}],
    [A, B, {**C, **T, "type": "M8[D]", "zone": "UTC"}],
    *([A, B, {**C, **T, "zone": zone}] for zone in ("", 5, None, "x" * 300)),
    [A, B, {**C, "decimal": [9, 2]}],
    *([A, B, {**C, **F, "decimal": d}] for d in (5, [], [9], [0, 0], [39, 0], [9, -1], [9, 23], [9, 2.0], [9, 2, 2])),
    [A, B, {**C, "x": 1}], [A, B, {**C, "label": 1}], [{**A, "label": True}, B, C],
    [{**x, "label": True} for x in (A, B, C)], [{**A, "shape": [0]}, B, C], [{**A, "shape": [2]}, B, C],
    [{**A, "shape": [-3]}], [{**A, "shape": [3], "codes": [{}, {}]}], [{**A, "shape": [4096] * 8}],
    [{**A, "shape": "3"}], [A, B, {**C, "codes": []}], [A, B, {**C, "codes": [{"is": "x"}]}],
    [A, {**B, "codes": [{"is": "number"}]}, C], [A, {**B, "codes": [{"is": "list", "entries": [5]}]}, C],
    *([A, B, {**C, "codes": [{"is": "number", **code}]}] for code in (
        {"low": 2**64}, {"low": 0.5}, {"by": 0}, {"by": 2**64}, {"over": 0}, {"over": 2**53}, {"over": 2},
        {"special": 5}, {"special": [None, None]}, {"special": [-1]}, {"special": [2**64]},
        {"special": list(range(17))}, {"wide": 1}, {"step": float("nan")}, {"origin": 5}, {"entries": [-1]},
        {"kind": "plain"}, {"low": True})),
    [A, B, {**C, "codes": [{"is": "bits"}]}], [A, B, {**C, "codes": [{"is": "step"}]}],
]  # fmt: skip


@pytest.mark.parametrize("fields", WRONG, ids=range(len(WRONG)))
def test_wrong_fields_are_refused(fields: Any) -> None:
    with pytest.raises(FormatError, match="metadata"):
        Pack(hostile({"fields": fields}))


SOUND = [
    [A, B, {**C, **T, "zone": "UTC"}], [A, B, {**C, **T}],
    [A, B, C], [A, {**B, "codes": [{"is": "list", "entries": ["only"], "special": [None]}]}, C],
    [{**A, "shape": [3]}], [{**A, "shape": [3], "codes": [{"is": "number", "low": 2**64 - 1, "by": 2**63 - 1}] * 3}],
    [{"name": "f", "type": "f2", "shape": [3], "codes": [{"is": "bits", "low": 2**63}]}],
    [{"name": "f", "type": "f2", "shape": [3], "codes": [{"is": "step", "origin": 1e308, "step": -1e308}]}],
    [{"name": "t", "type": "M8[as]", "codes": [{"is": "number", "wide": True, "special": [2**63]}]}, A],
    [{"name": "l", "type": "u1", "shape": [3], "codes": [{"is": "list", "entries": [2**64 - 1]}]}],
]  # fmt: skip


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("fields", SOUND, ids=range(len(SOUND)))
def test_other_fields_give_other_values_and_no_harm(fields: Any) -> None:
    opened = Pack(hostile({"fields": fields}))
    assert len(opened[:]) == 3 and len(opened.columns()) == len(fields)
    texts = [column.values for column in opened.columns() if column.values.dtype == object]
    assert all(type(text) is str for values in texts for text in values)


@pytest.mark.parametrize("low", [10**8, 2**63 - 1])
def test_decimals_beyond_their_digits_are_refused(low: int) -> None:
    opened = Pack(hostile({"fields": [A, B, {**C, **F, "codes": [{"is": "number", "low": low}], "decimal": [8, 0]}]}))
    with pytest.raises(DataError, match="column 'c' holds numbers that are no decimals of 8 digits"):
        opened.to_arrow()


@pytest.mark.parametrize("windows", [{}, [], {"span": 1, "step": 1, "runs": []}, {"span": 1, "step": 1, "runs": [2]},
    {"span": 4, "step": 1, "runs": [1]}, {"span": 1, "step": 0, "runs": [3]}, {"span": 1, "step": 1, "runs": [2.0, 1]},
    {"span": 1, "step": 2**40, "runs": [3]}, {"span": 1, "step": 1, "runs": 3}])  # fmt: skip
def test_wrong_windows_are_refused(windows: Any) -> None:
    with pytest.raises(FormatError, match="metadata"):
        Pack(hostile({"windows": windows, "fields": [{**A, "shape": [3]}]}))


def test_a_schema_is_its_list() -> None:
    made = pack(
        table_from_columns({"a": [1, 2], "t": np.array(["2024-01-01", "NaT"], "M8[D]"), "y": [0.5, 1.5]}, label="y")
    )
    assert Schema.from_list(cbor2.loads(cbor2.dumps(made.schema.as_list())), 3) == made.schema
    assert Lossy(bits=8) and td.Column("a", np.zeros(1)).any_missing is False


# ------------------------------------------------------------------ windows


@QUICK
@given(lengths=st.lists(st.integers(6, 25), min_size=1, max_size=4), window=st.integers(1, 6), hop=st.integers(1, 7),
       channels=st.integers(1, 2), labelled=st.booleans(), dtype=st.sampled_from(["i2", "f4"]))  # fmt: skip
def test_windows_are_stored_once(
    lengths: list[int], window: int, hop: int, channels: int, labelled: bool, dtype: str
) -> None:
    random = np.random.default_rng(window)
    runs = [random.normal(0, 100, (n, channels)).astype(dtype) for n in lengths]
    labels = [f"c{i % 2}" for i in range(len(runs))] if labelled else None
    table = td.series(runs, labels, window=window, hop=hop)
    made = pack(table)
    by_class = np.argsort(table.labels, kind="stable")
    want = [
        (row.tobytes(), int(label)) for row, label in zip(table.values[by_class], table.labels[by_class], strict=True)
    ]
    found = [(row.tobytes(), int(label)) for row, label in zip(made[:], made.labels, strict=True)]
    if hop < window:
        assert found == want  # in order
        block = int(np.gcd(window, hop))
        assert int(made.native.n_rows) * block == sum((n - window) // hop * hop + window for n in lengths)
    assert Counter(found) == Counter(want)
    chosen = [len(made) - 1, 0]
    assert made[chosen].tolist() == made[:][chosen].tolist() and made[0].shape == (window, channels)
    assert made[[]].shape == (0, window, channels) and len(made) == len(table)


def test_windows_of_real_labels_and_their_size() -> None:
    run = np.cumsum(np.random.default_rng(0).integers(-9, 10, 4000)).astype(np.int16)
    apart, overlapping = (pack(td.series([run], [0.5], window=64, hop=hop)) for hop in (64, 8))
    assert len(overlapping) == 493 and set(overlapping.labels.tolist()) == {0.5}
    assert len(overlapping.data) < 1.3 * len(apart.data)  # not 8 times
    again = Pack(overlapping.data)
    assert np.array_equal(again[10], run[80:144, None]) and again.facts()["windows"]["runs"] == [493]


@pytest.mark.parametrize("profile", ["mcu", "archive"])
def test_windows_stay_where_they_were_given(profile: str) -> None:
    random = np.random.default_rng(3)
    runs = [random.integers(-99, 99, (n, 2)).astype("i2") for n in (40, 30, 50, 31)]
    table = td.series(runs, ["b", "a", "b", "a"], window=20, hop=5)
    made = pack(table, keep_order=True, profile=profile)
    assert np.array_equal(made[:], table.values) and np.array_equal(made.labels, table.labels)
    assert np.array_equal(made[7], table.values[7])
