"""The firmware build: sizes, limits that the linker keeps, the cache, and clear words when something is missing."""

from __future__ import annotations

import dataclasses
import re
import subprocess
from pathlib import Path

import pytest
from board_kit import firmware, patched

from tinydream import resources
from tinydream.devices import boards, build
from tinydream.errors import UsageError

CROSS = ("microbit", "an386")


@pytest.mark.parametrize("board_id", CROSS)
def test_sizes_keep_the_reserves(board_id: str) -> None:
    board, built = boards.board(board_id), firmware(board_id)
    assert 0 < built.static_ram <= board.reserve.statics
    assert 0 < built.text <= built.flash <= board.firmware.size
    assert built.bin is not None
    assert built.bin.stat().st_size == built.flash


def test_the_micro_bit_firmware_stays_small() -> None:
    """It runs int8, int16 and float32 models and trains any tail; [firmware] gives it 64 KB."""
    assert firmware("microbit").text < 63 * 1024


def test_the_hex_lies_in_the_firmware_part_of_flash() -> None:
    """A store inside the image would be overwritten whenever an emulator resets."""
    board, image = boards.board("microbit"), firmware("microbit").hex
    assert image is not None
    base, addresses = 0, []
    for line in image.read_text().split():
        record = bytes.fromhex(line[1:])
        assert sum(record) & 0xFF == 0
        if record[3] == 0:
            addresses += [
                base + int.from_bytes(record[1:3], "big"),
                base + int.from_bytes(record[1:3], "big") + record[0],
            ]
        elif record[3] in (2, 4):
            base = int.from_bytes(record[4:6], "big") << (4 if record[3] == 2 else 16)
    assert min(addresses) == board.flash.origin
    assert max(addresses) <= board.store.origin


def test_no_heap_and_no_double_arithmetic() -> None:
    symbols = subprocess.run(
        ["arm-none-eabi-nm", str(firmware("microbit").elf)], capture_output=True, text=True, check=True
    ).stdout
    names = set(re.findall(r" [TtWw] (\w+)$", symbols, re.MULTILINE))
    assert "td_trainer_step" in names
    assert names.isdisjoint({"malloc", "_sbrk", "printf", "__aeabi_dmul", "__aeabi_dadd"})


def test_the_second_build_is_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYDREAM_CACHE", str(tmp_path / "cache"))
    board = boards.board("host")
    first = build.build(board)
    stamp = first.elf.stat().st_mtime_ns
    assert build.build(board) == first
    assert first.elf.stat().st_mtime_ns == stamp
    assert first.build_id == build.build_id(board)
    copy = build.build(board, tmp_path / "out")
    assert copy.elf == tmp_path / "out" / "host.elf"
    assert copy.elf.read_bytes() == first.elf.read_bytes()
    assert [path.name for path in (tmp_path / "cache" / "firmware").iterdir()] == [f"host-{first.build_id}"]


def test_a_change_of_sources_or_board_is_another_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = boards.board("microbit")
    before = build.build_id(board)
    assert build.build_id(dataclasses.replace(board, clock_hz=1)) != before
    patched(monkeypatch, tmp_path, "main.c", {"/* The main loop": "/* The Main Loop"})
    assert build.build_id(board) != before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reserve": boards.Reserve(statics=512, stack=2048)}, "firmware statics exceed"),
        ({"firmware": boards.Firmware(size=0x2000)}, "FLASH"),
    ],
)
def test_the_linker_refuses_what_does_not_fit(
    changes: dict[str, object], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINYDREAM_CACHE", str(tmp_path))
    board = dataclasses.replace(boards.board("microbit"), **changes)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=message):
        build.build(board)
    assert not [path for path in (tmp_path / "firmware").iterdir() if not path.name.startswith(".")]


def test_a_missing_compiler_names_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match=r"arm-none-eabi-gcc.*apt install gcc-arm-none-eabi"):
        build.build(boards.board("microbit"))


def test_resources_are_found_in_checkout_and_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (resources.zcbor() / "include" / "zcbor_common.h").is_file()
    package = tmp_path / "site" / "tinydream"
    (package / "firmware").mkdir(parents=True)
    (package / "firmware" / "main.c").touch()
    monkeypatch.setattr(resources, "PACKAGE", package)
    assert resources.directory("firmware") == package / "firmware"
    with pytest.raises(UsageError, match="boards/ is missing"):
        resources.directory("boards")
