"""Reading tables: what is right comes back unchanged, what is wrong is refused with its place named."""

from __future__ import annotations

import csv
import io
import struct
import sys
import wave
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tinydream as td
from tinydream.errors import DataError, UsageError
from tinydream.packs.unpacking import unpack
from tinydream.tables.cells import CellType
from tinydream.tables.sources import read, series
from tinydream.tables.table import table_from_arrays, table_from_columns

CSV = "a,b,label\n1,2,sit\n3,4,run\n"
ON_DISK = settings(max_examples=60, deadline=None, suppress_health_check=[
    HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much])  # fmt: skip


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


@given(values=hnp.arrays(st.sampled_from([np.int8, np.uint16, np.int64, np.float32, np.bool_]),
                         hnp.array_shapes(min_dims=2, max_dims=4, max_side=5),
                         elements={"allow_nan": False, "allow_infinity": False}))  # fmt: skip
def test_arrays_are_kept(values: np.ndarray) -> None:
    labels = np.arange(len(values)) % 3
    table = table_from_arrays(values, labels, classes=3)
    np.testing.assert_array_equal(table.values, values)
    assert table.values.dtype == values.dtype and table.flat().shape == (len(values), values[0].size)
    assert table.labels.tolist() == labels.tolist() and table.classes == ("0", "1", "2")


@given(names=st.lists(st.text(st.characters(exclude_characters="\0"), max_size=4), min_size=1, max_size=20))
def test_names_are_numbered(names: list[str]) -> None:
    table = table_from_arrays(np.zeros((len(names), 1)), np.array(names, dtype=object))
    assert [table.classes[i] for i in table.labels] == names
    assert len(set(table.classes)) == len(table.classes) == len(set(names))
    again = table_from_arrays(np.zeros((len(names), 1)), np.array(names[::-1], dtype=object))
    assert again.classes == table.classes


def test_names_that_are_numbers_sort_by_value() -> None:
    table = table_from_arrays(np.zeros((5, 1)), ["10", "9", "nan", "-1", "inf"])
    assert table.classes == ("-1", "9", "10", "inf", "nan")


@pytest.mark.parametrize(("labels", "classes", "names"), [
    (np.array([1, -1, 1], np.int8), None, ("-1", "1")),
    (np.array([1.0, -1.0, 1.0]), None, ("-1", "1")),
    (np.array([2**64 - 1, 5, 1024], np.uint64), None, ("5", "1024", "18446744073709551615")),
    (np.array([-(2**63), 9, 10]), None, ("-9223372036854775808", "9", "10")),
    (np.array([1, 1, 1]), ["1", "-1"], ("1", "-1")),  # whichever rows a file has
    (np.array([1, -1, 1]), ["1", "-1"], ("1", "-1")),
    (np.array([1023, 0, 1]), None, tuple(map(str, range(1024)))),
    (np.array([1, 0, 1]), ["2020", "2021"], ("2020", "2021")),
])  # fmt: skip
def test_labels_that_are_no_class_numbers_are_names(tmp_path: Path, labels: Any, classes: Any, names: Any) -> None:
    rows = np.arange(6, dtype=np.int16).reshape(3, 2)
    table = table_from_arrays(rows, labels, classes=classes)
    numbered = len(names) == 1024 or names[0] == "2020"
    assert table.classes == names and table.ordered == (numbered or classes is not None)
    if not numbered:
        assert [int(names[i]) for i in table.labels] == labels.tolist()
    at_once = td.pack(table, keep_order=True)
    np.save(tmp_path / "x.npy", rows)
    np.save(tmp_path / "y.npy", labels)
    td.pack_file(tmp_path / "x.npy", tmp_path / "t.tdz", labels=tmp_path / "y.npy", classes=classes, keep_order=True)
    for made in (at_once, td.open_pack(tmp_path / "t.tdz")):
        assert made.classes == names and np.array_equal(made.class_numbers, table.labels)
        told = labels if classes is None or not numbered else np.array(names, dtype=object)[labels]
        assert made.to_arrow()["label"].to_pylist() == told.tolist()
        assert made.to_arrow()["label"].type == (
            pa.from_numpy_dtype(told.dtype) if told.dtype != object else pa.string()
        )
        unpack(made, tmp_path / "u.npy")
        beside = np.load(tmp_path / "u.labels.npy")
        assert np.array_equal(beside, labels) and (numbered or beside.dtype == labels.dtype)
        unpack(made, tmp_path / "u.npz")
        again = read(tmp_path / "u.npz")
        if numbered or classes is None:
            assert again.classes == names and np.array_equal(again.labels, table.labels)
        for suffix in ("csv", "parquet"):
            unpack(made, tmp_path / f"u.{suffix}")
            back = read(tmp_path / f"u.{suffix}", label="label")
            assert [back.classes[i] for i in back.labels] == [names[i] for i in table.labels]


def test_a_class_without_rows_is_allowed() -> None:
    table = table_from_arrays([[1], [2]], ["b", "b"], classes=["a", "b", "c"])
    assert table.labels.tolist() == [1, 1] and table.n_classes == 3


WRONG_ARRAYS: list[tuple[Any, Any, Any, str]] = [
    ([[1], [2]], [0, 5], 2, "1 labels are out of range, the first in row 1: 5"),
    ([[1], [2]], [0, -1], 2, "the first in row 1: -1"),
    ([[1], [2]], [0, -1], ["0", "-2"], "the first in row 1: -1"),
    ([[0]] * 1025, np.arange(-1025, 0), None, "1025 classes"),
    ([[1], [2]], [0, 1], 10**12, "1000000000000 classes"),
    ([[1], [2]], np.array([0, 2**64 - 1], np.uint64), 2, "out of range"),
    ([[1], [2]], [0, np.nan], None, "labels are missing"),
    ([[1], [2]], [0, 0.5], ["a", "b"], "classes are named, but the labels are real"),
    ([[1], [2]], [[0, 1], [1, 0]], 2, "classes are named, but the labels are real numbers or several"),
    ([[1], [2]], ["a", None], None, "row 1 has no label"),
    ([[1], [2]], ["a", "b"], 2, "labels are names"),
    ([[1], [2]], ["a", "z"], ["a", "b"], "row 1 has label 'z'"),
    ([[1], [2]], [0, 1], ["a", "a"], "'a' twice"),
    ([[1], [2]], [0], None, "2 rows but labels of shape (1,)"),
    ([[1], [2]], [[[0]], [[1]]], None, "2 rows but labels of shape (2, 1, 1)"),
    (np.zeros((0, 3)), [], None, "not (0, 3)"),
    (np.zeros((3, 0)), [0, 0, 0], None, "not (3, 0)"),
    ([1, 2], [0, 1], None, "not (2,)"),
    ([[["x"]], [["y"]]], [0, 1], None, "not numbers"),
    ([[1j], [2j]], [0, 1], None, "not numbers"),
    ([[1], [2]], np.array([b"\xff", b"a"]), None, "labels"),
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("values", "labels", "classes", "message"), WRONG_ARRAYS, ids=[w[3] for w in WRONG_ARRAYS])
def test_wrong_arrays_are_refused(values: Any, labels: Any, classes: Any, message: str) -> None:
    with pytest.raises(DataError) as raised:
        table_from_arrays(values, labels, classes=classes, source="here")
    assert message in str(raised.value) and "here" in str(raised.value)


def test_csv(tmp_path: Path) -> None:
    table = read(write(tmp_path / "t.csv", CSV), label="label")
    assert table.values.tolist() == [[1, 2], [3, 4]] and table.values.dtype.kind == "i"
    assert table.classes == ("run", "sit") and table.labels.tolist() == [1, 0]
    table = read(write(tmp_path / "t.csv", CSV.replace("4", "4.5")), label="label", classes=["sit", "run"])
    assert table.values.dtype == np.float64 and table.labels.tolist() == [0, 1]
    table = read(write(tmp_path / "t.csv", CSV))
    assert len(table.columns) == 3 and table.classes == ("0",) and table.columns[2].values.tolist() == ["sit", "run"]
    with pytest.raises(DataError, match="column 'label' holds texts"):
        table.flat()


def test_lines_without_cells_are_no_rows(tmp_path: Path) -> None:
    table = read(write(tmp_path / "t.csv", "\n\na,b\n1,2\n\n3,4\n\n"))
    assert [column.name for column in table.columns] == ["a", "b"] and len(table) == 2


def test_csv_as_spreadsheets_write_it(tmp_path: Path) -> None:
    table = read(write(tmp_path / "t.csv", "label,a\r\nsit,1\r\n\r\n", "utf-8-sig"), label="label")
    assert table.values.tolist() == [[1]] and table.classes == ("sit",)


def is_name(text: str) -> bool:
    """What stays as it is in a column of labels: no number."""
    try:
        float(text)
    except ValueError:
        return "\0" not in text and text.isprintable()
    return False


NAMES = st.text(min_size=1, max_size=5).filter(is_name)


@ON_DISK
@given(rows=st.lists(st.tuples(st.integers(-(2**31) + 1, 2**31 - 1), NAMES), min_size=1, max_size=10))
def test_csv_round_trip(tmp_path: Path, rows: list[tuple[int, str]]) -> None:
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(["value", "name"])
    writer.writerows(rows)
    table = read(write(tmp_path / "t.csv", stream.getvalue()), label="name")
    assert table.values.ravel().tolist() == [value for value, _ in rows]
    assert [table.classes[i] for i in table.labels] == [name for _, name in rows]


WRONG_CSV = [
    (CSV, "class", "no column 'class'; the header has a, b, label"),
    ("", "label", "the header has nothing"),
    ("a,label\n", "label", "at least one row"),
    ("label\nsit\n", "label", "not (1, 0)"),
    ("a,a,b\n1,2,3\n", "b", "2 columns are named 'a'"),
    (CSV + "5,6\n", "label", "line 4: 2 cells, but the header has 3"),
    ('a,label\n1,"x\ny"\n2\n', "label", "line 4: 1 cells"),
    (CSV + "5,6,\n", "label", "row 2 has no label"),
    (CSV + '5,"6,run\n7,8,sit\n', "label", "line 4: unexpected end of data; is a quote not closed?"),
    (CSV + '5,"6"7,run\n', "label", "line 4: ',' expected after"),
    (CSV + "x" * 200_000 + ",1,run\n", "label", "line 4: field larger than field limit (131072)"),
    ("a,label\n1,\ud800\n", "label", "save it as UTF-8"),
    ("a,label\n" + "".join(f"1,{i}\n" for i in range(1025)), "label", "1025 classes"),
]


@pytest.mark.parametrize(("text", "label", "message"), WRONG_CSV, ids=[w[2] for w in WRONG_CSV])
def test_wrong_csv_is_refused(tmp_path: Path, text: str, label: str | None, message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(DataError) as raised:
        read(path, label=label)
    assert message in str(raised.value) and "t.csv" in str(raised.value)


@ON_DISK
@given(data=st.binary(max_size=60))
def test_any_bytes_as_csv(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"a,label\n" + data)
    try:
        read(path, label="label")
    except DataError as error:
        assert "t.csv" in str(error)


def test_npz_and_npy(tmp_path: Path) -> None:
    x, y = np.arange(24, dtype=np.int8).reshape(2, 3, 4), np.array([1, 0])
    np.savez(tmp_path / "t.npz", x=x, y=y, other=y[::-1])
    assert read(tmp_path / "t.npz").labels.tolist() == [1, 0]
    assert read(tmp_path / "t.npz", label="other").labels.tolist() == [0, 1]
    with pytest.raises(DataError, match="no array 'z'; it holds x, y, other"):
        read(tmp_path / "t.npz", label="z")
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    assert read(tmp_path / "x.npy", labels=tmp_path / "y.npy").values.shape == (2, 3, 4)
    assert read(tmp_path / "x.npy").classes == ("0",)
    np.savez(tmp_path / "u.npz", x=x)
    assert read(tmp_path / "u.npz").classes == ("0",)
    with pytest.raises(DataError, match=r"gone\.npy: no such file"):
        read(tmp_path / "x.npy", labels=tmp_path / "gone.npy")


def test_not_a_table(tmp_path: Path) -> None:
    for name in ("t.txt", "t"):
        with pytest.raises(DataError, match="no such file"):
            read(tmp_path / name)
        (tmp_path / name).write_text("a")
        with pytest.raises(DataError, match=r"cannot be read; use \.csv, \.tsv, \.npz, \.npy, \.parquet"):
            read(tmp_path / name)
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path / "t.csv", label="label")
    (tmp_path / "dir.csv").mkdir()
    with pytest.raises(DataError, match=r"cannot be read as \.csv"):
        read(tmp_path / "dir.csv", label="label")


def damaged(data: bytes) -> list[bytes]:
    cuts = [data[:size] for size in range(len(data))]
    flips = [data[:i] + bytes([data[i] ^ mask]) + data[i + 1 :] for i in range(len(data)) for mask in (0x01, 0x80)]
    return cuts + flips


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_damaged_arrays_are_refused_or_read(tmp_path: Path, suffix: str) -> None:
    good, path, labels = io.BytesIO(), tmp_path / f"t{suffix}", tmp_path / "y.npy"
    x, y = np.arange(6, dtype=np.int16).reshape(2, 3), np.array([0, 1])
    np.save(labels, y)
    if suffix == ".npz":
        np.savez_compressed(good, x=x, y=y)
    else:
        np.save(good, x)
    for data in [*damaged(good.getvalue()), b"PK\x03\x04", b"\x80\x04."]:
        path.write_bytes(data)
        try:
            read(path, labels=labels)
        except DataError as error:
            assert path.name in str(error)


def test_a_npy_is_no_npz(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((2, 2)))
    (tmp_path / "x.npy").rename(tmp_path / "x.npz")
    with pytest.raises(DataError, match=r"x\.npz"):
        read(tmp_path / "x.npz")
    np.savez(tmp_path / "y.npz", x=np.zeros((2, 2)))
    (tmp_path / "y.npz").rename(tmp_path / "y.npy")
    with pytest.raises(DataError, match=r"y\.npy"):
        read(tmp_path / "y.npy", labels=tmp_path / "y.npy")


# ------------------------------------------------------------------ columns of all types


CELLS = [
    (["1", "-2", " 3"], np.int64, [1, -2, 3], None),
    (["1", "", "NA"], np.int64, [1, 0, 0], [1, 2]),
    (["18446744073709551615", "0"], np.uint64, [2**64 - 1, 0], None),
    (["1", "2.5", "-1e3", "nan", ".5"], np.float64, [1, 2.5, -1000, np.nan, 0.5], None),
    (["9007199254740993", "0.5"], object, ["9007199254740993", "0.5"], None),
    (["1e400", "0.5"], object, ["1e400", "0.5"], None),
    (["-1e-400", "0.5"], object, ["-1e-400", "0.5"], None),
    (["1e99999999999999999999", "1"], object, ["1e99999999999999999999", "1"], None),
    (["100000000000000000000.5", "1"], object, ["100000000000000000000.5", "1"], None),
    (["9007199254740993.0", "1"], object, ["9007199254740993.0", "1"], None),
    (["9007199254740.993e3", "1"], object, ["9007199254740.993e3", "1"], None),
    (["0." + 330 * "0" + "1", "1"], object, ["0." + 330 * "0" + "1", "1"], None),
    (["." + 290 * "0" + "1e-50", "1"], object, ["." + 290 * "0" + "1e-50", "1"], None),
    (["9.007199254740993e15", "1"], object, ["9.007199254740993e15", "1"], None),
    (["1e300", "-1.7976931348623157e308"], np.float64, [1e300, -1.7976931348623157e308], None),
    (["1.000000000000000053e+300", "100000000000000000000.0"], np.float64, [1e300, 1e20], None),  # np.savetxt, "%f"
    (["-Infinity", "iNf", " NaN"], np.float64, [-np.inf, np.inf, np.nan], None),
    (["5e-324", "0.000e-999", "-0.0"], np.float64, [5e-324, 0, -0.0], None),
    (["0.33333333333333333333", "0.1000000000000000055511"], np.float64, [1 / 3, 0.1], None),
    (["1" * 5000, "2"], object, ["1" * 5000, "2"], None),
    (["1" * 5000, "0.5"], object, ["1" * 5000, "0.5"], None),
    (["18446744073709551616", "1"], object, ["18446744073709551616", "1"], None),
    (["-1", "18446744073709551615"], object, ["-1", "18446744073709551615"], None),
    (["007", "1"], object, ["007", "1"], None),
    (["1\n2", "3"], object, ["1\n2", "3"], None),
    (["NA", "x", ""], object, ["NA", "x", ""], [2]),
    (["True", "false", ""], np.bool_, [True, False, False], [2]),
    (["", "NA"], np.float64, [0, 0], [0, 1]),
    (["2024-01-01T00:00Z", "", "2024-01-01 00:00:00.25Z"], "M8[ms]", [1704067200000, 0, 1704067200250], [1]),
    (["2024-01-01T00:00Z", "2024-01-01T00:00"], object, ["2024-01-01T00:00Z", "2024-01-01T00:00"], None),
    (["2024-01-01", "2024-01-01T00:00Z"], object, ["2024-01-01", "2024-01-01T00:00Z"], None),
    (["2024-13-01T00:00Z", "x"], object, ["2024-13-01T00:00Z", "x"], None),
    (["2024-02-29", "1066-10-14"], "M8[D]", [19782, -329893], None),
    (["2024-02-29", "2024-02-30"], object, ["2024-02-29", "2024-02-30"], None),
    (["2024-02-29T01:02:03", "2024-02-29", ""], "M8[s]", [1709168523, 1709164800, 0], [2]),
    (["2024-02-29 01:02", "2024-02-29 01:02:03.25"], "M8[ms]", [1709168520000, 1709168523250], None),
    (["1500-01-01 00:00:00.123456"], "M8[us]", [-14831769599876544], None),
    (["1500-01-01 00:00:00.1234567"], object, ["1500-01-01 00:00:00.1234567"], None),
    (["2000-01-01 00:00:00.123456789"], "M8[ns]", [946684800123456789], None),
]


@pytest.mark.parametrize(("cells", "dtype", "values", "missing"), CELLS, ids=[" ".join(c[0])[:60] for c in CELLS])
def test_the_type_of_a_csv_column(tmp_path: Path, cells: Any, dtype: Any, values: Any, missing: Any) -> None:
    stream = io.StringIO()
    csv.writer(stream).writerows([["a", "b"], *([cell, "7"] for cell in cells)])
    column = read(write(tmp_path / "t.csv", stream.getvalue())).columns[0]
    assert column.values.dtype == np.dtype(dtype)
    found = column.values.view(np.int64) if column.values.dtype.kind == "M" else column.values
    kept = [value for i, value in enumerate(found.tolist()) if missing is None or i not in missing]
    want = [value for i, value in enumerate(values) if missing is None or i not in missing]
    assert list(map(str, kept)) == list(map(str, np.array(want, dtype=found.dtype).tolist()))
    assert (None if column.missing is None else np.flatnonzero(column.missing).tolist()) == missing


@settings(max_examples=300, deadline=None)
@given(st.from_regex(r"[+-]?([1-9][0-9]{0,20}|0)(\.[0-9]{0,20})?([eE][+-]?(0[0-9]|[0-9]{1,3}))?", fullmatch=True))
def test_only_numbers_that_keep_their_size_become_real(cell: str) -> None:
    found = CellType()
    found.see([cell, "0.5"])
    given, nearest = Fraction(Decimal(cell)), float(cell)
    if np.isinf(nearest) or (nearest == 0) != (given == 0):
        assert found.kind == "text"
    elif abs(given) <= 2**53:
        assert found.kind == "f8"


def test_types_do_not_depend_on_where_a_file_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "a,b,c\n1,x,2024-01-01\n2,,2024-01-02\n2.5,y,2024-01-02 03:04\n,z,\n"
    whole = read(write(tmp_path / "t.csv", text)).columns
    for rows in (1, 2, 3):
        monkeypatch.setattr("tinydream.tables.sources.READ_ROWS", rows)
        for one, other in zip(whole, read(tmp_path / "t.csv").columns, strict=True):
            assert one.values.dtype == other.values.dtype and one.values.tolist() == other.values.tolist()
            assert one.missing is other.missing or one.missing.tolist() == other.missing.tolist()


def test_columns_by_name() -> None:
    table = table_from_columns({"a": np.ma.array([1, 2], mask=[0, 1]), "b": ["x", None], "y": [0.5, 1.5]}, label="y")
    assert [column.missing.tolist() for column in table.columns] == [[False, True], [False, True]]
    assert table.real_labels().tolist() == [[0.5], [1.5]] and table.classes == ("0",) and len(table) == 2
    for columns, label, message in (({"a": [1]}, "z", "no column 'z'"), ({"a": [1], "y": [1, 2]}, None, "at least one"),
                                    ({"a": [1j]}, None, "cannot be packed"), ({"a": [[1]]}, None, "shape"),
                                    ({"a": [object()]}, None, "of one type are needed"), ({"y": [1]}, "y", "at least"),
                                    ({"a": np.array(["NaT"], "M8")}, None, "without a unit")):  # fmt: skip
        with pytest.raises(DataError, match=message):
            table_from_columns(columns, label=label)


def test_labels_may_be_real_or_several() -> None:
    rows = np.zeros((3, 1))
    assert table_from_arrays(rows, [0.0, 1.0, 2.0]).n_classes == 3
    assert table_from_arrays(rows, [0.0, 1.0, 2.5]).real_labels().tolist() == [[0], [1], [2.5]]
    assert table_from_arrays(rows, [0, 1, 2], real=True).real_labels().ravel().tolist() == [0, 1, 2]
    assert table_from_arrays(rows, [[0, 1], [2, 3], [4, 5]]).real_labels().shape == (3, 2)
    assert table_from_arrays(rows, [[0], [1], [1]]).labels.tolist() == [0, 1, 1]
    with pytest.raises(DataError, match="texts, not real"):
        table_from_arrays(rows, ["a", "b", "c"], real=True)
    with pytest.raises(DataError, match="holds texts, not numbers"):
        table_from_columns({"a": [1], "y": ["u"], "z": [1]}, label=["y", "z"]).real_labels()


# ------------------------------------------------------------------ frames, Parquet, recordings


FRAME = {
    "i": pd.Series([1, -5, 2**62], dtype="int64"), "u": pd.Series([1, 2, 2**64 - 1], dtype="uint64"),
    "f": pd.Series([0.5, -0.0, 1e300]), "s": pd.Series(["a", None, ""], dtype=object), "b": [True, False, True],
    "t": pd.Series(np.array(["2024-01-01T00:00:00.5", "NaT", "1999-12-31"], "M8[ns]")),
    "n": pd.Series([1, None, 3], dtype="Int16"), "c": pd.Categorical(["u", "v", "u"]),
}  # fmt: skip


def assert_like_frame(columns: Any) -> None:
    by_name = {column.name: column for column in columns}
    assert by_name["i"].values.tolist() == [1, -5, 2**62] and by_name["i"].values.dtype == np.int64
    assert by_name["u"].values.tolist() == [1, 2, 2**64 - 1] and by_name["u"].values.dtype == np.uint64
    assert list(map(str, by_name["f"].values.tolist())) == ["0.5", "-0.0", "1e+300"]
    assert by_name["s"].values.tolist()[::2] == ["a", ""] and by_name["s"].missing.tolist() == [False, True, False]
    assert by_name["b"].values.tolist() == [True, False, True] and by_name["b"].values.dtype == bool
    stamps = np.array(["2024-01-01T00:00:00.5", "1999-12-31"], "M8[ns]")
    assert (by_name["t"].values[[0, 2]] == stamps).all() and by_name["t"].missing.tolist() == [False, True, False]
    assert by_name["n"].values[[0, 2]].tolist() == [1, 3] and by_name["n"].values.dtype == np.int16
    assert by_name["c"].values.tolist() == ["u", "v", "u"] and len(by_name) == 8


def test_data_frames_and_parquet(tmp_path: Path) -> None:
    frame = pd.DataFrame(FRAME).set_index(pd.Index([5, 7, 9]))
    assert_like_frame(read(frame).columns)
    frame.to_parquet(tmp_path / "t.parquet")
    assert_like_frame(read(tmp_path / "t.parquet").columns)
    assert_like_frame(read(pl.from_pandas(frame)).columns)
    assert read(frame, label="c").classes == ("u", "v")


def test_times_keep_their_zone(tmp_path: Path) -> None:
    times = [None, 0, 1_700_000_000_000, -1]
    zones = {"UTC": "ms", "Europe/Berlin": "ms", "+05:30": "us", "America/New_York": "ns"}
    given = pa.table({zone: pa.array(times, pa.timestamp(unit, zone)) for zone, unit in zones.items()} | {
        "naive": pa.array(times, pa.timestamp("us")),
        "coded": pa.array(times, pa.timestamp("ms", "UTC")).dictionary_encode(),
        "y": pa.array([1, 2, 3, 4], pa.timestamp("us", "Asia/Tokyo")), "z": [1, 2, 3, 4]})  # fmt: skip
    pq.write_table(given, tmp_path / "t.parquet")
    expected = given.set_column(5, "coded", given["coded"].cast(pa.timestamp("ms", "UTC")))
    label = ["y", "z"]
    td.pack_file(tmp_path / "t.parquet", tmp_path / "t.tdz", label=label, keep_order=True)
    frames = [read(given, label=label), read(tmp_path / "t.parquet", label=label)]
    for made in (*(td.pack(frame, keep_order=True) for frame in frames), td.open_pack(tmp_path / "t.tdz")):
        assert made.to_arrow() == expected and made.to_arrow(slice(1, 3)) == expected[1:3]
        assert made.columns()[0].zone == "UTC" and made.columns()[4].zone is None and made.targets()[0].zone
        assert made.columns([2])[0].values[0] == np.datetime64(1_700_000_000, "s")
        unpack(made, tmp_path / "u.parquet")
        assert pq.read_table(tmp_path / "u.parquet") == expected
        unpack(made, tmp_path / "u.csv")
        row = (tmp_path / "u.csv").read_text().splitlines()[3].split(",")
        assert row[0] == "2023-11-14T22:13:20.000Z" and row[1].endswith("Z") and not row[4].endswith("Z")


def test_times_in_utc_are_read_from_csv(tmp_path: Path) -> None:
    text = "a,t,y\n1,2024-01-01T00:00:00Z,2024-01-01T00:00Z\n2,,2024-01-02T00:00Z\n"
    source = write(tmp_path / "t.csv", text)
    table = read(source, label="y")
    assert table.columns[1].zone == "UTC" and table.classes == ("2024-01-01T00:00Z", "2024-01-02T00:00Z")
    td.pack_file(source, tmp_path / "t.tdz", label="y", keep_order=True)
    for made in (td.pack(table, keep_order=True), td.open_pack(tmp_path / "t.tdz")):
        assert made.to_arrow()["t"].type == pa.timestamp("s", "UTC")
        unpack(made, tmp_path / "u.csv")
        assert (tmp_path / "u.csv").read_text() == text


def test_decimals_come_back(tmp_path: Path) -> None:
    prices = [Decimal("19.90"), None, Decimal("-0.01"), Decimal("9999999999999.99"), Decimal("0.00")]
    given = pa.table({
        "price": pa.array(prices, pa.decimal128(15, 2)), "wide": pa.array(prices, pa.decimal128(38, 2)),
        "whole": pa.array([1, 2, 3, 4, None], pa.decimal128(18, 0)),
        "tiny": pa.array([Decimal(1).scaleb(-22), None] * 2 + [Decimal(10**15 - 1).scaleb(-22)], pa.decimal128(38, 22)),
        "coded": pa.array(prices, pa.decimal128(18, 2)).dictionary_encode(),
        "y": pa.array([Decimal("0.5")] * 5, pa.decimal128(3, 1)), "z": [1, 2, 3, 4, 5]})  # fmt: skip
    pq.write_table(given, tmp_path / "t.parquet")
    expected = given.set_column(4, "coded", given["coded"].cast(pa.decimal128(18, 2)))
    label = ["y", "z"]
    td.pack_file(tmp_path / "t.parquet", tmp_path / "t.tdz", label=label, keep_order=True)
    frames = [read(given, label=label), read(tmp_path / "t.parquet", label=label)]
    for made in (*(td.pack(frame, keep_order=True) for frame in frames), td.open_pack(tmp_path / "t.tdz")):
        assert made.to_arrow() == expected and made.to_arrow(slice(1, 3)) == expected[1:3]
        assert made.columns()[0].values[0] == 19.9 and made.columns()[0].decimal == (15, 2)
        for name in ("u.parquet", "u.csv"):
            unpack(made, tmp_path / name)
        assert pq.read_table(tmp_path / "u.parquet") == expected
        assert (tmp_path / "u.csv").read_text().splitlines()[1].split(",")[:3] == ["19.90", "19.90", "1"]
    sliced = given.slice(2, 3)
    assert td.pack(read(sliced, label=label), keep_order=True).to_arrow() == expected.slice(2, 3)
    lossy = td.pack(read(given, label=label), keep_order=True, lossy_bits=8).to_arrow()
    assert lossy["price"].type == pa.float64() and lossy["y"].type == pa.decimal128(3, 1)


@pytest.mark.parametrize("kind", [pa.decimal128(38, 0), pa.decimal128(38, 23), pa.decimal256(40, 2)])
def test_decimals_of_more_digits_than_real_numbers_are_refused(kind: Any) -> None:
    value = Decimal(-(2**63) if kind.scale == 0 else 10**15).scaleb(-kind.scale)
    with pytest.raises(DataError, match=r"column 'a' .* 15 digits"):
        read(pa.table({"a": pa.array([value, None], kind), "b": [1, 2]}))


def test_an_entry_of_a_category_may_be_missing() -> None:
    categories = pa.DictionaryArray.from_arrays(pa.array([0, 1, None, 1]), pa.array(["x", None]))
    found = read(pa.table({"c": categories})).columns[0]
    assert found.missing is not None and found.missing.tolist() == [False, True, True, True]


def test_days_of_both_kinds_are_days() -> None:
    day = 86_400_000
    found = read(pa.table({"d": pa.array([0, day, None], pa.date64())})).columns[0]
    assert found.values.dtype == "M8[D]" and found.values.view("i8").tolist()[:2] == [0, 1]
    with pytest.raises(DataError, match="holds times of day"):
        read(pa.table({"d": pa.array([day + 1], pa.int64()).view(pa.date64())}))


def test_what_arrow_cannot_hold_is_refused() -> None:
    for frame in (pd.DataFrame({"a": [1, "x"]}), pd.DataFrame([[1, 2]], columns=["a", "a"]), pl.Series([1])):
        with pytest.raises(DataError, match="that Arrow cannot hold"):
            read(frame)


def test_packs_are_made_of_all_that_can_be_read(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.eye(3))
    assert td.pack(pd.DataFrame({"a": [1, 2]})).names == ("a",)
    assert len(td.pack(np.eye(3))) == len(td.pack(tmp_path / "x.npy")) == 3
    with pytest.raises(DataError, match="table_from_arrays"):
        td.pack([[1, 2]])


@pytest.mark.parametrize("dtype", [">f2", ">f4", ">f8", ">i4", ">u8"])
def test_bytes_in_the_other_order(dtype: str) -> None:
    values = np.array([[1.5, -2], [19.99, 3]]).astype(dtype)
    made = td.pack(values, keep_order=True)
    assert np.array_equal(made[:], values) and made[:].dtype == np.dtype(dtype).newbyteorder("=")


def test_what_is_no_frame_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="a list is no data frame"):
        read([1, 2])
    zoned = pa.table({"a": pa.array([0], pa.timestamp("s", "UTC")), "b": [1]})
    with pytest.raises(DataError, match="label 'a' has the time zone UTC"):
        read(zoned, label="a")
    with pytest.raises(DataError, match="'a' is of type list"):
        read(pa.table({"a": [[1]]}))
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"t\.parquet: cannot be read"):
        read(tmp_path / "t.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match="install"):
        read(zoned)


def save_wave(path: Path, samples: np.ndarray, width: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as out:
        out.setnchannels(samples.shape[1])
        out.setsampwidth(width)
        out.setframerate(8000)
        data = samples.astype("<i4").tobytes() if width > 1 else samples.astype(np.uint8).tobytes()
        if width in (2, 3):
            data = samples.astype("<i4").reshape(-1, 1).view(np.uint8).reshape(-1, 4)[:, :width].tobytes()
        out.writeframes(data)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_recordings_become_windows(tmp_path: Path, width: int) -> None:
    random, span = (
        np.random.default_rng(width),
        (0, 255) if width == 1 else (-(2 ** (8 * width - 1)), 2 ** (8 * width - 1) - 1),
    )
    runs = {
        name: random.integers(*span, (n, 2)) for name, n in (("yes/b", 20), ("yes/a", 11), ("no/c", 8), ("no/d", 7))
    }
    for name, samples in runs.items():
        save_wave(tmp_path / "set" / f"{name}.wav", samples, width)
    table = read(tmp_path / "set", window=8, hop=3)
    assert table.classes == ("no", "yes") and table.labels.tolist() == [0, 1, 1, 1, 1, 1, 1, 1]
    want = [
        runs[name][i : i + 8]
        for name, last in (("no/c", 0), ("yes/a", 3), ("yes/b", 12))
        for i in range(0, last + 1, 3)
    ]
    assert np.array_equal(table.values, want)
    assert table.left_out == (f"recordings shorter than a window left out: 1, such as {tmp_path / 'set/no/d.wav'}",)
    for window, hop in ((None, None), (0, None), (8, 0)):
        with pytest.raises(UsageError, match="--window"):
            read(tmp_path / "set", window=window, hop=hop)
    with pytest.raises(DataError, match="no recording has a whole window of 21"):
        read(tmp_path / "set", window=21)
    (tmp_path / "set" / "no" / "e.wav").write_bytes(b"RIFF")
    with pytest.raises(DataError, match=r"e\.wav: cannot be read"):
        read(tmp_path / "set", window=8)


def wave_bytes(samples: np.ndarray, tag: int, *, extensible: bool = False, size: int | None = None) -> bytes:
    """A .wav of one channel at 8 kHz; `size`: what its data chunk claims."""
    width, data = samples.itemsize, samples.tobytes()
    described = struct.pack("<HHIIHH", 0xFFFE if extensible else tag, 1, 8000, 8000 * width, width, 8 * width)
    if extensible:
        described += struct.pack("<HHIH", 22, 8 * width, 4, tag) + bytes.fromhex("000000001000800000aa00389b71")
    chunks = b"LIST" + struct.pack("<I", 3) + b"odd\0" + b"fmt " + struct.pack("<I", len(described)) + described
    chunks += b"data" + struct.pack("<I", len(data) if size is None else size) + data
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


@pytest.mark.parametrize(("tag", "dtype"), [(1, "u1"), (1, "<i2"), (1, "<i4"), (3, "<f4"), (3, "<f8")])
@pytest.mark.parametrize("extensible", [False, True])
def test_recordings_of_all_formats(tmp_path: Path, tag: int, dtype: str, extensible: bool) -> None:
    samples = np.random.default_rng(1).normal(0, 50, 20).astype("f8").astype(dtype)
    for size in (None, 2**32 - 1):  # what a writer into a pipe claims
        (tmp_path / "a.WAV").write_bytes(wave_bytes(samples, tag, extensible=extensible, size=size))
        table = read(tmp_path, window=5)
        assert table.values.dtype == samples.dtype and np.array_equal(table.flat().ravel(), samples)
        assert table.n_classes == 1


@pytest.mark.parametrize(("data", "message"), [
    (wave_bytes(np.zeros(9, "u1"), 7), "8 bits in format 7"), (wave_bytes(np.zeros(9, "<f2"), 3), "16 bits in form"),
    (wave_bytes(np.zeros(9, "<f4"), 1)[:-5], "5 bytes too early"), (b"RIFX", "does not begin like one"),
    (b"RIFF\0\0\0\0WAVEfmt \2\0\0\0\1\0", "no format or no samples"),
])  # fmt: skip
def test_recordings_that_cannot_be_read(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.wav").write_bytes(data)
    with pytest.raises(DataError, match=message):
        read(tmp_path, window=1)


def test_which_files_of_a_folder_are_read(tmp_path: Path) -> None:
    samples = wave_bytes(np.arange(9, dtype="<i2"), 1)
    for name in ("b/1.wav", "a/deep/2.wav", "a/._2.wav", ".git/3.wav", "a/.trash/4.wav", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(samples if "._" not in name else b"not a recording")
    table = read(tmp_path, window=9)
    assert table.classes == ("a", "b") and len(table) == 2
    assert table.left_out == (f"other files left out: 1, such as {tmp_path / 'a/notes.txt'}",)
    (tmp_path / "5.wav").write_bytes(samples)
    with pytest.raises(DataError, match=r"5\.wav: lies beside the folders"):
        read(tmp_path, window=9)
    (tmp_path / "5.wav").rename(tmp_path / "b" / "5.png")
    with pytest.raises(DataError, match="holds images and recordings"):
        read(tmp_path, window=9)


def test_recordings_of_different_formats(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(wave_bytes(np.zeros(9, "<i2"), 1))
    (tmp_path / "b.wav").write_bytes(wave_bytes(np.zeros(9, "<i4"), 1))
    with pytest.raises(DataError, match=r"8000 Hz, 1 channels of int32, but a[.]wav has 8000 Hz, 1 channels of int16"):
        read(tmp_path, window=9)


def test_a_folder_without_recordings(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no images and no \.wav files"):
        read(tmp_path, window=4)


def test_wrong_series() -> None:
    for runs, labels, window, hop, message in (
        ([], None, 2, 1, "must be one"), ([np.zeros(3), np.zeros((3, 2))], None, 2, 1, "same type"),
        ([np.zeros(3)], [1, 2], 2, 1, "one label a series"), ([np.zeros(3)], None, 4, 1, "has no window of 4"),
        ([np.zeros(3)], None, 0, 1, "at least 1"), ([np.zeros((1, 1, 1))], None, 1, 1, "a series is numbers"),
        ([np.array(["x"])], None, 1, 1, "a series is numbers"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=message):
            series(runs, labels, window=window, hop=hop)


# ------------------------------------------------------------------ what else people have


@pytest.mark.parametrize("delimiter", [";", "\t", ","])
def test_cells_between_other_delimiters(tmp_path: Path, delimiter: str) -> None:
    lines = [["a", "b, of c", "d"], ["1", "19.99", "x, y"], ["2", "5.01", "z"]]
    path = tmp_path / "t.csv"
    with path.open("w", newline="") as stream:
        csv.writer(stream, delimiter=delimiter).writerows(lines)
    found = read(path, label="d")
    assert [column.name for column in found.columns] == ["a", "b, of c"] and found.classes == ("x, y", "z")
    assert found.columns[1].values.tolist() == [19.99, 5.01]
    td.pack_file(path, tmp_path / "t.tdz", label="d")
    assert td.open_pack(tmp_path / "t.tdz").classes == ("x, y", "z")
    path.write_text("text; of one column\n1\n2\n")
    assert [column.name for column in read(path).columns] == ["text; of one column"]


def test_text_that_is_not_utf_8(tmp_path: Path) -> None:
    for encoding in ("latin-1", "utf-16"):
        (tmp_path / "t.csv").write_bytes("a,b\nÅ,1\n".encode(encoding))
        with pytest.raises(DataError, match="save it as UTF-8"):
            read(tmp_path / "t.csv")


def test_what_unpack_writes_is_read_again(tmp_path: Path) -> None:
    columns = {"a": np.ma.array([1, 2, 3], mask=[0, 1, 0]), "file": ["x", "y", "z"], "f": [0.5, 1, 2]}
    for label, name in ((None, "f"), (["u", "v", "u"], "kind")):
        given = columns if label is None else {**columns, "kind": label}
        table = table_from_columns(given, label=None if label is None else name)
        unpack(td.pack(table, keep_order=True), tmp_path / "t.npz")
        again = read(tmp_path / "t.npz")
        assert [column.name for column in again.columns] == ["a", "file", "f"]
        assert again.columns[0].missing is not None and again.columns[0].missing.tolist() == [False, True, False]
        assert again.classes == table.classes and again.labels.tolist() == table.labels.tolist()
    unpack(td.pack(table_from_arrays(np.eye(2), ["b", "a"]), keep_order=True), tmp_path / "t.npz")
    assert read(tmp_path / "t.npz").classes == ("a", "b") and read(tmp_path / "t.npz").labels.tolist() == [1, 0]
    taken = table_from_columns({"y": ["p", "q"], "n": [1, 2], "kind": ["u", "v"]}, label="kind")
    with pytest.raises(DataError, match="two arrays would be named 'y'"):
        unpack(td.pack(taken), tmp_path / "t.npz")
    mixed = table_from_columns({"a": [1, 2], "b": ["x", "yy"], "y": [0.5, 1.5]}, label="y")
    unpack(td.pack(mixed, keep_order=True), tmp_path / "t.npy")
    again = read(tmp_path / "t.npy")
    assert [column.values.tolist() for column in again.columns] == [[1, 2], ["x", "yy"]]


def test_texts_keep_what_numpy_cuts_off(tmp_path: Path) -> None:
    made = td.pack(table_from_columns({"t": ["x\0", "y\0\0"], "n": [1, 2]}), keep_order=True)
    assert made.columns()[0].values.tolist() == ["x\0", "y\0\0"]
    for suffix in ("npy", "npz"):
        with pytest.raises(DataError, match="cuts off zeros"):
            unpack(made, tmp_path / f"t.{suffix}")
    unpack(made, tmp_path / "t.parquet")
    assert read(tmp_path / "t.parquet").columns[0].values.tolist() == ["x\0", "y\0\0"]
    with pytest.raises(DataError, match=r"column 't': the text .* is no Unicode"):
        td.pack(table_from_columns({"t": ["\ud800", "y"]}))


def test_types_that_cannot_be_packed_say_what_to_try() -> None:
    for values, message in (([[1, 2], [3]], "spread its parts"), ([{"a": 1}], "spread its parts"),
                            ([b"ab"], "cast it to one of these")):  # fmt: skip
        with pytest.raises(DataError, match=message):
            read(pa.table({"c": values}))


@pytest.mark.filterwarnings("error")
def test_missing_half_precision_numbers_warn_of_nothing() -> None:
    made = td.pack(table_from_columns({"a": np.ma.array(np.array([1, 2], "f2"), mask=[0, 1]), "b": [1, 2]}))
    assert made[:].mask["a"].tolist() == [False, True] and repr(made[1]) == "(--, 2)"


def test_steps_stay_within_their_type() -> None:
    with pytest.raises(DataError, match="take smaller steps"):
        td.pack(np.array([[1], [65504]], "f2"), resolution=1000.0)
    for wrong in ({"lossy_bits": 0}, {"resolution": 0.0}, {"lossy_bits": 8, "resolution": 0.1}):
        with pytest.raises(UsageError):
            td.pack(np.eye(2), **wrong)


def test_an_index_without_a_name_is_told(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1, 2, 3]}, index=pd.to_datetime(["2026-01-01", "2026-01-02", "2026-01-05"]))
    frame.to_parquet(tmp_path / "t.parquet")
    for table in (td.from_frame(frame), td.read(tmp_path / "t.parquet")):
        assert [column.name for column in table.columns] == ["a"] and "row index left out" in table.left_out[0]
    told = td.pack_file(tmp_path / "t.parquet", tmp_path / "t.tdz", max_memory=2**22)
    assert "row index left out" in told.left_out[0]
    frame.index.name = "day"
    assert {column.name for column in td.from_frame(frame).columns} == {"a", "day"}
    assert td.from_frame(frame).left_out == () == td.from_frame(pd.DataFrame({"a": [1]})).left_out


def test_the_earliest_time_is_refused() -> None:
    """NumPy takes it for none."""
    table = pa.table({"t": pa.array([-(2**63), 0, 5], pa.timestamp("ns"))})
    with pytest.raises(DataError, match=r"column 't' holds -2\^63 ns"):
        td.from_frame(table)
    assert td.from_frame(table.slice(1)).columns[0].values.tolist() == [0, 5]


def test_a_tsv_is_a_csv(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("a\tb\ty\n1\t0.5\tx\n2\t1.5\tz\n")
    table = td.read(tmp_path / "t.tsv", label="y")
    assert [column.name for column in table.columns] == ["a", "b"] and table.classes == ("x", "z")
    assert td.pack_file(tmp_path / "t.tsv", tmp_path / "t.tdz", label="y", max_memory=2**22).rows == 2


def test_labels_that_cannot_be_classes_say_why(tmp_path: Path) -> None:
    columns = {"a": np.arange(3), "y": np.array([1.0, np.nan, 0.0])}
    with pytest.raises(DataError, match="missing"):
        table_from_columns(columns, label="y", real=False)
    with pytest.raises(DataError, match="'y' is named 2 times"):
        table_from_columns(columns, label=["y", "y"])
    (tmp_path / "x.npy").write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match="no NumPy file"):
        td.read(tmp_path / "x.npy")


def test_masked_cells_of_an_array_are_missing() -> None:
    x = np.ma.MaskedArray(np.arange(12).reshape(4, 3), np.eye(4, 3, dtype=bool))
    table = table_from_arrays(x, [0, 1, 1, 0])
    assert [(c.name, c.missing.tolist()) for c in table.columns] == [(f"x{i}", x.mask[:, i].tolist()) for i in range(3)]
    again = td.pack(table, keep_order=True)[:]
    assert again.tolist() == list(map(tuple, x.tolist()))
    assert td.pack(again, keep_order=True)[:].tolist() == again.tolist()
    assert table_from_arrays(np.ma.MaskedArray([[1, 2]]), None).values.tolist() == [[1, 2]]  # none is masked
    with pytest.raises(DataError, match=r"masked in rows of shape \(2, 2\); fill them in"):
        table_from_arrays(np.ma.masked_all((3, 2, 2)), None)
    with pytest.raises(DataError, match="row 1 has no label"):
        table_from_arrays(np.zeros((3, 2)), np.ma.MaskedArray([0, 1, 1], [False, True, False]))


def test_arrays_of_columns() -> None:
    rows = np.array([(1, 2.5), (3, 4.5)], [("a", "i4"), ("b", "f8")])
    made = td.pack(table_from_arrays(rows, ["no", "yes"]), keep_order=True)
    assert made[:].tolist() == rows.tolist() and made.classes == ("no", "yes") and made.names[0] == "a"
    days = np.array([["2020-01-01", "2020-01-02"], ["2021-01-01", "2022-01-02"]], "M8[D]")
    assert td.pack(days, keep_order=True)[:].tolist() == days.tolist()
    texts = np.array([["a", "b"], ["c", ""]])
    assert td.pack(texts, keep_order=True)[:].tolist() == [("a", "b"), ("c", "")]


def test_what_unpack_writes_of_mixed_columns_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,day,y\n1,2020-01-01,-1\n2,2020-01-02,1\n3,2020-01-05,1\n")
    made = td.pack(read(tmp_path / "t.csv", label="y"), keep_order=True)
    for suffix in ("npz", "npy"):
        written = unpack(made, tmp_path / f"u.{suffix}")
        again = read(written[0], labels=written[1] if suffix == "npy" else None)
        assert again.classes == made.classes == ("-1", "1") and again.labels.tolist() == made.labels.tolist()
        assert [c.values.tolist() for c in again.columns] == [c.values.tolist() for c in made.columns()]
