"""What the values of a row stand for, from docs/SPEC.md alone."""

import math
import struct
from typing import Any


def to_pattern(value: float, n_bytes: int) -> int:
    form = {2: "<e", 4: "<f", 8: "<d"}[n_bytes]
    try:
        return int.from_bytes(struct.pack(form, value), "little")
    except OverflowError:
        return int.from_bytes(struct.pack(form, math.copysign(math.inf, value)), "little")


def as_signed(number: int, bits: int) -> int:
    return (number + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)


def read_element(values: list[int], code: dict[str, Any], kind: str) -> Any:
    """The element that these values of a row stand for: of an f type its pattern, None for no value."""
    n_bytes = 8 if kind[0] in "tMm" else int(kind[1])
    bits = 8 * n_bytes

    def typed(pattern: int) -> Any:
        if kind == "b1":
            return pattern % 2**64 != 0
        return as_signed(pattern, bits) if kind[0] in "iMm" else pattern % 2**bits

    if code["is"] == "plain":
        return typed(values[0])
    c = values[0] % 2**32 if len(values) == 1 else (values[0] % 2**32 << 32) + values[1] % 2**32
    special, entries, low = code.get("special", []), code.get("entries", []), code.get("low", 0)
    m = c - len(special)
    if m < 0:
        return None if special[c] is None else typed(special[c])
    if code["is"] == "list":
        empty = "" if kind == "text" else 0
        entry = entries[min(m, len(entries) - 1)] if entries else empty
        return entry if kind == "text" else typed(entry)
    if code["is"] == "bits":
        p = (low + m) % 2**bits
        return p - 2 ** (bits - 1) if p >> (bits - 1) else 2**bits - 1 - p
    if code["is"] == "step":
        return to_pattern(code.get("origin", 0.0) + code.get("step", 1.0) * float(m), n_bytes)
    n = low + code.get("by", 1) * m
    return to_pattern(as_signed(n, 64) / float(code.get("over", 1)), n_bytes) if kind[0] == "f" else typed(n)


def read_fields(rows: list[list[int]], fields: list[dict[str, Any]]) -> list[list[Any]]:
    """The elements of each field, row by row."""
    found: list[list[Any]] = [[] for _ in fields]
    for row in rows:
        values = iter(row)
        for elements, field in zip(found, fields, strict=True):
            codes = field.get("codes", [{"is": "plain"}])
            for code in codes * (math.prod(field.get("shape", [])) if len(codes) == 1 else 1):
                taken = [next(values) for _ in range(2 if code.get("wide") else 1)]
                elements.append(read_element(taken, code, field["type"]))
        assert next(values, None) is None
    return found
