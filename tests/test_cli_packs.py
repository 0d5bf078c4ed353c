"""What the command line says of packs: inspect, verify, cat and unpack."""

from __future__ import annotations

import csv
import json
import lzma
import os
import pickle
import re
import signal
import subprocess
import sys
import sysconfig
import zlib
from pathlib import Path
from shutil import which
from typing import Any

import cbor2
import numpy as np
import pytest
from spec_reader import read_sections, read_tdz

import tinydream as td
from tinydream._native import lib
from tinydream.cli import commands as cli
from tinydream.errors import DataError, UsageError
from tinydream.files import atomic_write, write_sections
from tinydream.packs.adapters import numbers
from tinydream.packs.inspection import bit_plan, compare, native_rows, plan_lines, verify
from tinydream.packs.pack import open_pack
from tinydream.tables.table import table_from_arrays, table_from_columns

GOLDEN = Path(__file__).resolve().parent / "golden"
NAMES = ["masks.tdz", "offsets.tdz", "replay.tdz", "wide.tdz", "keys.tdz", "one.tdz", "fields.tdz", "windows.tdz"]


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
    header_bits = 3 * width + int(made.native.part.id_bits) - int(made.native.part.row_bits)
    assert plan.base.sum() == header_bits
    text = plan_lines(plan, made.names)
    assert len(text) == 2 + 3 and text[2].startswith("x0") and text[2].split()[1].count(".") >= width - 4


def test_the_plan_of_sorted_rows_names_its_keys() -> None:
    opened = open_pack(GOLDEN / "keys.tdz")
    plan = bit_plan(opened)
    n_key = int.from_bytes(read_sections((GOLDEN / "keys.tdz").read_bytes(), b"TDZ1")[2][10:12], "little")
    assert plan.key.sum() == n_key and (plan.base >= plan.key).all()
    assert (plan.entropy[plan.key > 0] > 0).all()  # only what varies is worth a place in the key
    assert "k" in "".join(line.split()[1] for line in plan_lines(plan, opened.names)[2:])


@pytest.mark.parametrize("name", NAMES)
def test_inspect(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, picture = GOLDEN / name, tmp_path / "plan.png"
    told = run(capsys, "inspect", str(path), "--plot", str(picture))
    opened = open_pack(path)
    assert told["rows"] == len(opened) and told["classes"] == list(opened.classes)
    assert sum(told["sections"].values()) == told["sizes"]["pack"] == path.stat().st_size
    assert picture.read_bytes().startswith(b"\x89PNG")
    entropies = np.array(told["plan"]["entropy"])
    assert entropies.shape == (opened.n_features, told["width"]) and 0 <= entropies.min() <= entropies.max() <= 1
    assert cli.main(["inspect", str(path), "--no-compare"]) == 0
    text = capsys.readouterr().out
    assert "xz" not in text and "data" in text and opened.names[0] in text


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
    assert len(verify(GOLDEN / name).decode()) == len(read_tdz(data).rows)
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
                           (b"PK" + data[2:], "does not begin like one"), (data[:4] + b"\x02" + data[5:],
                            "format version 2, and this TinyDream reads 1")):  # fmt: skip
        path.write_bytes(wrong)
        assert message in run(capsys, "verify", str(path), code=1)
    assert "cannot be read" in run(capsys, "verify", str(tmp_path / "gone.tdz"), code=1)


def test_pack_keeps_order_and_archives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = np.random.default_rng(3).integers(0, 9, (60, 3)).astype(np.int16)
    source, target, back = (str(tmp_path / name) for name in ("x.npz", "x.tdz", "back.npz"))
    np.savez(source, x=rows, y=np.arange(60) % 4)
    run(capsys, "pack", source, "--keep-order", "--profile", "archive", "-o", target)
    made = open_pack(target)
    assert made.profile == "archive" and np.array_equal(made[:], rows) and made.labels.tolist() == [0, 1, 2, 3] * 15
    assert run(capsys, "inspect", target, "--no-compare")["profile"] == "archive"
    run(capsys, "verify", target)
    run(capsys, "unpack", target, "-o", back)
    assert np.array_equal(np.load(back)["x"], rows)


def test_cat(capsys: pytest.CaptureFixture[str]) -> None:
    opened, numbers = open_pack(GOLDEN / "masks.tdz"), [3, 39, 10, 11, 39]
    told = run(capsys, "cat", str(GOLDEN / "masks.tdz"), "--rows", "3,-1,10:12,39")
    assert [row["row"] for row in told["rows"]] == numbers and told["names"] == [*opened.names, "label"]
    assert [row["values"][:-1] for row in told["rows"]] == opened[numbers].tolist()
    assert [row["values"][-1] for row in told["rows"]] == [opened.classes[i] for i in opened.labels[numbers]]
    assert cli.main(["cat", str(GOLDEN / "masks.tdz")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 11
    assert [row["row"] for row in run(capsys, "cat", str(GOLDEN / "masks.tdz"), "--rows=-3:,::16")["rows"]] == [
        37, 38, 39, 0, 16, 32]  # fmt: skip
    assert run(capsys, "cat", str(GOLDEN / "masks.tdz"), "--rows", "9:4")["rows"] == []
    for rows, message in (("40", "no row 40"), ("x", "neither"), ("1:2:0", "neither"), ("", "neither"),
                          ("1:2:3:4", "neither")):  # fmt: skip
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


def test_what_is_unpacked_does_not_depend_on_the_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    suffixes, source = ("npy", "labels.npy", "csv", "parquet"), str(GOLDEN / "masks.tdz")
    for name, rows in (("whole", 65536), ("pieces", 7)):
        monkeypatch.setattr("tinydream.packs.unpacking.PIECE", rows)
        for suffix in ("npy", "csv", "parquet"):
            run(capsys, "unpack", source, "-o", str(tmp_path / f"{name}.{suffix}"))
    for suffix in suffixes[:3]:
        assert (tmp_path / f"whole.{suffix}").read_bytes() == (tmp_path / f"pieces.{suffix}").read_bytes()
    from pyarrow import parquet

    assert parquet.read_table(tmp_path / "whole.parquet").equals(parquet.read_table(tmp_path / "pieces.parquet"))
    (tmp_path / "t.csv").write_text("old")
    monkeypatch.setattr("tinydream.packs.unpacking.cells", lambda column: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["unpack", source, "-o", str(tmp_path / "t.csv")])
    assert (tmp_path / "t.csv").read_text() == "old" and len(list(tmp_path.iterdir())) == 9


def test_large_packs_are_not_compared(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("tinydream.cli.pack_commands.MOST_COMPARED", 239)  # 40 rows of 6
    assert cli.main(["inspect", str(GOLDEN / "masks.tdz")]) == 0
    assert "more than 239 values: not compared" in capsys.readouterr().out


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


MIXED = """id,city,when,price,ok,kind
1,Oslo,2024-01-01,0.5,true,u
-7,,2024-01-02,,false,v
300,"a, b",,-12.25,,u
"""


@pytest.fixture
def mixed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    (tmp_path / "m.csv").write_text(MIXED)
    told = run(capsys, "pack", str(tmp_path / "m.csv"), "--label", "kind", "-o", str(tmp_path / "m.tdz"))
    assert [field["type"] for field in told["schema"]] == ["i8", "text", "M8[D]", "f8", "b1"] and told["rows"] == 3
    return tmp_path / "m.tdz"


def test_columns_of_all_types_through_every_file(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    want = td.read(mixed.with_suffix(".csv"), label="kind")
    for suffix in ("csv", "parquet"):
        again = mixed.parent / f"again.{suffix}"
        run(capsys, "unpack", str(mixed), "-o", str(again))
        read = td.read(again, label="kind")
        assert read.classes == want.classes
        order, at = np.argsort(want.columns[0].values), np.argsort(read.columns[0].values)
        assert np.array_equal(want.labels[order], read.labels[at])
        for one, other in zip(want.columns, read.columns, strict=True):
            gone = np.zeros(3, dtype=bool) if one.missing is None else one.missing[order]
            assert one.values.dtype == other.values.dtype and one.name == other.name
            assert gone.tolist() == ([False] * 3 if other.missing is None else other.missing[at].tolist())
            assert one.values[order][~gone].tolist() == other.values[at][~gone].tolist()
    run(capsys, "unpack", str(mixed), "-o", str(mixed.parent / "again.npz"))
    with np.load(mixed.parent / "again.npz") as arrays:
        assert arrays["city"][arrays["id"] == 300] == "a, b" and arrays["price.missing"][arrays["id"] == -7]
        assert arrays["classes"].tolist() == ["u", "v"] and arrays["when"].dtype == "M8[D]"
    assert "no empty cells" in run(capsys, "unpack", str(mixed), "-o", str(mixed.parent / "x.npy"), code=1)


def test_columns_are_told(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(mixed)]) == 0
    text = capsys.readouterr().out
    assert (
        "price           f8, stored as number, may be missing" in text
        and "city            text, stored as list" in text
    )
    assert cli.main(["cat", str(mixed), "--rows", ":"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "row: id city when price ok kind" and sorted(line[3:] for line in lines[1:]) == [
        "-7 - 2024-01-02 - False v", "1 Oslo 2024-01-01 0.5 True u", '300 "a, b" - -12.25 - u']  # fmt: skip


def test_json_is_json_whatever_the_cells_hold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "x.npy", [[np.nan, np.inf], [1, -np.inf]])
    run(capsys, "pack", str(tmp_path / "x.npy"), "--keep-order", "-o", str(tmp_path / "x.tdz"))
    assert cli.main(["cat", str(tmp_path / "x.tdz"), "--json"]) == 0

    def not_json(name: str) -> Any:
        raise AssertionError(name)

    told = json.loads(capsys.readouterr().out, parse_constant=not_json)
    assert [row["values"] for row in told["rows"]] == [["NaN", "Infinity"], [1.0, "-Infinity"]]


def test_words_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["", "-", "a\nb", 'say "x"', "é", " x"]
    td.pack(td.table_from_columns({"t": texts}), keep_order=True).save(tmp_path / "t.tdz")
    assert cli.main(["cat", str(tmp_path / "t.tdz")]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert lines == ['0: ""', '1: "-"', r'2: "a\nb"', r'3: "say \"x\""', "4: é", '5: " x"']


def test_options_that_change_nothing_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, target = tmp_path / "x.npy", str(tmp_path / "x.tdz")
    np.save(rows, np.eye(3))
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    for source, option in (("x.npy", "--label=a"), ("x.npy", "--window=3"), ("x.csv", "--labels=y.npy"),
                           ("x.csv", "--hop=3")):  # fmt: skip
        told = run(capsys, "pack", str(tmp_path / source), option, "-o", target, code=2)
        assert f"{option.split('=')[0]} does not go with a .{source[-3:]}" in told
    np.save(rows, np.arange(6).reshape(3, 2))
    assert cli.main(["pack", str(rows), "--lossy", "bits=4", "-o", target]) == 0
    assert "nothing was lost" in capsys.readouterr().out


def test_a_file_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "x.npy", np.eye(3))
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")  # a device would do as well
    for target, said in (("folder", "is a folder"), ("x.npy/x.tdz", "is no folder"), ("pipe", "no ordinary file")):
        told = run(capsys, "pack", str(tmp_path / "x.npy"), "-o", str(tmp_path / target), code=2)
        assert str(tmp_path / target) in told and said in told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "pipe", "x.npy"]


def test_what_is_read_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "x.npy", np.arange(300, dtype=np.int16).reshape(60, 5))
    np.save(tmp_path / "y.npy", np.zeros(60, dtype=int))
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n3,4\n")
    (tmp_path / "link.csv").symlink_to(tmp_path / "rows.csv")
    x, y, rows, link, made = (str(tmp_path / name) for name in ("x.npy", "y.npy", "rows.csv", "link.csv", "made.tdz"))
    run(capsys, "pack", x, "-o", made)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for arguments in (["pack", x, "-o", x], ["pack", x, "--labels", y, "-o", y], ["pack", rows, "-o", link],
                      ["pack", rows, "--max-memory", "4MB", "-o", rows], ["inspect", made, "--plot", made],
                      ["unpack", made, "-o", made]):  # fmt: skip
        told = run(capsys, *arguments, code=2)
        assert "name another file" in told or "must end in" in told
    with pytest.raises(UsageError, match="name another file"):
        td.pack_file(rows, rows, max_memory=2**22)
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}


def test_a_link_is_written_through(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "x.npy", np.eye(3))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link.tdz").symlink_to(tmp_path / "elsewhere" / "x.tdz")
    run(capsys, "pack", str(tmp_path / "x.npy"), "-o", str(tmp_path / "link.tdz"))
    assert (tmp_path / "link.tdz").is_symlink()
    assert len(open_pack(tmp_path / "elsewhere" / "x.tdz")) == 3


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    """In a process of its own, which may not write files of more than 3,000 bytes."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(200, 4)))
    (tmp_path / "x.tdz").write_bytes(b"old")
    code = ("import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000)); "
            "from tinydream.cli import main; sys.exit(main(sys.argv[1:]))")  # fmt: skip
    for arguments in (["pack", "x.npy", "-o", "x.tdz"], ["pack", "x.npy", "--max-memory", "4MB", "-o", "x.tdz"]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True,
                              env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, check=False)  # fmt: skip
        assert done.returncode == 1 and done.stderr == "tinydream: x.tdz: File too large\n"
    assert (tmp_path / "x.tdz").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.npy", "x.tdz"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_being_asked_to_end_leaves_nothing_half_done(tmp_path: Path, number: signal.Signals) -> None:
    """The process writes into the temporary file, says so, and waits to be ended."""
    code = ("import signal, sys, time; sys.argv = ['tinydream', 'boards']; import tinydream.cli as cli\n"
            "signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever runs the tests may have it ignored\n"
            "from tinydream.files import atomic_stream\n"
            "def run(arguments):\n"
            "    with atomic_stream('x.tdz') as stream:\n"
            "        stream.write(b'half'); stream.flush(); print('here', flush=True); time.sleep(60)\n"
            "cli.main = run; cli.entry()")  # fmt: skip
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}) as process:  # fmt: skip
        assert process.stdout is not None and process.stdout.readline() == "here\n"
        assert len(list(tmp_path.iterdir())) == 1
        process.send_signal(number)
        assert process.wait(30) == 128 + number
    assert list(tmp_path.iterdir()) == []


def test_a_module_that_swallows_exits_delays_the_end(tmp_path: Path) -> None:
    (tmp_path / "swallow.py").write_text(
        "import time\ntry:\n    print('here', flush=True)\n    time.sleep(1)\nexcept BaseException:\n    pass\n"
    )
    code = ("import sys, time; sys.argv = ['tinydream', 'boards']; import tinydream.cli as cli\n"
            "def run(arguments):\n    import swallow\n    time.sleep(60)\n"
            "cli.main = run; cli.entry()")  # fmt: skip
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}) as process:  # fmt: skip
        assert process.stdout is not None and process.stdout.readline() == "here\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM


def test_a_file_keeps_its_permissions(tmp_path: Path) -> None:
    (tmp_path / "x.tdz").write_bytes(b"old")
    (tmp_path / "x.tdz").chmod(0o640)
    atomic_write(tmp_path / "x.tdz", b"new")
    atomic_write(tmp_path / "y.tdz", b"new")
    mask = os.umask(0)
    os.umask(mask)
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("x.tdz", "y.tdz")]
    assert modes == [0o640, 0o666 & ~mask] and (tmp_path / "x.tdz").read_bytes() == b"new"


def test_lossy_packs_say_what_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = np.random.default_rng(0).normal(size=(50, 2))
    np.save(tmp_path / "x.npy", values)
    for option, most in (
        ("--lossy=bits=8", (values.max(axis=0) - values.min(axis=0)) / 510),
        ("--resolution=0.1", 0.05),
    ):
        assert cli.main(["pack", str(tmp_path / "x.npy"), option, "-o", str(tmp_path / "x.tdz")]) == 0
        assert "lossy: at most 0.0" in capsys.readouterr().out
        codes = open_pack(tmp_path / "x.tdz").schema.fields[0].codes
        assert (np.array([code.error[0] for code in codes]) <= most * 1.0001).all()  # type: ignore[index]
    assert "bits=8" in run(capsys, "pack", str(tmp_path / "x.npy"), "--lossy", "8", "-o", "x.tdz", code=2)


def test_what_a_lossy_pack_did_not_change_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(0)

    def told(columns: dict[str, Any]) -> str:
        source, target = tmp_path / "x.csv", str(tmp_path / "x.tdz")
        source.write_text(
            "\n".join([",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))])
        )
        assert cli.main(["pack", str(source), "--resolution", "0.5", "-o", target]) == 0
        return capsys.readouterr().out

    exact, fine = [0.1] * 40, random.normal(size=40).tolist()
    assert "not changed, as exact numbers take no more bits: lossy\n" in told({"lossy": exact, "n": range(40)})
    both = told({"a": fine, "b": exact, "c\x1b[31m": exact})
    assert "a               f8, stored as number, lossy: at most" in both
    assert r"no more bits: b, c\x1b[31m" in both
    assert "not changed" not in told({"a": fine, "n": range(40)})
    assert "nothing was lost: only columns of real numbers can be, and there are none" in told({"lossy": range(40)})
    many = told({f"c{i}": fine for i in range(70)})
    assert "not changed" not in many and many.count("lossy: at most") == 64 and ".. and 6 more" in many


def test_large_errors_of_several_columns_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(50, 2)) * 1e300)
    assert cli.main(["pack", str(tmp_path / "x.npy"), "--lossy=bits=8", "-o", str(tmp_path / "x.tdz")]) == 0
    told = re.search(r"lossy: at most (\S+) off, RMS (\S+)", capsys.readouterr().out)
    assert told and 1e297 < float(told[2]) < float(told[1]) < 1e298


def test_bytes_behind_a_pack_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = (GOLDEN / "one.tdz").read_bytes()
    (tmp_path / "x.tdz").write_bytes(data + b"hi!")
    told = run(capsys, "verify", str(tmp_path / "x.tdz"))
    assert told["bytes"] == len(data) and told["bytes_behind"] == 3


def test_a_type_that_all_columns_share_holds_their_values() -> None:
    columns = {"f": np.array([0.5, 1.5]), "big": np.array([2**53 + 1, 3]), "small": np.array([7, -8], dtype=np.int16)}
    made = td.pack(td.table_from_columns(columns), keep_order=True)
    with pytest.raises(DataError, match="column 'big' holds whole numbers"):
        numbers(made[:])
    del columns["big"]
    assert numbers(td.pack(td.table_from_columns(columns), keep_order=True)[:]).tolist() == [[0.5, 7], [1.5, -8]]


def test_structured_rows_as_npy(tmp_path: Path) -> None:
    from tinydream.packs.unpacking import unpack

    made = td.pack(td.table_from_columns({"a": [1, 2], "b": ["x", "yy"], "y": [0.5, 1.5]}, label="y"))
    assert [path.name for path in unpack(made, tmp_path / "t.npy")] == ["t.npy", "t.labels.npy"]
    assert sorted(np.load(tmp_path / "t.npy").tolist()) == [(1, "x"), (2, "yy")]
    assert sorted(np.load(tmp_path / "t.labels.npy").tolist()) == [0.5, 1.5]


# ------------------------------------------------------------------ adapters


def plain_pack() -> td.Pack:
    rows = np.random.default_rng(0).normal(size=(25, 2, 3)).astype(np.float32)
    return td.pack(table_from_arrays(rows, np.arange(25) % 3))


def test_tensorflow_gets_batches() -> None:
    made = plain_pack()
    batches = list(made.to_tf(8, shuffle=1))
    assert [x.shape[0] for x, _ in batches] == [8, 8, 8, 1] and batches[0][0].dtype == "float32"
    order = np.random.default_rng(1).permutation(25)
    assert np.array_equal(np.concatenate([x.numpy() for x, _ in batches]), made[:][order])
    assert np.array_equal(np.concatenate([y.numpy() for _, y in batches]), made.labels[order])


def torch_python() -> tuple[str, dict[str, str]]:
    """A Python with PyTorch, and its environment: this one, or the system's, which Debian's python3-torch is for."""
    environment = {**os.environ, "PYTHONPATH": str(Path(td.__file__).resolve().parents[1])}
    version = f"import sys, torch; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})"
    for python in (sys.executable, "/usr/bin/python3"):
        tried = subprocess.run([python, "-c", version], capture_output=True, env=environment) if which(python) else None
        if tried is not None and tried.returncode == 0:
            return python, environment
    reason = "no Python of this version with PyTorch: on Debian 12, apt-get install python3-torch for its Python 3.11"
    assert "CI" not in os.environ, reason
    pytest.skip(reason)


@pytest.mark.parametrize("kind", ["float", "int8"])
def test_torch_loads_rows_when_it_asks(tmp_path: Path, kind: str) -> None:
    rows = np.random.default_rng(0).normal(size=(25, 2, 3)).astype(np.float32)
    rows = rows if kind == "float" else (rows * 30).astype(np.int8)
    made = td.pack(table_from_arrays(rows, np.arange(25) % 3), per_class=3)
    made.save(tmp_path / "x.tdz")
    python, environment = torch_python()
    script, pack, found = GOLDEN.parent / "torch_rows.py", tmp_path / "x.tdz", tmp_path / "out.npz"
    command = [python, script, sysconfig.get_path("platlib"), pack, found]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr  # torch warns of what it would rather not take
    out = np.load(found)
    for name in ("plain", "forked", "spawned"):
        assert out[f"{name}_x"].dtype == made[:].dtype and np.array_equal(out[f"{name}_x"], made[:])
        assert out[f"{name}_y"].dtype == np.int64 and np.array_equal(out[f"{name}_y"], made.labels)
    assert np.array_equal(out["one_x"], made[7]) and out["one_x"].shape == (2, 3) and out["one_y"] == made.labels[7]
    order = out["shuffled_y"], *out["shuffled_x"].reshape(25, 6).T
    assert not np.array_equal(out["shuffled_x"], made[:])
    expected = np.column_stack((made.labels, made[:].reshape(25, 6))).tolist()
    assert sorted(np.column_stack(order).tolist()) == sorted(expected)  # each row once, with its label
    assert sorted(out["split_x"].reshape(25, 6).tolist()) == sorted(made[:].reshape(25, 6).tolist())
    weights = made.condensed.weights
    assert np.abs(out["drawn"] / 2000 - weights / weights.sum()).max() < 0.05
    assert out["losses"][-1] < out["losses"][0]


def test_torch_is_named_when_it_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(td.TinyDreamError, match="pip install torch"):
        plain_pack().to_torch()


def test_a_pack_goes_to_another_process(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_pack(mixed)
    monkeypatch.setattr("tinydream.packs.pack.MAPPED", 0)
    for made in (opened, open_pack(mixed)):  # in memory, and mapped from the disk
        again = pickle.loads(pickle.dumps(made))
        assert again.source == made.source and again[:].tolist() == made[:].tolist()


def test_arrow_and_numpy(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_pack(mixed)
    table = opened.to_arrow()
    kinds = {name: str(table.schema.field(name).type) for name in table.schema.names}
    assert kinds == {
        "id": "int64",
        "city": "string",
        "when": "date32[day]",
        "price": "double",
        "ok": "bool",
        "kind": "string",
    }
    assert opened.to_arrow(slice(0, 2)).num_rows == 2
    x, y = opened.to_numpy()
    assert x.dtype.names == ("id", "city", "when", "price", "ok") and np.array_equal(y, opened.labels)
    times = td.pack(
        td.table_from_columns({"t": np.array([5, "NaT"], "m8[ms]"), "s": np.array(["2024", "NaT"], "M8[ns]")})
    )
    assert sorted(map(str, times.to_arrow()["t"].to_pylist())) == ["0:00:00.005000", "None"]
    with pytest.raises(td.TinyDreamError, match="which Arrow does not have"):
        td.pack(td.table_from_columns({"t": np.array(["2024"], "M8[h]")})).to_arrow()
    for wrong in ("cells are missing", "holds no numbers"):
        made = opened if wrong.startswith("cells") else td.pack(td.table_from_columns({"a": ["x"], "b": [1]}))
        with pytest.raises(td.TinyDreamError, match=wrong):
            made.to_tf(4)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(td.TinyDreamError, match="install"):
        plain_pack().to_tf(4)


# ------------------------------------------------------------------ labels that became classes


LABELS: list[tuple[Any, str]] = [
    (np.array([3, 7, 3], "u1"), "u1"), (np.array([3, 7, 3]), "i8"), (np.array([1.0, 4.0, 1.0], "f4"), "f4"),
    (np.array([True, False, True]), "b1"), (np.array(["b", "a", "b"]), "text"),
    (np.array(["2024-01-02", "2024-01-01", "2024-01-02"], "M8[D]"), "M8[D]"),
    (np.array(["2024-01-02T03:04:05.000000006", "2024", "2024"], "M8[ns]"), "M8[ns]"),
    (np.array(["cat"] * 3), "text"), (np.array([5] * 3, "i2"), "i2"),
]  # fmt: skip


@pytest.mark.parametrize(("labels", "dtype"), LABELS, ids=[str(i) for i in range(len(LABELS))])
@pytest.mark.parametrize("pieces", [False, True])
def test_labels_keep_their_name_and_type(tmp_path: Path, labels: np.ndarray, dtype: str, pieces: bool) -> None:
    import pyarrow
    from pyarrow import parquet

    source = pyarrow.table({"x": [10, 20, 30], "kind": labels.astype("M8[ns]") if dtype == "M8[ns]" else labels})
    parquet.write_table(source, tmp_path / "t.parquet")
    if pieces:
        td.pack_file(tmp_path / "t.parquet", tmp_path / "t.tdz", label="kind", keep_order=True)
    else:
        td.pack(td.read(tmp_path / "t.parquet", label="kind"), keep_order=True).save(tmp_path / "t.tdz")
    opened = open_pack(tmp_path / "t.tdz")
    assert opened.facts()["label"] == {"name": "kind", "type": dtype}
    again = opened.to_arrow()
    assert again["kind"].to_pylist() == source["kind"].to_pylist()
    assert str(again.schema.field("kind").type) == str(source.schema.field("kind").type).replace("large_", "")
    verify(tmp_path / "t.tdz")


def test_names_that_are_given_are_the_labels() -> None:
    made = td.pack(table_from_arrays([[1], [2]], [0, 1], classes=["off", "on"]), keep_order=True)
    assert made.to_arrow()["label"].to_pylist() == ["off", "on"]
    assert td.pack(np.eye(2)).class_label is None
    unnamed = td.pack(table_from_arrays([[1], [2]], [0, 2]), keep_order=True)
    assert unnamed.to_arrow()["label"].to_pylist() == [0, 2]
    taken = td.pack(td.table_from_columns({"label": [1, 2], "kind": [1, 0]}, label="kind"))
    assert taken.to_arrow().schema.names == ["label", "kind"]


@pytest.mark.parametrize("label", [
    1, {}, {"name": "a"}, {"name": 1, "type": "i8"}, {"name": "a", "type": "i3"}, {"name": "a", "type": "u1"},
    {"name": "a", "type": "M8[D]"}, {"name": "a", "type": ["i8"]},
])  # fmt: skip
def test_labels_that_are_no_such_values_are_refused(label: Any) -> None:
    sections = td.pack(table_from_arrays([[1], [2]], ["u", "v"])).contents()
    changed = write_sections(lib.TD_MAGIC_PACK, {**sections, lib.TD_PACK_META: cbor2.dumps(
        {"classes": ["u", "v"], "label": label})})  # fmt: skip
    with pytest.raises(td.TinyDreamError, match="its metadata is wrong"):
        td.Pack(changed)


def test_names_of_outputs_say_what_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "x.npy", np.eye(4, dtype=np.int8))
    for arguments, message in (
        (["pack", str(tmp_path / "x.npy"), "-o", str(tmp_path / "out.csv")], "what pack writes is a .tdz"),
        (["inspect", str(GOLDEN / "keys.tdz"), "--plot", str(tmp_path / "plan.txt")], "is drawn as a .png"),
    ):
        assert cli.main(arguments) == 2 and message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]


def test_texts_do_not_act_on_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    td.pack(table_from_columns({"t": ["\x1b[2J", "a\0", "é"]}), keep_order=True).save(tmp_path / "x.tdz")
    assert cli.main(["cat", str(tmp_path / "x.tdz"), "--rows", ":"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [r"0: \x1b[2J", r"1: a\x00", "2: é"]


def test_names_do_not_act_on_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "\x1b[2Jx.tdz"
    td.pack(table_from_columns({"\x1b[31ma\nb": [1, 2], "é": [3, 4]})).save(file)
    broken = tmp_path / "\x1b[2Jbroken.tdz"
    broken.write_bytes(b"TDZ1")
    for command, code in ((["inspect", file], 0), (["cat", file], 0), (["verify", file], 0), (["verify", broken], 1),
                          (["verify", tmp_path / "\x1b[2Jmissing.tdz"], 1)):  # fmt: skip
        assert cli.main([str(word) for word in command]) == code
        told = capsys.readouterr()
        assert (told.out + told.err).replace("\n", "").isprintable()
        assert command[0] == "verify" or r"\x1b[31ma\nb " in told.out
