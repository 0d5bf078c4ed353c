"""Boards as data: boards/<board>.toml on top of boards/family/<family>.toml, loaded and checked."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from .. import resources
from .._native import ffi, lib, status_name
from ..errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Board", "Emulation", "Flash", "Flashing", "Memory", "Reserve", "Store", "board", "boards", "load"]


@dataclass(frozen=True)
class Memory:
    """A range of addresses, in bytes."""

    origin: int
    size: int


@dataclass(frozen=True)
class Flash:
    """Geometry of the flash: bytes, and the value (0x00 or 0xFF) of an erased one."""

    origin: int
    size: int
    erase_block: int
    program_unit: int
    erased: int


@dataclass(frozen=True)
class Reserve:
    """RAM, in bytes, that the arena does not get. The firmware's link fails when its statics need more."""

    statics: int
    stack: int


@dataclass(frozen=True)
class Store:
    """The store's flash region, and the data bytes that each object may have (both weight slots: `slot`)."""

    origin: int
    size: int
    model: int
    train: int
    replay: int
    slot: int

    @property
    def capacity(self) -> tuple[int, int, int, int, int]:
        """Data bytes by object, in the order of enum td_object."""
        return (self.model, self.train, self.replay, self.slot, self.slot)


@dataclass(frozen=True)
class Emulation:
    """How the board runs without hardware. A tick of its counter is `instructions_per_tick` (None: a clock)."""

    kind: Literal["qemu", "process"]
    machine: str | None = None
    icount_shift: int | None = None
    instructions_per_tick: float | None = None


@dataclass(frozen=True)
class Flashing:
    """How a real board gets its firmware: the .hex is copied to the USB drive with this label."""

    method: Literal["drive"]
    drive: str
    baud: int = 115200


@dataclass(frozen=True)
class Firmware:
    """Flash, in bytes from the flash's origin, that belongs to the firmware itself."""

    size: int


@dataclass(frozen=True)
class Cost:
    """What work costs the family's core, in instructions, as measured on the main job: an estimate for other models."""

    mac: float  # of a multiply-add of the frozen part
    parameter: float  # of a trained parameter in a training step, sampling included
    fixed: float | None = None  # the same with precision "fixed"


@dataclass(frozen=True)
class Board:
    """Everything that is known about a board. Each key of `port` is TD_PORT_<KEY> in the family's `driver`."""

    id: str
    title: str
    family: str
    arch: Literal["cortex-m", "posix"]
    toolchain: str
    flags: tuple[str, ...]
    driver: str
    clock_hz: int
    ram: Memory
    flash: Flash
    reserve: Reserve
    firmware: Firmware
    store: Store
    emulator: Emulation | None = None
    flashing: Flashing | None = None
    cost: Cost | None = None
    port: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def has_fpu(self) -> bool:
        """Whether its core computes with f32 in hardware, as the compiler's flags have it."""
        hard = ("-mfloat-abi=hard", "-mabi=ilp32f", "-mabi=ilp32d")
        return self.arch == "posix" or any(flag in hard for flag in self.flags)

    @property
    def arena_planned(self) -> int:
        """Bytes of RAM that the arena has at least: what neither reserve takes."""
        return self.ram.size - self.reserve.statics - self.reserve.stack


def boards() -> list[str]:
    """The ids of all boards, sorted."""
    return sorted(path.stem for path in resources.directory("boards").glob("*.toml"))


def board(board_id: str) -> Board:
    """The board with this id. Raises UsageError when there is none, or its files are not valid."""
    if board_id not in boards():
        raise UsageError(
            f"unknown board {board_id!r}. Known: {', '.join(boards())}. docs/PORTING.md says how to add one"
        )
    return load(resources.directory("boards") / f"{board_id}.toml")


def load(path: Path) -> Board:
    """A board from its own file; its family is in family/ beside it. Raises UsageError naming file and key."""
    own = _read(path)
    family = own.get("family")
    if not isinstance(family, str):
        raise UsageError(f"{path}: `family` is missing: the name of a file in {path.parent / 'family'}, without .toml")
    values = _merge(_read(path.parent / "family" / f"{family}.toml"), own)
    found: Board = _build(Board, {**values, "id": path.stem}, str(path), "")
    _check(found, path)
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from error


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _build(kind: Any, values: Mapping[str, Any], where: str, prefix: str) -> Any:
    hints = get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key in values:
        if key not in fields:
            raise UsageError(f"{where}: unknown key {prefix + key!r}. Known here: {', '.join(fields)}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise UsageError(f"{where}: {prefix + name!r} is missing (neither the board nor its family has it)")
    return kind(**{key: _convert(hints[key], value, where, prefix + key) for key, value in values.items()})


def _convert(hint: Any, value: Any, where: str, key: str) -> Any:
    """`value` as the type that the dataclass declares, or a UsageError."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _convert(next(kind for kind in args if kind is not type(None)), value, where, key)
    if origin is Literal and value in args:
        return value
    if origin is tuple and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    if origin is Mapping and isinstance(value, dict) and all(type(item) is int for item in value.values()):
        return dict(value)
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return _build(hint, value, where, key + ".")
    if hint is float and type(value) in (int, float):
        return float(value)
    if hint is int and type(value) is int and value >= 0:
        return value
    if hint is str and isinstance(value, str):
        return value
    expected = " or ".join(map(repr, args)) if origin is Literal else getattr(hint, "__name__", str(hint))
    raise UsageError(f"{where}: {key!r} is {value!r}; expected {expected}")


def _power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0


def _layout_status(found: Board) -> int:
    """What the core says to this layout. It only computes: the addresses below are never followed."""
    flash = ffi.new("td_flash *")
    flash.base, flash.size = ffi.cast("uint8_t *", 1), found.store.size
    flash.erase = ffi.cast("int (*)(void *, uint32_t)", 1)
    flash.program = ffi.cast("int (*)(void *, uint32_t, const uint8_t *, uint32_t)", 1)
    flash.erase_block, flash.program_unit = found.flash.erase_block, found.flash.program_unit
    flash.erased = found.flash.erased
    return int(lib.td_store_init(ffi.new("td_store *"), flash, list(found.store.capacity)))


def _check(found: Board, path: Path) -> None:
    """What single values cannot show: ranges that must fit each other."""

    def require(holds: bool, message: str) -> None:
        if not holds:
            raise UsageError(f"{path}: {message}")

    flash, store = found.flash, found.store
    require(_power_of_two(flash.erase_block), f"flash.erase_block is {flash.erase_block}; it must be a power of two")
    require(
        _power_of_two(flash.program_unit) and flash.program_unit <= 16,
        f"flash.program_unit is {flash.program_unit}; it must be 1, 2, 4, 8 or 16",
    )
    require(flash.erased in (0x00, 0xFF), f"flash.erased is {flash.erased}; it must be 0x00 or 0xFF")
    require(found.firmware.size <= flash.size, "firmware.size exceeds flash.size")
    for name, value in (("origin", store.origin), ("size", store.size)):
        require(value % flash.erase_block == 0, f"store.{name} is not a multiple of flash.erase_block")
    if found.port.get("mpu"):
        for name, origin, size in (
            ("firmware", flash.origin, found.firmware.size),
            ("ram", found.ram.origin, found.ram.size),
            ("store", store.origin, store.size),
        ):
            require(
                _power_of_two(size) and origin % size == 0,
                f"port.mpu: {name} has {size} bytes at {origin:#x}; a region is a power of two, aligned to itself",
            )
    code_end = flash.origin + found.firmware.size
    require(
        store.origin >= code_end or store.origin + store.size <= flash.origin,
        f"the store at {store.origin:#x} overlaps the firmware, which ends at {code_end:#x}",
    )
    if flash.origin <= store.origin < flash.origin + flash.size:
        require(store.origin + store.size <= flash.origin + flash.size, "the store reaches past the end of the flash")
    status = _layout_status(found)
    require(
        status == lib.TD_OK,
        f"the store's objects and their heads do not fit store.size = {store.size} ({status_name(status)}): they take "
        f"{sum(store.capacity)} bytes, each rounded up to blocks of {flash.erase_block}, and a block each for the head",
    )
    require(
        found.arena_planned > 0, f"reserve leaves no RAM for the arena: {found.arena_planned} of {found.ram.size} bytes"
    )
    require(
        found.emulator is None or found.emulator.kind != "qemu" or found.emulator.machine is not None,
        "emulator.machine is missing: the name of the QEMU machine",
    )
