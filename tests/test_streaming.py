"""Packing piece by piece gives what packing at once gives, in bounded memory, and never leaves half a file."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sources_kit import write_rows

import tinydream as td
from tinydream.cli import commands as cli
from tinydream.errors import DataError, TinyDreamError, UsageError
from tinydream.packs.inspection import verify
from tinydream.packs.pack import Pack, open_pack
from tinydream.packs.packing import pack
from tinydream.streams import chunked_files, parts, streaming
from tinydream.streams.estimates import bytes_at_once
from tinydream.streams.streaming import pack_file

SMALL = 2**22


def contents(made: Pack) -> Counter[tuple[Any, ...]]:
    lists = []
    for column in (*made.columns(), *made.targets()):
        values = column.values.view(np.int64) if column.values.dtype.kind == "M" else column.values
        gone = np.zeros(len(made), dtype=bool) if column.missing is None else column.missing
        lists.append([None if m else v for v, m in zip(values.tolist(), gone.tolist(), strict=True)])
    classes = [made.classes[i] for i in made.class_numbers]
    return Counter(zip(*lists, classes, strict=True))


@pytest.mark.parametrize("label", ["kind", "price", ["price", "kind"], ["kind", "city"], None])
def test_piece_by_piece_as_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, label: Any) -> None:
    source = write_rows(tmp_path / "t.csv", 3000)
    if label == "price":
        source.write_text(source.read_text().replace(",,", ",1.25,"))
    at_once = pack(td.read(source, label=label, real=True if label == "price" else None))
    monkeypatch.setattr(chunked_files, "CELL", 3000)  # many chunks, and parts of a few hundred rows
    monkeypatch.setattr(parts.Parts, "_flush", checked(parts.Parts._flush))
    calls: list[tuple[int, int]] = []
    told = pack_file(source, tmp_path / "t.tdz", label=label, max_memory=SMALL, progress=lambda *c: calls.append(c),
                     real=True if label == "price" else None)  # fmt: skip
    made = verify(tmp_path / "t.tdz")
    assert contents(made) == contents(at_once) and made.classes == at_once.classes
    assert (told.rows, told.features, told.bytes) == (3000, made.n_features, (tmp_path / "t.tdz").stat().st_size)
    assert made.schema == at_once.schema == told.schema
    total = 2 * source.stat().st_size
    assert calls[-1] == (total, total) and {t for _, t in calls} == {total} and len(calls) > 8


def checked(flush: Any) -> Any:
    """A part is never larger than memory allows."""

    def wrapped(self: Any, number: int) -> bytes:
        self._part_rows = min(self._part_rows, 400)
        n = self.n_rows
        data: bytes = flush(self, number)
        assert self.n_rows - n <= 400
        return data

    return wrapped


def test_parquet_and_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked_files, "CELL", 3000)
    frame = pd.read_csv(write_rows(tmp_path / "t.csv", 2000), parse_dates=["day"])
    frame.to_parquet(tmp_path / "t.parquet")
    pack_file(tmp_path / "t.parquet", tmp_path / "t.tdz", label="kind", max_memory=SMALL)
    assert contents(open_pack(tmp_path / "t.tdz")) == contents(pack(td.read(frame, label="kind")))

    rows = np.random.default_rng(1).normal(size=(700, 4, 3)).round(2).astype(np.float32)
    for values in (rows, (rows * 100).astype(np.int16), (rows * 1e9).astype(np.int64)):
        np.save(tmp_path / "x.npy", values)
        np.save(tmp_path / "y.npy", np.arange(700) % 4)
        told = pack_file(
            tmp_path / "x.npy", tmp_path / "x.tdz", labels=tmp_path / "y.npy", max_memory=SMALL, method="entrogede"
        )
        made = open_pack(tmp_path / "x.tdz")
        at_once = pack(td.table_from_arrays(values, np.arange(700) % 4))
        assert made[:].dtype == values.dtype and made.n_classes == 4 and told.schema == at_once.schema
        found = Counter((row.tobytes(), int(y)) for row, y in zip(made[:], made.labels, strict=True))
        assert found == Counter((row.tobytes(), i % 4) for i, row in enumerate(values))


def test_categories_that_are_missing_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked_files, "CELL", 3000)
    for gone in (slice(600), slice(200, 900)):
        kinds = np.array(["a", "bc"], dtype=object)[np.arange(1000) % 2]
        kinds[gone] = None
        frame = pd.DataFrame({"kind": pd.Categorical(kinds), "n": np.arange(1000)})
        frame.to_parquet(tmp_path / "t.parquet", row_group_size=100)
        pack_file(tmp_path / "t.parquet", tmp_path / "t.tdz", max_memory=SMALL)
        assert contents(open_pack(tmp_path / "t.tdz")) == contents(pack(td.read(tmp_path / "t.parquet")))


@pytest.mark.parametrize("lossy", [{"lossy_bits": 6}, {"resolution": 0.1}, {"resolution": 1 / 3}])
def test_lossy_packs_know_their_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lossy: dict[str, Any]) -> None:
    monkeypatch.setattr(chunked_files, "CELL", 9000)
    values = np.random.default_rng(2).normal(size=(900, 3))
    values[::7, 1] = np.nan
    np.save(tmp_path / "x.npy", values)
    told = pack_file(tmp_path / "x.npy", tmp_path / "x.tdz", max_memory=SMALL, **lossy)
    at_once = pack(td.table_from_arrays(values, None), **lossy).schema
    for one, other in zip(told.schema.fields[0].codes, at_once.fields[0].codes, strict=True):
        assert one.error == pytest.approx(other.error) and one.step == other.step
        assert one.error is not None and one.error[1] > 0
    assert open_pack(tmp_path / "x.tdz").schema == told.schema


def test_the_packs_are_as_small_nearly(tmp_path: Path) -> None:
    rows = np.random.default_rng(3).normal(0, 40, (60_000, 4)).astype(np.int16)
    np.save(tmp_path / "x.npy", rows)
    told = pack_file(tmp_path / "x.npy", tmp_path / "x.tdz", max_memory=2**23)
    assert told.parts > 3 and told.bytes < 1.3 * len(pack(td.table_from_arrays(rows, None)).data)
    assert told.samples <= 16


WRONG = [
    ("a,y\n", {}, "at least one row"),
    ("a,y\n1,x\n", {"label": "z"}, "no column 'z'"),
    ("a,a\n1,2\n", {}, "2 columns"),
    ("a,y\n1,x\n2,\n", {"label": "y"}, "row 1 has no label"),
    ("a,y\n1,2\n3\n", {}, "line 3"),
    ("y\nx\n", {"label": "y"}, "one value"),
    ("a,y\n1,-1\n", {"label": "y", "classes": ["0", "-2"]}, "out of range"),
    ("a,y\n1,0.5\n1,1\n", {"label": "y", "real": False}, "not fractions"),
    ("a,y\n" + "".join(f"1,{-i}\n" for i in range(1025)), {"label": "y"}, "1025 classes"),
    ("a,y\n1,x\n", {"label": "y", "classes": ["u"]}, "none of u"),
    ("a,y\n1,0.5\n", {"label": "y", "classes": ["u"]}, "classes are named"),
    ("a\n\ud800\n", {}, "cannot be read"),
    ("a,y\n" + "".join(f"1,k{i}\n" for i in range(1025)), {"label": "y"}, "1024 classes"),
    ("a,y\n1,nan\n", {"label": "y"}, "labels are missing"),
    ("a,y\n1,2000\n", {"label": "y", "classes": ["u", "v"]}, "out of range"),
    ("a,y\n1,u\n", {"label": "y", "real": True}, "not real numbers"),
    ("a,y,z\n1,u,2\n", {"label": ["y", "z"], "real": True}, "not real numbers"),
]


@pytest.mark.parametrize(("text", "options", "message"), WRONG, ids=[w[2] for w in WRONG])
def test_wrong_files_leave_the_old_pack(tmp_path: Path, text: str, options: dict[str, Any], message: str) -> None:
    (tmp_path / "t.csv").write_bytes(text.encode("utf-8", "surrogatepass"))
    (tmp_path / "t.tdz").write_bytes(b"old")
    with pytest.raises(TinyDreamError, match=message):
        pack_file(tmp_path / "t.csv", tmp_path / "t.tdz", **options)
    assert (tmp_path / "t.tdz").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 2


def test_wrong_calls(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a\n1\n")
    with pytest.raises(UsageError, match="at least"):
        pack_file(tmp_path / "t.csv", tmp_path / "t.tdz", max_memory=1000)
    with pytest.raises(UsageError, match="no method"):
        pack_file(tmp_path / "t.csv", tmp_path / "t.tdz", method="random")
    for name in ("gone.csv", "t.npz"):
        with pytest.raises(DataError, match="no such file"):
            pack_file(tmp_path / name, tmp_path / "t.tdz")
    (tmp_path / "t.txt").write_text("")
    with pytest.raises(DataError, match="piece by piece"):
        pack_file(tmp_path / "t.txt", tmp_path / "t.tdz")
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"as \.parquet"):
        pack_file(tmp_path / "t.parquet", tmp_path / "t.tdz")
    np.save(tmp_path / "x.npy", np.zeros(3))
    with pytest.raises(DataError, match="rows must be numbers"):
        pack_file(tmp_path / "x.npy", tmp_path / "t.tdz")
    np.save(tmp_path / "x.npy", np.zeros((3, 1)))
    np.save(tmp_path / "y.npy", np.zeros(2))
    with pytest.raises(DataError, match="labels of shape"):
        pack_file(tmp_path / "x.npy", tmp_path / "t.tdz", labels=tmp_path / "y.npy")


def test_texts_larger_than_memory_are_refused(tmp_path: Path) -> None:
    """And it is told how much memory would do."""
    numbers = ",".join(f"n{i}" for i in range(9))  # beside which texts have no less room
    for n_rows in (9000, 30_000):
        rows = "".join(f"{'x' * 50}{i}{',7' * 9}\n" for i in range(n_rows))
        (tmp_path / "t.csv").write_text(f"a,{numbers}\n{rows}")
        with pytest.raises(DataError, match=r"t\.csv: column 'a': .* different texts .* --max-memory") as refused:
            pack_file(tmp_path / "t.csv", tmp_path / "t.tdz", max_memory=SMALL)
        found = re.search(r"about (\d+) MB would do", str(refused.value))
        assert found and 4 * n_rows * 150 < int(found[1]) * 2**20 < 6 * n_rows * 160 + 2**21
        told = pack_file(tmp_path / "t.csv", tmp_path / "t.tdz", max_memory=int(found[1]) * 2**20)
        assert told.rows == n_rows
    few = rows.splitlines(keepends=True)[:6000]  # with a tenth of the memory each, these would be too many
    (tmp_path / "t.csv").write_text(f"a,{numbers}\n{''.join(few)}")
    assert pack_file(tmp_path / "t.csv", tmp_path / "t.tdz", max_memory=SMALL).rows == 6000


# ------------------------------------------------------------------ changed


def test_a_source_that_changes_meanwhile_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_rows(tmp_path / "t.csv", 50)
    (tmp_path / "t.tdz").write_bytes(b"old")
    second = streaming._second_pass

    text = source.read_text()
    for old, new, message in (("\n7,", "\n7000000,", "not what was there"), ("\n7,", "\nseven,", "cannot be read"),
                              ("k1", "k7", "'k7' is none of k0, k1")):  # fmt: skip

        def changed(*arguments: Any, to: str = text.replace(old, new)) -> Any:
            source.write_text(to)
            return second(*arguments)

        monkeypatch.setattr(streaming, "_second_pass", changed)
        source.write_text(text)
        with pytest.raises(DataError, match=message):
            pack_file(source, tmp_path / "t.tdz", label="kind")
        assert (tmp_path / "t.tdz").read_bytes() == b"old"


# ------------------------------------------------------------------ memory


MEMORY = """
import json, sys, tracemalloc
from tinydream.models.compiler import compile_model
from tinydream.tables.images import ImageOptions
from tinydream.streams.streaming import pack_file
def memory(kind):  # of the process where the system tells (getrusage would count the parent's); else Python's own
    try:
        return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(kind))
    except OSError:
        return tracemalloc.get_traced_memory()[1] if tracemalloc.is_tracing() else tracemalloc.start() or 0
options = json.loads(sys.argv[3])
if "through" in options:
    options["through"] = compile_model(open(options["through"], "rb").read())
import pandas, pyarrow.parquet, PIL.PngImagePlugin  # which a first use would import
if "images" in options:
    options["images"] = ImageOptions(**options["images"])
"""
PEAK = f"""{MEMORY}
before = memory("VmRSS")
told = pack_file(sys.argv[1], sys.argv[2], **options)
print(told.rows, told.parts, memory("VmHWM") - before)
"""


def peak_of(source: Path, target: Path, **options: Any) -> tuple[int, int, int]:
    """Rows, parts, and the bytes that packing takes beyond what the process has before."""
    command = [sys.executable, "-c", PEAK, source, target, json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows, n_parts, peak = map(int, done.stdout.split())
    return rows, n_parts, peak


def test_memory_is_bounded(tmp_path: Path) -> None:
    """A table several times as large as the memory, twice as large again: the peak stays where it was told to."""
    memory, peaks = 2**23, []
    for n in (60_000, 120_000):
        source = write_rows(tmp_path / "t.csv", n)
        rows, n_parts, peak = peak_of(source, tmp_path / "t.tdz", label="kind", max_memory=memory)
        assert rows == n and n_parts > 3
        peaks.append(peak)
    in_memory = 120_000 * 6 * 60  # cells as Python's texts, let alone arrays
    assert in_memory > 5 * memory
    assert peaks[1] < 1.25 * memory and peaks[1] < peaks[0] + memory // 8


AT_ONCE = f"""{MEMORY}
import tinydream
tinydream.pack(tinydream.read(sys.argv[2])).save(sys.argv[2] + ".tdz")  # what a first use takes
before = memory("VmRSS")
made = tinydream.pack(tinydream.read(sys.argv[1]))
print(len(made), memory("VmHWM") - before)
"""


def many(kind: str, n: int) -> dict[str, Any]:
    """Columns of `n` rows."""
    random = np.random.default_rng(1)
    if kind == "runs":  # which the file holds in next to nothing
        words = np.array(["alpha", "beta", "gamma"], dtype=object)
        numbers = {f"c{i}": np.repeat(np.arange(n // 100) % (50 + i), 100) for i in range(6)}
        return {**numbers, "s": np.repeat(words, -(-n // 3))[:n]}
    if kind == "long":
        return {"s": np.array(["abc" * 100, "def" * 100], dtype=object)[random.integers(0, 2, n)]}
    if kind == "names":
        return {"s": np.array([f"user-{i:011}" for i in random.permutation(n).tolist()], dtype=object)}
    return {f"c{i}": random.integers(0, 40, n) if kind == "digits" else random.normal(size=n) for i in range(8)}


@pytest.mark.parametrize(
    ("kind", "suffix", "n"),
    [("runs", "parquet", 100_000), ("long", "parquet", 60_000), ("names", "parquet", 150_000),
     ("names", "csv", 150_000), ("digits", "csv", 80_000), ("reals", "csv", 60_000), ("reals", "parquet", 60_000),
     ("reals", "npy", 60_000)],
)  # fmt: skip
def test_what_packing_at_once_takes_is_told(tmp_path: Path, kind: str, suffix: str, n: int) -> None:
    """What is estimated is no less than what is taken beside a fixed overhead, and no more than 2.5 times as much."""
    for name, rows in (("few", 200), ("t", n)):
        path, columns = tmp_path / f"{name}.{suffix}", many(kind, rows)
        if suffix == "npy":
            np.save(path, np.column_stack(list(columns.values())))
        else:
            frame = pd.DataFrame(columns)
            frame.to_parquet(path) if suffix == "parquet" else frame.to_csv(path, index=False)
    done = subprocess.run([sys.executable, "-c", AT_ONCE, path, tmp_path / f"few.{suffix}", "{}"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    rows, peak = map(int, done.stdout.split())
    told = bytes_at_once(path, None, None)
    assert rows == n and peak < told + 2**24 and told < 2.5 * peak
    assert streaming.too_large(path, told - 1) and not streaming.too_large(path, told)


def test_sources_that_cannot_be_read_are_not_too_large(tmp_path: Path) -> None:
    """Reading them says what is wrong."""
    for name in ("t.parquet", "t.csv", "t.npz", "t.txt", "u.csv"):
        (tmp_path / name).write_bytes(b"" if name == "u.csv" else b"a,b\n\xff,1\n")
        assert not streaming.too_large(tmp_path / name, 0)
    pd.DataFrame({"a": []}).to_parquet(tmp_path / "none.parquet")
    assert not streaming.too_large(tmp_path / "none.parquet", 0)


def test_texts_that_are_long_but_listed_once_are_read_in_small_pieces(tmp_path: Path) -> None:
    pd.DataFrame(many("long", 30_000)).to_parquet(tmp_path / "t.parquet")
    assert (tmp_path / "t.parquet").stat().st_size < 30_000
    sizes = [len(chunk) for chunk in chunked_files.ParquetChunks(tmp_path / "t.parquet", [], 2**20).chunks()]
    assert sum(sizes) == 30_000 and max(sizes) * 4 * 300 < 2**20


# ------------------------------------------------------------------ command line and large packs


def test_the_command_packs_what_is_too_large_piece_by_piece(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_rows(tmp_path / "t.csv", 9000)
    assert streaming.too_large(source, SMALL) and not streaming.too_large(source, 2**28)
    arguments = ["pack", str(source), "--label", "kind", "-o", str(tmp_path / "t.tdz"), "--json"]
    assert cli.main([*arguments, "--max-memory", "4MB"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["rows"] == 9000 and told["streamed"] and told["bytes"] == (tmp_path / "t.tdz").stat().st_size
    assert cli.main(arguments) == 0
    assert not json.loads(capsys.readouterr().out)["streamed"]
    for memory, message in (("4XB", "--max-memory"), ("1KB", "at least")):
        assert cli.main([*arguments, "--max-memory", memory]) == 2
        assert message in capsys.readouterr().err
    assert cli.main([*arguments, "--max-memory", "4MB", "--keep-order", "--profile", "archive"]) == 0
    assert json.loads(capsys.readouterr().out)["streamed"] and open_pack(tmp_path / "t.tdz").profile == "archive"
    assert cli.main([*arguments, "--max-memory", "4MB", "--replay", "5"]) == 1
    assert "has empty cells" in capsys.readouterr().err


def test_large_packs_stay_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = pack(td.table_from_arrays(np.arange(60).reshape(20, 3), np.arange(20) % 2))
    made.save(tmp_path / "t.tdz")
    monkeypatch.setattr("tinydream.packs.pack.MAPPED", 1)
    opened = open_pack(tmp_path / "t.tdz")
    assert type(opened.data).__name__ == "mmap" and np.array_equal(opened[:], made[:])
    opened.save(tmp_path / "u.tdz")
    assert (tmp_path / "u.tdz").read_bytes() == made.data
    (tmp_path / "empty.tdz").write_bytes(b"")
    with pytest.raises(TinyDreamError, match="empty"):
        open_pack(tmp_path / "empty.tdz")
