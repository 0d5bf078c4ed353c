"""Transforms of features: chosen where they save, undone by every reader, refused when they make no sense."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from make_golden import GOLDEN
from spec_reader import read_tdz

from tinydream._native import ffi, lib
from tinydream.cli.commands import main
from tinydream.errors import FormatError
from tinydream.files import write_sections
from tinydream.packs import packing
from tinydream.packs.inspection import bit_plan, coded_names, transform_lines
from tinydream.packs.pack import Pack
from tinydream.packs.packing import pack
from tinydream.packs.transforms import Chosen, Transform, apply_transforms, may_save, read_transforms
from tinydream.tables.images import ImageOptions
from tinydream.tables.table import Table, table_from_arrays


def section_of(transforms: tuple[Transform, ...]) -> bytes:
    return b"".join(transform.record() for transform in transforms)


def with_section(made: Pack, section: bytes) -> bytes:
    """The same file with these transforms, its checksums right."""
    return bytes(write_sections(lib.TD_MAGIC_PACK, {**made.contents(), lib.TD_PACK_TRANSFORMS: section}))


def transforms_of(made: Pack) -> tuple[Transform, ...]:
    return read_transforms(made.contents().get(lib.TD_PACK_TRANSFORMS, b""))


def board_rows(made: Pack, cached: bool) -> npt.NDArray[np.int32]:
    """As a board reads them, one by one."""
    rows = np.empty((len(made), made.n_features), dtype=np.int32)
    cache = ffi.new("uint32_t[]", lib.td_pack_cache_size(made.native) // 4)
    assert lib.td_pack_use_cache(made.native, cache if cached else ffi.NULL, 4 * len(cache)) == 0
    for i in range(len(made)):
        assert lib.td_pack_row(made.native, i, ffi.from_buffer("int32_t[]", rows[i]), ffi.NULL) == 0
    lib.td_pack_use_cache(made.native, ffi.NULL, 0)
    return rows


def assert_all_read(made: Pack, rows: npt.NDArray[np.int64]) -> None:
    """By the fast reader in all widths, by the board's with and without a cache, and as specified."""
    for cached in (False, True):
        assert np.array_equal(board_rows(made, cached), rows)
    assert read_tdz(made.data).rows == rows.tolist()
    for bits in (8, 16, 32):
        if made.native.width > bits:
            continue
        low = rows.astype(f"i{bits // 8}")
        out, one = np.empty_like(low), np.empty_like(low[0])
        reader = made._reader(bits)
        assert lib.td_unpacker_rows(reader, 0, len(rows), ffi.from_buffer(out)) == 0
        assert np.array_equal(out, low)
        number = ffi.new("uint32_t *", len(rows) // 2)
        assert lib.td_unpacker_take(reader, number, 1, ffi.from_buffer(one)) == 0
        assert np.array_equal(one, low[number[0]])


@st.composite
def cases(draw: st.DrawFn) -> tuple[npt.NDArray[np.uint32], int, tuple[Transform, ...]]:
    """Rows below 2^width, and transforms of them."""
    n, d, width = draw(st.integers(1, 40)), draw(st.integers(1, 6)), draw(st.integers(1, 32))
    seed = draw(st.integers(0, 2**32))
    rows = np.random.default_rng(seed).integers(0, 2**width, (n, d), dtype=np.uint64).astype(np.uint32)
    rows[0, 0], rows[-1, -1] = 0, 2**width - 1
    feature, byte = st.integers(0, d - 1), st.integers(0, 255)
    factor = st.integers(-(2**15), 2**15 - 1).filter(bool)
    kinds = [st.builds(Transform, feature)]
    if d > 1:
        kinds.append(st.builds(Transform, feature, feature, factor, st.integers(0, 31), byte)
                     .filter(lambda t: t.feature != t.other))  # fmt: skip
    return rows, width, tuple(draw(st.lists(st.one_of(kinds), min_size=1, max_size=2 * d)))


@settings(max_examples=150, deadline=None)
@given(case=cases(), low=st.integers(-(2**31), 2**31 - 1), keyed=st.booleans())
def test_every_reader_undoes_what_was_applied(
    case: tuple[npt.NDArray[np.uint32], int, tuple[Transform, ...]], low: int, keyed: bool
) -> None:
    rows, width, transforms = case
    changed = apply_transforms(transforms, rows, width)
    assert int(changed.max()) < 2**width
    low = min(low, 2**31 - 2**width)
    values = changed.astype(np.int64) + low
    # Rows of the smallest and of the largest value keep the pack's minimum and width as they are.
    ends = np.array([[low] * rows.shape[1], [low + 2**width - 1] * rows.shape[1]])
    table = table_from_arrays(np.vstack((ends, values)), None)
    options: dict[str, Any] = {"replay": len(table), "method": "random"} if keyed else {"method": "entrogede"}
    made = pack(table, **options)
    assert not transforms_of(made)
    made = Pack(with_section(made, section_of(transforms)))
    expected = board_rows(made, False).astype(np.int64)
    wanted = sorted((rows.astype(np.int64) + low).tolist())
    undone = sorted(expected.tolist())
    for row in wanted:
        undone.remove(row)
    assert len(undone) == 2
    assert_all_read(made, expected)


WRONG = {
    "nothing": b"", "half a record": bytes(12), "too many": bytes(8 * 256), "no such feature": Transform(3).record(),
    "no such other": Transform(0, 3, 1).record(), "itself": Transform(1, 1, 1).record(),
    "shift": Transform(0, 1, 1, 32).record(), "Gray code of another": Transform(0, 1).record(),
    "Gray code shifted": Transform(0, 0, 0, 1).record(), "Gray code turned": Transform(0, 0, 0, 0, 1).record(),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_wrong_sections_are_refused(what: str) -> None:
    made = pack(table_from_arrays(np.arange(30, dtype=np.int32).reshape(10, 3), None), method="entrogede")
    Pack(with_section(made, section_of((Transform(1, 0, 1),) * 255)))
    with pytest.raises(FormatError):
        Pack(with_section(made, WRONG[what]))


def test_neither_images_nor_archives_have_transforms() -> None:
    pixels = np.arange(128, dtype=np.uint8).reshape(2, 8, 8)
    for made in (
        pack(table_from_arrays(pixels, None), images=ImageOptions(dct=True)),
        pack(table_from_arrays(pixels.reshape(16, 8), None), profile="archive"),
    ):
        with pytest.raises(FormatError):
            Pack(with_section(made, Transform(0).record()))


def related(n: int = 3000) -> Table:
    """Columns of which one is made of two others but for outliers, and one a fraction of it and noise."""
    random = np.random.default_rng(4)
    hour, minute, other = random.integers(0, 24, n), random.integers(0, 60, n), random.integers(0, 900, n)
    time = 100 * hour + minute
    third = (time * 0.31).astype(int) + random.integers(0, 4, n)
    time[random.integers(0, n, n // 50)] = -1
    return table_from_arrays(np.column_stack((time, hour, minute, third, other)), np.arange(n) % 2)


@pytest.mark.parametrize("large", [False, True])
def test_differences_are_chosen_where_they_save(monkeypatch: pytest.MonkeyPatch, large: bool) -> None:
    table = related()
    if large:
        monkeypatch.setattr("tinydream.packs.packing.LARGE", 0)
    made = pack(table, per_class=8)
    with monkeypatch.context() as patch:
        patch.setattr("tinydream.packs.part.plan_transforms", lambda *_, **__: Chosen())
        plain = pack(table, per_class=8)
    assert transforms_of(made) and not transforms_of(plain)
    assert len(made.data) < 0.8 * len(plain.data)
    rows = made.decode().astype(np.int64)
    assert sorted(rows.tolist()) == sorted(table.flat().tolist())
    assert_all_read(made, rows)
    if not large:  # the samples are those of the rows, whatever these went through
        assert np.array_equal(made.condensed.values, plain.condensed.values)


def test_order_windows_and_archives_of_rows_with_transforms() -> None:
    table = related(400)
    kept = pack(table, keep_order=True)
    assert transforms_of(kept) and np.array_equal(kept[:], table.flat()) and np.array_equal(kept[9], table.flat()[9])
    archived = pack(table, profile="archive", keep_order=True)
    assert not transforms_of(archived) and np.array_equal(archived[:], table.flat())
    replay = pack(table, replay=300, method="random")
    assert transforms_of(replay)
    known = {tuple(row) for row in table.flat().tolist()}
    assert all(tuple(row) in known for row in replay.decode().tolist())


def test_published_methods_stay_as_they_are() -> None:
    for method in ("entrogede", "greedygd"):
        assert not transforms_of(pack(related(400), method=method))


def test_columns_that_say_nothing_of_each_other_have_no_transforms() -> None:
    rows = np.random.default_rng(5).integers(0, 200, (2000, 6))
    assert not transforms_of(pack(table_from_arrays(rows, None)))


def test_a_glance_tells_whether_a_search_may_pay() -> None:
    random = np.random.default_rng(5)
    rows = random.integers(0, 256, (2000, 3)).astype(np.uint32)
    assert not may_save(rows, 8, 24.0, gray=False)
    near = np.column_stack((rows, (rows[:, 0] + random.integers(0, 4, 2000)) & 255)).astype(np.uint32)
    assert may_save(near, 8, 26.0, gray=False)
    assert not may_save(near, 8, 128 * 8.0, gray=False)  # no feature has as many bits as one must save there
    swinging = (128 + random.integers(-1, 1, (2000, 2))).astype(np.uint32)  # 127 and 128 differ in all bits
    swinging[0] = 0
    assert may_save(swinging, 8, 8.0, gray=True) and not may_save(swinging, 8, 8.0, gray=False)
    many = random.integers(0, 256, (2000, 100)).astype(np.uint32)
    assert not may_save(many, 8, 800.0, gray=False)
    many[:, 60] = many[:, 55] + 3
    assert may_save(many, 9, 800.0, gray=False)


def test_a_bit_plan_shows_what_is_stored() -> None:
    made = pack(related())
    assert any(line.startswith("x0* is stored as x0 - 100 x1 - x2") for line in transform_lines(made))
    assert coded_names(made)[0] == "x0*" and coded_names(made)[4] == "x4"
    assert bit_plan(made).entropy[0].sum() < 4 < bit_plan(pack(related(), method="entrogede")).entropy[0].sum()


def test_rows_before_and_after_transforms_are_read_in_any_order(tmp_path: Path) -> None:
    data = pack(related(20_000)).data
    for first in (True, False):  # the reader is kept, and once was made without transforms for good
        made = Pack(data)
        before = made.stored(slice(None), transformed=first)
        after = made.stored(slice(None), transformed=not first)
        expected = np.asarray(made[:]).astype(np.int64) - int(made.native.minimum)
        assert np.array_equal(after if first else before, expected)
        assert not np.array_equal(before, after)
    (tmp_path / "x.tdz").write_bytes(data)
    assert main(["inspect", str(tmp_path / "x.tdz")]) == 0


def test_gray_codes_are_chosen_where_values_swing_around_powers_of_two() -> None:
    random = np.random.default_rng(8)
    rows = 64 * random.integers(1, 4, (2000, 4)) - random.integers(0, 2, (2000, 4))
    table = table_from_arrays(np.vstack((rows, [[0] * 4, [255] * 4])), None)
    made = pack(table, per_class=8)
    assert transforms_of(made) and all(t == Transform(t.feature) for t in transforms_of(made))
    decoded = made.decode().astype(np.int64)
    assert sorted(decoded.tolist()) == sorted(table.flat().tolist())
    assert_all_read(made, decoded)
    entropy = np.log2(6) * 4 / 8 * len(table)
    assert len(made.data) < 1.4 * entropy < 0.8 * len(pack(table, per_class=8, method="entrogede").data)


def test_a_core_without_transforms_refuses_them(tmp_path: Path) -> None:
    core = Path(__file__).resolve().parent.parent / "c_src"
    names = ("archive", "common", "decode", "fields", "file", "image", "open", "parts", "samples", "seek", "transform")
    (tmp_path / "main.c").write_text(
        '#include <stdio.h>\n#include "td.h"\nstatic uint8_t bytes[8192];\n'
        "int main(void) { td_pack pack; uint32_t n = (uint32_t)fread(bytes, 1, sizeof bytes, stdin);\n"
        'printf("%d", td_pack_open(&pack, bytes, n)); return 0; }\n'
    )
    program = tmp_path / "main"
    sources = [str(core / f"{name}.c") for name in names]
    command = ["cc", "-DTD_TRANSFORMS=0", f"-I{core}", str(tmp_path / "main.c"), *sources, "-o", str(program)]
    subprocess.run(command, check=True)
    for name, expected in (("transforms.tdz", lib.TD_E_UNSUPPORTED), ("masks.tdz", lib.TD_OK)):
        with (GOLDEN / name).open("rb") as file:
            assert int(subprocess.run([program], stdin=file, capture_output=True, check=True).stdout) == expected


def test_a_large_table_is_encoded_once_where_much_is_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    """And twice where little is, so that it never grows."""
    rng = np.random.default_rng(3)
    a = rng.integers(0, 4000, 3000)
    near, far = a + rng.integers(0, 4, 3000), a + rng.integers(0, 700, 3000)
    rest = rng.integers(0, 2**12, (3000, 2))
    encoded: list[bool] = []
    encode = packing._encode_parts

    def counted(rows: Any, plain: Any, *options: Any) -> Any:
        encoded.append(rows is plain)
        return encode(rows, plain, *options)

    monkeypatch.setattr(packing, "_encode_parts", counted)
    monkeypatch.setattr(packing, "LARGE", 0)
    for other, plain in ((near, False), (far, True)):
        table = table_from_arrays(np.column_stack((a, other, rest)), None)
        encoded.clear()
        made = pack(table)
        assert encoded == ([True, False] if plain else [False])
        assert sorted(made[:].tolist()) == sorted(table.values.tolist())
        with monkeypatch.context() as patch:
            patch.setattr("tinydream.packs.part.plan_transforms", lambda *_, **__: Chosen())
            assert len(made.data) <= len(pack(table).data)
