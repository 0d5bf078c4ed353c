"""docs/TRUST.md names tests that exist; and what hostile files may not cost."""

from __future__ import annotations

import copy
import random
import re
import struct
import time
from pathlib import Path
from typing import Any

import cbor2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from make_golden import GOLDEN
from test_packs import sections_of

from tinydream._native import ffi, lib, view
from tinydream.errors import FormatError
from tinydream.files import write_sections
from tinydream.packs.pack import Pack

ROOT = Path(__file__).resolve().parent.parent
MANY = 2**28 - 1


def properties() -> dict[int, str]:
    text = (ROOT / "docs" / "TRUST.md").read_text(encoding="utf-8")
    found = re.findall(r"^\*\*T(\d+)\*\* (.*?)(?=^\*\*T|^#|\Z)", text, re.M | re.S)
    return {int(number): said for number, said in found}


def test_properties_are_numbered_without_gaps() -> None:
    assert list(properties()) == list(range(1, len(properties()) + 1)) and len(properties()) >= 15


@pytest.mark.parametrize("number", properties())
def test_every_property_names_tests_that_exist(number: int) -> None:
    named = re.findall(r"`(tests/[\w/]+\.(?:py|c))(?:::(\w+))?`", properties()[number])
    assert named, f"T{number} names no test"
    for file, test in named:
        source = (ROOT / file).read_text(encoding="utf-8")
        assert not test or f"def {test}(" in source, f"T{number}: no {test} in {file}"


def hostile(n_rows: int, n_features: int, part: bytes, data: bytes) -> bytes:
    """A pack of one part and one sample."""
    schema = struct.pack("<IIHHHBBifiII", n_rows, 1, n_features, 1, 1, 1, 0, 0, 1.0, 0, 0, 0)
    starts = bytes(4) if n_rows >= 2 * lib.TD_LISTED_ROWS else b"\1"
    return write_sections(lib.TD_MAGIC_PACK, {1: schema, 2: part, 3: data, 4: starts})


def opening_time(data: bytes) -> tuple[int, float]:
    native, at = ffi.new("td_pack *"), view(data)
    start = time.process_time()
    status = lib.td_pack_open(native, at, len(data))
    return status, time.process_time() - start


def test_opening_takes_time_by_the_bytes_there_are() -> None:
    """Rows that take no bits: 140 bytes that say 2^28 - 1. A loop over the rows took a board minutes."""
    data = hostile(MANY, 1, struct.pack("<IIHHI", MANY, 0, 0, 1, 0), b"\1\1")
    status, seconds = opening_time(data)
    assert status == 0 and len(data) < 200 and seconds < 0.02
    opened = Pack(data)
    assert len(opened) == MANY and opened[MANY - 1].tolist() == [1]


def test_rows_that_take_bits_must_be_there() -> None:
    for flags, n_bases, deviation in ((0, 1, 1), (0, 2, 0), (4, 1, 0)):
        part = struct.pack("<IIHHI", MANY, 0, 0, n_bases, deviation | flags << 24)
        status, seconds = opening_time(hostile(MANY, 1, part, bytes(64)))
        assert status == lib.TD_E_FORMAT and seconds < 0.02


def test_many_parts_of_wide_rows_open_in_linear_time() -> None:
    """The cost of a part is that of its own bytes: four times as many take about four times as long."""

    def seconds(n_parts: int) -> float:
        size = 4096 * 1 // 8  # the plan of one part: a bit a feature, all of them base; and as many bits of base
        records = b"".join(struct.pack("<IIHHI", 1, 2 * size * i, 0, 1, 0) for i in range(n_parts))
        schema = struct.pack("<IIHHHBBifiII", n_parts, n_parts, 4096, 1, n_parts, 1, 0, 0, 1.0, 0, 0, 0)
        plans = (b"\xff" * size + bytes(size)) * n_parts
        starts = b"\xff" * (n_parts // 8)
        data = write_sections(lib.TD_MAGIC_PACK, {1: schema, 2: records, 3: plans, 4: starts})
        times = [opening_time(data) for _ in range(3)]
        assert {status for status, _ in times} == {0}
        return min(taken for _, taken in times)

    assert seconds(1024) < 12 * seconds(256) + 0.01


ODD = (0, 1, -1, 2**31, 2**64, 10**30, float("nan"), float("inf"), 0.5, "", "x", "i4", "f8", "M8[ns]", "text", "list",
       "step", "bits", None, True, [], {}, [1], b"", {"a": 1}, ["a", "b"], [None])  # fmt: skip


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Of everything inside maps and lists."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, item in inner for place in [(*at, key), *places(item, (*at, key))]]


@settings(max_examples=300, deadline=None)
@example(name="fields.tdz", seed=985)  # a column whose name is empty, as the first of many a .csv
@given(name=st.sampled_from(["fields.tdz", "windows.tdz", "image.tdz"]), seed=st.integers(0, 2**32))
def test_metadata_of_any_shape_is_refused_or_reads(name: str, seed: int) -> None:
    rng, sections = random.Random(seed), sections_of((GOLDEN / name).read_bytes())
    meta = cbor2.loads(sections[lib.TD_PACK_META])
    for _ in range(rng.randint(1, 3)):
        *path, last = rng.choice(places(meta) or [("fields",)])
        holder = meta
        for key in path:
            holder = holder[key]
        if rng.random() < 0.2 and last in (holder if isinstance(holder, dict) else range(len(holder))):
            del holder[last]
        else:
            holder[last] = copy.deepcopy(rng.choice(ODD))
    data = write_sections(lib.TD_MAGIC_PACK, {**sections, lib.TD_PACK_META: cbor2.dumps(meta)})
    try:
        opened = Pack(data)
    except FormatError:
        return
    assert len(opened[:]) == len(opened) == len(opened.labels)
    assert len(opened.columns()) + len(opened.targets()) == len(opened.schema.fields)


def test_rows_in_order_cost_one_step_a_part() -> None:
    """65,535 parts of one row: looking each of them up from the first took seconds."""
    n = 65535
    schema = struct.pack("<IIHHHBBifiII", n, n, 1, 1, n, 1, 0, 0, 1.0, 0, 0, 0)
    parts = b"".join(struct.pack("<IIHHI", 1, 2 * i, 0, 1, 0) for i in range(n))
    starts = (2**n - 1).to_bytes(n // 8 + 1, "little")
    sections = {1: schema, 2: parts, 3: b"".join(bytes([1, i % 3 == 0]) for i in range(n)), 4: starts}
    opened = Pack(write_sections(lib.TD_MAGIC_PACK, sections))
    values = ffi.new("int32_t[]", n)
    start = time.process_time()
    assert lib.td_pack_rows(opened.native, 0, n, values) == 0
    assert time.process_time() - start < 0.5
    assert list(values) == [int(i % 3 == 0) for i in range(n)]
    for row in (n - 1, 0, 7, 6, 70, 69, n - 2):  # in any order as well
        assert lib.td_pack_row(opened.native, row, values, ffi.NULL) == 0 and values[0] == (row % 3 == 0)
