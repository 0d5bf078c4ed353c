"""Board files: every shipped one is sound, and every mistake in one is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tinydream import resources
from tinydream.devices import boards, build, device, emulator, flashing, link
from tinydream.devices.build import Firmware
from tinydream.errors import UsageError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(resources.directory("boards"), tmp_path / "boards")
    return tmp_path / "boards"


def edit(folder: Path, old: str, new: str, name: str = "microbit.toml") -> Path:
    path = folder / name
    text = path.read_text()
    assert text.count(old) == 1, old
    path.write_text(text.replace(old, new))
    return folder / "microbit.toml"


@pytest.mark.parametrize("board_id", boards.boards())
def test_every_board_loads(board_id: str) -> None:
    board = boards.board(board_id)
    assert board.id == board_id
    assert board.arena_planned > 0
    assert board.store.capacity[3] == board.store.capacity[4]


def test_the_micro_bit_is_what_its_data_sheet_says() -> None:
    board = boards.board("microbit")
    assert (board.ram.origin, board.ram.size) == (0x20000000, 16 * 1024)
    assert (board.flash.size, board.flash.erase_block, board.flash.program_unit) == (256 * 1024, 1024, 4)
    assert board.firmware.size + board.store.size == board.flash.size
    assert board.flashing is not None
    assert board.flashing.drive == "MICROBIT"


def test_a_board_overrides_single_facts_of_its_family(folder: Path) -> None:
    path = edit(folder, "[reserve]", "[ram]\nsize = 0x8000\n\n[reserve]")
    assert boards.load(path).ram == boards.Memory(0x20000000, 0x8000)


def test_an_unknown_board_is_named_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"'nosuch'.*an386.*host.*microbit"):
        boards.board("nosuch")


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("microbit.toml", 'family = "nrf51"', "", "`family` is missing"),
        ("microbit.toml", 'family = "nrf51"', 'family = "nrf99"', "nrf99"),
        ("microbit.toml", "[reserve]", "[reserve]\nheap = 1", "unknown key 'reserve.heap'"),
        ("microbit.toml", "stack = 2048", "", "'reserve.stack' is missing"),
        ("microbit.toml", "stack = 2048", 'stack = "2 KB"', "'reserve.stack' is '2 KB'; expected int"),
        ("microbit.toml", "stack = 2048", "stack = -1", "'reserve.stack' is -1"),
        ("microbit.toml", "stack = 2048", "stack = true", "'reserve.stack' is True"),
        ("microbit.toml", "stack = 2048", "stack = 14_000", "no RAM for the arena"),
        ("microbit.toml", "stack = 2048", "stack = ", "not valid TOML"),
        ("microbit.toml", 'kind = "qemu"', 'kind = "bochs"', "expected 'qemu' or 'process'"),
        ("microbit.toml", 'machine = "microbit"\n', "", "emulator.machine is missing"),
        ("microbit.toml", "model = 90_112", "model = 190_112", "do not fit store.size"),
        ("microbit.toml", "origin = 0x1_0000", "origin = 0xF000", "overlaps the firmware"),
        ("microbit.toml", "origin = 0x1_0000", "origin = 0x1_0010", "not a multiple of flash.erase_block"),
        ("microbit.toml", "origin = 0x1_0000", "origin = 0x1_0400", "past the end of the flash"),
        ("family/nrf51.toml", "erase_block = 1024", "erase_block = 1000", "must be a power of two"),
        ("family/nrf51.toml", "program_unit = 4", "program_unit = 32", "must be 1, 2, 4, 8 or 16"),
        ("family/nrf51.toml", "erased = 0xFF", "erased = 0x7F", "must be 0x00 or 0xFF"),
        ("family/nrf51.toml", "uart_irq = 2", 'uart_irq = "two"', "'port'"),
    ],
)
def test_mistakes_are_named(folder: Path, file: str, old: str, new: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        boards.load(edit(folder, old, new, file))
    assert message in str(caught.value)


def test_a_memory_protection_region_that_no_hardware_has(folder: Path) -> None:
    edit(folder, "size = 0x1_0000", "size = 0xC000", "an386.toml")
    with pytest.raises(UsageError, match=r"port.mpu: ram has 49152 bytes"):
        boards.load(folder / "an386.toml")


def test_no_board_name_in_the_code() -> None:
    names = [name for name in boards.boards() if name != "host"]  # "host" is also a word
    modules = [boards, build, device, emulator, flashing, link, resources]  # where a board is chosen may have a default
    sources = [Path(str(module.__file__)) for module in modules]
    code = {path.name: path.read_text() for path in [*sources, *resources.directory("firmware").glob("*.[ch]")]}
    found = [(name, file) for file, text in code.items() for name in names if f'"{name}"' in text]
    assert found == []


def fake_firmware(tmp_path: Path) -> Firmware:
    image = tmp_path / "firmware.hex"
    image.write_text(":00000001FF\n")
    return Firmware("microbit", "0", tmp_path / "firmware.elf", image, None, 0, 0, 0)


def test_flashing_copies_the_hex_to_the_drive(tmp_path: Path) -> None:
    drive = tmp_path / "MICROBIT"
    drive.mkdir()
    target = flashing.flash(boards.board("microbit"), fake_firmware(tmp_path), drive)
    assert target.parent == drive
    assert target.read_text() == ":00000001FF\n"


def test_flashing_without_a_drive_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flashing, "_mount_points", lambda label: iter([tmp_path / "nowhere" / label]))
    with pytest.raises(UsageError, match="MICROBIT is not mounted"):
        flashing.flash(boards.board("microbit"), fake_firmware(tmp_path))
    with pytest.raises(UsageError, match="only runs emulated"):
        flashing.flash(boards.board("an386"), fake_firmware(tmp_path))
