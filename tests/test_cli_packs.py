"""What the command line says of packs: inspect, verify, cat and unpack."""

from __future__ import annotations

import csv
import json
import lzma
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from spec_reader import read_sections, read_tdz

import tinydream as td
from tinydream import cli
from tinydream.inspection import bit_plan, compare, native_rows, plan_lines, verify
from tinydream.packs import open_pack
from tinydream.table import table_from_arrays

GOLDEN = Path(__file__).resolve().parent / "golden"
NAMES = ["masks.tdz", "offsets.tdz", "replay.tdz", "wide.tdz", "keys.tdz", "one.tdz"]


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    """The command's JSON, or its complaint."""
    assert cli.main([*arguments, "--json"]) == code
    captured = capsys.readouterr()
    return json.loads(captured.out) if code == 0 else captured.err


def entropy(column: np.ndarray) -> float:
    p = np.bincount(column, minlength=2) / len(column)
    return float(-sum(q * np.log2(q) for q in p if q > 0))


def test_a_plan_s_entropies_are_the_formula() -> None:
    rows = np.random.default_rng(2).integers(0, 9, (60, 3)) * [1, 2, 14]
    made = td.pack(table_from_arrays(rows, None), method="entrogede")
    plan, width = bit_plan(made), int(made.native.width)
    for f in range(3):
        bits = [rows[:, f] - rows.min() >> shift & 1 for shift in range(width - 1, -1, -1)]
        np.testing.assert_allclose(plan.entropy[f], [entropy(bit) for bit in bits], atol=1e-12)
    assert not plan.key.any() and set(plan.base.ravel()) <= {0.0, 1.0}
    header_bits = 3 * width - int(made.native.part.header.deviation_bits)
    assert plan.base.sum() == header_bits
    text = plan_lines(plan, made.names)
    assert len(text) == 2 + 3 and text[2].startswith("x0") and text[2].split()[1].count(".") >= width - 4


def test_the_plan_of_sorted_rows_names_its_keys() -> None:
    opened = open_pack(GOLDEN / "keys.tdz")
    plan = bit_plan(opened)
    n_key = int.from_bytes(read_sections((GOLDEN / "keys.tdz").read_bytes(), b"TDZ1")[2][10:12], "little")
    assert plan.key.sum() == n_key and (plan.base >= plan.key).all()
    assert "k" in "".join(line.split()[1] for line in plan_lines(plan, opened.names)[2:])


@pytest.mark.parametrize("name", NAMES)
def test_inspect(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, picture = GOLDEN / name, tmp_path / "plan.png"
    told = run(capsys, "inspect", str(path), "--plot", str(picture))
    opened = open_pack(path)
    assert told["rows"] == len(opened) and told["classes"] == list(opened.classes)
    assert sum(told["sections"].values()) == told["sizes"]["pack"] == path.stat().st_size
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert np.array(told["plan"]["entropy"]).shape == (opened.n_features, told["width"])
    assert cli.main(["inspect", str(path), "--no-compare"]) == 0
    text = capsys.readouterr().out
    assert "xz" not in text and "data" in text and "x0" in text


def test_peers_get_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.column_stack((np.arange(300) % 7, np.arange(300) * 300))
    made = td.pack(table_from_arrays(rows, np.arange(300) % 2))
    raw = native_rows(made)
    assert len(raw) == 300 * (1 + 4 + 1)  # u8, u32, class
    sizes = compare(made)
    assert sizes["raw"] == len(raw) and sizes["zlib -9"] == len(zlib.compress(raw, 9))
    assert sizes["xz -6"] == len(lzma.compress(raw, preset=6))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    assert compare(made)["zstd -19"] is None


def test_a_missing_peer_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    assert cli.main(["inspect", str(GOLDEN / "one.tdz")]) == 0
    assert "zstd -19        not installed: pip install" in capsys.readouterr().out


@pytest.mark.parametrize("name", NAMES)
def test_verify(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "verify", str(GOLDEN / name))["sound"] is True
    data = (GOLDEN / name).read_bytes()
    assert len(verify(GOLDEN / name)) == len(read_tdz(data).rows)
    sections = ("schema", "parts", "data", "samples")
    for i, section in enumerate(sections):
        where = int.from_bytes(data[16 + 16 * i + 4 : 16 + 16 * i + 8], "little")
        damaged = bytearray(data)
        damaged[where] ^= 1
        (tmp_path / "t.tdz").write_bytes(damaged)
        assert f"section {section}" in run(capsys, "verify", str(tmp_path / "t.tdz"), code=1)


def test_verify_says_what_else_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, path = (GOLDEN / "masks.tdz").read_bytes(), tmp_path / "t.tdz"
    for wrong, message in ((data[:7], "the file has 7 bytes"), (data[:-4], f"ends after {len(data) - 4}"),
                           (data[:10] + b"\x01" + data[11:], "ends after"), (data[:17] + b"\x01" + data[18:], "header"),
                           (b"PK" + data[2:], "header")):  # fmt: skip
        path.write_bytes(wrong)
        assert message in run(capsys, "verify", str(path), code=1)
    assert "cannot be read" in run(capsys, "verify", str(tmp_path / "gone.tdz"), code=1)


def test_cat(capsys: pytest.CaptureFixture[str]) -> None:
    opened = open_pack(GOLDEN / "masks.tdz")
    told = run(capsys, "cat", str(GOLDEN / "masks.tdz"), "--rows", "3,-1,10:12,39")
    assert [row["row"] for row in told["rows"]] == [3, 39, 10, 11, 39]
    assert [row["values"] for row in told["rows"]] == opened[[3, 39, 10, 11, 39]].tolist()
    assert [row["label"] for row in told["rows"]] == [opened.classes[i] for i in opened.labels[[3, 39, 10, 11, 39]]]
    assert cli.main(["cat", str(GOLDEN / "masks.tdz")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 10
    for rows, message in (("40", "no row 40"), ("x", "neither"), ("1:2:3", "neither"), ("", "neither")):
        assert message in run(capsys, "cat", str(GOLDEN / "masks.tdz"), f"--rows={rows}", code=2)


def test_unpack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opened = open_pack(GOLDEN / "masks.tdz")
    for suffix in ("npy", "npz", "csv", "parquet"):
        told = run(capsys, "unpack", str(GOLDEN / "masks.tdz"), "-o", str(tmp_path / f"x.{suffix}"))
        assert told["files"][0] == str(tmp_path / f"x.{suffix}") and told["rows"] == 40
    assert np.array_equal(np.load(tmp_path / "x.npy"), opened[:])
    assert np.array_equal(np.load(tmp_path / "x.labels.npy"), opened.labels)
    with np.load(tmp_path / "x.npz") as arrays:
        assert np.array_equal(arrays["x"], opened[:]) and arrays["classes"].tolist() == ["sit", "run"]
    with (tmp_path / "x.csv").open(newline="") as stream:
        header, *rows = csv.reader(stream)
    assert header == [*opened.names, "label"] and [list(map(int, row[:-1])) for row in rows] == opened[:].tolist()
    assert [row[-1] for row in rows] == [opened.classes[i] for i in opened.labels]
    from pyarrow import parquet

    read = parquet.read_table(tmp_path / "x.parquet").to_pydict()
    assert read["x1"] == opened[:][:, 1].tolist() and read["label"] == [row[-1] for row in rows]
    assert "end in one of" in run(capsys, "unpack", str(GOLDEN / "masks.tdz"), "-o", "x.txt", code=2)


def test_parquet_needs_pyarrow(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "tinydream[parquet]" in run(capsys, "unpack", str(GOLDEN / "one.tdz"), "-o", "x.parquet", code=2)


def test_rows_by_mask_and_numbers() -> None:
    made = td.pack(table_from_arrays(np.arange(20).reshape(10, 2), np.arange(10) % 3))
    rows = made[:]
    assert made[[]].shape == (0, 2)
    for index in ([3, 0, -1, 3], np.arange(10) % 2 == 0, np.array([9, 8], np.uint8), slice(8, 2, -2)):
        assert made[index].tolist() == rows[index].tolist()
    assert np.array_equal(np.array(list(made)), rows)
    for wrong in ([10], [-11], [0.5], [[1]], [True], np.array([2**64 - 1], np.uint64)):
        with pytest.raises(IndexError):
            made[wrong]
