"""Pixels of a row's stored values, from docs/SPEC.md alone."""

import struct

LINE = ((0, 7), (1, 6), (2, 5), (3, 4), (0, 3), (1, 2), (0, 1), (3, 2, 815, 1567), (4, 7, 1243, 2276), (5, 6, 403, 799),
        (4, 6), (5, 7), (5, 4))  # fmt: skip


def signed(value: int) -> int:
    return (value + 2**31) % 2**32 - 2**31


def times(factor: int, value: int) -> int:
    return signed(factor * value + 2048) >> 12


def undo_line(v: list[int]) -> list[int]:
    for x, y, *factors in reversed(LINE):
        if factors:
            p, u = factors
            v[x] = signed(v[x] - times(p, v[y]))
            v[y] = signed(v[y] + times(u, v[x]))
            v[x] = signed(v[x] - times(p, v[y]))
        else:
            v[x], v[y] = signed(v[x] - (v[y] >> 1) + v[y]), signed(v[x] - (v[y] >> 1))
    return v


def undo_tile(tile: list[list[int]]) -> list[list[int]]:
    columns = [undo_line(list(column)) for column in zip(*tile, strict=True)]
    return [undo_line(list(line)) for line in zip(*columns, strict=True)]


def undo_colour(luma: int, orange: int, green: int) -> list[int]:
    t = signed(luma - (green >> 1))
    blue = signed(t - (orange >> 1))
    return [signed(blue + orange), signed(green + t), blue]


def read_image(section: bytes, row: list[int]) -> list[int]:
    height, width, channels, flags, zero, lowest, highest = struct.unpack_from("<HHBBHii", section)
    steps = [step for (step,) in struct.iter_unpack("<H", section[16:])]
    assert height * width * channels == len(row) and zero == 0 and flags < 8 and all(steps)
    assert len(steps) == (0 if not flags & 4 else 128 if channels > 1 else 64)
    tiled_height, tiled_width = (height // 8 * 8, width // 8 * 8) if flags & 2 else (0, 0)
    planes = [[row[(y * width) * channels + c :: channels][:width] for y in range(height)] for c in range(channels)]
    for c, plane in enumerate(planes):
        for y, line in enumerate(plane):
            for x, value in enumerate(line):
                in_tile = y < tiled_height and x < tiled_width
                if (c > 0 and flags & 1) or (in_tile and (y % 8 or x % 8)):
                    value = value % 2**32 >> 1 if value % 2 == 0 else -(value % 2**32 >> 1) - 1
                line[x] = signed(value * steps[64 * (c > 0) + 8 * (y % 8) + x % 8]) if in_tile and steps else value
        for top in range(0, tiled_height, 8):
            for left in range(0, tiled_width, 8):
                tile = undo_tile([line[left : left + 8] for line in plane[top : top + 8]])
                for y in range(8):
                    plane[top + y][left : left + 8] = tile[y]
    pixels = [list(pixel) for lines in zip(*planes, strict=True) for pixel in zip(*lines, strict=True)]
    values = [value for pixel in pixels for value in (undo_colour(*pixel) if flags & 1 else pixel)]
    return [min(max(value, lowest), highest) for value in values] if flags & 4 else values
