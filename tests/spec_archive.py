"""The rows of an archive, from docs/SPEC.md alone."""

import struct


class Decisions:
    """The codes of a block."""

    def __init__(self, codes: bytes) -> None:
        self.bytes, self.low, self.high = iter(codes), 0, 2**32 - 1
        self.number = 0
        for _ in range(4):
            self.number = self.number << 8 | next(self.bytes, 0)
        self.pairs: dict[int, tuple[int, int]] = {}  # those that were used: probability, count

    def take(self, pair: int) -> int:
        p, n = self.pairs.get(pair, (2**21, 0))
        middle = self.low + ((self.high - self.low) * max(1, p >> 6) >> 16)
        decision, s = int(self.number <= middle), 131072 // (2 * n + 3)
        if decision:
            self.high, p = middle, p + ((2**22 - 1 - p) * s >> 16)
        else:
            self.low, p = middle + 1, p - (p * s >> 16)
        self.pairs[pair] = p, min(n + 1, 255)
        while self.low >> 24 == self.high >> 24:
            self.low, self.high = self.low << 8 & 0xFFFFFFFF, self.high << 8 & 0xFFFFFFFF | 255
            self.number = self.number << 8 & 0xFFFFFFFF | next(self.bytes, 0)
        return decision


def read_value(decisions: Decisions, width: int, context: int, feature: int, log_pairs: int) -> int:
    m = 1
    for depth in range(width):
        c, node = (context, m) if depth < 14 else (0, depth)
        x = (c * 0x9E3779B1 + node * 0x85EBCA6B + feature * 0xC2B2AE35) % 2**32
        x = (x ^ x >> 15) * 0x2C1B3C6D % 2**32
        m = 2 * m + decisions.take((x ^ x >> 13) >> (32 - log_pairs))
    return m - (1 << width)


def read_archive(data: bytes, parts: list[tuple[int, ...]], starts: list[int], n_features: int) -> list[list[int]]:
    """Stored values of all rows."""
    assert all((offset, n_bases, last) == (0, 1, 16 << 24) for _, offset, _, n_bases, last in parts)
    labels = [label for n, _, label, _, _ in parts for _ in range(n)]
    per_block, log_pairs, zero = struct.unpack_from("<IB3s", data)
    assert zero == bytes(3) and 0 < per_block * n_features <= 2**22
    assert 8 <= log_pairs <= 22 and (log_pairs == 8 or 2**log_pairs <= 64 * per_block * n_features)
    plan = list(struct.iter_unpack("<BBHH", data[8 : 8 + 6 * n_features]))
    n_blocks = -(-len(labels) // per_block)
    ends = struct.unpack_from(f"<{n_blocks}I", data, 8 + 6 * n_features)
    codes, begins, rows = data[8 + 6 * n_features + 4 * n_blocks :], {*starts}, []
    assert ends[-1] == len(codes) and list(ends) == sorted(ends)
    for i, label in enumerate(labels):
        block, place = divmod(i, per_block)
        if place == 0:
            decisions = Decisions(codes[ends[block - 1] if block else 0 : ends[block]])
        same, row = place > 0 and i not in begins, []
        for f, (width, zero_too, a, b) in enumerate(plan):
            assert zero_too == 0 and (a < f or a >= 65534) and (b < f > a or b == 65535)
            context = 0 if a == 65535 else 2 + label if a == 65534 else 2 + row[a] - (0 if b == 65535 else row[b])
            value = read_value(decisions, width, 1 if same else context, f, log_pairs)
            row.append((value + rows[-1][f]) % 2**32 if same else value)
            same = same and row[f] == rows[-1][f]
        rows.append(row)
    return rows
