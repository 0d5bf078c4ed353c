"""What packs piece by piece in another way than plain rows: models, kept order, archives, as if packed at once."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sources_kit import network, network_file, small_parts, write_images, write_rows, write_waves
from test_streaming import SMALL, contents, peak_of

import tinydream as td
from tinydream import files
from tinydream.errors import DataError, UsageError
from tinydream.packs import reduction
from tinydream.packs.inspection import verify
from tinydream.packs.pack import Pack
from tinydream.packs.packing import pack
from tinydream.streams import chunked_files, parts
from tinydream.streams.streaming import pack_file
from tinydream.tables.images import ImageOptions


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many chunks, and parts of a few hundred rows."""
    monkeypatch.setattr(chunked_files, "CELL", 3000)
    small_parts(monkeypatch, 400)


def embedded(made: Pack) -> Counter[tuple[bytes, Any]]:
    return Counter((row.tobytes(), y) for row, y in zip(made[:], made.labels.tolist(), strict=True))


def beside(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix not in (".csv", ".npy", ".parquet"))


@pytest.mark.parametrize("dtype", [np.int8, np.float32])
@pytest.mark.parametrize("options", [{}, {"keep_order": True}, {"profile": "archive"}])
def test_through_a_model(tmp_path: Path, pieces: None, dtype: Any, options: dict[str, Any]) -> None:
    with (tmp_path / "t.csv").open("w") as stream:
        stream.write("a,b,y,c\n")  # the last row makes two columns real numbers: rows are embedded again
        stream.writelines(f"{i % 50},{i % 7 - 3},{i % 3},{i % 9 + (i == 1999) / 2}\n" for i in range(2000))
    model = network(3, dtype)
    steps = {"resolution": 0.01} if dtype is np.float32 else {}
    at_once = pack(td.read(tmp_path / "t.csv", label="y"), through=model, **steps, **options)
    calls: list[tuple[int, int]] = []
    told = pack_file(tmp_path / "t.csv", tmp_path / "t.tdz", label="y", through=model, max_memory=SMALL,
                     progress=lambda *c: calls.append(c), **steps, **options)  # fmt: skip
    made = verify(tmp_path / "t.tdz")
    assert embedded(made) == embedded(at_once) and made.classes == at_once.classes
    assert made.facts() | {"parts": 0, "samples": 0} == at_once.facts() | {
        "parts": 0, "samples": 0, "embedding_error": made.embedding_error
    }  # fmt: skip
    assert (
        made.embedding_error == pytest.approx(at_once.embedding_error) and told.embedding_error == made.embedding_error
    )
    if options.get("keep_order"):
        assert np.array_equal(made[:], at_once[:]) and np.array_equal(made.labels, at_once.labels)
    passes = 3 if "profile" in options else 2
    assert calls[-1][0] == calls[-1][1] == passes * (tmp_path / "t.csv").stat().st_size and len(calls) > 8
    assert beside(tmp_path) == ["t.tdz"]


def test_models_with_other_labels_and_wrong_rows(tmp_path: Path, pieces: None) -> None:
    model, source, target = network(2), tmp_path / "t.csv", tmp_path / "t.tdz"
    source.write_text("x,y,z\n" + "".join(f"{i % 9},{i / 4},{i % 5}\n" for i in range(900)))
    for label in ("y", ["y", "z"], "x"):
        used = network(1) if isinstance(label, list) else model
        pack_file(source, target, label=label, real=True, through=used, max_memory=SMALL)
        at_once = pack(td.read(source, label=label, real=True), through=used)
        made = verify(target)
        assert made.schema == at_once.schema and embedded(made) == embedded(at_once)
        assert len(made.targets()) == 1 + isinstance(label, list)
    target.write_bytes(b"old")
    for text, options, match in (
        ("a,b,y\n1,2,3\n", {}, "4 classes"),
        ("a,b,y\n1,2,u\n", {}, "by number only"),
        ("a,b,y\n1,2,-1\n1,2,1\n", {}, "by number only"),
        ("a,y\n1,0\n", {}, "1 values a row"),
        ("a,b,y\n1,k,0\n", {}, "'b' holds texts"),
        ("a,b,y\n1,,0\n", {}, "'b' has empty cells"),
        ("a,b,y\n1,nan,0\n", {}, "NaN"),
    ):
        source.write_text(text)
        with pytest.raises(DataError, match=match):
            pack_file(source, target, label="y", through=model, **options)
        assert target.read_bytes() == b"old" and beside(tmp_path) == ["t.tdz"]
    source.write_text("a,b,y\n1,2,0\n")
    with pytest.raises(DataError, match="--resolution"):
        pack_file(source, target, label="y", through=network(2, np.float32))
    with pytest.raises(UsageError, match="no profile"):
        pack_file(source, target, label="y", profile="zip")


@pytest.mark.parametrize("label", ["kind", None])
def test_order_is_kept(tmp_path: Path, pieces: None, label: str | None) -> None:
    for n in (1, 2, 9, 3000):
        source = write_rows(tmp_path / "t.csv", n)
        for profile in ("mcu", "archive"):
            pack_file(source, tmp_path / "t.tdz", label=label, keep_order=True, profile=profile, max_memory=SMALL)
            at_once = pack(td.read(source, label=label), keep_order=True)
            made = verify(tmp_path / "t.tdz")
            for column, expected in zip(made.columns(), at_once.columns(), strict=True):
                assert np.array_equal(column.values, expected.values)
            assert np.array_equal(made.labels, at_once.labels) and made.profile == profile


def test_positions_go_to_any_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PIECE", 16)
    random = np.random.default_rng(1)
    for n in (1, 5, 16, 17, 300):
        stored = random.permutation(n).astype(np.uint32)
        with (tmp_path / "spool").open("w+b") as spool:
            positions = parts.Positions(spool, n)
            ends = [0, *sorted(random.integers(1, n + 1, 3).tolist()), n]
            for first, end in pairwise(ends):
                positions.put(stored[first:end], first)
            data = b"".join(positions.section())
        n_bits = (n - 1).bit_length()
        bits = np.unpackbits(np.frombuffer(data, np.uint8), count=n * n_bits, bitorder="little").reshape(n, n_bits)
        places = bits @ (1 << np.arange(n_bits, dtype=np.int64))
        assert np.array_equal(stored[places], np.arange(n)) and len(data) == (n * n_bits + 7) // 8


@pytest.mark.parametrize("label", ["kind", ["kind", "price"], None])
def test_archives(tmp_path: Path, pieces: None, label: Any) -> None:
    source = write_rows(tmp_path / "t.csv", 3000)
    at_once = pack(td.read(source, label=label), profile="archive")
    told = pack_file(source, tmp_path / "t.tdz", label=label, profile="archive", max_memory=SMALL)
    made = verify(tmp_path / "t.tdz")
    assert made.profile == "archive" and contents(made) == contents(at_once) and made.schema == at_once.schema
    assert told.parts > 3


def test_archives_are_as_small_nearly(tmp_path: Path) -> None:
    """Blocks and their codes are as at once; only their order knows less, as samples end with parts."""
    random = np.random.default_rng(3)
    hours = random.integers(0, 2400, 60_000)
    rows = np.stack([hours, hours // 100, hours % 100 + random.integers(0, 900, len(hours))], axis=1).astype(np.int16)
    np.save(tmp_path / "x.npy", rows)
    np.save(tmp_path / "y.npy", hours // 800)
    at_once = pack(td.table_from_arrays(rows, hours // 800), profile="archive")
    for memory, most in ((2**28, 1.0), (2**23, 1.25)):
        told = pack_file(tmp_path / "x.npy", tmp_path / "x.tdz", labels=tmp_path / "y.npy", profile="archive",
                         max_memory=memory)  # fmt: skip
        assert told.bytes <= most * len(at_once.data) + 64 and (told.parts > 3) == (memory == 2**23)
        assert embedded(verify(tmp_path / "x.tdz")) == embedded(at_once)


def test_features_become_differences_as_they_do_at_once(tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    start, length = random.integers(0, 5000, 30_000), random.integers(0, 40, 30_000)
    rows = np.stack([start, start + length, 2 * start + 5], axis=1).astype(np.int16)
    np.save(tmp_path / "x.npy", rows)
    at_once = pack(td.table_from_arrays(rows, None))
    told = pack_file(tmp_path / "x.npy", tmp_path / "x.tdz", max_memory=SMALL)
    made = verify(tmp_path / "x.tdz")
    assert {t.feature for t in made.transforms} == {t.feature for t in at_once.transforms} and len(made.transforms) == 2
    assert embedded(made) == embedded(at_once) and told.parts > 3 and told.bytes < 1.5 * len(at_once.data)
    told = pack_file(tmp_path / "x.npy", tmp_path / "x.tdz", max_memory=SMALL, method="entrogede")
    assert not verify(tmp_path / "x.tdz").transforms and told.bytes > 1.5 * len(at_once.data)


# ------------------------------------------------------------------ replay sets


@pytest.mark.parametrize("method", ["variance", "entrogede", "greedygd", "random"])
@pytest.mark.parametrize("n", [900, 20_000])
def test_replay_sets_are_the_same_bytes(
    tmp_path: Path, pieces: None, monkeypatch: pytest.MonkeyPatch, method: str, n: int
) -> None:
    """Few rows are condensed at once; of many, bases are found while rows pass by, and both give the same samples."""
    monkeypatch.setattr(reduction, "SHUFFLED", 10_000)  # of many rows, some are drawn without a list of all
    random = np.random.default_rng(n)
    rows = (np.cumsum(random.integers(-3, 4, (n, 3)), axis=0) // 4).astype(np.int16)
    np.save(tmp_path / "x.npy", rows)
    np.save(tmp_path / "y.npy", random.choice(["b", "a", "k"], n, p=[0.9, 0.09, 0.01]))
    table = td.table_from_arrays(rows, np.load(tmp_path / "y.npy"))
    for budget, profile in ((3, "mcu"), (50, "archive"), (700, "mcu")):
        at_once = pack(table, replay=budget, method=method, seed=7, profile=profile)
        told = pack_file(tmp_path / "x.npy", tmp_path / "r.tdz", labels=tmp_path / "y.npy", replay=budget, seed=7,
                         method=method, profile=profile, max_memory=2**24)  # fmt: skip
        assert (tmp_path / "r.tdz").read_bytes() == at_once.data and told.bytes == len(at_once.data)
        assert (told.rows, told.samples) == (len(at_once), at_once.n_samples)


@pytest.mark.parametrize("dtype", [np.int8, np.float32])
def test_replay_sets_through_a_model(tmp_path: Path, pieces: None, dtype: Any) -> None:
    source, steps = tmp_path / "t.csv", {"resolution": 0.01} if dtype is np.float32 else {}
    source.write_text("a,b,y\n" + "".join(f"{i % 50},{i % 7 - 3},{i % 3}\n" for i in range(2000)))
    model, calls = network(2, dtype), []
    at_once = pack(td.read(source, label="y"), through=model, replay=30, **steps)
    told = pack_file(source, tmp_path / "r.tdz", label="y", through=model, replay=30, max_memory=SMALL,
                     progress=lambda *c: calls.append(c), **steps)  # fmt: skip
    made = verify(tmp_path / "r.tdz")
    assert np.array_equal(made[:], at_once[:]) and made.embedding_error == pytest.approx(at_once.embedding_error)
    assert told.samples == at_once.n_samples and calls[-1][0] == calls[-1][1] == 3 * source.stat().st_size


def test_wide_rows_that_do_not_fit_are_condensed_by_the_published_rule(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).integers(0, 9, (4000, 90)).astype(np.int8)
    np.save(tmp_path / "x.npy", rows)
    pack_file(tmp_path / "x.npy", tmp_path / "r.tdz", replay=20, max_memory=SMALL)
    by_rule = pack(td.table_from_arrays(rows, None), replay=20, method="entrogede")
    made = verify(tmp_path / "r.tdz")
    assert Counter(map(bytes, made[:])) == Counter(map(bytes, by_rule[:]))
    with pytest.raises(UsageError, match="greedygd looks at all rows"):
        pack_file(tmp_path / "x.npy", tmp_path / "r.tdz", replay=20, max_memory=SMALL, method="greedygd")
    with pytest.raises(UsageError, match="give more memory"):
        pack_file(tmp_path / "x.npy", tmp_path / "r.tdz", replay=2000, max_memory=SMALL)


def test_replay_sets_that_cannot_be(tmp_path: Path) -> None:
    source = tmp_path / "t.csv"
    for text, options, error, match in (
        ("a,y\n1.5,0\n", {}, DataError, "floating point"),
        ("a,y\n1,0.5\n", {}, DataError, "replay sets have classes"),
        ("a,y\n4000000000,0\n", {}, DataError, "do not fit in signed 32 bits"),
        ("a,y\n1,0\n1,1\n", {"replay": 1}, UsageError, "less than one sample"),
        ("a,y\n1,0\n", {"keep_order": True}, UsageError, "no order to keep"),
        ("a,y\n1,0\n", {"method": "best"}, UsageError, "no method"),
    ):
        source.write_text(text)
        with pytest.raises(error, match=match):
            pack_file(source, tmp_path / "r.tdz", label="y", **{"replay": 9, **options})
        with pytest.raises(error, match=match):
            pack(td.read(source, label="y"), **{"replay": 9, **options})
        assert beside(tmp_path) == []


# ------------------------------------------------------------------ memory and interruptions

MEMORY = 2**23
FIRST_USE = 2**20  # bytes that modules take when they are first used


def write_array(folder: Path, n: int, d: int) -> dict[str, Any]:
    rows = np.cumsum(np.random.default_rng(n).integers(-9, 10, (n, d)), axis=0) / 4
    np.save(folder / "t.npy", rows)
    np.save(folder / "y.npy", np.arange(n) * 3 // n)
    return {"labels": str(folder / "y.npy"), "max_memory": MEMORY}


@pytest.mark.parametrize(
    "mode", [{}, {"keep_order": True}, {"profile": "archive"}, {"through": "m.tflite"}, {"replay": 300}], ids=str
)
def test_memory_is_bounded(tmp_path: Path, mode: dict[str, Any]) -> None:
    """Arrays several times as large as the memory."""
    (tmp_path / "m.tflite").write_bytes(network_file(6))
    options = {"through": str(tmp_path / "m.tflite")} if "through" in mode else mode
    n, d = (90_000, 40) if not mode else (600_000, 6)
    options |= write_array(tmp_path, n, d)
    assert (tmp_path / "t.npy").stat().st_size > 3 * MEMORY
    if "replay" in mode:  # takes integers
        np.save(tmp_path / "t.npy", (np.load(tmp_path / "t.npy") * 4).astype(np.int64))
    rows, n_parts, peak = peak_of(tmp_path / "t.npy", tmp_path / "t.tdz", **options)
    assert peak < 1.25 * MEMORY + FIRST_USE
    assert (rows == n and n_parts > 3) or ("replay" in mode and 30 < rows <= 300)


class Interrupted(BaseException):
    """Like KeyboardInterrupt: not an Exception."""


class Faults:
    """Counts what is done to files, and the reports of progress; one of them fails."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.n, self.at = 0, 0
        self.error: type[BaseException] = OSError
        patch.setattr(files.os, "fdopen", self.open)
        patch.setattr(files.tempfile, "TemporaryFile", self.temporary)

    def step(self, *_: Any) -> None:
        self.n += 1
        if self.n == self.at:
            raise self.error("interrupted")

    def open(self, handle: int, mode: str) -> Any:
        faults = self

        class Disk(io.FileIO):
            def read(self, size: int | None = -1) -> bytes:
                faults.step()
                return super().read(-1 if size is None else size)

            def write(self, data: Any) -> int:
                faults.step()
                return super().write(data)

            def seek(self, *at: int) -> int:
                faults.step()
                return super().seek(*at)

            def flush(self) -> None:
                if not self.closed:
                    faults.step()
                super().flush()

        return Disk(handle, mode)

    def temporary(self, dir: Path) -> Any:
        self.step()
        with tempfile.NamedTemporaryFile(dir=dir, delete=False) as made:
            handle = os.dup(made.fileno())
        Path(made.name).unlink()  # as TemporaryFile does it
        return self.open(handle, "w+b")


MODES: dict[str, dict[str, Any]] = {
    "rows": {}, "model": {"through": network(2)}, "order": {"keep_order": True},
    "archive": {"profile": "archive", "keep_order": True}, "replay": {"replay": 9, "through": network(2)},
    "images": {"images": ImageOptions(), "keep_order": True}, "waves": {"window": 9, "hop": 3, "keep_order": True},
}  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_interrupted_at_any_step_the_old_file_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """Every write, read and seek of the output and of temporary files, and every report of progress."""
    source, target, label = tmp_path / "t.csv", tmp_path / "t.tdz", None
    if mode == "images":
        source = write_images(tmp_path / "set", 9)
    elif mode == "waves":
        source = write_waves(tmp_path / "set", [90, 50, 70])
    else:
        source.write_text("a,b,y\n" + "".join(f"{i % 50},{i % 7 - 3},{i % 3}\n" for i in range(200)))
        label = "y"
    before = sorted(path.name for path in tmp_path.iterdir())
    faults = Faults(monkeypatch)

    def run() -> None:
        pack_file(source, target, label=label, progress=faults.step, **MODES[mode])

    run()
    whole, steps = target.read_bytes(), faults.n
    assert steps > 10
    for faults.error in (OSError, Interrupted):
        for faults.at in range(1, steps + 1):
            target.write_bytes(b"old")
            faults.n = 0
            with pytest.raises(faults.error, match="interrupted"):
                run()
            assert target.read_bytes() == b"old"
            assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, "t.tdz"])
    faults.n = faults.at = 0
    run()
    assert target.read_bytes() == whole


KILLED = """
import os, signal, sys
from tinydream.streams.streaming import pack_file
def kill(done, total):
    if done > total // 2:
        os.kill(os.getpid(), signal.SIGKILL)
pack_file(sys.argv[1], sys.argv[2], keep_order=True, profile="archive", progress=kill)
"""


def test_a_kill_leaves_one_file_at_most(tmp_path: Path) -> None:
    """The old file as it was, and what has to be renamed; no temporary file."""
    (tmp_path / "t.csv").write_text("a,b\n" + "".join(f"{i % 50},{i % 7}\n" for i in range(2000)))
    (tmp_path / "t.tdz").write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "t.csv", tmp_path / "t.tdz"], check=False)
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "t.tdz").read_bytes() == b"old"
    left = sorted(path.name for path in tmp_path.iterdir())
    assert len(left) == 3 and left[0].startswith(".t.tdz.") and left[1:] == ["t.csv", "t.tdz"]
