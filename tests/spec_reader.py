"""A second reader of .tdz, from docs/SPEC.md alone: no core, no speed. spec_*.py beside it read what few packs have."""

import struct
import zlib
from functools import reduce
from typing import NamedTuple

from spec_archive import read_archive
from spec_images import read_image


class SpecPack(NamedTuple):
    rows: list[list[int]]
    labels: list[int]
    samples: list[tuple[list[float], int, float]]  # real values, label, weight
    meta: bytes | None


class Bits:
    """Blocks of fields, one behind the other."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def field(self, size: int) -> int:
        first, self.at = self.at, self.at + size
        assert self.at <= 8 * len(self.data)
        return int.from_bytes(self.data[first // 8 : -(-self.at // 8)], "little") >> first % 8 & (1 << size) - 1

    def block(self, sizes: list[int], last: bool = False) -> list[int]:
        """Fields of these sizes, and the end of their block; without any, the end of one that was read by fields."""
        fields = [self.field(size) for size in sizes]
        assert self.field(-self.at % 8) == 0 and (not last or self.at == 8 * len(self.data))
        return fields


def log2up(n: int) -> int:
    return (n - 1).bit_length()


def put(number: int, places: list[int]) -> int:
    """The bits of a number, from the least significant on, at these places of another one."""
    return reduce(int.__xor__, ((number >> i & 1) << place for i, place in enumerate(places)), 0)


def read_sections(file: bytes, magic: bytes) -> dict[int, bytes]:
    found, version, n, file_size, crc = struct.unpack_from("<4sHHII", file)
    at, sections = 16 + 16 * n, {}
    assert found == magic and version == 1 and n <= 32 and at <= file_size <= len(file)
    assert zlib.crc32(file[:12] + file[16:at]) == crc
    for kind, offset, size, crc in struct.iter_unpack("<IIII", file[16:at]):
        section, at = file[at : at + size], at + size + -size % 4
        assert offset + size + -size % 4 == at <= file_size
        assert zlib.crc32(section) == crc and not any(file[offset + size : at])
        sections.setdefault(kind, section)
    assert at == file_size
    return sections


def read_keys(data: Bits, n: int, key_size: int) -> list[int]:
    length = data.field(32)
    index = iter(data.block([key_size, 6, log2up(length + 1)] * -(-n // 128)))
    keys, start = [], data.at
    for row, key, low_size, code_start in zip(range(0, n, 128), index, index, index, strict=True):
        assert data.at == start + code_start
        keys.append(key)
        lows, high = [data.field(low_size) for _ in range(min(128, n - row) - 1)], 0
        for low in lows:
            while not data.field(1):
                high += 1
            keys.append((key + (high << low_size) + low) % 2**key_size)
    assert data.at == start + length and length < 2**31
    data.block([])
    return keys


def read_part(data: Bits, part: tuple[int, ...], n_features: int, width: int) -> list[list[int]]:
    """Stored values of a part's rows. A row is one number too, with feature f from bit f * stride on."""
    n, offset, _, n_bases, last = part
    flags, features, stride = last >> 24, range(n_features), 1 << log2up(width)
    key_size, n_bases = (n_bases, 1) if flags & 4 else (0, n_bases)
    assert 8 * offset == data.at and n and n_bases and key_size <= 64 and flags < 16 and flags & 12 != 8
    plan = data.block([width if flags & 2 else log2up(width + 1)] * n_features)
    assert flags & 2 or max(plan) <= width
    masks = plan if flags & 2 else [(1 << width) - (1 << width - count) for count in plan]
    in_base = [f * stride + bit for f in features for bit in range(width) if masks[f] >> bit & 1]
    in_row = [f * stride + bit for f in features for bit in range(width) if not masks[f] >> bit & 1]
    assert len(in_row) == last % 2**24
    offsets = data.block([width] * n_features) if flags & 1 else [0] * n_features
    list_sizes = data.block([16] * n_features) if flags & 8 else [0] * n_features
    entries = iter(data.block([width] * sum(list_sizes)))
    lists = [[next(entries) for _ in range(size)] for size in list_sizes]
    bases = [put(base, in_base) for base in data.block([len(in_base)] * n_bases)]
    names = data.block([(max(1, log2up(n_features) + log2up(width)) + 7) // 8 * 8] * key_size)
    assert all(name < n_features * stride and name % stride < width for name in names)
    keys = read_keys(data, n, key_size) if flags & 4 else [0] * n
    ids_and_rows, rows = iter(data.block([log2up(n_bases), len(in_row)] * n)), []
    for key, base, deviation in zip(keys, ids_and_rows, ids_and_rows, strict=True):
        row = bases[base] ^ put(deviation, in_row) ^ put(key, names[::-1])
        values = [row >> f * stride & (1 << width) - 1 for f in features]
        values = [lists[f][min(values[f], len(lists[f]) - 1)] if lists[f] else values[f] for f in features]
        rows.append([values[f] + offsets[f] for f in features])
    return rows


def undo_transforms(section: bytes, row: list[int], width: int) -> list[int]:
    for feature, other, factor, shift, turn in struct.iter_unpack("<HHhBB", section):
        assert shift < 32 and (feature != other if factor else other == shift == turn == 0)
        value = row[feature] + (row[other] % 2**width * factor % 2**32 >> shift) + (turn << width >> 8)
        row[feature] = value % 2**width
        for step in () if factor else (16, 8, 4, 2, 1):
            row[feature] ^= row[feature] >> step
    return row


def read_tdz(file: bytes) -> SpecPack:
    sections = read_sections(file, b"TDZ1")
    n_rows, n_samples, n_features, n_classes, n_parts, width, kind = struct.unpack_from("<IIHHHBB", sections[1])
    minimum, scale, zero_point, _, is_image = struct.unpack_from("<ifiII", sections[1], 16)
    low, high = ((-(2**31), 2**31 - 1), (-128, 127), (0, 255), (-(2**15), 2**15 - 1), (0, 2**16 - 1))[kind]
    assert is_image == (9 in sections) and kind * is_image == 0 and 2**width <= high - low + 1
    parts = list(struct.iter_unpack("<IIHHI", sections[2]))
    labels = [label for n, _, label, _, _ in parts for _ in range(n)]
    assert len(parts) == n_parts and len(labels) == n_rows and max(labels) < n_classes

    listed = n_samples < n_rows // 32
    fields = Bits(sections[4]).block([32] * n_samples if listed else [1] * n_rows, last=True)
    starts = fields if listed else [i for i, begins in enumerate(fields) if begins]
    assert starts == sorted({*starts, *(sum(n for n, *_ in parts[:p]) for p in range(n_parts))})
    assert len(starts) == n_samples and starts[-1] < n_rows
    if parts[0][4] == 16 << 24:
        rows = read_archive(sections[3], parts, starts, n_features)
    else:
        data = Bits(sections[3])
        rows = [row for part in parts for row in read_part(data, part, n_features, width)]
        data.block([], last=True)
    assert 10 not in sections or (len(sections[10]) <= 8 * 255 and not is_image and parts[0][4] < 16 << 24)
    rows = [undo_transforms(sections.get(10, b""), row, width) for row in rows]
    rows = [[(minimum + value - low) % (high - low + 1) + low for value in row] for row in rows]
    rows = [read_image(sections[9], row) for row in rows] if is_image else rows
    condensed, weights = [], struct.iter_unpack("<f", sections[5]) if 5 in sections else None
    for start, end in zip(starts, [*starts[1:], n_rows], strict=True):
        means = [sum(column) / (end - start) for column in zip(*rows[start:end], strict=True)]
        weight = next(weights)[0] if weights else float(end - start)
        condensed.append(([scale * (mean - zero_point) for mean in means], labels[start], weight))
    if 7 in sections:
        order = Bits(sections[7]).block([log2up(n_rows)] * n_rows, last=True)
        assert max(order) < n_rows
        rows, labels = [rows[i] for i in order], [labels[i] for i in order]
    return SpecPack(rows, labels, condensed, sections.get(6))
