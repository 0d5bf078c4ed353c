"""A second reader of .tdz, written from docs/SPEC.md alone: no NumPy, no core, no speed."""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from typing import Any


@dataclass
class SpecPack:
    rows: list[list[int]]
    labels: list[int]
    samples: list[tuple[list[float], int, float]]  # real values, label, weight
    n_classes: int
    scale: float
    zero_point: int
    model_hash: int
    meta: bytes | None


def log2up(n: int) -> int:
    return (n - 1).bit_length()


def read_sections(file: bytes, magic: bytes) -> dict[int, bytes]:
    found, version, n, size, crc = struct.unpack_from("<4sHHII", file)
    assert found == magic and version == 1 and n <= 32 and size <= len(file)
    table = file[16 : 16 + 16 * n]
    assert zlib.crc32(file[:12] + table) == crc
    sections: dict[int, bytes] = {}
    at = 16 + 16 * n
    for kind, offset, length, crc in struct.iter_unpack("<IIII", table):
        assert offset == at and zlib.crc32(file[at : at + length]) == crc
        assert kind not in sections
        sections[kind] = file[at : at + length]
        at += length + -length % 4
        assert not any(file[offset + length : at])
    assert at == size
    return sections


class Block:
    """Takes fields from a block; `end` checks its padding and says where the next one starts."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.bit = data, 8 * at

    def field(self, n_bits: int) -> int:
        bits = [self.data[i >> 3] >> (i & 7) & 1 for i in range(self.bit, self.bit + n_bits)]
        self.bit += n_bits
        return sum(bit << i for i, bit in enumerate(bits))

    def end(self) -> int:
        assert self.field(-self.bit % 8) == 0
        return self.bit // 8


def join(base: int, deviation: int, mask: int, width: int) -> int:
    value = 0
    for i in range(width):
        if mask >> i & 1:
            value |= (base & 1) << i
            base >>= 1
        else:
            value |= (deviation & 1) << i
            deviation >>= 1
    return value


def read_keys(data: bytes, at: int, n: int, n_key: int, masks: list[int], width: int) -> tuple[list[list[int]], int]:
    """What the key of each row adds to each feature, and where the differences end."""
    block = Block(data, at)
    named = [block.field(-(-(log2up(len(masks)) + log2up(width)) // 8) * 8) for _ in range(n_key)]
    places = [divmod(name, 1 << log2up(width)) for name in named]
    assert all(masks[feature] >> bit & 1 for feature, bit in places)
    index = Block(data, block.end())
    length = index.field(32)
    assert length < 2**31
    entries = [(index.field(n_key), index.field(6), index.field(log2up(length + 1))) for _ in range(0, n, 128)]
    codes = Block(data, index.end())
    start, keys = codes.bit, []
    for i, (first, low_bits, bit) in enumerate(entries):
        assert codes.bit - start == bit
        lows, high = [codes.field(low_bits) for _ in range(128 * i + 1, min(128 * i + 128, n))], 0
        keys.append(first)
        for low in lows:
            while not codes.field(1):
                high += 1
            keys.append((first + (high << low_bits) + low) % (1 << n_key))
    rows = []
    for key in keys:
        row = [0] * len(masks)
        for place, (feature, bit) in enumerate(places):
            row[feature] |= (key >> (n_key - 1 - place) & 1) << bit
        rows.append(row)
    assert codes.bit - start == length
    return rows, codes.end()


def read_part(data: bytes, record: bytes, n_features: int, width: int) -> tuple[list[list[int]], int, int]:
    """Stored values of a part's rows, its label, and where it ends."""
    n, offset, label, n_bases, last = struct.unpack("<IIHHI", record)
    n_deviation, flags = last & 0xFFFFFF, last >> 24
    assert n and n_bases and flags < 16 and flags & 12 != 8
    n_key, n_bases = (n_bases, 1) if flags & 4 else (0, n_bases)
    assert n_key <= 64
    features = range(n_features)
    plan = Block(data, offset)
    if flags & 2:
        masks = [plan.field(width) for _ in features]
    else:
        counts = [plan.field(log2up(width + 1)) for _ in features]
        assert max(counts) <= width
        masks = [(1 << width) - (1 << width - count) for count in counts]
    n_base = [mask.bit_count() for mask in masks]
    assert sum(n_base) == n_features * width - n_deviation
    at, offsets = plan.end(), [0] * n_features
    if flags & 1:
        block = Block(data, at)
        offsets = [block.field(width) for _ in features]
        at = block.end()
    lists: list[list[int]] = [[]] * n_features
    if flags & 8:
        block = Block(data, at)
        sizes = [block.field(16) for _ in features]
        block = Block(data, block.end())
        lists = [[block.field(width) for _ in range(size)] for size in sizes]
        at = block.end()
    block = Block(data, at)
    bases = [[block.field(bits) for bits in n_base] for _ in range(n_bases)]
    keyed, at = read_keys(data, block.end(), n, n_key, masks, width) if n_key else ([[0] * n_features] * n, block.end())
    block, rows = Block(data, at), []
    for key in keyed:
        base = bases[block.field(log2up(n_bases))]
        own = [block.field(width - bits) for bits in n_base]
        joined = [join(base[f], own[f], masks[f], width) | key[f] for f in features]
        looked_up = [lists[f][min(joined[f], len(lists[f]) - 1)] if lists[f] else joined[f] for f in features]
        rows.append([looked_up[f] + offsets[f] for f in features])
    return rows, label, block.end()


def signed(value: int) -> int:
    return (value + 2**31) % 2**32 - 2**31


ROTATIONS = ((815, 1567), (1243, 2276), (403, 799))
LINE = ((0, 7), (1, 6), (2, 5), (3, 4), (0, 3), (1, 2), (0, 1), (3, 2, 1), (4, 7, 2), (5, 6, 3), (4, 6), (5, 7), (5, 4))


def undo_line(values: list[int], at: list[int]) -> None:
    for x, y, *rotation in reversed(LINE):
        i, j = at[x], at[y]
        if not rotation:
            mean, difference = values[i], values[j]
            values[j] = signed(mean - (difference >> 1))
            values[i] = signed(values[j] + difference)
        else:
            p, u = ROTATIONS[rotation[0] - 1]
            for target, source, factor in ((i, j, -p), (j, i, u), (i, j, -p)):
                part = signed(values[source] * abs(factor) + 2048) >> 12
                values[target] = signed(values[target] + (part if factor > 0 else -part))


def read_image(section: bytes, row: list[int]) -> list[int]:
    """Pixels of a stored row."""
    height, width, channels, flags, zero, lowest, highest = struct.unpack_from("<HHBBHii", section)
    assert zero == 0 and flags < 8 and height * width * channels == len(row)
    steps = struct.unpack_from(f"<{(len(section) - 16) // 2}H", section, 16)
    assert len(steps) == (0 if not flags & 4 else 128 if channels > 1 else 64) and all(steps)
    values = []
    for i, value in enumerate(row):
        y, x, c = i // channels // width, i // channels % width, i % channels
        inside = flags & 2 and y < height // 8 * 8 and x < width // 8 * 8
        if (flags & 1 and c) or (inside and (y % 8 or x % 8)):
            stored = value % 2**32
            value = -(stored >> 1) - 1 if stored & 1 else stored >> 1
        if inside and steps:
            value *= steps[64 * (c > 0) + 8 * (y % 8) + x % 8]
        values.append(signed(value))
    for top in range(0, height // 8 * 8 if flags & 2 else 0, 8):
        for left in range(0, width // 8 * 8, 8):
            for c in range(channels):
                tile = [[((top + y) * width + left + x) * channels + c for x in range(8)] for y in range(8)]
                for i in range(8):
                    undo_line(values, [tile[y][i] for y in range(8)])
                for i in range(8):
                    undo_line(values, tile[i])
    for i in range(0, len(values) if flags & 1 else 0, 3):
        luma, orange, green = values[i : i + 3]
        middle = signed(luma - (green >> 1))
        blue = signed(middle - (orange >> 1))
        values[i : i + 3] = signed(blue + orange), signed(green + middle), blue
    return [min(max(value, lowest), highest) for value in values] if steps else values


class BitDecoder:
    """The codes of a block of an archive."""

    def __init__(self, data: bytes) -> None:
        self.data, self.low, self.high, self.at = data, 0, 2**32 - 1, 4
        self.code = int.from_bytes((data + bytes(4))[:4], "big")
        self.cells: dict[int, tuple[int, int]] = {}  # probability of a one in 1/2^22, times used

    def bit(self, cell: int) -> int:
        one, count = self.cells.get(cell, (2**21, 0))
        middle = self.low + ((self.high - self.low) * max(1, one >> 6) >> 16)
        bit, share = int(self.code <= middle), 131072 // (2 * count + 3)
        if bit:
            self.high, one = middle, one + ((2**22 - 1 - one) * share >> 16)
        else:
            self.low, one = middle + 1, one - (one * share >> 16)
        self.cells[cell] = one, min(count + 1, 255)
        while self.low >> 24 == self.high >> 24:
            byte = self.data[self.at] if self.at < len(self.data) else 0
            self.low, self.high, self.at = self.low << 8 & 0xFFFFFFFF, self.high << 8 & 0xFFFFFFFF | 255, self.at + 1
            self.code = self.code << 8 & 0xFFFFFFFF | byte
        return bit


def read_archive(data: bytes, labels: list[int], starts: set[int], n_features: int) -> list[list[int]]:
    """Stored values of all rows."""
    per_block, bits, zero = struct.unpack_from("<IB3s", data)
    assert 8 <= bits <= 22 and not any(zero) and 0 < per_block * n_features <= 2**22
    assert bits == 8 or 2**bits <= 64 * per_block * n_features
    plan = list(struct.iter_unpack("<BBHH", data[8 : 8 + 6 * n_features]))
    n_blocks = -(-len(labels) // per_block)
    ends = struct.unpack_from(f"<{n_blocks}I", data, 8 + 6 * n_features)
    stream, rows = data[8 + 6 * n_features + 4 * n_blocks :], []
    assert ends[-1] == len(stream) and list(ends) == sorted(ends)
    for i, label in enumerate(labels):
        same = bool(i % per_block) and i not in starts
        if i % per_block == 0:
            block = i // per_block
            codes = BitDecoder(stream[ends[block - 1] if block else 0 : ends[block]])
        row: list[int] = []
        for f, (width, zero_too, first, second) in enumerate(plan):
            assert zero_too == 0 and (first < f or first >= 0xFFFE) and (second < f > first or second == 0xFFFF)
            context = 2 + (label if first == 0xFFFE else 0 if first == 0xFFFF else row[first])
            context -= row[second] if second != 0xFFFF else 2 * (first == 0xFFFF)
            value, node = 0, 1
            for depth in range(width):
                told = (1 if same else context, node) if depth < 14 else (0, depth)
                x = (told[0] * 0x9E3779B1 + told[1] * 0x85EBCA6B + f * 0xC2B2AE35) % 2**32
                x = (x ^ x >> 15) * 0x2C1B3C6D % 2**32
                bit = codes.bit((x ^ x >> 13) >> (32 - bits))
                value, node = 2 * value + bit, 2 * node + bit
            row.append((value + rows[-1][f]) % 2**32 if same else value)
            same = same and row[f] == rows[-1][f]
        rows.append(row)
    return rows


def read_tdz(file: bytes) -> SpecPack:
    sections = read_sections(file, b"TDZ1")
    n_rows, n_samples, n_features, n_classes, n_parts, width, kind, minimum, scale, zero_point, model_hash, is_image = (
        struct.unpack("<IIHHHBBifiII", sections[1])
    )
    low, high = ((-(2**31), 2**31 - 1), (-128, 127), (0, 255), (-(2**15), 2**15 - 1), (0, 2**16 - 1))[kind]
    assert is_image == (9 in sections) and kind * is_image == 0 and 2**width <= high - low + 1
    assert len(sections[2]) == 16 * n_parts
    rows: list[list[int]] = []
    labels: list[int] = []
    first_rows, at, archived = [], 0, sections[2][15] == 16
    counts = [struct.unpack_from("<I4xH", sections[2], 16 * p) for p in range(n_parts)]
    block, listed = Block(sections[4], 0), n_samples < n_rows // 32
    starts = [block.field(32) for _ in range(n_samples)] if listed else [i for i in range(n_rows) if block.field(1)]
    assert block.end() == len(sections[4]) and len(starts) == n_samples
    for p in range(n_parts if archived else 0):
        record = sections[2][16 * p : 16 * p + 16]
        assert record[4:8] == bytes(4) and record[10:] == b"\1\0\0\0\0\20"
        first_rows.append(len(labels))
        labels += [counts[p][1]] * counts[p][0]
    if archived:
        stored_rows, at = read_archive(sections[3], labels, set(starts), n_features), len(sections[3])
        rows = [[(minimum + value + 2**31) % 2**32 - 2**31 for value in row] for row in stored_rows]
    for p in range(0 if archived else n_parts):
        record = sections[2][16 * p : 16 * p + 16]
        assert struct.unpack_from("<I", record, 4)[0] == at
        stored, label, at = read_part(sections[3], record, n_features, width)
        first_rows.append(len(rows))
        rows += [[(minimum + value + 2**31) % 2**32 - 2**31 for value in row] for row in stored]
        labels += [label] * len(stored)
    assert at == len(sections[3]) and len(rows) == n_rows and max(labels) < n_classes
    if 9 in sections:
        rows = [read_image(sections[9], row) for row in rows]
    assert all(low <= value <= high for row in rows for value in row)

    assert set(first_rows) <= set(starts) and starts == sorted(set(starts)) and starts[-1] < n_rows
    weights = [w for (w,) in struct.iter_unpack("<f", sections[5])] if 5 in sections else None
    assert weights is None or len(weights) == n_samples
    samples = []
    for i, (start, stop) in enumerate(zip(starts, [*starts[1:], n_rows], strict=True)):
        mean = [sum(column) / (stop - start) for column in zip(*rows[start:stop], strict=True)]
        weight = weights[i] if weights else float(stop - start)
        samples.append(([scale * (value - zero_point) for value in mean], labels[start], weight))
    if 7 in sections:
        block = Block(sections[7], 0)
        order = [block.field(log2up(n_rows)) for _ in range(n_rows)]
        assert block.end() == len(sections[7]) and sorted(order) == list(range(n_rows))
        rows, labels = [rows[i] for i in order], [labels[i] for i in order]
    return SpecPack(rows, labels, samples, n_classes, scale, zero_point, model_hash, sections.get(6))


# ------------------------------------------------------------------ fields


SIZES = {
    "b1": 8,
    "i1": 8,
    "u1": 8,
    "i2": 16,
    "u2": 16,
    "i4": 32,
    "u4": 32,
    "i8": 64,
    "u8": 64,
    "f2": 16,
    "f4": 32,
    "f8": 64,
}
FLOATS = {16: "<e", 32: "<f", 64: "<d"}


def to_pattern(value: float, size: int) -> int:
    try:
        return int.from_bytes(struct.pack(FLOATS[size], value), "little")
    except OverflowError:
        return to_pattern(math.copysign(math.inf, value), size)


def as_signed(pattern: int, size: int) -> int:
    pattern %= 2**size
    return pattern - 2**size if pattern >> (size - 1) else pattern


def read_element(values: list[int], code: dict[str, Any], kind: str) -> Any:
    """The element of these values of a row: f types as their bits, None for no value."""
    size = SIZES.get(kind, 64)
    if code["is"] == "plain":
        return (
            bool(values[0]) if kind == "b1" else as_signed(values[0], size) if kind[0] == "i" else values[0] % 2**size
        )

    def typed(pattern: int) -> Any:
        if kind == "b1":
            return pattern % 2**64 != 0
        return as_signed(pattern, size) if kind[0] in "iMm" else pattern % 2**size

    c = 0
    for value in values:
        c = c << 32 | value % 2**32
    special = code.get("special", [])
    if c < len(special):
        return None if special[c] is None else typed(special[c])
    m, low = c - len(special), code.get("low", 0)
    if code["is"] == "list":
        entries = code.get("entries", [])
        if kind == "text":
            return entries[min(m, len(entries) - 1)] if entries else ""
        return typed(entries[min(m, len(entries) - 1)] if entries else 0)
    if code["is"] == "bits":
        place = (low + m) % 2**size
        return place - 2 ** (size - 1) if place >> (size - 1) else 2**size - 1 - place
    if code["is"] == "step":
        return to_pattern(code.get("origin", 0.0) + code.get("step", 1.0) * float(m), size)
    n = low + code.get("by", 1) * m
    return to_pattern(float(as_signed(n, 64)) / float(code.get("over", 1)), size) if kind[0] == "f" else typed(n)


def read_fields(rows: list[list[int]], fields: list[dict[str, Any]]) -> list[list[Any]]:
    """The elements of each field, row by row."""
    found: list[list[Any]] = [[] for _ in fields]
    for row in rows:
        at = 0
        for elements, item in zip(found, fields, strict=True):
            size, codes = math.prod(item.get("shape", [])), item.get("codes", [{"is": "plain"}])
            for code in codes * (size if len(codes) == 1 else 1):
                n = 2 if code.get("wide") else 1
                elements.append(read_element(row[at : at + n], code, item["type"]))
                at += n
        assert at == len(row)
    return found
