"""The store on a flash that counts, forbids what real flash cannot do, and loses power at every step."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinydream._native import ffi, lib, status_name

MODEL, TRAIN, REPLAY, SLOT_A, SLOT_B = range(5)
POWER_CUT = -128
KINDS = [(1024, 4, 0xFF), (1024, 4, 0x00), (4096, 1, 0xFF), (4096, 16, 0x00), (64, 16, 0xFF)]
ERASE = "int(void *, uint32_t)"
PROGRAM = "int(void *, uint32_t, const uint8_t *, uint32_t)"


class Flash:
    """NOR flash: programming moves bits away from `erased` only, each unit once per erase; dies at operation `cut_at`.

    `way` says how far the operation that the cut hits gets: 0 nothing, 1 half of it with one unit torn, 2 all of it.
    """

    def __init__(self, block: int, unit: int, erased: int, n_blocks: int, blank: int | None = None) -> None:
        self.block, self.unit, self.erased, self.size = block, unit, erased, n_blocks * block
        self.memory = ffi.new("uint8_t[]", self.size)
        self.bytes = ffi.buffer(self.memory)
        self.bytes[:] = bytes([erased if blank is None else blank]) * self.size
        self.used = set() if blank is None else set(range(self.size // unit))
        self.n_steps = 0
        self.cut_at, self.way, self.dead = -1, 0, False
        self.faults: list[str] = []
        self.erase_callback = ffi.callback(ERASE, self.erase, error=-100)
        self.program_callback = ffi.callback(PROGRAM, self.program, error=-100)

    def power_goes(self) -> bool:
        self.dead = self.n_steps == self.cut_at
        self.n_steps += 1
        return self.dead

    def units(self, offset: int, size: int) -> range:
        return range(offset // self.unit, (offset + size) // self.unit)

    def erase(self, _context: object, offset: int) -> int:
        if self.dead:
            return POWER_CUT
        if offset % self.block or offset >= self.size:
            self.faults.append(f"erase at {offset}")
        cut = self.power_goes()
        if not cut or self.way == 2:
            self.bytes[offset : offset + self.block] = bytes([self.erased]) * self.block
            self.used.difference_update(self.units(offset, self.block))
        elif self.way == 1:
            rng = random.Random(self.n_steps)
            start, end = sorted(rng.randrange(self.block + 1) for _ in range(2))
            self.bytes[offset : offset + start] = bytes([self.erased]) * start
            self.bytes[offset + start : offset + end] = rng.randbytes(end - start)
            self.used.update(self.units(offset, self.block))
        return POWER_CUT if cut else 0

    def program(self, _context: object, offset: int, data: object, size: int) -> int:
        if self.dead:
            return POWER_CUT
        new = bytes(ffi.buffer(data, size))
        in_one_block = offset // self.block == (offset + size - 1) // self.block
        if offset % self.unit or size % self.unit or size == 0 or not in_one_block:
            self.faults.append(f"program {size} at {offset}")
        if self.used.intersection(self.units(offset, size)):
            self.faults.append(f"program twice at {offset}")
        cut = self.power_goes()
        if cut and self.way == 1:
            whole = size // self.unit // 2 * self.unit
            mask = random.Random(self.n_steps).randbytes(self.unit)
            torn = zip(new[whole : whole + self.unit], mask, strict=True)
            new = new[:whole] + bytes((n & m) | (self.erased & ~m & 0xFF) for n, m in torn)
        elif cut and self.way == 0:
            new = b""
        old = self.bytes[offset : offset + len(new)]
        mixed = bytes((a & b) if self.erased else (a | b) for a, b in zip(old, new, strict=True))
        if mixed != new:
            self.faults.append(f"program at {offset} over bits that are set")
        self.bytes[offset : offset + len(new)] = mixed
        self.used.update(self.units(offset, len(new)))
        return POWER_CUT if cut else 0

    def reboot(self, capacity: list[int]) -> Store:
        self.dead, self.cut_at = False, -1
        return Store(self, capacity)


class Store:
    def __init__(self, flash: Flash, capacity: list[int]) -> None:
        self.flash = flash
        self.c = ffi.new("td_store *")
        self.c_flash = ffi.new(
            "td_flash *",
            {
                "base": flash.memory,
                "size": flash.size,
                "erase_block": flash.block,
                "program_unit": flash.unit,
                "erased": flash.erased,
                "erase": flash.erase_callback,
                "program": flash.program_callback,
            },
        )
        self.status = lib.td_store_init(self.c, self.c_flash, capacity)

    def begin(self, kind: int, data: bytes, sequence: int = 0, crc: int | None = None) -> tuple[int, int]:
        at = ffi.new("uint32_t *")
        crc = zlib.crc32(data) if crc is None else crc
        return lib.td_store_begin(self.c, kind, len(data), crc, sequence, at), at[0]

    def write(self, at: int, data: bytes) -> int:
        return lib.td_store_write(self.c, at, data, len(data))

    def push(self, kind: int, data: bytes, sequence: int = 0, chunk: int = 240) -> tuple[int, int]:
        """Begin, write and commit: the first status that is not ok, and where the push resumed."""
        status, resumed = self.begin(kind, data, sequence)
        at = resumed
        while status == 0 and at < len(data):
            status = self.write(at, data[at : at + chunk])
            at += len(data[at : at + chunk])
        return status or lib.td_store_commit(self.c), resumed

    def get(self, kind: int) -> tuple[bytes, int] | None:
        out, sequence = ffi.new("td_section *"), ffi.new("uint32_t *")
        status = lib.td_store_get(self.c, kind, out, sequence)
        if status == lib.TD_E_NOT_FOUND:
            return None
        assert status == 0, status_name(status)
        assert out.kind == kind
        return bytes(ffi.buffer(out.data, out.size)), sequence[0]

    def newest(self) -> int:
        return lib.td_store_newest_slot(self.c, ffi.new("td_section *"), ffi.NULL)


def blob(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def capacity_for(block: int) -> list[int]:
    return [3 * block, 2 * block, 0, 100, 100]


def scenario(block: int) -> Iterator[tuple[int, bytes, int]]:
    """Pushes that fill, replace, shrink, repeat, and alternate the slots: (object, data, sequence)."""
    yield MODEL, blob(1, 2 * block + 37), 0
    yield TRAIN, blob(2, block), 0
    yield MODEL, blob(3, 3 * block), 1
    yield SLOT_A, blob(4, 90), 1
    yield SLOT_B, blob(5, 90), 2
    yield SLOT_A, blob(6, 90), 3
    yield MODEL, blob(7, 5), 2
    yield MODEL, blob(7, 5), 2


def replay(flash: Flash, cuts: list[int], way: int) -> int:
    """Runs the scenario; the n-th cut comes cuts[n] operations after the (re)boot. Returns the operations it took."""
    store = flash.reboot(capacity_for(flash.block))
    stored: dict[int, tuple[bytes, int]] = {}
    waiting = list(cuts)

    def arm() -> None:
        flash.n_steps, flash.way = 0, way
        flash.cut_at = waiting.pop(0) if waiting else -1

    arm()
    for kind, data, sequence in scenario(flash.block):
        status, _ = store.push(kind, data, sequence)
        while status == POWER_CUT:
            store = flash.reboot(capacity_for(flash.block))
            for other in range(5):
                allowed = [stored.get(other)]
                if other == kind:
                    allowed += [None, (data, sequence)]
                assert store.get(other) in allowed, (other, kind)
            arm()
            status, _ = store.push(kind, data, sequence)
        assert status == 0, status_name(status)
        stored[kind] = (data, sequence)
        assert store.get(kind) == (data, sequence)
        if kind >= SLOT_A:
            assert store.newest() == kind
            assert lib.td_store_spare_slot(store.c) == SLOT_A + SLOT_B - kind
    assert {kind: store.get(kind) for kind in stored} == stored
    assert store.get(REPLAY) is None
    assert flash.faults == []
    return flash.n_steps


@pytest.mark.parametrize("way", [0, 1, 2])
@pytest.mark.parametrize(("block", "unit", "erased"), KINDS)
def test_power_cut_at_every_operation(block: int, unit: int, erased: int, way: int) -> None:
    n_steps = replay(Flash(block, unit, erased, 20), [], way)
    assert n_steps > 30
    for cut in range(n_steps):
        replay(Flash(block, unit, erased, 20), [cut], way)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(KINDS), st.lists(st.integers(0, 40), max_size=8), st.integers(0, 2))
def test_several_power_cuts(kind: tuple[int, int, int], cuts: list[int], way: int) -> None:
    replay(Flash(*kind, 20), cuts, way)


@pytest.mark.parametrize("blank", [0x00, 0xFF, 0x5A])
def test_flash_that_was_never_written(blank: int) -> None:
    flash = Flash(1024, 4, 0xFF, 20, blank)
    store = flash.reboot(capacity_for(1024))
    assert [store.get(kind) for kind in range(5)] == [None] * 5
    assert store.newest() == lib.TD_E_NOT_FOUND
    assert lib.td_store_spare_slot(store.c) == SLOT_A
    assert store.push(MODEL, blob(1, 1500)) == (0, 0)
    assert store.get(MODEL) == (blob(1, 1500), 0)
    assert flash.faults == []


@pytest.mark.parametrize(("block", "unit", "erased"), KINDS)
def test_a_push_resumes_at_the_last_whole_block(block: int, unit: int, erased: int) -> None:
    flash = Flash(block, unit, erased, 20)
    data = blob(1, 2 * block + 60)
    store = flash.reboot(capacity_for(block))
    assert store.begin(MODEL, data) == (0, 0)
    assert store.write(0, data[: block + 32]) == 0
    assert store.begin(MODEL, data) == (0, block + 32)  # the link was lost, the board was not reset
    store = flash.reboot(capacity_for(block))
    assert store.get(MODEL) is None
    assert store.push(MODEL, data) == (0, block)
    store = flash.reboot(capacity_for(block))
    n_steps = flash.n_steps
    assert store.push(MODEL, data) == (0, len(data))  # already there: costs no flash operation
    assert flash.n_steps == n_steps
    assert store.get(MODEL) == (data, 0)
    assert flash.faults == []


@pytest.mark.parametrize("change", ["size", "crc", "sequence"])
def test_another_object_does_not_resume(change: str) -> None:
    flash = Flash(1024, 4, 0xFF, 20)
    data = blob(1, 2500)
    store = flash.reboot(capacity_for(1024))
    assert store.begin(MODEL, data)[0] == 0
    assert store.write(0, data[:2048]) == 0
    store = flash.reboot(capacity_for(1024))
    other = {"size": data + b"x", "crc": data[:-1] + b"x", "sequence": data}[change]
    sequence = 1 if change == "sequence" else 0
    assert store.push(MODEL, other, sequence) == (0, 0)
    assert store.get(MODEL) == (other, sequence)


@pytest.mark.parametrize("at", [32, 36, 40, 44, 200])
def test_a_head_that_an_erase_left_in_doubt_is_not_resumed(at: int) -> None:
    """An interrupted erase may clear a mark and leave those behind it: such a head must not be written on."""
    flash = Flash(1024, 4, 0xFF, 20)
    store = flash.reboot(capacity_for(1024))
    data = blob(1, 2500)
    assert store.push(MODEL, data) == (0, 0)  # marks at 32, 36 and 40, the commit mark at 44
    marked = at < 48
    flash.bytes[at : at + 4] = b"\xff" * 4 if marked else bytes(4)
    if at == 44:
        flash.bytes[40:41] = b"\x01"
    assert store.push(MODEL, data, 0) == (0, len(data) if at == 200 else 0)
    assert store.get(MODEL) == (data, 0)


def test_order_and_limits_of_writes() -> None:
    flash = Flash(1024, 4, 0xFF, 20)
    store = flash.reboot(capacity_for(1024))
    data = blob(1, 1501)
    assert store.write(0, data[:4]) == lib.TD_E_STATE
    assert lib.td_store_commit(store.c) == lib.TD_E_STATE
    assert store.begin(MODEL, bytes(3 * 1024 + 1))[0] == lib.TD_E_FULL
    assert store.begin(REPLAY, b"x")[0] == lib.TD_E_FULL
    assert store.begin(MODEL, b"")[0] == lib.TD_E_ARGUMENT
    assert store.begin(5, data)[0] == store.begin(-1, data)[0] == lib.TD_E_ARGUMENT
    assert flash.n_steps == 0
    assert store.begin(MODEL, data) == (0, 0)
    assert store.write(4, data[4:8]) == lib.TD_E_STATE  # a gap
    assert store.write(0, data[:6]) == lib.TD_E_ARGUMENT  # half a unit, not at the end
    assert store.write(0, data + b"x") == store.write(2000, b"") == lib.TD_E_RANGE
    assert store.write(0, data[:8]) == 0
    n_steps = flash.n_steps
    assert store.write(0, data[:8]) == store.write(4, data[4:8]) == 0  # repeats
    assert flash.n_steps == n_steps
    assert store.write(4, data[4:12]) == lib.TD_E_STATE
    assert lib.td_store_commit(store.c) == lib.TD_E_STATE
    assert store.write(8, data[8:]) == 0
    assert lib.td_store_commit(store.c) == 0
    assert store.get(MODEL) == (data, 0)
    assert lib.td_store_erase(store.c, MODEL) == 0
    assert store.get(MODEL) is None
    assert lib.td_store_erase(store.c, 5) == lib.TD_E_ARGUMENT
    assert flash.faults == []


def test_bytes_that_break_the_promise_are_dropped() -> None:
    flash = Flash(1024, 4, 0xFF, 20)
    store = flash.reboot(capacity_for(1024))
    data = blob(1, 1500)
    assert store.begin(MODEL, data, crc=zlib.crc32(data) ^ 1) == (0, 0)
    assert store.write(0, data) == 0
    assert lib.td_store_commit(store.c) == lib.TD_E_CRC
    assert store.get(MODEL) is None
    assert store.push(MODEL, data) == (0, 0)


def test_a_stored_object_that_decays_is_reported_and_can_be_pushed_again() -> None:
    flash = Flash(1024, 4, 0xFF, 20)
    store = flash.reboot(capacity_for(1024))
    data = blob(1, 1500)
    assert store.push(MODEL, data) == (0, 0)
    flash.bytes[1024 + 700] = bytes([flash.bytes[1024 + 700][0] ^ 4])
    assert lib.td_store_get(store.c, MODEL, ffi.new("td_section *"), ffi.NULL) == lib.TD_E_CRC
    assert store.push(MODEL, data) == (0, 0)
    assert store.get(MODEL) == (data, 0)


def test_a_driver_that_fails_or_lies_is_noticed() -> None:
    flash = Flash(1024, 4, 0xFF, 20)
    store = flash.reboot(capacity_for(1024))
    data = blob(1, 1500)
    idle = ffi.callback(PROGRAM, lambda *_: 0, error=-100)
    positive = ffi.callback(PROGRAM, lambda *_: 7, error=-100)
    for driver in (idle, positive):
        store.c.flash.program = driver
        assert store.begin(MODEL, data)[0] == lib.TD_E_FLASH
    store.c.flash.program = flash.program_callback
    assert store.begin(MODEL, data) == (0, 0)
    store.c.flash.program = idle
    assert store.write(0, data) == lib.TD_E_FLASH
    assert store.write(0, data) == lib.TD_E_STATE
    store.c.flash.program = flash.program_callback
    assert store.push(MODEL, data) == (0, 0)
    idle_erase = ffi.callback(ERASE, lambda *_: 0, error=-100)
    store.c.flash.erase = idle_erase
    assert store.begin(MODEL, blob(2, 100))[0] == lib.TD_E_FLASH
    assert store.get(MODEL) == (data, 0)


def test_newest_slot_when_sequence_numbers_wrap() -> None:
    flash = Flash(1024, 4, 0xFF, 20)
    store = flash.reboot(capacity_for(1024))
    for n, sequence in enumerate([0xFFFFFFFE, 0xFFFFFFFF, 0, 1]):
        slot = lib.td_store_spare_slot(store.c)
        assert slot == SLOT_A + n % 2
        assert store.push(slot, blob(n, 80), sequence) == (0, 0)
        assert store.newest() == slot
    assert lib.td_store_erase(store.c, SLOT_B) == 0
    assert store.newest() == SLOT_A


@given(
    st.sampled_from([64, 256, 1024, 4096]),
    st.sampled_from([1, 2, 4, 8, 16]),
    st.lists(st.integers(0, 200_000), min_size=5, max_size=5),
    st.integers(0, 2_000_000),
)
def test_partitions_hold_what_was_asked(block: int, unit: int, capacity: list[int], size: int) -> None:
    flash = Flash(block, unit, 0xFF, 1)
    flash.size = size
    store = Store(flash, capacity)
    if store.status != 0:
        assert store.status == lib.TD_E_FULL
        assert sum(capacity) * (1 + 2 * unit / block) + 20 * block > size
        return
    end = 0
    for kind, wanted in enumerate(capacity):
        part = store.c.partition[kind]
        assert part.offset == end
        assert part.size % block == 0
        assert lib.td_store_capacity(store.c, kind) == -(-wanted // block) * block
        end += part.size
    assert end <= size


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("erase_block", 1000),
        ("erase_block", 32),
        ("program_unit", 3),
        ("program_unit", 32),
        ("program_unit", 0),
        ("erased", 1),
        ("base", ffi.NULL),
        ("erase", ffi.NULL),
        ("program", ffi.NULL),
    ],
)
def test_a_flash_outside_the_limits_is_refused(field: str, value: object) -> None:
    store = Store(Flash(1024, 4, 0xFF, 20), capacity_for(1024))
    assert store.status == 0
    setattr(store.c_flash, field, value)
    assert lib.td_store_init(store.c, store.c_flash, capacity_for(1024)) == lib.TD_E_ARGUMENT


def test_every_byte_of_a_small_store() -> None:
    """The layout of docs/SPEC.md, "Store"."""
    flash = Flash(64, 4, 0xFF, 4)
    store = flash.reboot([70, 0, 0, 0, 0])
    data = bytes(range(66))
    assert store.push(MODEL, data, 7) == (0, 0)
    record = b"TDS1" + bytes([1, 0, 0, 4, 66, 0, 0, 0]) + zlib.crc32(data).to_bytes(4, "little")
    record += bytes([7, 0, 0, 0, 64, 0, 0, 0, 192, 0, 0, 0])
    record += zlib.crc32(record).to_bytes(4, "little")
    head = record + bytes(12) + b"\xff" * 20
    assert bytes(flash.bytes) == head + data + b"\xff" * (64 * 4 - 64 - 66)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_flash_is_absent_or_unchanged(changes: list[tuple[int, int]]) -> None:
    flash = Flash(64, 4, 0xFF, 20)
    store = flash.reboot(capacity_for(64))
    stored = blob(1, 150)
    assert store.push(MODEL, stored) == (0, 0)
    for at, value in changes:
        flash.bytes[at] = bytes([value])
    out = ffi.new("td_section *")
    status = lib.td_store_get(store.c, MODEL, out, ffi.NULL)
    assert status in (0, lib.TD_E_NOT_FOUND, lib.TD_E_CRC)
    if status == 0:
        assert bytes(ffi.buffer(out.data, out.size)) == stored
