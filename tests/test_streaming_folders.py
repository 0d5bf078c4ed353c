"""Folders of images and recordings, and .npz files, pack piece by piece as they do at once."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sources_kit import network, network_file, small_parts, write_images, write_waves
from test_streaming import SMALL, peak_of

import tinydream as td
from tinydream.cli.commands import main
from tinydream.errors import DataError, UsageError
from tinydream.packs.inspection import verify
from tinydream.packs.pack import Pack, open_pack
from tinydream.packs.packing import pack
from tinydream.streams import chunked_files, chunked_folders, scanning
from tinydream.streams.streaming import pack_file, too_large
from tinydream.tables.images import ImageOptions, read_images


@pytest.fixture(autouse=True)
def pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many chunks, and small parts."""
    monkeypatch.setattr(chunked_folders, "ROW", 20_000)
    monkeypatch.setattr(chunked_files, "CELL", 20_000)
    small_parts(monkeypatch, 60)


def contents(made: Pack) -> Counter[tuple[Any, str]]:
    found = made[:]
    rows = found.tolist() if found.dtype.hasobject else [row.tobytes() for row in found]
    return Counter((row, made.classes[y]) for row, y in zip(rows, made.class_numbers, strict=True))


def both(source: Path, table: Any, target: Path, options: dict[str, Any], cut: dict[str, Any]) -> tuple[Pack, Pack]:
    """Packed at once and piece by piece: the same rows."""
    at_once = pack(table, **options)
    told = pack_file(source, target, max_memory=SMALL, **options, **cut)
    made = verify(target)
    assert contents(made) == contents(at_once) and made.schema == at_once.schema == told.schema
    assert (made.profile, made.n_features, len(made)) == (at_once.profile, at_once.n_features, len(at_once))
    assert made.classes == at_once.classes and made.dtype == at_once.dtype
    assert made.class_label == at_once.class_label and told.left_out == table.left_out
    if options.get("keep_order"):
        assert np.array_equal(made[:], at_once[:]) and np.array_equal(made.labels, at_once.labels)
    return at_once, made


# ------------------------------------------------------------------ images


@pytest.mark.parametrize(
    "options",
    [None, ImageOptions(), ImageOptions(quality=60), ImageOptions(class_wise=False),
     ImageOptions(colour=False, dct=True), ImageOptions(class_wise=False, dct=False)],
)  # fmt: skip
@pytest.mark.parametrize("more", [{}, {"keep_order": True}, {"profile": "archive"}])
def test_folders_of_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: ImageOptions | None, more: dict[str, Any]
) -> None:
    monkeypatch.setattr(scanning, "MOST_TRIED", 100)
    source = write_images(tmp_path / "set", 300)
    at_once, made = both(source, read_images(source), tmp_path / "x.tdz", {"images": options, **more}, {})
    assert made.psnr == (None if at_once.psnr is None else pytest.approx(at_once.psnr))
    assert made.image_shape == at_once.image_shape
    if options is not None:
        flags = [p.contents()[8][5] if 8 in p.contents() else None for p in (made, at_once)]
        assert flags[0] == flags[1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["set", "x.tdz"]


def test_tiles_grey_and_wide_pixels(tmp_path: Path) -> None:
    source = write_images(tmp_path / "set", 20, side=32, colour=False)
    table = read_images(source, tile=8)
    both(source, table, tmp_path / "x.tdz", {"images": ImageOptions()}, {"tile": 8})
    deep = np.arange(64, dtype=np.uint16).reshape(8, 8) * 900
    for name in "ab":
        (tmp_path / "deep" / name).mkdir(parents=True)
        Image.fromarray(deep if name == "a" else deep // 7).save(tmp_path / "deep" / name / "0.png")
    for options in (ImageOptions(), ImageOptions(quality=90)):
        both(tmp_path / "deep", read_images(tmp_path / "deep"), tmp_path / "x.tdz", {"images": options}, {})
    rows = np.random.default_rng(1).integers(0, 99, (200, 8, 8)).astype(np.int16)
    np.save(tmp_path / "x.npy", rows)
    both(tmp_path / "x.npy", td.table_from_arrays(rows, None), tmp_path / "x.tdz",
         {"images": ImageOptions(quality=50)}, {})  # fmt: skip


def test_images_through_a_model_and_as_replay_sets(tmp_path: Path) -> None:
    source = write_images(tmp_path / "set", 60, colour=False)
    both(source, read_images(source), tmp_path / "x.tdz", {"through": network(64)}, {})
    for options in ({}, {"images": ImageOptions()}):
        at_once = pack(read_images(source), replay=9, **options)
        pack_file(source, tmp_path / "r.tdz", replay=9, max_memory=SMALL, **options)
        assert (tmp_path / "r.tdz").read_bytes() == at_once.data


def test_images_that_cannot_be_packed(tmp_path: Path) -> None:
    source = write_images(tmp_path / "set", 9, side=16)
    with pytest.raises(DataError, match="do not divide"):
        pack_file(source, tmp_path / "x.tdz", tile=5)
    with pytest.raises(UsageError, match="embeddings, not images"):
        pack_file(source, tmp_path / "x.tdz", images=ImageOptions(), through=network(4))
    (tmp_path / "set" / "c0" / "late.png").write_bytes((source / "c0" / "00000.png").read_bytes()[:-30])
    with pytest.raises(DataError, match=r"late\.png: cannot be read"):
        pack_file(source, tmp_path / "x.tdz", images=ImageOptions())
    (tmp_path / "set" / "c0" / "late.png").unlink()
    np.save(tmp_path / "x.npy", np.zeros((4, 8, 8), np.int8))
    np.save(tmp_path / "y.npy", np.arange(4) / 2)
    with pytest.raises(DataError, match="images have classes"):
        pack_file(tmp_path / "x.npy", tmp_path / "x.tdz", labels=tmp_path / "y.npy", images=ImageOptions())
    (tmp_path / "big" / "a").mkdir(parents=True)
    Image.fromarray(np.zeros((600, 600), np.uint8)).save(tmp_path / "big" / "a" / "0.png")
    with pytest.raises(DataError, match="read whole, which"):
        pack_file(tmp_path / "big", tmp_path / "x.tdz", tile=8, max_memory=SMALL)
    assert not (tmp_path / "x.tdz").exists()


# ------------------------------------------------------------------ recordings


@pytest.mark.parametrize(("window", "hop"), [(16, 4), (16, None), (10, 25), (12, 9)])
@pytest.mark.parametrize("more", [{}, {"keep_order": True}, {"profile": "archive"}])
@pytest.mark.parametrize("classes", [3, 0])
def test_recordings(tmp_path: Path, window: int, hop: int | None, more: dict[str, Any], classes: int) -> None:
    source = write_waves(tmp_path / "set", [900, 17, 16, 9, 400, 1300, 30], classes)
    (source / "w0" if classes else source).joinpath("notes.txt").write_text("not a recording")
    cut = {"window": window, "hop": hop}
    at_once, made = both(source, td.read(source, **cut), tmp_path / "x.tdz", more, cut)
    assert made.facts()["windows"] == at_once.facts()["windows"]
    if made.facts()["windows"]:  # then windows have an order
        assert np.array_equal(made[:], at_once[:]) and np.array_equal(made.labels, at_once.labels)


def test_windows_through_a_model_and_as_replay_sets(tmp_path: Path) -> None:
    source, cut = write_waves(tmp_path / "set", [900, 400, 1300]), {"window": 8, "hop": 2}
    table = td.read(source, classes=["w0", "w1", "w2"], **cut)
    both(source, table, tmp_path / "x.tdz", {"through": network(16), "keep_order": True},
         {**cut, "classes": ["w0", "w1", "w2"]})  # fmt: skip
    pack_file(source, tmp_path / "r.tdz", replay=9, max_memory=SMALL, **cut)
    assert (tmp_path / "r.tdz").read_bytes() == pack(td.read(source, **cut), replay=9).data


def test_recordings_that_cannot_be_packed(tmp_path: Path) -> None:
    source = write_waves(tmp_path / "set", [500, 400])
    for cut, error, match in (
        ({}, UsageError, "say how many samples"),
        ({"window": 9, "hop": 0}, UsageError, "at least 1"),
        ({"window": 501}, DataError, "no recording has a whole window"),
    ):
        with pytest.raises(error, match=match):
            pack_file(source, tmp_path / "y.tdz", **cut)
    path = source / "w1" / "0.wav"
    data = path.read_bytes()
    path.write_bytes(data[:-403])
    with pytest.raises(DataError, match="ends 403 bytes too early"):
        pack_file(source, tmp_path / "y.tdz", window=9)
    path.write_bytes(data)

    def cut_short(done: int, total: int) -> None:
        path.write_bytes(data[:-403])

    with pytest.raises(DataError, match="the file changed meanwhile"):
        pack_file(source, tmp_path / "y.tdz", window=9, progress=cut_short)
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"no \.wav files"):
        pack_file(tmp_path / "none", tmp_path / "y.tdz", window=9)
    assert not (tmp_path / "y.tdz").exists()


# ------------------------------------------------------------------ .npz


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_files(tmp_path: Path, save: Any) -> None:
    rows = np.random.default_rng(2).normal(size=(500, 2, 3)).round(1)
    source = tmp_path / "x.npz"
    save(source, x=rows, y=np.array(["b", "a"])[np.arange(500) % 2], z=np.arange(1000).reshape(500, 2) / 2)
    for label in (None, "y"):
        both(source, td.read(source, label=label), tmp_path / "x.tdz", {"keep_order": True}, {"label": label})
    pack_file(source, tmp_path / "x.tdz", label="z", max_memory=SMALL, keep_order=True)
    assert np.array_equal(verify(tmp_path / "x.tdz").labels, np.arange(1000).reshape(500, 2) / 2)
    with pytest.raises(DataError, match="no array 'w'; it holds x, y, z"):
        pack_file(source, tmp_path / "x.tdz", label="w")
    for arrays, match in (({"x": rows.T}, "column by column"), ({"x": rows[0, 0]}, "rows must be numbers"),
                          ({"x": rows, "y": rows[:3]}, "labels of shape"),
                          ({"x": rows, "y": np.array([None] * 500)}, "holds objects")):  # fmt: skip
        save(source, **arrays)
        with pytest.raises(DataError, match=match):
            pack_file(source, tmp_path / "x.tdz")
    save(source, x=rows)
    data = bytearray(source.read_bytes())
    data[len(data) // 2] ^= 255
    source.write_bytes(data)
    with pytest.raises(DataError, match="cannot be read"):
        pack_file(source, tmp_path / "x.tdz")


def test_columns_of_npz_and_npy_files(tmp_path: Path) -> None:
    """What `unpack` writes of columns is read again."""
    n = np.arange(300)
    columns = {"a": n / 4, "b": np.array(["u", "v", "w"])[n % 3], "a.missing": n % 7 == 0, "y": n % 2}
    source = tmp_path / "x.npz"
    np.savez(source, **columns)
    for label in (None, "b", ["y", "b"]):
        both(source, td.read(source, label=label), tmp_path / "x.tdz", {}, {"label": label})
    np.savez(source, **columns, classes=np.array(["no", "yes"]))
    for options in ({}, {"classes": ["f", "t"]}):
        _, made = both(source, td.read(source, **options), tmp_path / "x.tdz", {}, options)
        assert made.classes == tuple(options.get("classes", ("no", "yes")))
    np.savez(source, x=np.stack([n, n], axis=1), y=n % 2, classes=np.array(["no", "yes"]))
    both(source, td.read(source), tmp_path / "x.tdz", {}, {})
    np.savez(source, a=n, b=n[:5])
    with pytest.raises(DataError, match=r"array 'b' has shape \(5,\)"):
        pack_file(source, tmp_path / "x.tdz")
    records = np.zeros(300, dtype=[("a", "f8"), ("b", "U3"), ("k", "i2")])
    records["a"], records["b"], records["k"] = columns["a"], columns["b"], n % 5
    np.save(tmp_path / "x.npy", records)
    both(tmp_path / "x.npy", td.read(tmp_path / "x.npy", label="b"), tmp_path / "x.tdz", {}, {"label": "b"})
    np.save(tmp_path / "y.npy", n % 3)
    labels = {"labels": tmp_path / "y.npy"}
    both(tmp_path / "x.npy", td.read(tmp_path / "x.npy", **labels), tmp_path / "x.tdz", {}, labels)
    for rows in (n.reshape(100, 3).astype("M8[D]"), np.array([["a", "bb"], ["", "é"]] * 50)):
        np.save(tmp_path / "x.npy", rows)
        both(tmp_path / "x.npy", td.read(tmp_path / "x.npy"), tmp_path / "x.tdz", {}, {})


# ------------------------------------------------------------------ memory


def test_what_is_too_large(tmp_path: Path) -> None:
    waves, images = write_waves(tmp_path / "w", [5000] * 4), write_images(tmp_path / "i", 40)
    np.savez_compressed(tmp_path / "x.npz", x=np.zeros((1000, 100)))
    for source, cut, n_bytes in ((waves, {}, 4 * 5000 * 4 * 6), (waves, {"window": 8, "hop": 2}, 4 * 4 * 5000 * 4 * 6),
                                 (images, {}, 40 * 192 * 24), (tmp_path / "x.npz", {}, 800_000 * 12)):  # fmt: skip
        assert too_large(source, n_bytes * 9 // 10, **cut) and not too_large(source, n_bytes * 11 // 10, **cut)
    assert not too_large(tmp_path / "gone.npz", 0)


@pytest.mark.parametrize("kind", ["images", "lossy images", "waves", "npz", "parquet"])
def test_memory_is_bounded(tmp_path: Path, kind: str) -> None:
    """Sources several times as large as the memory, seen as rows."""
    memory, more, random, options = 2**23, 0, np.random.default_rng(1), {}
    if "images" in kind:
        source, n_bytes = tmp_path / "set", 120 * 640 * 480
        places = np.add.outer(np.arange(640) // 9, np.arange(480) // 7)
        for i in range(120):
            (source / f"c{i % 2}").mkdir(parents=True, exist_ok=True)
            Image.fromarray((places + i).astype(np.uint8)).save(source / f"c{i % 2}" / f"{i}.png")
        memory, options = 3 * 2**22, {"tile": 16, "images": {"quality": 90} if kind == "lossy images" else {}}
    elif kind == "waves":
        source, n_bytes = write_waves(tmp_path / "set", [4_000_000, 3_000_000]), 7_000_000 * 4
        options = {"window": 400, "hop": 100}
    elif kind == "npz":
        source, n_bytes = tmp_path / "x.npz", 28_000_000
        np.savez_compressed(source, x=random.integers(0, 90, (3_500_000 // 6, 6)))
    else:
        import pandas as pd

        source = tmp_path / "x.parquet"
        memory, more = 2**25, 2**25  # which Arrow takes for pages and dictionaries
        n_bytes = 1_750_000 * 7 * 8
        pd.DataFrame({f"c{i}": random.integers(0, 2**20, 1_750_000) for i in range(7)}).to_parquet(source)
    assert n_bytes > 2.9 * memory
    rows, n_parts, peak = peak_of(source, tmp_path / "x.tdz", max_memory=memory, **options)
    print(kind, rows, n_parts, peak / memory)
    assert rows > 1000 and n_parts > 3 and peak < 1.25 * memory + more


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Options reach what packs piece by piece as they reach what packs at once."""
    images, waves = write_images(tmp_path / "i", 240, side=16), write_waves(tmp_path / "w", [12_000] * 9)
    (tmp_path / "m.tflite").write_bytes(network_file(16))
    np.savez(tmp_path / "x.npz", x=np.arange(96_000).reshape(-1, 8, 8) % 251)
    for number, (source, *options) in enumerate((
        (images, "--quality", "60"), (images, "--no-class-wise", "--no-dct", "--keep-order"),
        (waves, "--window", "16", "--hop", "8", "--profile", "archive"),
        (waves, "--window", "16", "--hop", "8", "--replay", "40", "--method", "random"),
        (waves, "--window", "8", "--hop", "4", "--through", tmp_path / "m.tflite", "--classes", "w0,w1,w2"),
        (tmp_path / "x.npz", "--images", "--no-dct"),
    )):  # fmt: skip
        told = []
        for memory in ("4MB", "1GB"):
            out = tmp_path / f"{number}.{memory}.tdz"
            arguments = ["pack", source, "-o", out, *options, "--max-memory", memory, "--json"]
            assert main(list(map(str, arguments))) == 0
            told.append((json.loads(capsys.readouterr().out), open_pack(out)))
        (streamed, made), (whole, at_once) = told
        assert streamed["streamed"] and not whole["streamed"] and contents(made) == contents(at_once)
        for key in ("rows", "features", "bytes_raw_float32", "schema", "left_out", "embedding_error"):
            assert streamed[key] == whole[key], key
        assert streamed["psnr"] == (None if whole["psnr"] is None else pytest.approx(whole["psnr"]))
