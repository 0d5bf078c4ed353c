"""Packs: nothing is lost, the format is the specified one, and no bytes do harm."""

from __future__ import annotations

import hashlib
import io
import os
import random
import re
import struct
import tracemalloc
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cbor2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from make_golden import golden_packs
from spec_reader import read_tdz

from tinydream import files
from tinydream._native import ffi, lib, view
from tinydream.errors import DataError, FormatError, UsageError
from tinydream.files import write_sections
from tinydream.packs.pack import Pack, open_pack
from tinydream.packs.packing import pack
from tinydream.packs.part import published_size
from tinydream.packs.reduction import LARGE
from tinydream.tables.table import Table, table_from_arrays

GOLDEN = Path(__file__).resolve().parent / "golden"
QUICK = settings(max_examples=100, deadline=None)


@st.composite
def tables(draw: Any) -> Table:
    """Rows of any integer type and width, any number of rows a class, down to one; constant columns turn up."""
    dtype = np.dtype(draw(st.sampled_from(["b1", "i1", "u1", "i2", "u2", "i4", "i8"])))
    span = {"b": (0, 1), "i": (-(2**31), 2**31 - 1), "u": (0, 2**31 - 1)}[dtype.kind]
    if dtype.kind != "b":
        info = np.iinfo(dtype)
        span = max(span[0], info.min), min(span[1], info.max)
    ends = sorted(draw(st.lists(st.integers(*span), min_size=2, max_size=2)))
    n, d = draw(st.integers(1, 40)), draw(st.sampled_from([1, 2, 3, 7, 33, 120]))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = random.integers(ends[0], ends[1], (draw(st.integers(1, n)), d), endpoint=True)
    values = values[random.integers(0, len(values), n)]
    values[:, random.random(d) < 0.3] = ends[0]
    labels = draw(st.lists(st.integers(0, draw(st.integers(0, 9))), min_size=n, max_size=n))
    return table_from_arrays(values.astype(dtype), labels, classes=draw(st.sampled_from([10, 1024])))


def multiset(rows: Any, labels: Any) -> Counter[tuple[int, ...]]:
    return Counter((int(label), *map(int, row)) for row, label in zip(rows, labels, strict=True))


@QUICK
@given(table=tables(), per_class=st.integers(1, 12), method=st.sampled_from(["variance", "entrogede"]))
def test_nothing_is_lost(table: Table, per_class: int, method: str) -> None:
    made = pack(table, per_class=per_class, method=method)
    assert multiset(made[:], made.labels) == multiset(table.flat(), table.labels)
    assert (len(made), made.n_features, made.classes) == (len(table), table.flat().shape[1], table.classes)
    assert np.array_equal(np.array(list(made)), made[:]) and np.array_equal(made[-1], made[len(made) - 1])
    assert sum(made.sections().values()) == len(made.data) and len(Pack(made.data)) == len(made)

    condensed = made.condensed
    assert len(condensed) == made.n_samples <= per_class * len(set(table.labels.tolist()))
    assert condensed.weights.sum() == len(table)
    first, count = ffi.new("uint32_t *"), ffi.new("uint32_t *")
    rows, labels, at = made[:].astype(np.float64), made.labels, 0
    for i in range(len(condensed)):
        assert lib.td_pack_sample_rows(made.native, i, first, count) == 0 and first[0] == at
        at += count[0]
        assert set(labels[first[0] : at].tolist()) == {condensed.labels[i]} and condensed.weights[i] == count[0]
        of_sample = rows[first[0] : at]
        tolerance = 4e-7 * np.abs(of_sample).max()  # f32: exact while sums stay below 2^24
        np.testing.assert_allclose(condensed.values[i], of_sample.mean(axis=0), rtol=2e-7, atol=tolerance)
    assert at == len(made) and lib.td_pack_sample_rows(made.native, made.n_samples, first, count) == lib.TD_E_RANGE


@QUICK
@given(table=tables(), method=st.sampled_from(["variance", "entrogede"]), replay=st.booleans())
def test_the_specified_reader_agrees(table: Table, method: str, replay: bool) -> None:
    made = pack(table, per_class=3, method=method, replay=30 if replay else None)
    assert_as_specified(made)


def assert_as_specified(made: Pack) -> None:
    spec = read_tdz(made.data)
    rows = made.decode()
    assert spec.rows == rows.tolist() and spec.labels == made.row_classes.tolist()
    condensed = made.board_samples()
    assert [label for _, label, _ in spec.samples] == condensed.labels.tolist()
    assert [weight for _, _, weight in spec.samples] == condensed.weights.tolist()
    scale = max(1.0, float(np.abs(rows.astype(np.float64)).max()))
    values = [values for values, _, _ in spec.samples]
    rounding = 4e-7 + len(rows) * 2.0**-24  # of a sum in f32: half a unit a row
    np.testing.assert_allclose(condensed.values, values, rtol=4e-7, atol=rounding * scale * made.scale)


@pytest.mark.parametrize("method", ["variance", "entrogede", "random"])
def test_a_replay_set_weighs_as_much_as_its_rows(method: str) -> None:
    table = table_from_arrays(np.random.default_rng(0).integers(-128, 128, (90, 8), np.int8), np.repeat([0, 1, 2], 30))
    replay = pack(table, replay=12, method=method, seed=5)
    assert len(replay) == replay.n_samples <= 12
    assert replay.condensed.weights.sum() == (12 if method == "random" else 90)
    assert np.array_equal(replay.condensed.values, replay[:])


def test_real_values_use_scale_and_zero_point() -> None:
    data = sections_of(GOLDEN.joinpath("masks.tdz").read_bytes())
    schema = bytearray(data[lib.TD_PACK_SCHEMA])
    struct.pack_into("<fi", schema, 20, 0.25, -7)
    plain, scaled = Pack(rebuild(data)), Pack(rebuild({**data, lib.TD_PACK_SCHEMA: bytes(schema)}))
    np.testing.assert_allclose(scaled.condensed.values, 0.25 * (plain.condensed.values + 7), rtol=1e-6)
    assert (scaled.scale, scaled.zero_point) == (0.25, -7)


def test_ours_is_never_larger_than_the_published_plan() -> None:
    random = np.random.default_rng(1)
    for seed in range(4):
        rows = (random.normal(size=(300, 12)) * 5 + seed * 20).astype(np.int16)
        table = table_from_arrays(rows, random.integers(0, 3, 300))
        ours, published = pack(table), pack(table, method="entrogede")
        assert len(ours.data) <= len(published.data) < published_size(table) + 300


def test_published_size_is_the_formula() -> None:
    table = table_from_arrays(np.repeat([[1, 4], [6, 3]], 50, axis=0), np.zeros(100), classes=2)
    # Less the minimum the rows are (0, 3) and (5, 2): the bits that vary all split the same way. 2 bases of 6 bits,
    # no deviation, ids of 1 bit; a mask of 6 bits; a byte a label. (One base less: 6 bits, but 3 bits a row.)
    assert published_size(table) == (2 * 6 + 100 * 1 + 7) // 8 + 1 + 100


def test_rows_by_index() -> None:
    made = pack(table_from_arrays(np.arange(10).reshape(5, 2), [0, 0, 1, 1, 1]))
    assert made[np.int64(2)].tolist() == [4, 5] and made[1:-1:2].tolist() == [[2, 3], [6, 7]] and len(made[4:1]) == 0
    for index in (5, -6):
        with pytest.raises(IndexError, match="of 5"):
            made[index]
    assert made[np.array(2)].tolist() == [4, 5]  # an array without axes is a number
    for index in (True, np.True_, np.array(True), 2.0, None, "2", [[1]], [1.0]):
        with pytest.raises(IndexError, match="chosen by a number, a slice, a mask or row numbers"):
            made[index]
    values = ffi.new("int32_t[]", 4)
    assert lib.td_pack_rows(made.native, 3, 2, values) == 0 and list(values) == [6, 7, 8, 9]
    assert lib.td_pack_rows(made.native, 5, 0, values) == 0
    for first, count in ((3, 3), (6, 0), (2**32 - 1, 2)):
        assert lib.td_pack_rows(made.native, first, count, values) == lib.TD_E_RANGE
    assert "5 rows x 2" in repr(made) and made.raw_float32_size == 5 * 9


@QUICK
@given(table=tables(), replay=st.booleans(), data=st.data())
def test_the_fast_way_gives_the_same_rows(table: Table, replay: bool, data: st.DataObject) -> None:
    made = pack(table, replay=30 if replay else None, per_class=4)
    assert_read_both_ways(made, data)


@settings(QUICK, max_examples=50)
@given(widths=st.lists(st.tuples(st.integers(0, 10), st.integers(0, 5)), min_size=5, max_size=20),
       n_patterns=st.integers(1, 999), n_rows=st.sampled_from([2100, LARGE + 1]), factor=st.integers(1, 40),
       seed=st.integers(0, 99), method=st.sampled_from(["variance", "entrogede"]), data=st.data())  # fmt: skip
def test_the_fast_way_gives_the_same_rows_of_large_parts(
    widths: list[tuple[int, int]],
    n_patterns: int,
    n_rows: int,
    factor: int,
    seed: int,
    method: str,
    data: st.DataObject,
) -> None:
    """From 2,048 rows on bits are looked up by the byte, those of rows too where a row has at most 64. Rows are some
    patterns of high bits with noise in low ones; a factor makes lists of entries pay."""
    random = np.random.default_rng(seed)
    pattern, n = random.integers(0, n_patterns, n_rows), len(widths)
    high = np.stack([random.integers(0, 2**width, n_patterns)[pattern] for width, _ in widths], axis=1)
    low = np.stack([random.integers(0, 2**width, n_rows) for _, width in widths], axis=1)
    rows = ((high << [width for _, width in widths]) + low) * np.where(random.integers(0, 2, n), factor, 1)
    assert_read_both_ways(pack(table_from_arrays(rows.astype(np.int32) - 50, None), method=method), data)


def assert_read_both_ways(made: Pack, data: st.DataObject) -> None:
    """By td_pack_row, and by the unpacker: any range, into any type that holds the values, through few slots."""
    expected = np.empty((len(made), made.n_features), dtype=np.int32)
    assert lib.td_pack_rows(made.native, 0, len(made), ffi.from_buffer("int32_t[]", expected)) == 0
    assert np.array_equal(made.decode(), expected) and np.array_equal(made[:], expected)
    first = data.draw(st.integers(0, len(made)))
    count = data.draw(st.integers(0, len(made) - first))
    for dtype in ("i1", "u1", "i2", "u2", "i4", "u4"):
        if np.can_cast(made.dtype, dtype):
            out = np.full((count + 1, made.n_features), 1, dtype=dtype)
            assert made.decode(first, count, out=out[:count]).base is out
            assert np.array_equal(out[:count], expected[first : first + count]) and (out[count] == 1).all()
    size = lib.td_unpacker_size(made.native, 32, 1)
    memory, reader = ffi.new("uint64_t[]", size // 8), ffi.new("td_unpacker *")
    assert lib.td_unpacker_init(reader, made.native, 32, 1, memory, size - 1) == lib.TD_E_MEMORY
    assert lib.td_unpacker_init(reader, made.native, 32, 1, memory, size) == 0
    wanted = np.array(data.draw(st.lists(st.integers(0, len(made) - 1), max_size=30)), dtype=np.uint32)
    values = np.empty((len(wanted), made.n_features), dtype=np.int32)
    numbers, out = ffi.from_buffer("uint32_t[]", wanted), ffi.from_buffer(values)
    assert lib.td_unpacker_take(reader, numbers, len(wanted), out) == 0
    assert np.array_equal(values, expected[wanted])
    assert_read_with_a_cache(made, expected, wanted)
    assert_samples_are_means(made, expected)


def assert_read_with_a_cache(made: Pack, expected: np.ndarray, wanted: np.ndarray) -> None:
    """All rows in order, some in any order, and each again: the same with and without."""
    size = lib.td_pack_cache_size(made.native)
    cache, row = ffi.new("uint32_t[]", size // 4), ffi.new("int32_t[]", made.n_features)
    assert lib.td_pack_use_cache(made.native, cache, size - 1) == lib.TD_E_MEMORY
    assert lib.td_pack_use_cache(made.native, cache, size) == 0
    numbers = [*range(len(made)), *np.repeat(wanted, 2).tolist()]
    got = []
    for number in numbers:
        assert lib.td_pack_row(made.native, number, row, ffi.NULL) == 0
        got.append(list(row))
        row[0] ^= 1  # the caller's row is the caller's
    assert np.array_equal(np.array(got, dtype=np.int32), expected[numbers])
    assert lib.td_pack_use_cache(made.native, ffi.NULL, 0) == 0
    assert lib.td_pack_rows(made.native, 0, len(made), ffi.from_buffer("int32_t[]", np.empty_like(expected))) == 0


def assert_samples_are_means(made: Pack, expected: np.ndarray) -> None:
    """Sums of f32 in the order of the rows, times the scale by the count."""
    values, row = ffi.new("float[]", made.n_features), ffi.new("int32_t[]", made.n_features)
    first, count, label, weight = (ffi.new(f"{kind} *") for kind in ("uint32_t", "uint32_t", "uint32_t", "float"))
    for i in range(made.n_samples):
        assert lib.td_pack_sample_rows(made.native, i, first, count) == 0
        assert lib.td_pack_sample(made.native, i, row, values, label, weight) == 0
        rows = expected[first[0] : first[0] + count[0]].astype(np.float32) - np.float32(made.zero_point)
        total = rows[0]
        for following in rows[1:]:
            total = total + following
        mean = total * (np.float32(made.scale) / np.float32(count[0]))
        assert np.array_equal(np.array(list(values), np.float32), mean)


def test_decode_refuses_what_does_not_fit() -> None:
    made = pack(table_from_arrays(np.arange(-100, 100).reshape(50, 4), None))
    assert made.dtype == np.int8 and lib.td_unpacker_size(made.native, 64, 1) == 0
    readonly = np.zeros((50, 4), np.int8)
    readonly.flags.writeable = False
    for out in (np.zeros((50, 4), np.uint8), np.zeros((50, 4), np.int64), np.zeros((50, 4), np.float32), readonly,
                np.zeros((4, 50), np.int8).T, np.zeros((49, 4), np.int8), np.zeros((50, 4), ">i2")):  # fmt: skip
        with pytest.raises(UsageError, match="out"):
            made.decode(out=out)
    for first, count in ((0, 51), (51, 0), (-1, 2), (2, -1)):
        with pytest.raises(UsageError, match="there are 50"):
            made.decode(first, count)
    assert lib.td_unpacker_rows(made._reader(8), 49, 2, ffi.NULL) == lib.TD_E_RANGE
    schema = bytearray(sections_of(made.data)[lib.TD_PACK_SCHEMA])
    schema[14] = 9  # one bit more than its type has
    assert exercise(rebuild({**sections_of(made.data), lib.TD_PACK_SCHEMA: bytes(schema)})) is None


@pytest.mark.parametrize(("low", "high", "dtype"), [(0, 1, "i1"), (-128, 127, "i1"), (0, 128, "u1"), (-1, 255, "i2"),
                                                    (0, 65535, "u2"), (-1, 65535, "i4")])  # fmt: skip
def test_a_pack_knows_its_narrowest_type(low: int, high: int, dtype: str) -> None:
    made = pack(table_from_arrays(np.array([[low], [high]]), None))
    assert made.dtype == dtype and sorted(made.decode().ravel().tolist()) == [low, high]


def test_the_example_of_the_specification() -> None:
    made = pack(table_from_arrays(np.array([[5, 8], [5, 9], [7, 9]], np.int32), [0, 0, 1]), per_class=1)
    text = GOLDEN.parent.parent.joinpath("docs", "SPEC.md").read_text(encoding="utf-8").split("### Example")[1]
    lines = re.findall(r"^ +\d+  ((?:[0-9a-f]{2} ?){16})$", text, re.MULTILINE)
    assert bytes.fromhex("".join(lines)) == made.data


def test_an_archive_keeps_the_order_of_a_pack_that_stores_rows_as_they_came() -> None:
    rows = np.array([[0], [6], [5], [6], [2]], dtype=np.int8)
    table = table_from_arrays(rows, None)
    assert lib.TD_PACK_ORDER not in sections_of(pack(table, per_class=3, keep_order=True).data)
    assert np.array_equal(pack(table, per_class=3, keep_order=True, profile="archive")[:], rows)


@QUICK
@given(table=tables(), archive=st.booleans(), data=st.data())
def test_rows_stay_where_they_were_given(table: Table, archive: bool, data: st.DataObject) -> None:
    made = pack(table, per_class=3, keep_order=True, profile="archive" if archive else "mcu")
    assert np.array_equal(made[:], table.flat()) and np.array_equal(made.class_numbers, table.labels)
    assert made.facts()["profile"] == made.profile == ("archive" if archive else "mcu")
    wanted = data.draw(st.lists(st.integers(0, len(made) - 1), min_size=1, max_size=20))
    assert np.array_equal(made[wanted], table.flat()[wanted])
    label, row = ffi.new("uint32_t *"), np.empty((1, made.n_features), dtype=np.int32)
    for i in wanted:
        out = ffi.from_buffer("int32_t[]", row)
        assert lib.td_pack_row(made.native, i, out, label) == 0 and label[0] == table.labels[i]
        assert np.array_equal(row, made.decode(i, 1, out=np.empty_like(row)))
    loose = pack(table, per_class=3)
    np.testing.assert_allclose(made.condensed.values, loose.condensed.values, rtol=1e-4, atol=1e-4)
    assert np.array_equal(made.condensed.weights, loose.condensed.weights)
    if made.n_features * made.native.width < 1000:
        assert_as_specified(made)


@QUICK
@given(table=tables(), replay=st.booleans(), data=st.data())
def test_an_archive_holds_the_same_rows(table: Table, replay: bool, data: st.DataObject) -> None:
    replay_set = 30 if replay else None
    plain = pack(table, per_class=3, replay=replay_set)
    made = pack(table, per_class=3, replay=replay_set, profile="archive")
    assert multiset(made.decode(), made.row_classes) == multiset(plain.decode(), plain.row_classes)
    assert np.array_equal(made.condensed.weights, plain.condensed.weights)
    assert_read_both_ways(made, data)
    if made.n_features * made.native.width < 1000:
        assert_as_specified(made)


def test_an_archive_of_several_blocks_and_many_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(5)
    monkeypatch.setattr("tinydream.packs.archive.BLOCK", 100)
    first = random.integers(0, 50, (450, 20))
    rows = np.column_stack((first, first[:, 3] * 7 - 2, first[:, 4] - first[:, 5]))
    table = table_from_arrays(rows, random.integers(0, 2, 450))
    made = pack(table, profile="archive", keep_order=True)
    assert np.array_equal(made[:], rows)
    numbers = random.permutation(450)[:90]
    assert np.array_equal(made[numbers], rows[numbers]) and np.array_equal(made[449], rows[449])
    assert_as_specified(made)


def test_an_archive_finds_what_columns_say_of_each_other() -> None:
    random = np.random.default_rng(6)
    first = random.integers(0, 50, (3000, 5))
    rows = np.column_stack((first, first[:, 3] * 7 - 2, first[:, 4] - first[:, 2], first[:, 0] ** 2))
    table = table_from_arrays(rows, None)
    packed, archived = pack(table, method="entrogede"), pack(table, profile="archive")
    assert multiset(archived[:], archived.labels) == multiset(rows, np.zeros(3000))
    # Five columns carry 5 log2(50) bits a row; the others follow from them, once they are known well enough.
    assert len(archived.data) < 3000 * 5 * 5.65 / 8 * 1.15 < 0.75 * len(packed.data)


def test_an_archive_needs_memory_and_its_header() -> None:
    data = (GOLDEN / "archive.tdz").read_bytes()
    native, row = ffi.new("td_pack *"), ffi.new("int32_t[]", 6)
    assert lib.td_pack_open(native, view(data), len(data)) == 0
    assert lib.td_pack_row(native, 0, row, ffi.NULL) == lib.TD_E_MEMORY
    size = lib.td_pack_archive_size(native)
    memory = ffi.new("uint64_t[]", size // 8 + 1)
    assert lib.td_pack_attach(native, memory, size - 1) == lib.TD_E_MEMORY
    assert lib.td_pack_attach(native, memory, size) == 0 and lib.td_pack_row(native, 0, row, ffi.NULL) == 0
    assert list(row) == open_pack(GOLDEN / "archive.tdz").decode(0, 1)[0].tolist()
    plain = open_pack(GOLDEN / "order.tdz")
    assert lib.td_pack_archive_size(plain.native) == 0
    assert lib.td_pack_attach(plain.native, memory, size) == lib.TD_E_STATE
    sections = sections_of(data)
    for at, form, value in ((0, "<I", 0), (0, "<I", 2**22), (4, "<B", 7), (4, "<B", 23), (5, "<B", 1), (8, "<B", 9),
                            (9, "<B", 1), (10, "<H", 0), (12, "<H", 0), (44, "<I", 2**20)):  # fmt: skip
        changed = bytearray(sections[lib.TD_PACK_DATA])
        struct.pack_into(form, changed, at, value)
        assert exercise(rebuild({**sections, lib.TD_PACK_DATA: bytes(changed)})) is None, at
    for at in (4, 10, 12, 15):
        changed = bytearray(sections[lib.TD_PACK_PARTS])
        changed[at] += 1
        assert exercise(rebuild({**sections, lib.TD_PACK_PARTS: bytes(changed)})) is None, at
    order = bytearray(sections[lib.TD_PACK_ORDER])
    order[0] |= 63
    assert exercise(rebuild({**sections, lib.TD_PACK_ORDER: bytes(order)})) is None
    assert exercise(rebuild({**sections, lib.TD_PACK_ORDER: bytes(order[:-1])})) is None


def test_profile_and_order_are_refused_where_they_do_not_go() -> None:
    table = table_from_arrays([[1], [2]], [0, 1])
    with pytest.raises(UsageError, match="profile"):
        pack(table, profile="zip")
    with pytest.raises(UsageError, match="order"):
        pack(table, keep_order=True, replay=2)
    in_order = pack(table_from_arrays([[1], [2]], [0, 1]), keep_order=True)
    assert lib.TD_PACK_ORDER not in sections_of(in_order.data) and not in_order.facts()["order_kept"]


@pytest.mark.parametrize("size", [0, 1, 16383, 16384, 16391, 50001])
def test_checksums_of_any_length(size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    assert lib.td_crc32(0, data, size) == zlib.crc32(data) and lib.td_crc32(77, data, size) == zlib.crc32(data, 77)


@settings(max_examples=60, deadline=None)
@given(keys=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=300), n_key=st.integers(1, 64))
def test_keys_are_sorted_and_keep_the_order_of_equal_ones(keys: list[int], n_key: int) -> None:
    short = np.array([key % 2**n_key for key in keys], dtype=np.uint64)
    own, order = short.copy(), np.empty(len(short), dtype=np.uint32)
    out = ffi.from_buffer("uint64_t[]", own), ffi.from_buffer("uint32_t[]", order)
    lib.td_key_sort(*out, len(own), n_key, ffi.new("uint64_t[]", len(own)), ffi.new("uint32_t[]", len(own)))
    assert np.array_equal(order, np.argsort(short, kind="stable")) and np.array_equal(own, short[order])


def keyed(made: Pack) -> list[int]:
    records = sections_of(made.data)[lib.TD_PACK_PARTS]
    return [flags & lib.TD_PART_KEYS for flags in records[15 :: lib.TD_PART_RECORD]]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=tables(), repeats=st.integers(1, 30), per_class=st.integers(1, 12), data=st.data())
def test_large_tables_lose_nothing_but_their_order(
    monkeypatch: pytest.MonkeyPatch, table: Table, repeats: int, per_class: int, data: st.DataObject
) -> None:
    rows, labels = np.repeat(table.flat(), repeats, axis=0), np.repeat(table.labels, repeats)
    if rows.dtype != bool:
        rows[:: repeats + 1, 0] ^= 1
    with monkeypatch.context() as patch:
        patch.setattr("tinydream.packs.packing.LARGE", 0)
        made = pack(table_from_arrays(rows, labels, classes=table.n_classes), per_class=per_class)
    assert multiset(made[:], made.labels) == multiset(rows, labels)
    assert np.array_equal(np.array([made[i] for i in reversed(range(len(made)))])[::-1], made[:])
    assert made.n_samples <= per_class * len(set(labels.tolist())) and made.condensed.weights.sum() == len(made)
    assert_read_both_ways(made, data)
    if made.n_features * made.native.width < 2000 and len(made) < 300:
        assert_as_specified(made)


def test_long_rows_are_read_few_at_a_time_and_stay_the_same() -> None:
    random = np.random.default_rng(4)
    rows = random.integers(0, 2, (400, 600)) * random.integers(
        1, 2**20, 600
    )  # 2,400 bytes a row, several a key's block
    made = pack(table_from_arrays(rows, None), per_class=len(rows))
    assert keyed(made) == [lib.TD_PART_KEYS] and made.dtype == np.int32
    assert np.array_equal(made.decode(), np.array([made[i] for i in range(len(made))]))
    assert np.array_equal(made.decode(131, 100), made.decode()[131:231])
    assert multiset(made[:], made.labels) == multiset(rows, np.zeros(len(rows), int))


def test_sorted_rows_are_smaller_and_their_samples_are_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(3).normal(0, 40, (3000, 4)).astype(np.int16)
    rows[:, 3] = rows[:, 3] // 20 * 321
    plain = pack(table_from_arrays(rows, None))
    monkeypatch.setattr("tinydream.packs.packing.LARGE", 2999)
    made = pack(table_from_arrays(rows, None))
    assert keyed(made) == [lib.TD_PART_KEYS] and keyed(plain) == [0]
    # log2(3000!) / 3000 is 10 bits a row; the index and codes that are not ideal take some of it back.
    assert len(made.data) < len(plain.data) - 3000 * 7 / 8
    assert 8 < made.n_samples <= 16
    published = pack(table_from_arrays(rows, None), method="entrogede")
    assert keyed(published) == [0]


def test_large_tables_of_wide_rows_keep_bases_where_they_are_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(4)
    monkeypatch.setattr("tinydream.packs.packing.LARGE", 199)
    rows = random.integers(0, 2, (4, 600))[random.integers(0, 4, 200)]
    made = pack(table_from_arrays(rows, None), per_class=3)
    assert keyed(made) == [0] and made.n_samples <= 3
    assert multiset(made[:], made.labels) == multiset(rows, np.zeros(200))


def test_rows_without_labels_are_one_class() -> None:
    made = pack(table_from_arrays([[3], [1]], None))
    assert made.n_classes == 1 and made.labels.tolist() == [0, 0] and sorted(made[:].ravel()) == [1, 3]


def test_batches() -> None:
    made = pack(table_from_arrays(np.arange(10).reshape(10, 1), [0] * 5 + [1] * 5))
    in_order = list(made.batches(4))
    assert [len(rows) for rows, _ in in_order] == [4, 4, 2]
    assert np.concatenate([rows for rows, _ in in_order]).tolist() == made[:].tolist()
    shuffled = [np.concatenate([rows for rows, _ in made.batches(4, shuffle=s)]).ravel().tolist() for s in (1, 1, 2)]
    assert shuffled[0] == shuffled[1] != shuffled[2] and sorted(shuffled[2]) == list(range(10))
    with pytest.raises(UsageError, match="0 rows"):
        next(made.batches(0))


@pytest.mark.parametrize("method", ["variance", "entrogede", "random"])
def test_replay_sets_of_floats_without_a_model_are_refused(method: str) -> None:
    """Its samples are rounded to integers, which says nothing of real numbers."""
    with pytest.raises(DataError, match="through"):
        pack(table_from_arrays([[0.25], [0.75]], [0, 1]), replay=2, method=method)


def test_rows_that_are_too_long_are_refused() -> None:
    with pytest.raises(DataError, match="4097 values a row"):
        pack(table_from_arrays(np.zeros((2, 4097), np.int8), [0, 1]))


# ------------------------------------------------------------------ golden files


HASHES = {
    "transforms.tdz": "4ebc0569a96c53ad9ba8f920cb3d7c25d465edade2ea54d47a6a708a9f3378ec",
    "masks.tdz": "f983773696288444fb4b6df1de97daa25210d9f2e8cb079c5f77633ca2fecac0",
    "offsets.tdz": "3fe0cac6703c5e5b1addd2a2b23d79e94d7a749288935cd1bf798eba55d0a86f",
    "replay.tdz": "c3f2ca8843012a8cdf22a3fd7c871c77a6cce1a5c262c121976cc649b6b03aef",
    "wide.tdz": "c62dc4e11cb7a6dabdff7cc1a3a2bf9b022be6adf7ec6eb6be72798b6b360a3d",
    "keys.tdz": "b7c4bf8cf4aae01f68b6f6d5f7df8eb671868e402a0140cc8436218f5b7d0e34",
    "one.tdz": "efd4454168f712a5584c12ce022f2b770fe4db70336d89676d9d7b9b601b6e96",
    "image.tdz": "b047d38367472b813f6bbfaadd118ed7c71becdecdeec457814aea3530e65b53",
    "quality.tdz": "4104dd37fba3c8a4f1b11ac88234f7e3de3d621de884b54ced66b4b3b50968d1",
    "fields.tdz": "29394f4313939d322ad4712363f11603defc08867619c83182289a7c97af3dfd",
    "order.tdz": "f7b9f77a14ad8aa729c729756fa20f5176e327057867b1bef33b885db810f658",
    "archive.tdz": "679ad27d7379c55d63fb952502bb068bba17cb6cacb34739d57752d38add75c2",
    "windows.tdz": "6774fab123b16c9be32fd20ccf233adc68e489b8d39d1aa10c21a42c22efec58",
}


@pytest.mark.parametrize("name", HASHES)
def test_golden(name: str) -> None:
    data = (GOLDEN / name).read_bytes()
    assert hashlib.sha256(data).hexdigest() == HASHES[name]
    made = golden_packs()[name]()
    assert made.data == data, "the encoder writes other bytes than it did: a new format version, or a bug"
    assert_as_specified(open_pack(GOLDEN / name))


def test_golden_files_show_every_feature() -> None:
    def flags(name: str) -> int:
        return sections_of((GOLDEN / name).read_bytes())[lib.TD_PACK_PARTS][15]

    assert flags("masks.tdz") & lib.TD_PART_MASKS and not flags("wide.tdz") & lib.TD_PART_MASKS
    assert flags("offsets.tdz") & lib.TD_PART_OFFSETS and not flags("masks.tdz") & lib.TD_PART_OFFSETS
    assert flags("keys.tdz") & (lib.TD_PART_KEYS | lib.TD_PART_DICTIONARY) == 12 and not flags("replay.tdz") & 12
    assert lib.TD_PACK_WEIGHTS in sections_of((GOLDEN / "replay.tdz").read_bytes())
    assert open_pack(GOLDEN / "masks.tdz").classes == ("sit", "run")
    assert open_pack(GOLDEN / "wide.tdz").native.width == 32
    kinds = {transform.factor != 0 for transform in open_pack(GOLDEN / "transforms.tdz").transforms}
    assert kinds == {False, True}


# ------------------------------------------------------------------ damaged and hostile bytes


def sections_of(data: bytes) -> dict[int, bytes]:
    n = struct.unpack_from("<H", data, 6)[0]
    table = struct.iter_unpack("<IIII", data[16 : 16 + 16 * n])
    return {kind: data[offset : offset + size] for kind, offset, size, _ in table}


def rebuild(sections: dict[int, bytes]) -> bytes:
    return write_sections(lib.TD_MAGIC_PACK, sections)


def repair(data: bytes) -> bytes:
    """The bytes with every CRC made right again."""
    fixed = bytearray(data)
    n = min(struct.unpack_from("<H", fixed, 6)[0], (len(fixed) - 16) // 16)
    for entry in range(16, 16 + 16 * n, 16):
        offset, size = struct.unpack_from("<II", fixed, entry + 4)
        struct.pack_into("<I", fixed, entry + 12, zlib.crc32(fixed[offset : offset + size]))
    struct.pack_into("<I", fixed, 12, zlib.crc32(fixed[:12] + fixed[16 : 16 + 16 * n]))
    return bytes(fixed)


def exercise(data: bytes) -> Pack | None:
    """Opens and reads everything; None when the bytes are refused as they should be."""
    try:
        opened = Pack(data)
    except FormatError:
        return None
    rows, labels = opened.decode(), opened.row_classes
    assert rows.shape == (len(rows), opened.n_features) and (labels < opened.n_classes).all()
    assert len(opened[:]) == len(opened.labels) == len(opened)
    condensed = opened.board_samples()
    assert len(condensed) == opened.n_samples and all(isinstance(name, str) for name in opened.classes)
    return opened


@pytest.mark.parametrize("name", HASHES)
def test_truncated_at_every_length(name: str) -> None:
    data = (GOLDEN / name).read_bytes()
    assert all(exercise(data[:size]) is None for size in range(len(data)))
    assert exercise(data + b"\xff" * 9) is not None  # as in a flash partition


@pytest.mark.parametrize("name", HASHES)
def test_every_byte_flipped_is_noticed(name: str) -> None:
    data = (GOLDEN / name).read_bytes()
    for i in range(len(data)):
        for mask in (0x01, 0x80, 0xFF):
            assert exercise(data[:i] + bytes([data[i] ^ mask]) + data[i + 1 :]) is None, i


@pytest.mark.parametrize("name", HASHES)
def test_hostile_bytes_with_right_checksums(name: str) -> None:
    data = (GOLDEN / name).read_bytes()
    opened = 0
    for i in range(len(data)):
        for value in {0, 1, 0x7F, 0x80, 0xFF, data[i] ^ 1, (data[i] + 1) & 0xFF}:
            opened += exercise(repair(data[:i] + bytes([value]) + data[i + 1 :])) is not None
    assert opened > 0  # a pack with another value in a row is a pack


@pytest.mark.parametrize("name", HASHES)
def test_what_is_taken_reads_as_specified(name: str) -> None:
    """Of bytes that are wrong but have right checksums: no row that the specification does not say."""
    data, rng, taken = (GOLDEN / name).read_bytes(), random.Random(name), 0
    for _ in range(100):
        changed = bytearray(data)
        changed[rng.randrange(16, len(data))] ^= 1 << rng.randrange(8)
        opened = exercise(repair(bytes(changed)))
        if opened is not None and len(opened) < 1000:
            taken += 1
            spec = read_tdz(repair(bytes(changed)))
            assert spec.rows == opened.decode().tolist() and spec.labels == opened.row_classes.tolist()
    assert taken > 0


@settings(max_examples=400, deadline=None)
@given(name=st.sampled_from(sorted(HASHES)), kind=st.sampled_from([1, 2, 3, 4, 5, 6, 10]), seed=st.integers(0, 2**32))
def test_hostile_sections(name: str, kind: int, seed: int) -> None:
    rng, sections = random.Random(seed), sections_of((GOLDEN / name).read_bytes())
    section = bytearray(sections.get(kind, b""))
    for _ in range(rng.randint(1, 4)):
        at = rng.randint(0, len(section))
        section[at : at + rng.randint(0, 4)] = rng.choice([b"", b"\0", b"\xff" * 4, rng.randbytes(rng.randint(1, 9))])
    exercise(rebuild({**sections, kind: bytes(section)}))


@pytest.mark.parametrize("kind", [1, 2, 3, 4])
def test_a_missing_section_is_noticed(kind: int) -> None:
    sections = sections_of((GOLDEN / "masks.tdz").read_bytes())
    del sections[kind]
    assert exercise(rebuild(sections)) is None
    assert exercise(rebuild({**sections, kind: b""})) is None


def test_sections_of_other_kinds_are_skipped() -> None:
    sections = sections_of((GOLDEN / "masks.tdz").read_bytes())
    opened = exercise(rebuild({**sections, 99: b"later"}))
    assert opened is not None and opened.sections()["meta"] == len(sections[lib.TD_PACK_META])


SCHEMA_FIELDS = [("<I", 0, 0), ("<I", 0, 2**28), ("<I", 4, 0), ("<I", 4, 41), ("<H", 8, 0), ("<H", 8, 4097),
                 ("<H", 10, 0), ("<H", 10, 1025), ("<H", 10, 1), ("<H", 12, 0), ("<H", 12, 1), ("<B", 14, 0),
                 ("<B", 14, 33), ("<B", 15, 5), ("<f", 20, 0.0), ("<f", 20, -1.0), ("<f", 20, float("nan")),
                 ("<f", 20, float("inf")), ("<I", 32, 1)]  # fmt: skip


@pytest.mark.parametrize(("form", "offset", "value"), SCHEMA_FIELDS)
def test_schema_out_of_range(form: str, offset: int, value: float) -> None:
    sections = sections_of((GOLDEN / "masks.tdz").read_bytes())
    schema = bytearray(sections[lib.TD_PACK_SCHEMA])
    struct.pack_into(form, schema, offset, value)
    assert exercise(rebuild({**sections, lib.TD_PACK_SCHEMA: bytes(schema)})) is None


@pytest.mark.parametrize(
    "weights", [[float("nan")] * 6, [-1.0] * 6, [0.0] * 6, [9e-7] * 6, [1e-38] * 6, [1.1e21, 0, 0, 0, 0, 0], [1.0]]
)
def test_wrong_weights(weights: list[float]) -> None:
    sections = sections_of((GOLDEN / "replay.tdz").read_bytes())
    sections[lib.TD_PACK_WEIGHTS] = struct.pack(f"<{len(weights)}f", *weights)
    assert exercise(rebuild(sections)) is None


@pytest.mark.parametrize("weights", [[1e21] * 6, [0, 0, 0, 0, 0, 1e-6]])
def test_extreme_weights(weights: list[float]) -> None:
    sections = sections_of((GOLDEN / "replay.tdz").read_bytes())
    sections[lib.TD_PACK_WEIGHTS] = struct.pack(f"<{len(weights)}f", *weights)
    opened = Pack(rebuild(sections))
    assert opened.condensed.weights.tolist() == np.float32(weights).tolist()
    assert lib.td_pack_total_weight(opened.native) == np.float32(weights).sum()


def test_padding_bits_are_checked() -> None:
    sections = sections_of((GOLDEN / "wide.tdz").read_bytes())
    for kind in (lib.TD_PACK_DATA, lib.TD_PACK_SAMPLES):
        padded = 0
        for bit in range(8 * len(sections[kind])):
            changed = bytearray(sections[kind])
            changed[bit >> 3] ^= 1 << (bit & 7)
            data = rebuild({**sections, kind: bytes(changed)})
            try:
                read_tdz(data)
            except AssertionError:
                padded += 1
                assert exercise(data) is None, (kind, bit)
        assert padded > 0


def test_a_part_begins_a_sample() -> None:
    sections = sections_of((GOLDEN / "masks.tdz").read_bytes())
    starts = int.from_bytes(sections[lib.TD_PACK_SAMPLES], "little")
    assert starts >> 20 & 3 == 1  # row 20 is the second part's first
    moved = (starts ^ 3 << 20).to_bytes(5, "little")
    assert exercise(rebuild({**sections, lib.TD_PACK_SAMPLES: moved})) is None


def test_ids_and_counts_are_below_their_limits() -> None:
    """Three bases leave one id of two bits without a base; counts of 6 bits a value leave one of three bits."""
    rows = np.repeat(np.arange(3)[:, None] * [5, 9, 17], 20, axis=0)
    sections = sections_of(pack(table_from_arrays(rows, np.zeros(60)), method="entrogede").data)
    data = sections[lib.TD_PACK_DATA]
    assert sections[lib.TD_PACK_PARTS][10] == 3 and data[:2] == bytes([0b10110110, 1])  # 6, 6, 6
    for id_3 in (data[:-1] + bytes([data[-1] | 0xC0]), data[:-1] + bytes([data[-1] | 3])):
        assert exercise(rebuild({**sections, lib.TD_PACK_DATA: id_3})) is None
    assert exercise(rebuild({**sections, lib.TD_PACK_DATA: bytes([0b10110111]) + data[1:]})) is None
    # A count of 7 may not pass as none: take the first feature's bits from the base, add them to the deviation.
    schema = bytearray(sections[lib.TD_PACK_SCHEMA])
    struct.pack_into("<IIHHHB", schema, 0, 1, 1, 1, 1, 1, 6)
    part = struct.pack("<IIHHI", 1, 0, 0, 1, 6)
    one = {1: bytes(schema), 2: part, 3: bytes([0, 5]), 4: b"\1"}
    assert exercise(rebuild(one)) is not None and exercise(rebuild({**one, 3: bytes([7, 5])})) is None


@pytest.mark.parametrize("profile", ["mcu", "archive"])
@pytest.mark.parametrize("real", [True, False])
def test_labels_of_some_rows_are_those_of_all(profile: str, real: bool) -> None:
    rng = np.random.default_rng(7)
    rows, given = rng.integers(-50, 50, (700, 3)).astype(np.int8), rng.integers(0, 5, 700)
    made = pack(table_from_arrays(rows, given / 2 if real else given, real=real), keep_order=True, profile=profile)
    assert np.array_equal(made.labels, given / 2 if real else given)
    some = rng.integers(-700, 700, 90)
    for index in (slice(None, None, 7), slice(650, None), some, rng.random(700) < 0.3):
        assert np.array_equal(made.labels_of(index), made.labels[index])
        assert real or np.array_equal(made.classes_of(index), made.class_numbers[index])
    for shuffle in (None, 3):
        batches = list(made.batches(64, shuffle=shuffle))
        assert Counter(np.concatenate([y for _, y in batches]).tolist()) == Counter(made.labels.tolist())


def test_a_batch_takes_memory_for_itself() -> None:
    """A sound file of 140 bytes that says 2^25 rows: labels of all of them would take 256 MB."""
    n = 2**25
    schema = struct.pack("<IIHHHBBifiII", n, 1, 1, 1, 1, 1, 0, 0, 1.0, 0, 0, 0)
    sections = {1: schema, 2: struct.pack("<IIHHI", n, 0, 0, 1, 0), 3: b"\1\1", 4: struct.pack("<I", 0)}
    made = Pack(write_sections(lib.TD_MAGIC_PACK, sections))
    tracemalloc.start()
    rows, labels = next(made.batches(32))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows.tolist() == [[1]] * 32 and labels.tolist() == [0] * 32 and peak < 2**20


@settings(deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_key_may_name_any_bits_that_there_are(seed: int) -> None:
    """Exclusive or: bits named twice, bits of the deviation and bits that the base has mean the same to all readers, in
    whatever order they read. Names of bits that are not there are refused."""
    rng, sections = random.Random(seed), sections_of((GOLDEN / "keys.tdz").read_bytes())
    opened = Pack(rebuild(sections))
    row = ffi.new("int32_t[]", opened.n_features)
    assert lib.td_pack_row(opened.native, 0, row, ffi.NULL) == 0
    part, data, start = opened.native.part, bytearray(sections[lib.TD_PACK_DATA]), opened.native.data
    assert part.n_key and part.place_bytes == 1
    end = part.last_place - start + 1
    for at in rng.sample(range(end - part.n_key, end), 3):
        data[at] = rng.randrange(opened.n_features << part.bit_bits)
    data[part.bases - start] ^= rng.randrange(2)  # the base's first bit
    sound = all(at % (1 << part.bit_bits) < opened.native.width for at in data[end - part.n_key : end])
    file = rebuild({**sections, lib.TD_PACK_DATA: bytes(data)})
    changed = exercise(file)
    assert (changed is not None) == sound
    if changed is not None:
        rows = changed.decode()
        assert rows.tolist() == read_tdz(file).rows
        for i in rng.sample(range(len(rows)), 20):
            assert lib.td_pack_row(changed.native, i, row, ffi.NULL) == 0 and list(row) == rows[i].tolist()


def test_bytes_between_the_sections_and_the_end_are_refused() -> None:
    data = bytearray((GOLDEN / "one.tdz").read_bytes() + bytes(4))
    struct.pack_into("<I", data, 8, len(data))
    assert exercise(repair(bytes(data))) is None


META = [b"", b"\xff", cbor2.dumps([]), cbor2.dumps({"classes": ["a"]}), cbor2.dumps({"classes": ["a", 2]}),
        cbor2.dumps({"classes": "ab"}), b"\x81" * 50_000, cbor2.dumps({"classes": ["a", "b"]}) + b"\0",
        b"\xa1\x67classes\x82\x61a\xc5\x82\x1a\x7f\xff\xff\xff\x01", b"\x9b\x7f" + b"\xff" * 7,
        b"\xd8\x23\x61("]  # fmt: skip


@pytest.mark.parametrize("meta", META, ids=range(len(META)))
def test_wrong_metadata(meta: bytes) -> None:
    sections = sections_of((GOLDEN / "masks.tdz").read_bytes())
    with pytest.raises(FormatError, match="metadata"):
        Pack(rebuild({**sections, lib.TD_PACK_META: meta}))


def test_not_a_pack(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"gone\.tdz: cannot be read"):
        open_pack(tmp_path / "gone.tdz")
    for data in (b"", b"TDZ1", b"PK\x03\x04" + bytes(60), rebuild({}), bytes(1000)):
        (tmp_path / "t.tdz").write_bytes(data)
        with pytest.raises(FormatError, match=r"t\.tdz: not a whole \.tdz"):
            open_pack(tmp_path / "t.tdz")
    model = bytearray((GOLDEN / "one.tdz").read_bytes())
    model[:4] = b"TDM1"
    assert exercise(repair(bytes(model))) is None
    model[:6] = b"TDZ1\x02\x00"
    with pytest.raises(FormatError, match="version"):
        Pack(repair(bytes(model)))


# ------------------------------------------------------------------ encoding through the core


def encode(rows: np.ndarray, mask: list[int], group: list[int], n_bases: int, *, width: int = 4, capacity: int = 99,
           offsets: list[int] | None = None) -> int:  # fmt: skip
    numbers = [view(np.array(v, np.uint32), "const uint32_t[]") for v in (rows, mask, group)]
    given = ffi.NULL if offsets is None else view(np.array(offsets, np.uint32), "const uint32_t[]")
    out, header = ffi.new("uint8_t[]", 99), ffi.new("td_part_header *")
    status = lib.td_encode_part(numbers[0], len(rows), len(mask), width, numbers[1], given, numbers[2], n_bases, out,
                                capacity, header)  # fmt: skip
    assert bytes(ffi.buffer(out))[max(0, status) if status < 0 else status :].strip(b"\0") == b"" or status < 0
    return int(status)


def test_the_encoder_refuses_what_it_cannot_write() -> None:
    rows = np.array([[1, 2], [3, 15]])
    size = encode(rows, [8, 12], [0, 1], 2)
    assert size > 0 and encode(rows, [8, 12], [0, 1], 2, capacity=size) == size
    assert encode(rows, [8, 12], [0, 1], 2, capacity=size - 1) == lib.TD_E_FULL
    assert encode(rows, [16, 12], [0, 1], 2) == lib.TD_E_ARGUMENT  # a mask bit above the width
    assert encode(rows, [8, 12], [0, 2], 2) == lib.TD_E_ARGUMENT  # a group past the bases
    assert encode(rows, [8, 12], [0, 0], 0) == lib.TD_E_ARGUMENT
    assert encode(rows, [8, 12], [0, 0], 65536) == lib.TD_E_ARGUMENT
    assert encode(rows, [8, 12], [0, 1], 2, width=33) == lib.TD_E_ARGUMENT
    assert encode(rows, [4, 4], [0, 1], 2, width=3) == lib.TD_E_RANGE  # a value above the width
    assert encode(rows, [8, 12], [0, 1], 2, offsets=[16, 0]) == lib.TD_E_RANGE


def test_a_section_file_that_is_too_large_is_not_written() -> None:
    sections = ffi.new("td_section[]", 2)
    for section in sections:
        section.size = 2**31
    assert lib.td_file_size(sections, 2) == 2**32 - 1
    assert lib.td_file_write(lib.TD_MAGIC_PACK, sections, 2, ffi.new("uint8_t[]", 64), 2**32 - 1) == lib.TD_E_FULL
    assert lib.td_file_write(lib.TD_MAGIC_PACK, sections, 33, ffi.new("uint8_t[]", 64), 64) == lib.TD_E_ARGUMENT


# ------------------------------------------------------------------ saving


def test_save_and_open(tmp_path: Path) -> None:
    made = pack(table_from_arrays([[1], [2]], ["a", "b"]))
    made.save(tmp_path / "new" / "t.tdz")
    again = open_pack(tmp_path / "new" / "t.tdz")
    assert again.data == made.data and again.classes == ("a", "b")
    assert (tmp_path / "new" / "t.tdz").stat().st_mode & 0o777 == 0o666 & ~umask()


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# Function and which call of it, in the order of the work.
STEPS = [("tempfile.mkstemp", 0), ("os.fdopen", 0), ("os.fsync", 0), ("os.chmod", 0), ("Path.replace", 0),
         ("os.open", 1), ("os.fsync", 1), ("os.close", 0)]  # fmt: skip


class Interrupted(BaseException):
    """Like KeyboardInterrupt: not an Exception."""


@pytest.mark.parametrize("error", [OSError, Interrupted])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("after", [False, True])
def test_an_interrupted_save_leaves_a_whole_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: tuple[str, int], error: type[BaseException], after: bool
) -> None:
    """Each step fails before or after it took effect; then the old file or the new one is there, and no other."""
    path, old, new = tmp_path / "t.tdz", b"old" * 9, b"new" * 5000
    path.write_bytes(old)
    (module, name), number = step[0].split("."), step[1]
    real = getattr(getattr(files, module), name)
    calls = iter(range(99))

    def failing(*arguments: Any, **options: Any) -> Any:
        fails = next(calls) == number
        result = None if fails and not after else real(*arguments, **options)
        if fails:
            raise error("interrupted")
        return result

    with monkeypatch.context() as patch:
        patch.setattr(getattr(files, module), name, failing)
        with pytest.raises(error, match="interrupted"):
            files.atomic_write(path, new)
    replaced = STEPS.index(step) > STEPS.index(("Path.replace", 0)) or (name == "replace" and after)
    assert path.read_bytes() == (new if replaced else old)
    if not (name == "mkstemp" and after):  # then nobody knows the name yet
        assert [p.name for p in tmp_path.iterdir()] == ["t.tdz"]
    files.atomic_write(path, new)
    assert path.read_bytes() == new


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(written=st.integers(0, 5000))
def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int) -> None:
    path = tmp_path / "t.tdz"
    path.write_bytes(b"old")

    def small_disk(handle: int, mode: str) -> Any:
        class Disk(io.FileIO):
            def write(self, data: Any) -> int:
                super().write(data[:written])
                raise OSError(28, "No space left on device")

        return Disk(handle, mode)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fdopen", small_disk)
        with pytest.raises(OSError, match="No space"):
            files.atomic_write(path, b"n" * 5000)
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["t.tdz"]


@pytest.mark.parametrize("profile", ["mcu", "archive"])
def test_threads_share_a_pack(profile: str) -> None:
    random = np.random.default_rng(0)
    rows = random.integers(0, 200, (6000, 12))
    made = pack(table_from_arrays(rows, random.integers(0, 3, 6000)), keep_order=True, profile=profile)
    stored, samples = made.stored(slice(None)), made.board_samples()
    chosen = [slice(first, first + 500) for first in range(0, 6000, 500)] * 4
    numbers = [np.arange(run.start, run.stop)[::-1] for run in chosen]

    def agree(i: int) -> bool:
        return (
            np.array_equal(made[chosen[i]], rows[chosen[i]])
            and np.array_equal(made[numbers[i]], rows[numbers[i]])
            and np.array_equal(made.decode(out=np.empty(rows.shape, (np.int16, np.int32)[i % 2])), rows)
            and np.array_equal(made.stored(slice(None)), stored)
            and np.array_equal(made.board_samples().values, samples.values)
        )

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(agree, range(len(chosen))))
