"""Boards that answer: pushed to, trained and read back, through pulled cables, resets and faults."""

from __future__ import annotations

import dataclasses
import socket
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import cbor2
import numpy as np
import pytest
from board_kit import (
    connect,
    connect_with_cuts,
    embeddings,
    firmware,
    model,
    packs,
    patched,
    smaller,
    windows,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinydream._native import ffi, lib
from tinydream.devices import boards, build, device, link
from tinydream.devices.emulator import Emulator, detached, spawn_detached, stop_detached
from tinydream.errors import BoardError, BudgetError, DataError, LinkError, UsageError
from tinydream.packs.packing import pack
from tinydream.tables.table import table_from_arrays
from tinydream.training.train import TrainConfig, Trainer

EMULATED = ("host", "microbit", "an386", "an547")
CONFIG = TrainConfig(epochs=3, replay=0.5, seed=7)


@pytest.fixture(params=EMULATED)
def emulator(request: pytest.FixtureRequest) -> Iterator[Emulator]:
    with Emulator(boards.board(request.param), firmware(request.param)) as running:
        yield running


@pytest.fixture
def board(emulator: Emulator) -> Iterator[device.Device]:
    with connect(emulator.url, board=emulator.board.id) as connected:
        yield connected


@pytest.fixture
def host() -> Iterator[device.Device]:
    with Emulator(boards.board("host"), firmware("host")) as running, connect(running.url) as connected:
        yield connected


def push_all(board: device.Device) -> None:
    train, replay = packs()
    board.push("model", model().tdm)
    board.push("train", train.data)
    board.push("replay", replay.data)


def test_the_main_line(board: device.Device, emulator: Emulator) -> None:
    """Everything a board does, to the same bits as the host."""
    facts, about = boards.board(emulator.board.id), board.about
    assert about is not None
    assert (about.board_id, about.build_id) == (facts.id, firmware(facts.id).build_id)
    assert about.ram_total == facts.ram.size
    assert about.ram_static <= facts.reserve.statics
    assert about.arena >= facts.arena_planned
    assert about.ram_static + about.stack_reserve + about.arena <= about.ram_total
    assert about.capacity == facts.store.capacity

    push_all(board)
    assert board.info("model") == device.ObjectInfo(len(model().tdm), zlib.crc32(model().tdm), 1)
    assert board.read("train") == packs()[0].data
    own = Trainer(model(), None)
    for window, embedding in zip(windows()[:3], embeddings()[:3], strict=True):
        assert np.array_equal(board.embed(window), embedding)
    assert np.array_equal(board.classify(windows()[:6]), own.predict(embeddings()[:6]))
    assert np.array_equal(board.weights().parameters, own.parameters)

    trainer = Trainer(model(), *packs(), CONFIG)
    for expected, got in zip(trainer.epochs(), board.train(CONFIG), strict=True):
        assert dataclasses.replace(got, instructions=0) == expected
        assert (got.instructions > 0) == (facts.emulator is not None and facts.emulator.kind == "qemu")
    saved = board.weights()
    assert np.array_equal(saved.parameters, trainer.parameters)
    assert not np.array_equal(saved.parameters, own.parameters)
    assert saved.logit_range == trainer.logit_range()
    assert (saved.sequence, saved.model_hash) == (1, model().hash)
    assert np.array_equal(board.classify(windows()[:6]), trainer.predict(embeddings()[:6]))

    board.reset()
    again = board.weights()
    assert np.array_equal(again.parameters, saved.parameters)
    assert (again.logit_range, again.sequence) == (saved.logit_range, 1)
    board.reset_weights()
    assert np.array_equal(board.weights().parameters, own.parameters)


def test_stats_add_up_and_the_stack_is_measured(board: device.Device, emulator: Emulator) -> None:
    push_all(board)
    idle = board.stats()
    board.infer(windows()[0])
    for _ in board.train(dataclasses.replace(CONFIG, epochs=1)):
        pass
    stats = board.stats()
    assert stats.arena_tensors == model().arena_size
    assert stats.arena_trainer == lib.td_trainer_size(model().native, ffi.NULL, ffi.NULL)
    assert stats.arena_tensors + stats.arena_trainer + stats.arena_row <= stats.arena
    assert stats.fault == 0
    assert stats.infer_ticks > 0
    if emulator.board.arch == "cortex-m":
        assert 0 < idle.stack_used <= stats.stack_used < stats.stack_reserve
        assert stats.flash_firmware == firmware(emulator.board.id).flash
        assert stats.ram_used <= stats.ram_total
        assert stats.infer_instructions > model().macs


@pytest.mark.parametrize("mode", ["bases", "full", "stratified"])
@pytest.mark.parametrize("replay", [0.0, 1.0])
def test_every_mode_trains_to_the_host_s_bits(host: device.Device, mode: str, replay: float) -> None:
    config = TrainConfig(epochs=2, mode=mode, replay=replay, l2=0.01, seed=3)
    push_all(host)
    trainer = Trainer(model(), *packs(), config)
    assert list(host.train(config)) == list(trainer.epochs())
    assert np.array_equal(host.weights().parameters, trainer.parameters)


def test_weights_are_saved_by_turns_and_training_can_go_on(host: device.Device) -> None:
    push_all(host)
    short = dataclasses.replace(CONFIG, epochs=1)
    for sequence in (1, 2, 3):
        before = host.weights().parameters
        list(host.train(short, fresh=False))
        after = host.weights()
        assert after.sequence == sequence
        assert not np.array_equal(after.parameters, before)
    slots = [host.info("slot_a"), host.info("slot_b")]
    assert [slot.sequence for slot in slots if slot] == [3, 2]
    expected = Trainer(model(), *packs(), short)
    list(expected.epochs())
    list(host.train(short, fresh=True))
    assert np.array_equal(host.weights().parameters, expected.parameters)


def test_the_board_answers_while_it_trains(host: device.Device) -> None:
    push_all(host)
    epochs = host.train(dataclasses.replace(CONFIG, epochs=40))
    next(epochs)
    seen = [host.infer(windows()[0]).label, host.stats().arena_tensors]
    assert seen[1] == model().arena_size
    assert len(list(epochs)) == 39
    trainer = Trainer(model(), *packs(), dataclasses.replace(CONFIG, epochs=40))
    list(trainer.epochs())
    assert np.array_equal(host.weights().parameters, trainer.parameters)


# ------------------------------------------------------------------- interrupted


def test_a_cable_pulled_in_the_middle_of_a_push(emulator: Emulator) -> None:
    tdm = model().tdm
    with connect_with_cuts(emulator.url, [500, 501, 1777, 2900]) as board:
        pushed = board.push("model", tdm)
        assert pushed.sent == len(tdm)  # what had arrived was not pushed again
        assert board.link.n_reopens == 4
        assert board.read("model") == tdm


def test_another_program_goes_on_with_a_push(emulator: Emulator) -> None:
    tdm = model().tdm

    class Killed(Exception):  # noqa: N818
        pass

    def die(done: int, total: int) -> None:
        if done >= total // 2:
            raise Killed

    with connect(emulator.url) as first, pytest.raises(Killed):
        first.push("model", tdm, die)
    seen: list[int] = []
    with connect(emulator.url) as second:
        assert second.info("model") is None
        pushed = second.push("model", tdm, lambda done, total: seen.append(done))
        assert seen[0] >= len(tdm) // 2
        assert pushed.sent == len(tdm) - seen[0]
        assert second.push("model", tdm).sent == 0


def test_a_reset_in_the_middle_of_a_push(board: device.Device, emulator: Emulator) -> None:
    data = model().tdm
    resets: list[int] = []

    def reset_once(done: int, total: int) -> None:
        if done >= total // 2 and not resets:
            resets.append(done)
            board._ask(device._Command.RESET)

    pushed = board.push("model", data, reset_once)
    assert (pushed.restarts, len(resets)) == (1, 1)
    kept = resets[0] // emulator.board.flash.erase_block * emulator.board.flash.erase_block
    assert pushed.sent == len(data) + resets[0] - kept
    assert board.read("model") == data


def test_a_process_that_was_killed_keeps_its_flash(tmp_path: Path) -> None:
    flash = tmp_path / "flash.bin"
    facts = boards.board("host")
    with Emulator(facts, firmware("host"), flash_file=flash) as running, connect(running.url) as board:
        push_all(board)
        list(board.train(dataclasses.replace(CONFIG, epochs=1)))
        weights = board.weights()
    assert flash.stat().st_size == facts.store.size
    with Emulator(facts, firmware("host"), flash_file=flash) as running, connect(running.url) as board:
        assert board.push("model", model().tdm).sent == 0
        assert np.array_equal(board.weights().parameters, weights.parameters)


CUT = """static int programs;
    const char *cut = getenv("TEST_POWER_CUT");
    if (cut && ++programs == atoi(cut)) _exit(1);
    for (uint32_t i = 0; i < size; i++) process"""


def test_a_power_cut_while_weights_are_saved_leaves_whole_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every write to flash: the old weights or the new ones, and the next training works."""
    patched(monkeypatch, tmp_path, "port_posix.c", {"for (uint32_t i = 0; i < size; i++) process": CUT})
    facts, flash, short = boards.board("host"), tmp_path / "flash.bin", dataclasses.replace(CONFIG, epochs=1)
    built = build.build(facts)
    with Emulator(facts, built, flash_file=flash) as running, connect(running.url) as board:
        push_all(board)
        list(board.train(short))
    before, n_cuts = flash.read_bytes(), 0
    for at in range(1, 200):
        flash.write_bytes(before)
        monkeypatch.setenv("TEST_POWER_CUT", str(at))
        with Emulator(facts, built, flash_file=flash) as running, connect(running.url) as board:
            old = board.weights()
            epochs = board.train(short, fresh=False)
            next(epochs)
            new = board.weights().parameters
            board._ask(device._Command.TRAIN_FINISH)
            died = running.wait(2.0)
        monkeypatch.delenv("TEST_POWER_CUT")
        with Emulator(facts, built, flash_file=flash) as running, connect(running.url) as board:
            found = board.weights()
            assert (old.sequence, found.sequence) in ((1, 1), (1, 2))
            assert np.array_equal(found.parameters, new if found.sequence == 2 else old.parameters)
            if at % 8 == 0:
                list(board.train(short, fresh=False))
                assert board.weights().sequence == found.sequence + 1
        if not died:
            assert found.sequence == 2
            break
        n_cuts += 1
    assert n_cuts > len(new) * 4 // 64


def test_a_reset_while_training_is_told(host: device.Device) -> None:
    push_all(host)
    epochs = host.train(CONFIG)
    next(epochs)
    host._ask(device._Command.RESET)
    with pytest.raises(link.SessionLost):
        next(epochs)
    host.hello()
    assert host.weights().sequence == 0


# ----------------------------------------------------------------------- refused


def test_garbage_is_refused_and_not_kept(host: device.Device) -> None:
    push_all(host)
    for kind, good in (("model", model().tdm), ("train", packs()[0].data), ("replay", packs()[1].data)):
        damaged = bytearray(good)
        damaged[len(good) // 2] ^= 1
        wrong = packs()[0].data if kind == "model" else model().tdm
        for bad in (b"hello" * 50, bytes(damaged), good[:-8], wrong):
            with pytest.raises(BoardError, match=rf"refused `commit`.*its {kind}"):
                host.push(kind, bad)
            assert host.info(kind) is None
        if kind == "model":
            with pytest.raises(BoardError, match="push a model first"):
                host.infer(windows()[0])
        host.push(kind, good)
    assert list(host.train(dataclasses.replace(CONFIG, epochs=1)))


def test_packs_of_another_model_do_not_train(host: device.Device) -> None:
    push_all(host)
    rows = np.zeros((14, 5), np.int8)
    host.push("train", pack(table_from_arrays(rows, np.arange(14) % 7)).data)
    with pytest.raises(BoardError, match=r"train begin.*range about its train.*does not fit the model"):
        next(host.train(CONFIG))


def test_training_without_what_it_needs(host: device.Device) -> None:
    with pytest.raises(BoardError, match="push a model"):
        next(host.train(CONFIG))
    host.push("model", model().tdm)
    with pytest.raises(BoardError, match=r"not found about its train. push it first"):
        next(host.train(CONFIG))


def weights_record(parameters: np.ndarray, model_hash: int, version: int = 1) -> bytes:
    """As docs/SPEC.md has it."""
    head = struct.pack("<4sHHIIffQ", b"TDW1", version, 0, model_hash, len(parameters), -1.0, 2.0, 0)
    return head + parameters.astype("<f4").tobytes()


def test_a_weights_record_from_outside_is_checked(host: device.Device) -> None:
    host.push("model", model().tdm)
    good = np.linspace(-1, 1, model().n_parameters, dtype=np.float32)
    spoiled = good.copy()
    spoiled[7] = np.nan
    for bad in (
        weights_record(spoiled, model().hash),
        weights_record(good[:-1], model().hash),
        weights_record(good, model().hash ^ 1),
        weights_record(good, model().hash, version=2),
        weights_record(good, model().hash)[:16],
    ):
        with pytest.raises(BoardError, match=r"refused `commit`.*slot_a"):
            host._push(3, bad, zlib.crc32(bad), None)
        assert host.info("slot_a") is None
    record = weights_record(good, model().hash)
    host._push(3, record, zlib.crc32(record), None)
    assert np.array_equal(host.weights().parameters, good)
    assert host.weights().logit_range == (-1.0, 2.0)


def test_weights_that_leave_f32_are_not_saved(host: device.Device) -> None:
    push_all(host)
    with pytest.raises(BoardError, match="range"):
        list(host.train(TrainConfig(epochs=30, learning_rate=1e6, final_rate=1e6, l2=10.0)))
    assert host.info("slot_a") is None
    host.reset_weights()
    assert np.array_equal(host.weights().parameters, Trainer(model(), None).parameters)


def test_too_large_for_its_partition(host: device.Device) -> None:
    with pytest.raises(BudgetError, match="1 too many") as caught:
        host.push("replay", bytes(boards.board("host").store.replay + 1))
    assert (caught.value.missing, caught.value.board) == (1, "host")
    with pytest.raises(DataError, match="empty"):
        host.push("replay", b"")
    with pytest.raises(UsageError, match="no object 'weights'"):
        host.push("weights", b"x")


def test_a_model_that_needs_more_ram_is_refused_by_the_board() -> None:
    tight = smaller("host", model().arena_size + 64)
    with Emulator(tight, build.build(tight)) as running, connect(running.url) as board:
        with pytest.raises(BoardError, match=r"memory about its model.*more RAM"):
            board.push("model", model().tdm)
        assert board.info("model") is None


def test_windows_of_the_wrong_size_or_type(host: device.Device) -> None:
    host.push("model", model().tdm)
    window = windows()[0].reshape(-1)
    with pytest.raises(DataError, match="599 bytes"):
        host.infer(window[:-1])
    with pytest.raises(BoardError, match="longer than the model's input"):
        host.infer(np.append(window, np.int8(0)))
    with pytest.raises(BoardError, match="longer than the model's input"):
        host.infer(window.astype(np.float32))
    with pytest.raises(DataError, match="int8"):
        host.infer(window.astype(np.float64))
    assert np.array_equal(host.embed(window), embeddings()[0])


def test_another_board_than_expected(emulator: Emulator) -> None:
    other = "microbit" if emulator.board.id != "microbit" else "host"
    with pytest.raises(BoardError, match=f"this is a {emulator.board.id}, not the {other}"):
        connect(emulator.url, board=other)


@pytest.mark.parametrize("change", ["TD_COMMAND_VERSION = 2", "zcbor_uint32_put(out, TD_VERSION)"])
def test_a_firmware_of_another_version(change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, new = (
        ("commands.h", "TD_COMMAND_VERSION = 7") if "=" in change else ("commands.c", "zcbor_uint32_put(out, 9)")
    )
    patched(monkeypatch, tmp_path, file, {change: new})
    facts = boards.board("host")
    with (
        Emulator(facts, build.build(facts)) as running,
        pytest.raises(BoardError, match=r"firmware on host is of another version.*tinydream flash"),
    ):
        connect(running.url)


def test_nobody_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(LinkError, match="does not answer"):
            device.connect(f"socket://127.0.0.1:{port}", patience=0.7)
    with pytest.raises(LinkError, match="cannot open"):
        device.connect(f"socket://127.0.0.1:{port}", patience=0.3)


# ------------------------------------------------------------------------ faults

WILD = "*(volatile uint32_t *)(uintptr_t)({address}) = (uint32_t)c->reset_wanted;"
DEEP = """static uint32_t deep(uint32_t n)
{
    volatile uint32_t frame[32];
    frame[n % 32u] = n;
    return n == 0xFFFFFFu ? 0u : deep(n + 1u) + frame[n % 32u];
}

static int reset("""


@pytest.mark.parametrize("board_id", ["microbit", "an386", "an547"])
@pytest.mark.parametrize("kind", ["past RAM", "stack overflow"])
def test_a_ram_fault_restarts_the_board_and_is_reported(
    board_id: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The budget is enforced: what lies past it faults, even where the emulated machine has more."""
    facts = boards.board(board_id)
    changes = {"c->reset_wanted = true;": WILD.format(address=f"{facts.ram.origin + facts.ram.size:#x}u")}
    if kind == "stack overflow":
        changes = {"c->reset_wanted = true;": "c->reset_wanted = deep(1) != 0;", "static int reset(": DEEP}
    patched(monkeypatch, tmp_path, "commands.c", changes)
    with Emulator(facts, build.build(facts)) as running, connect(running.url) as board:
        board.push("model", model().tdm)
        assert board.stats().fault == 0
        with pytest.raises(link.SessionLost):
            board._ask(device._Command.RESET)
        board.hello()
        assert board.stats().fault != 0
        assert board.read("model") == model().tdm


# -------------------------------------------------------------------- any request


@pytest.fixture(scope="module")
def sanitized() -> Iterator[device.Device]:
    """The host board, built so that any access outside its memory ends it."""
    # The sanitizers widen expressions, and gcc then warns of conversions that the source does not have.
    flags = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-Wno-error=sign-conversion")
    facts = dataclasses.replace(boards.board("host"), flags=flags)
    with Emulator(facts, build.build(facts)) as running, connect(running.url) as connected:
        push_all(connected)
        yield connected
        assert running.running, running.log()


def test_the_main_line_under_sanitizers(sanitized: device.Device) -> None:
    push_all(sanitized)
    assert np.array_equal(sanitized.embed(windows()[0]), embeddings()[0])
    trainer = Trainer(model(), *packs(), CONFIG)
    assert list(sanitized.train(CONFIG)) == list(trainer.epochs())


numbers = st.one_of(
    st.integers(0, 20),
    st.integers(-(2**33), 2**33),
    st.sampled_from([3444, 600, 240, 241, 2**32 - 1, 2**31]),
    st.floats(width=32),
    st.booleans(),
    st.binary(max_size=230),
    st.none(),
)
requests = st.one_of(
    st.binary(max_size=lib.TD_LINK_MTU),
    st.tuples(st.integers(0, 14), st.lists(numbers, max_size=7)).map(
        lambda r: cbor2.dumps([r[0], *r[1]], canonical=True)
    ),
).filter(lambda payload: len(payload) <= lib.TD_LINK_MTU)


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(payload=requests)
def test_any_request_gets_a_sound_reply(sanitized: device.Device, payload: bytes) -> None:
    reply = cbor2.loads(sanitized.link.request(payload))
    assert isinstance(reply, list)
    assert -11 <= reply[0] <= 0
    if reply[0] != 0:
        assert len(reply) == 2
    try:
        restarted = reply[0] == 0 and cbor2.loads(payload)[0] == device._Command.RESET
    except (cbor2.CBORDecodeError, TypeError, IndexError, ValueError):
        restarted = False
    if restarted:
        sanitized.hello()


# ---------------------------------------------------------------------- detached


@pytest.mark.parametrize("board_id", ["host", "microbit"])
def test_a_board_that_outlives_its_program(board_id: str, tmp_path: Path) -> None:
    facts = boards.board(board_id)
    assert detached(tmp_path) is None
    first = spawn_detached(facts, firmware(board_id), tmp_path)
    try:
        with connect(first.url, board=board_id) as board:
            board.push("model", model().tdm)
        assert detached(tmp_path) == first
        with connect(first.url) as board:
            assert board.push("model", model().tdm).sent == 0
        second = spawn_detached(facts, firmware(board_id), tmp_path)
        assert second.pid != first.pid
        assert not Path(f"/proc/{first.pid}").exists()
        with connect(second.url) as board:
            assert (board.info("model") is not None) == (board_id == "host")  # its flash is a file in the folder
    finally:
        stopped = stop_detached(tmp_path)
    assert stopped
    assert detached(tmp_path) is None
    assert not stop_detached(tmp_path)


def test_a_process_id_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "emulator.json").write_text('{"board": "host", "pid": 1, "url": "socket://127.0.0.1:1"}')
    assert detached(tmp_path) is None
    assert not stop_detached(tmp_path)
    (tmp_path / "emulator.json").write_text("{")
    assert detached(tmp_path) is None


def test_missing_qemu_names_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    built = firmware("microbit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="apt install qemu-system-arm"):
        Emulator(boards.board("microbit"), built)


def test_an_emulator_that_dies_at_once_says_why() -> None:
    facts = boards.board("microbit")
    assert facts.emulator is not None
    broken = dataclasses.replace(facts, emulator=dataclasses.replace(facts.emulator, machine="nosuch"))
    with pytest.raises(LinkError, match=r"does not start. It said:\n.*machine type"):
        Emulator(broken, firmware("microbit"))


def test_a_replay_set_sorted_by_keys_trains_to_the_host_s_bits(board: device.Device) -> None:
    """Rows as differences of keys: the random access of the sampler decodes from the index on."""
    noise = np.random.default_rng(8).integers(-20, 21, (300, *model().input_shape))
    rows = np.clip(windows()[:1] + noise, -128, 127).astype(np.int8)
    table = table_from_arrays(rows, np.zeros(300, np.int64), classes=model().n_classes)
    replay = pack(table, through=model(), replay=300, method="random")
    assert replay.native.parts[15] & lib.TD_PART_KEYS  # the flags of the first part's record
    push_all(board)
    board.push("replay", replay.data)
    config = TrainConfig(epochs=2, replay=0.5)
    trainer = Trainer(model(), packs()[0], replay, config)
    for expected, got in zip(trainer.epochs(), board.train(config), strict=True):
        assert dataclasses.replace(got, instructions=0) == expected
    assert np.array_equal(board.weights().parameters, trainer.parameters)
