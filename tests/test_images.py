"""Images: pixels come back exactly, in the core and by the specification; folders, tiles, qualities, refusals."""

from __future__ import annotations

import json
import struct
import sys
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from spec_images import read_image
from spec_reader import read_tdz

from tinydream._native import ffi, lib, view
from tinydream.cli.commands import main
from tinydream.errors import DataError, FormatError, UsageError
from tinydream.files import write_sections
from tinydream.packs.inspection import compare
from tinydream.packs.pack import Pack, open_pack
from tinydream.packs.packing import pack
from tinydream.tables.images import FREQUENCIES, GAINS, ImageOptions, psnr, read_images, transforms
from tinydream.tables.table import Table, table_from_arrays

QUICK = settings(max_examples=60, deadline=None)
INT32 = st.integers(-(2**31), 2**31 - 1)


def section(height: int, width: int, channels: int, flags: int, low: int = 0, high: int = 0, steps: Any = ()) -> bytes:
    return struct.pack("<HHBBHii", height, width, channels, flags, 0, low, high) + struct.pack(
        f"<{len(steps)}H", *steps
    )


def forward(image: bytes, row: np.ndarray) -> np.ndarray:
    values = np.array(row, dtype=np.int32)
    lib.td_image_forward(view(image), ffi.from_buffer("int32_t[]", values))
    return values


def inverse(image: bytes, row: np.ndarray) -> np.ndarray:
    values = np.array(row, dtype=np.int32)
    lib.td_image_inverse(view(image), ffi.from_buffer("int32_t[]", values))
    return values


@st.composite
def any_images(draw: Any) -> tuple[bytes, np.ndarray]:
    """An image section without steps, and a row of any 32-bit values; sides that are no multiples of 8 turn up."""
    height, width = draw(st.sampled_from([(8, 8), (1, 1), (7, 9), (8, 17), (16, 8), (10, 3)]))
    channels = draw(st.sampled_from([1, 2, 3]))
    flags = draw(st.sampled_from([0, 2, *([1, 3] if channels == 3 else [])]))
    ends = sorted(draw(st.lists(INT32, min_size=2, max_size=2)))
    seed = draw(st.integers(0, 2**32))
    row = np.random.default_rng(seed).integers(ends[0], ends[1], height * width * channels, endpoint=True)
    return section(height, width, channels, flags), row.astype(np.int32)


@QUICK
@given(case=any_images())
def test_every_32_bit_row_comes_back(case: tuple[bytes, np.ndarray]) -> None:
    image, row = case
    assert lib.td_image_check(view(image), len(image), len(row)) == 0
    stored = forward(image, row)
    assert inverse(image, stored).tolist() == row.tolist()
    assert forward(image, inverse(image, row)).tolist() == row.tolist()  # both ways: no two rows are stored alike


@QUICK
@given(case=any_images(), seed=st.integers(0, 2**32))
def test_the_inverse_is_the_specified_one(case: tuple[bytes, np.ndarray], seed: int) -> None:
    image, row = case
    assert inverse(image, row).tolist() == read_image(image, row.tolist())
    if image[5] & 2:  # the same with steps
        steps = np.random.default_rng(seed).integers(1, 65536, 128 if image[4] > 1 else 64)
        fields = struct.unpack_from("<HHBB", image)
        rounded = section(*fields[:3], fields[3] | 4, -1000, 5000, steps.tolist())
        assert inverse(rounded, row).tolist() == read_image(rounded, row.tolist())


def test_coefficients_are_those_of_a_dct() -> None:
    """Against the definition in floating point: the error is that of the rounding in each lifting step."""
    tile = np.random.default_rng(1).integers(-(2**14), 2**14, (8, 8))
    basis = np.array(
        [[np.cos((2 * n + 1) * k * np.pi / 16) * (0.5 if k else 8**-0.5) for n in range(8)] for k in range(8)]
    )
    expected = basis @ tile @ basis.T
    stored = forward(section(8, 8, 1, 2), tile.reshape(-1)).reshape(8, 8).astype(np.int64) % 2**32
    for i, v in enumerate(FREQUENCIES):
        for j, u in enumerate(FREQUENCIES):
            value = int(stored[i, j])
            unfolded = value if i == j == 0 else -(value >> 1) - 1 if value & 1 else value >> 1
            unfolded = (unfolded + 2**31) % 2**32 - 2**31
            error = abs(unfolded) / (GAINS[u] * GAINS[v]) - abs(expected[v, u])
            assert abs(error) < 2**14 * 0.002 + 16, (v, u)


def test_smooth_tiles_have_small_coefficients() -> None:
    ramp = np.add.outer(np.arange(8) * 9, np.arange(8) * 5)
    stored = forward(section(8, 8, 1, 2), ramp.reshape(-1))
    assert np.count_nonzero(stored > 8) < 16 < np.count_nonzero(ramp > 8)


def multiset(rows: Any, labels: Any) -> Counter[tuple[int, ...]]:
    return Counter((int(label), *map(int, row)) for row, label in zip(rows, labels, strict=True))


def flat(made: Any) -> np.ndarray:
    return made[:].reshape(len(made), -1)


@st.composite
def image_tables(draw: Any) -> Table:
    side, channels = draw(st.sampled_from([4, 8, 9])), draw(st.sampled_from([None, 1, 3]))
    n = draw(st.integers(1, 12))
    dtype = np.dtype(draw(st.sampled_from(["u1", "i1", "u2", "i4"])))
    shape = (n, side, 8) if channels is None else (n, side, 8, channels)
    values = draw(hnp.arrays(dtype, shape, elements=hnp.from_dtype(dtype)))
    labels = draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))
    return table_from_arrays(values, labels, classes=3)


@QUICK
@given(
    table=image_tables(), colour=st.sampled_from([None, False, True]), dct=st.sampled_from([None, False, True]),
    class_wise=st.booleans(), method=st.sampled_from(["variance", "entrogede"]),
)  # fmt: skip
def test_pixels_are_exactly_as_given(
    table: Table, colour: bool | None, dct: bool | None, class_wise: bool, method: str
) -> None:
    if table.values.ndim == 3 or table.values.shape[3] != 3:
        colour = None if colour else colour
    options = ImageOptions(colour, dct, class_wise)
    made = pack(table, per_class=2, method=method, images=options)
    assert made[:].dtype == table.values.dtype and made[0].shape == table.values.shape[1:]
    assert multiset(flat(made), made.labels) == multiset(table.flat(), table.labels)
    assert made[0].tolist() == made[:][0].tolist() and made.psnr is None
    assert made.image_shape == (*table.values.shape[1:], 1)[:3]
    spec = read_tdz(made.data)
    assert spec.rows == flat(made).tolist()
    assert made.condensed.weights.sum() == len(table)
    values = [values for values, _, _ in spec.samples]
    np.testing.assert_allclose(made.condensed.values, values, rtol=1e-6, atol=1e-6 * max(1.0, abs(made[:]).max()))


def photograph_like(n: int, channels: int = 3) -> Table:
    """Two classes of smooth colour tiles: ramps with a little noise."""
    random = np.random.default_rng(5)
    slope = random.normal(0, 6, (2, n, 1, 1, channels))
    grid = np.arange(8.0)
    values = (
        120 + slope[0] * grid[:, None, None] + slope[1] * grid[None, :, None] + random.normal(0, 1, (n, 8, 8, channels))
    )
    values += (np.arange(n) % 2)[:, None, None, None] * 60
    return table_from_arrays(np.clip(np.rint(values), 0, 255).astype(np.uint8), np.arange(n) % 2)


def test_quality_trades_size_for_error() -> None:
    table = photograph_like(300)
    sizes, errors = [], []
    for quality in (95, 70, 30):
        made = pack(table, images=ImageOptions(quality=quality))
        assert made.psnr is not None and made[:].min() >= 0 and made[:].max() <= 255
        sizes.append(len(made.data))
        errors.append(made.psnr)
        # What was promised is what is read back: rows are found again by their labels and their nearness.
        spec = read_tdz(made.data)
        assert spec.rows[:3] == flat(made)[:3].tolist()
    exact = pack(table, images=ImageOptions())
    assert len(exact.data) > sizes[0] > sizes[1] > sizes[2] and errors[0] > errors[1] > errors[2] > 25
    one = table_from_arrays(table.values[:1], [0])
    made = pack(one, images=ImageOptions(quality=40))
    low, high = int(one.values.min()), int(one.values.max())
    assert made.psnr == pytest.approx(psnr(one.flat(), flat(made), high - low), abs=1e-3)
    assert pack(one, images=ImageOptions(quality=100, colour=False)).psnr is not None


def test_transforms_help_where_pixels_resemble_their_neighbours() -> None:
    table = photograph_like(400)
    raw = pack(table, images=ImageOptions(colour=False, dct=False))
    both, best = pack(table, images=ImageOptions(colour=True, dct=True)), pack(table, images=ImageOptions())
    assert len(best.data) <= len(both.data) < 0.8 * len(raw.data)
    one_plan = pack(table, images=ImageOptions(colour=True, dct=True, class_wise=False))
    assert len(one_plan.data) >= len(both.data)
    random = np.random.default_rng(0).integers(0, 256, (50, 8, 8), np.uint8)
    noise = table_from_arrays(random, np.zeros(50))
    assert len(pack(noise, images=ImageOptions()).data) <= len(pack(noise).data) + 40


def test_replay_sets_of_images() -> None:
    made = pack(photograph_like(60), replay=10, images=ImageOptions())
    assert len(made) == 10 and made.condensed.weights.sum() == 60 and made.image_shape == (8, 8, 3)
    assert np.array_equal(made.condensed.values, flat(made))


def test_inspection_sees_stored_values_and_pixels() -> None:
    made = pack(photograph_like(40), images=ImageOptions(quality=60))
    stored = made.stored(slice(None))
    assert stored.shape == flat(made).shape and not np.array_equal(stored, flat(made))
    assert made.sections()["image"] == 16 + 256 and compare(made)["raw"] == 40 * (192 + 1)


@pytest.mark.parametrize(
    ("values", "options", "error", "match"),
    [
        (np.zeros((2, 5), np.uint8), ImageOptions(), DataError, "height, width"),
        (np.zeros((2, 8, 8)), ImageOptions(), DataError, "not float64|floating"),
        (np.zeros((1, 64, 65), np.uint8), ImageOptions(), DataError, "tiles"),
        (np.zeros((1, 8, 8), np.uint8), ImageOptions(quality=0), UsageError, "1 to 100"),
        (np.zeros((1, 8, 8), np.uint8), ImageOptions(quality=101), UsageError, "1 to 100"),
        (np.zeros((1, 8, 8), np.uint8), ImageOptions(quality=50, dct=False), UsageError, "either"),
        (np.zeros((1, 8, 8), np.uint8), ImageOptions(colour=True), UsageError, "takes 3"),
        (np.full((1, 8, 8), 2**31), ImageOptions(), DataError, "32 bits"),
    ],
)  # fmt: skip
def test_what_cannot_be_packed(values: np.ndarray, options: ImageOptions, error: type, match: str) -> None:
    with pytest.raises(error, match=match):
        list(transforms(table_from_arrays(values, None), options))


def test_through_a_model_or_as_images() -> None:
    with pytest.raises(UsageError, match="embeddings"):
        pack(photograph_like(4), through=object(), images=ImageOptions())  # type: ignore[arg-type]


# ------------------------------------------------------------------ bytes that are not trusted


def sections_of(data: bytes) -> dict[int, bytes]:
    n = struct.unpack_from("<H", data, 6)[0]
    return {kind: data[at : at + size] for kind, at, size, _ in struct.iter_unpack("<IIII", data[16 : 16 + 16 * n])}


def reopened(sections: dict[int, bytes]) -> Pack:
    return Pack(write_sections(lib.TD_MAGIC_PACK, sections))


WRONG = {
    "size": section(8, 8, 3, 3) + b"\0", "no height": section(0, 8, 3, 3), "no width": section(8, 0, 3, 3),
    "no channels": section(8, 8, 0, 2), "other features": section(8, 9, 3, 3), "flags": section(8, 8, 3, 8),
    "two colours": section(8, 12, 2, 1), "no steps": section(8, 8, 3, 7),
    "few steps": section(8, 8, 3, 7, 0, 9, [1] * 64),
    "zero step": section(8, 8, 3, 7, 0, 9, [1] * 127 + [0]), "steps of pixels": section(8, 8, 3, 4, 0, 9, [1] * 128),
    "limits": section(8, 8, 3, 7, 9, 8, [1] * 128), "limits of nothing": section(8, 8, 3, 3, 0, 9),
    "reserved": section(8, 8, 3, 3)[:6] + b"\1\0" + bytes(8), "short": section(8, 8, 3, 3)[:15], "empty": b"",
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_image_sections_are_refused(name: str) -> None:
    sections = sections_of(pack(photograph_like(6), images=ImageOptions(True, True)).data)
    with pytest.raises(FormatError):
        reopened({**sections, lib.TD_PACK_IMAGE: WRONG[name]})


def test_schema_and_section_belong_together() -> None:
    sections = sections_of(pack(photograph_like(6), images=ImageOptions(True, True)).data)
    assert reopened(sections).image_shape == (8, 8, 3)
    schema = bytearray(sections[lib.TD_PACK_SCHEMA])
    for flag, kept in ((0, True), (1, False), (2, True)):
        struct.pack_into("<I", schema, 32, flag)
        changed = {**sections, lib.TD_PACK_SCHEMA: bytes(schema)}
        if not kept:
            del changed[lib.TD_PACK_IMAGE]
        with pytest.raises(FormatError):
            reopened(changed)


# ------------------------------------------------------------------ folders and the command line


def write(path: Path, pixels: np.ndarray, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path) if mode is None else Image.fromarray(pixels).convert(mode).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random = np.random.default_rng(9)
    for name in ("cat", "dog"):
        for i in range(3):
            write(tmp_path / "set" / name / f"{i}.png", random.integers(0, 256, (16, 8, 3), np.uint8))
    (tmp_path / "set" / "readme.txt").write_text("not an image")
    return tmp_path / "set"


def test_a_folder_of_folders(folder: Path) -> None:
    table = read_images(folder)
    assert table.values.shape == (6, 16, 8, 3) and table.classes == ("cat", "dog")
    assert table.labels.tolist() == [0, 0, 0, 1, 1, 1] and table.values.dtype == np.uint8
    assert np.array_equal(table.values[4], np.asarray(Image.open(folder / "dog" / "1.png")))
    tiles = read_images(folder, tile=8)
    assert tiles.values.shape == (12, 8, 8, 3) and np.array_equal(tiles.values[1], table.values[0, 8:])
    assert read_images(folder, classes=["dog", "cat"]).labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_grey_stays_grey_unless_there_is_colour(folder: Path) -> None:
    grey = np.arange(128, dtype=np.uint8).reshape(16, 8)
    for name in ("a", "b"):
        write(folder.parent / "grey" / name / "x.pgm", grey)
    assert read_images(folder.parent / "grey").values.shape == (2, 16, 8)
    write(folder / "cat" / "grey.png", grey)
    write(folder / "cat" / "palette.png", np.repeat(grey[..., None], 3, axis=2), "P")
    mixed = read_images(folder)
    assert mixed.values.shape == (8, 16, 8, 3) and np.array_equal(mixed.values[3, ..., 1], grey)


def test_what_a_folder_must_not_hold(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="do not divide"):
        read_images(folder, tile=7)
    with pytest.raises(DataError, match="no such folder"):
        read_images(folder, classes=["cat", "cow"])
    (folder / "cat" / "9.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(DataError, match=r"9\.png: cannot be read"):
        read_images(folder)
    write(folder / "cat" / "9.png", np.zeros((16, 8, 4), np.uint8))
    with pytest.raises(DataError, match="RGBA"):
        read_images(folder)
    write(folder / "cat" / "9.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(DataError, match="one size"):
        read_images(folder)
    with pytest.raises(UsageError, match="at least 1"):
        read_images(folder, tile=0)
    (folder.parent / "empty" / "a").mkdir(parents=True)
    with pytest.raises(DataError, match="no images"):
        read_images(folder.parent / "empty")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(UsageError, match=r"tinydream\[images\]"):
        read_images(folder)


def png_of_16_bits(pixels: np.ndarray) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in pixels)
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def test_what_pillow_would_lose_is_refused(tmp_path: Path) -> None:
    pixels = np.random.default_rng(4).integers(0, 256, (8, 8, 3), np.uint8)
    frames = [Image.fromarray(pixels[..., channel]) for channel in range(3)]
    path = tmp_path / "a" / "x.png"
    path.parent.mkdir()
    Image.fromarray(pixels).save(path, transparency=(1, 2, 3))
    with pytest.raises(DataError, match="RGB with transparency"):
        read_images(tmp_path)
    path.write_bytes(png_of_16_bits(pixels.astype(np.uint16) << 7))
    with pytest.raises(DataError, match="16 bits a colour"):
        read_images(tmp_path)
    path.unlink()
    path.with_suffix(".ppm").write_bytes(b"P6 2 1 65535\n" + bytes(12))
    with pytest.raises(DataError, match="16 bits a colour"):
        read_images(tmp_path)
    path.with_suffix(".ppm").unlink()
    frames[0].save(path.with_suffix(".tif"), save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match="a file of 3 images"):
        read_images(tmp_path)


def test_pixels_of_all_depths(tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    for suffix, dtype in (("png", np.uint16), ("tif", np.uint16), ("tif", np.int32), ("png", np.uint8)):
        pixels = random.integers(0, np.iinfo(dtype).max, (8, 8), dtype)
        write(tmp_path / f"{suffix}{dtype.__name__}" / "a" / f"x.{suffix}", pixels)
        found = read_images(tmp_path / f"{suffix}{dtype.__name__}").values
        assert found.dtype == dtype and np.array_equal(found[0], pixels)
    write(tmp_path / "mixed" / "a" / "0.png", pixels)
    write(tmp_path / "mixed" / "b" / "1.png", pixels, "1")
    with pytest.raises(DataError, match=r"1\.png: pixels of 1 bits, but 0\.png has 8"):
        read_images(tmp_path / "mixed")


def test_which_images_are_read(folder: Path) -> None:
    pixels = np.zeros((16, 8, 3), np.uint8)
    for name in ("cat/deep/down/z.png", ".ipynb_checkpoints/y.png", "cat/.hidden/x.png"):
        write(folder / name, pixels)
    (folder / "cat" / "._0.png").write_bytes(b"what a file system left there")
    table = read_images(folder)
    assert table.classes == ("cat", "dog") and table.labels.tolist() == [0, 0, 0, 0, 1, 1, 1]
    write(folder / "loose.png", pixels)
    with pytest.raises(DataError, match=r"loose\.png: lies beside"):
        read_images(folder)
    alone = read_images(folder / "dog")
    assert len(alone) == 3 and alone.classes == ("0",)


def run(arguments: list[Any], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main([*map(str, arguments), "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def test_inspect_says_what_was_done_to_images(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder.parent / "x.tdz"
    steps = {"--no-dct": "dct", "--no-colour-transform": "colour", "--quality=50": ""}
    for option, without in steps.items():
        run(["pack", folder, "-o", out, option], capsys)
        told = run(["inspect", out, "--no-compare"], capsys)
        assert told["image"] == [16, 8, 3] and without not in told["image_steps"]
        assert (told["psnr"] is not None) == ("quantised" in told["image_steps"]) == (option == "--quality=50")


def test_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder.parent / "x.tdz"
    said = run(["pack", folder, "-o", out], capsys)
    assert said["psnr"] is None and open_pack(out).image_shape == (16, 8, 3)
    pixels = read_images(folder).flat()
    assert sorted(flat(open_pack(out)).tolist()) == sorted(pixels.tolist())
    assert run(["pack", folder, "-o", out, "--tile", 8, "--quality", 60], capsys)["psnr"] > 10
    assert len(open_pack(out)) == 12
    run(["pack", folder, "-o", out, "--no-dct", "--no-colour-transform", "--no-class-wise"], capsys)
    assert sections_of(out.read_bytes())[lib.TD_PACK_IMAGE][5] == 0
    np.savez(folder.parent / "x.npz", x=read_images(folder).values, y=np.arange(6) % 2)
    run(["pack", folder.parent / "x.npz", "--images", "-o", out], capsys)
    assert open_pack(out).image_shape == (16, 8, 3)
    assert main(["pack", str(folder.parent / "x.npz"), "--quality", "50", "-o", str(out)]) == 2
    assert "--images" in capsys.readouterr().err
