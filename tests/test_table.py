"""Reading tables: what is right comes back unchanged, what is wrong is refused with its place named."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinydream.errors import DataError
from tinydream.table import read, table_from_arrays

CSV = "a,b,label\n1,2,sit\n3,4,run\n"
ON_DISK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


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


def test_a_class_without_rows_is_allowed() -> None:
    table = table_from_arrays([[1], [2]], ["b", "b"], classes=["a", "b", "c"])
    assert table.labels.tolist() == [1, 1] and table.n_classes == 3


WRONG_ARRAYS: list[tuple[Any, Any, Any, str]] = [
    ([[1.0, np.nan], [np.inf, 2.0]], [0, 1], None, "2 values are NaN or infinite, the first in row 0, feature 1"),
    ([[1], [2]], [0, 5], 2, "1 labels are out of range, the first in row 1: 5"),
    ([[1], [2]], [0, -1], None, "the first in row 1: -1"),
    ([[1], [2]], [0, 10**12], None, "1000000000001 classes"),
    ([[1], [2]], [0, 1], 10**12, "1000000000000 classes"),
    ([[1], [2]], np.array([0, 2**64 - 1], np.uint64), None, "out of range"),
    ([[1], [2]], [0, 0.5], None, "not fractions"),
    ([[1], [2]], [0, np.nan], None, "not fractions"),
    ([[1], [2]], ["a", "b"], 2, "labels are names"),
    ([[1], [2]], ["a", "z"], ["a", "b"], "row 1 has label 'z'"),
    ([[1], [2]], [0, 1], ["a", "a"], "'a' twice"),
    ([[1], [2]], [0], None, "2 rows but labels of shape (1,)"),
    ([[1], [2]], [[0], [1]], None, "2 rows but labels of shape (2, 1)"),
    (np.zeros((0, 3)), [], None, "not (0, 3)"),
    (np.zeros((3, 0)), [0, 0, 0], None, "not (3, 0)"),
    ([1, 2], [0, 1], None, "not (2,)"),
    ([["x"], ["y"]], [0, 1], None, "not numbers"),
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


def test_csv_as_spreadsheets_write_it(tmp_path: Path) -> None:
    table = read(write(tmp_path / "t.csv", "label,a\r\nsit,1\r\n\r\n", "utf-8-sig"), label="label")
    assert table.values.tolist() == [[1]] and table.classes == ("sit",)


@ON_DISK
@given(rows=st.lists(st.tuples(st.integers(-(2**31) + 1, 2**31 - 1), st.text(max_size=5).filter(lambda s: "\0" not in s
    and s.isprintable())), min_size=1, max_size=10))  # fmt: skip
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
    (CSV, None, "name the label column"),
    ("", "label", "the header has nothing"),
    ("a,label\n", "label", "at least one row"),
    ("label\nsit\n", "label", "not (1, 0)"),
    ("a,a,b\n1,2,3\n", "a", "2 columns are named 'a'"),
    (CSV + "5,6\n", "label", "line 4: 2 cells, but the header has 3"),
    ('a,label\n1,"x\ny"\n2\n', "label", "line 4: 1 cells"),
    (CSV + "5,six,run\n", "label", "line 4, column 'b': 'six' is not a number"),
    (CSV + "5,,run\n", "label", "line 4, column 'b': '' is not a number"),
    (CSV + "5,nan,run\n", "label", "the first in row 2, feature 1"),
    (CSV + "x" * 200_000 + ",1,run\n", "label", "cannot be read as .csv"),
    ("a,label\n1,\ud800\n", "label", "cannot be read as .csv"),
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
    with pytest.raises(DataError, match=r"second \.npy"):
        read(tmp_path / "x.npy")
    with pytest.raises(DataError, match=r"gone\.npy: no such file"):
        read(tmp_path / "x.npy", labels=tmp_path / "gone.npy")


def test_not_a_table(tmp_path: Path) -> None:
    for name in ("t.parquet", "t"):
        with pytest.raises(DataError, match=r"cannot be read; use \.csv, \.npz, \.npy"):
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
