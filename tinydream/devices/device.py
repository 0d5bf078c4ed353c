"""A board that runs TinyDream's firmware: what can be asked of it (docs/SPEC.md, "Commands")."""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from types import TracebackType
from typing import Any

import cbor2
import numpy as np
import numpy.typing as npt

from .._native import ffi, lib, status_name, view
from ..errors import BoardError, BudgetError, DataError, UsageError
from ..progress import Progress
from ..training.train import MODES, EarlyStop, Epoch, TrainConfig, check_held, for_board, native_config, rates
from . import boards, link

__all__ = ["COMMAND_VERSION", "Device", "Hello", "Inference", "ObjectInfo", "Pushed", "Stats", "Weights", "connect"]

COMMAND_VERSION = 2
OBJECTS = ("model", "train", "replay", "slot_a", "slot_b")  # in the order of enum td_object
PUSHABLE = OBJECTS[:3]
POLL_SECONDS = 0.02
MAX_RESTARTS = 8  # of a push, without a byte of progress, before it gives up
_MODEL, _WEIGHTS, _EMBEDDING = 0, 16, 17
_TDM_HEAD, _TDM_TAIL = lib.TD_FILE_HEADER + 5 * lib.TD_FILE_ENTRY, 4  # five sections; the kind of the tail's
_TAIL_HEAD, _LAYER = 4, 56
_WEIGHTS_HEADER = struct.Struct("<4sHHIIffQ")

_HELLO_FACTS = (
    "board_id", "library_version", "build_id", "file_format", "store_format", "chunk", "ram_total", "ram_static",
    "stack_reserve", "arena", "flash_firmware", "flash_store",
)  # fmt: skip
_STATS_SIZES = (
    "ram_total", "ram_static", "stack_reserve", "stack_used", "arena", "arena_tensors", "arena_trainer", "arena_row",
    "flash_firmware",
)  # fmt: skip


class _Command(IntEnum):
    HELLO = 0
    BEGIN = 1
    DATA = 2
    COMMIT = 3
    INFO = 4
    READ = 5
    INPUT = 6
    TRAIN_BEGIN = 7
    TRAIN_EPOCH = 8
    TRAIN_STATUS = 9
    TRAIN_FINISH = 10
    RESET_WEIGHTS = 11
    STATS = 12
    RESET = 13
    TRAIN_CHECK = 14
    TRAIN_KEEP = 15
    FORGET = 16


class _State(IntEnum):
    IDLE = 0
    READY = 1
    EPOCH = 2
    RANGE = 3
    SAVED = 4
    FAILED = 5
    CHECK = 6


@dataclass(frozen=True)
class Hello:
    """Who a board is. Sizes are in bytes; `capacity` is by object: model, train, replay and both weight slots."""

    board_id: str
    library_version: int
    build_id: str
    file_format: int
    store_format: int
    chunk: int
    ram_total: int
    ram_static: int
    stack_reserve: int
    arena: int
    flash_firmware: int
    flash_store: int
    capacity: tuple[int, ...]


@dataclass(frozen=True)
class ObjectInfo:
    """A whole, checked object in the board's store."""

    size: int
    crc: int
    sequence: int


@dataclass(frozen=True)
class Pushed:
    """What a push did. `sent` is 0 when the board had the same bytes already."""

    kind: str
    size: int
    sent: int
    restarts: int


@dataclass(frozen=True)
class Inference:
    """The class of one window. `ticks` of the board's counter; `instructions` are 0 where they cannot be told."""

    label: int
    ticks: int
    instructions: int


@dataclass(frozen=True)
class Weights:
    """The tail's parameters, float32 (n,): layer by layer the weights (n_out, n_in), then the biases.

    `logit_range` was seen over the training samples when they were saved. `sequence` counts saves on this board; 0:
    these are the model's own.
    """

    model_hash: int
    parameters: npt.NDArray[np.float32]
    logit_range: tuple[float, float]
    sequence: int


@dataclass(frozen=True)
class Stats:
    """Measured on the board, in bytes. `stack_used` is the high-water mark since the reset; 0: not measured there."""

    ram_total: int
    ram_static: int
    stack_reserve: int
    stack_used: int
    arena: int
    arena_tensors: int
    arena_trainer: int
    arena_row: int
    flash_firmware: int
    infer_ticks: int
    infer_instructions: int
    fault: int  # program counter of the fault that caused the last reset; 0: none

    @property
    def ram_used(self) -> int:
        """Statics, what is in use of the arena, and the deepest stack (its reserve where it is not measured)."""
        stack = self.stack_used or self.stack_reserve
        return self.ram_static + self.arena_tensors + self.arena_trainer + self.arena_row + stack


@dataclass(frozen=True)
class _Status:
    state: _State
    error: int
    epoch: int
    done: int
    total: int
    n_correct: int
    loss_sum: float
    ticks: int
    sequence: int


def connect(url: str, *, board: str | None = None, patience: float = 10.0) -> Device:
    """Says hello to the board behind `url` ("/dev/ttyACM0", "socket://127.0.0.1:PORT") and checks who answers.

    board: the id that it must have. patience: seconds that a request may take, repeats included. Raises LinkError when
    nothing answers, BoardError for another board or a firmware of another version.
    """
    device = Device(link.connect(url, patience=patience), emulated=url.startswith("socket://"))
    try:
        device.hello(board)
    except BaseException:
        device.close()
        raise
    return device


class Device:
    """A connected board. Every method raises LinkError when the board stops answering (a reset: SessionLost), and
    BoardError when it refuses. After a LinkError, `hello` opens a new session; what the flash holds is kept.

    `emulated`: the counter counts emulated instructions, as boards/<board>.toml says.
    """

    def __init__(self, transport: link.Link, *, emulated: bool = False) -> None:
        self.link = transport
        self.emulated = emulated
        self.about: Hello | None = None
        self._expected: str | None = None

    def __enter__(self) -> Device:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; the board goes on."""
        self.link.close()

    def hello(self, board: str | None = None) -> Hello:
        """Opens a new session. `board`: the id that must answer (default: as in the last hello)."""
        self._expected = board or self._expected
        reply = self._reply(self.link.hello(_encode([_Command.HELLO])), _Command.HELLO)
        self.about = _parse_hello(reply)
        if self._expected is not None and self.about.board_id != self._expected:
            raise BoardError(
                f"this is a {self.about.board_id}, not the {self._expected} that was asked for: use another port, or "
                f"--board {self.about.board_id}"
            )
        return self.about

    def info(self, kind: str) -> ObjectInfo | None:
        """What the store holds as `kind` ("model", "train", "replay", "slot_a", "slot_b"); None: nothing whole."""
        try:
            return ObjectInfo(*self._ask(_Command.INFO, _object(kind, OBJECTS)))
        except BoardError as error:
            if error.status == lib.TD_E_NOT_FOUND:
                return None
            raise

    def push(self, kind: str, data: bytes, progress: Progress | None = None) -> Pushed:
        """Stores `data` as the board's "model" (a .tdm), "train" or "replay" set (a .tdz).

        Goes on where an earlier push of the same bytes stopped, also after a reset of the board; bytes that the board
        has are not sent again. progress(done, total) counts bytes. Raises BudgetError when the partition is too small,
        BoardError when the board refuses the bytes (then it keeps none of them).
        """
        number, about = _object(kind, PUSHABLE), self._known()
        if not data:
            raise DataError(f"push: the {kind} is empty")
        if len(data) > about.capacity[number]:
            missing = len(data) - about.capacity[number]
            raise BudgetError(
                f"the {kind} has {len(data)} bytes, but {about.board_id} keeps {about.capacity[number]} for it: "
                f"{missing} too many. Use fewer rows or a smaller model, or change [store] of the board",
                what=kind,
                missing=missing,
                board=about.board_id,
            )
        crc = zlib.crc32(data)
        have = self.info(kind)
        if have is not None and (have.size, have.crc) == (len(data), crc):
            if progress is not None:
                progress(len(data), len(data))
            return Pushed(kind, len(data), 0, 0)
        return self._push(number, data, crc, progress)

    def _push(self, number: int, data: bytes, crc: int, progress: Progress | None) -> Pushed:
        sent = restarts = stuck = 0
        furthest = -1
        while True:
            try:
                at: int = self._ask(_Command.BEGIN, number, len(data), crc, 1)[0]
                if at > furthest:
                    furthest, stuck = at, 0
                while at < len(data):
                    if progress is not None:
                        progress(at, len(data))
                    piece = data[at : at + self._known().chunk]
                    self._ask(_Command.DATA, at, piece)
                    at += len(piece)
                    sent += len(piece)
                self._ask(_Command.COMMIT)
            except link.SessionLost:
                restarts, stuck = restarts + 1, stuck + 1
                if stuck > MAX_RESTARTS:
                    raise
                self.hello()
                continue
            if progress is not None:
                progress(len(data), len(data))
            return Pushed(OBJECTS[number], len(data), sent, restarts)

    def read(self, kind: str) -> bytes:
        """The bytes of an object in the store. Raises BoardError when there is none."""
        found = self.info(kind)
        if found is None:
            raise BoardError(f"{self._name} holds no {kind}: push one first", status=int(lib.TD_E_NOT_FOUND))
        data = self._read(_object(kind, OBJECTS), found.size)
        if zlib.crc32(data) != found.crc:
            raise BoardError(f"{self._name}: the {kind} changed while it was read; read it again")
        return data

    def infer(self, window: npt.ArrayLike) -> Inference:
        """Runs the whole model, with the weights as they are now, on one window: the model's input, in its type."""
        results = self._input(_window(window))
        return Inference(results[0], results[1], self.instructions(results[1]))

    def embed(self, window: npt.ArrayLike, dtype: npt.DTypeLike = np.int8) -> npt.NDArray[Any]:
        """The tensor at the cut for one window in the model's own type: (embedding_size,).

        `dtype` is the type of the result, Model.output_dtype; DataError when the bytes do not divide into it.
        """
        self._input(_window(window))
        content = self._read(_EMBEDDING)
        little = np.dtype(dtype).newbyteorder("<")
        if len(content) % little.itemsize:
            raise DataError(
                f"the board's {len(content)} bytes are no {np.dtype(dtype)} values; give Model.output_dtype"
            )
        return np.frombuffer(content, little).astype(dtype)

    def classify(self, windows: npt.NDArray[np.int8], progress: Progress | None = None) -> npt.NDArray[np.int64]:
        """The classes (n,) of quantised windows (n, ...)."""
        classes = np.empty(len(windows), dtype=np.int64)
        for i, window in enumerate(windows):
            classes[i] = self.infer(window).label
            if progress is not None:
                progress(i + 1, len(windows))
        return classes

    def train(
        self, config: TrainConfig | None = None, *, fresh: bool = True, progress: Progress | None = None
    ) -> Iterator[Epoch]:
        """Trains the tail on the pushed training set, mixed with the replay set when one was pushed.

        Yields each epoch as it ends; after the last one the weights are saved in flash and the iterator ends. Whoever
        leaves it earlier has trained, but not saved. fresh: start from the model's weights; False: from those saved
        last. progress(done, total) counts the steps of an epoch.
        """
        config = self.resolve(config or TrainConfig())
        n_held, stop = self._begin_training(config, fresh), EarlyStop(config)
        check_held(config, n_held)
        for number, rate in enumerate(rates(config)):
            self._ask(_Command.TRAIN_EPOCH, number, _f32(float(rate)))
            epoch = self._epoch(number, self._await(_State.READY, progress))
            if n_held:
                self._ask(_Command.TRAIN_CHECK)
                held = self._epoch(number, self._await(_State.READY, None))
                epoch = replace(epoch, held_loss=held.loss, held_accuracy=held.accuracy)
            if config.patience and stop.is_best(epoch):
                self._ask(_Command.TRAIN_KEEP, False)
            yield epoch
            if config.patience and stop.is_over:
                break
        if config.patience:
            self._ask(_Command.TRAIN_KEEP, True)
        self._ask(_Command.TRAIN_FINISH)
        self._await(_State.SAVED, None)

    def resolve(self, config: TrainConfig) -> TrainConfig:
        """`config` with its precision decided for this board and the model on it.

        A board that nobody described here has an FPU. Raises UsageError for "fixed" with a tail that it does not train.
        """
        name = self._known().board_id
        has_fpu = name not in boards.boards() or boards.board(name).has_fpu
        has_layers = config.precision != "f32" and self._has_layers()
        return for_board(config, has_fpu=has_fpu, has_layers=has_layers)

    def _has_layers(self) -> bool:
        """Whether the tail of the model on the board is more than a chain of dense layers: td_model.has_layers."""
        table = self._read(_MODEL, _TDM_HEAD)[lib.TD_FILE_HEADER :]
        start, size = next(entry[1:3] for entry in struct.iter_unpack("<IIII", table) if entry[0] == _TDM_TAIL)
        records = self._read(_MODEL, start + size, start + _TAIL_HEAD)
        native, n_layers = ffi.new("td_model *"), len(records) // _LAYER
        native.layers = view(records)
        return n_layers > lib.TD_MAX_TAIL or not all(lib.td_layer_is_dense(native, i) for i in range(n_layers))

    def weights(self) -> Weights:
        """The tail as the board has it in RAM: the model's own, or those saved or trained last."""
        record = self._read(_WEIGHTS)
        magic, version, _, model_hash, count, low, high, _ = _WEIGHTS_HEADER.unpack_from(record)
        if magic != b"TDW1" or version != 1 or len(record) != _WEIGHTS_HEADER.size + 4 * count:
            raise BoardError(f"{self._name} sent weights of an unknown form: flash it with this TinyDream's firmware")
        parameters = np.frombuffer(record, dtype="<f4", offset=_WEIGHTS_HEADER.size).astype(np.float32)
        return Weights(model_hash, parameters, (low, high), self._status().sequence)

    def reset_weights(self) -> None:
        """Forgets every training: the model's own weights count again."""
        self._ask(_Command.RESET_WEIGHTS)

    def forget(self) -> None:
        """A model with state (Model.has_state) starts again without a past, as after a push or a reset."""
        self._ask(_Command.FORGET)

    def stats(self) -> Stats:
        """RAM and flash as measured on the board."""
        *sizes, infer_ticks, fault = self._ask(_Command.STATS)
        measured = dict(zip(_STATS_SIZES, sizes, strict=True))
        return Stats(
            **measured, infer_ticks=infer_ticks, infer_instructions=self.instructions(infer_ticks), fault=fault
        )

    def reset(self) -> Hello:
        """Restarts the board and waits until it answers again."""
        self._ask(_Command.RESET)
        return self.hello()

    def instructions(self, ticks: int) -> int:
        """Ticks of the board's counter as instructions; 0 where one does not follow from the other."""
        board = boards.board(self._known().board_id) if self._known().board_id in boards.boards() else None
        if not self.emulated or board is None or board.emulator is None:
            return 0
        return round(ticks * (board.emulator.instructions_per_tick or 0))

    # ------------------------------------------------------------------ inside

    def _begin_training(self, config: TrainConfig, fresh: bool) -> int:
        """Returns how many samples are held back."""
        replay = config.replay if self.info("replay") is not None else 0.0
        native = native_config(config)
        floats = [native.momentum, native.beta_2, native.epsilon, native.clip_norm, native.clip_value]
        numbers = [native.loss, native.optimizer, native.precision, native.keep_best, native.batch]
        _, n_held = self._ask(
            _Command.TRAIN_BEGIN, native.learning_rate, native.l2, _f32(replay), config.seed,
            MODES.index(config.mode), fresh, *numbers, *floats, _f32(config.held_back),
        )  # fmt: skip
        return int(n_held)

    def _epoch(self, number: int, status: _Status) -> Epoch:
        loss, accuracy = status.loss_sum / status.total, status.n_correct / status.total
        return Epoch(number + 1, loss, accuracy, status.total, self.instructions(status.ticks))

    @property
    def _name(self) -> str:
        return self.about.board_id if self.about else self.link.name

    def _known(self) -> Hello:
        if self.about is None:
            raise UsageError("call hello first: it is not known yet which board this is")
        return self.about

    def _ask(self, command: _Command, *arguments: Any) -> list[Any]:
        return self._reply(self.link.request(_encode([command, *arguments])), command)

    def _reply(self, payload: bytes, command: _Command) -> list[Any]:
        try:
            reply = cbor2.loads(payload)
        except (cbor2.CBORDecodeError, ValueError) as error:
            raise BoardError(f"{self._name} answered {command.name} with bytes that are no CBOR: {error}") from error
        if not isinstance(reply, list) or not reply or not isinstance(reply[0], int):
            raise BoardError(f"{self._name} answered {command.name} with {reply!r}: this is not TinyDream's firmware")
        if reply[0] != lib.TD_OK:
            about = reply[1] if len(reply) > 1 and isinstance(reply[1], int) else None
            raise _refusal(self._name, command, reply[0], about)
        return reply[1:]

    def _read(self, source: int, size: int | None = None, start: int = 0) -> bytes:
        """The bytes of a source from `start` to `size`, or to its end, which is asked for then."""
        parts: list[bytes] = []
        total, chunk = start, self._known().chunk
        while size is None or total < size:
            wanted = chunk if size is None else min(chunk, size - total)
            piece, of_source = self._ask(_Command.READ, source, total, wanted)
            size = of_source if size is None else size
            if not piece and total < size:
                raise BoardError(f"{self._name} sent nothing where {size - total} bytes were left")
            parts.append(piece)
            total += len(piece)
        return b"".join(parts)

    def _input(self, window: bytes) -> list[Any]:
        chunk = self._known().chunk
        for at in range(0, len(window), chunk):
            results = self._ask(_Command.INPUT, at, window[at : at + chunk])
            if len(results) > 1:
                if at + chunk < len(window):
                    break
                return results[1:]
        raise DataError(f"a window of {len(window)} bytes is not what the model on {self._name} takes")

    def _status(self) -> _Status:
        state, *rest = self._ask(_Command.TRAIN_STATUS)
        return _Status(_State(state), *rest)

    def _await(self, wanted: _State, progress: Progress | None) -> _Status:
        """Polls until the board's training is in state `wanted`."""
        while True:
            status = self._status()
            if progress is not None:
                progress(status.done, status.total)
            if status.state is wanted:
                return status
            if status.state is _State.FAILED:
                raise _refusal(self._name, _Command.TRAIN_EPOCH, status.error, None)
            if status.state not in (_State.EPOCH, _State.RANGE, _State.CHECK):
                raise BoardError(f"{self._name} stopped training ({status.state.name.lower()}): begin again")
            time.sleep(POLL_SECONDS)


def _encode(request: list[Any]) -> bytes:
    # Canonical: a float takes the shortest form that holds it, and f32 is what the board reads.
    return cbor2.dumps(request, canonical=True)


def _f32(value: float) -> float:
    return float(np.float32(value))


def _object(kind: str, allowed: tuple[str, ...]) -> int:
    if kind not in allowed:
        raise UsageError(f"no object {kind!r}; there are {', '.join(allowed)}")
    return OBJECTS.index(kind)


def _window(window: npt.ArrayLike) -> bytes:
    values = np.asarray(window)
    if values.dtype not in (np.int8, np.int16, np.float32):
        raise DataError(
            f"a window must be int8, or what Model.input_dtype says (Model.quantise makes it of real values), "
            f"not {values.dtype}"
        )
    return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()


def _parse_hello(reply: list[Any]) -> Hello:
    """The first three values have the same place in every version."""
    version = reply[0] if reply else None
    name = reply[1] if len(reply) > 1 else "the board"
    library = reply[2] if len(reply) > 2 else 0
    if version != COMMAND_VERSION or library != lib.TD_VERSION or len(reply) != 14:
        raise BoardError(
            f"the firmware on {name} is of another version (library {_version(library)}, commands {version}; this is "
            f"library {_version(lib.TD_VERSION)}, commands {COMMAND_VERSION}): flash it again with `tinydream flash`",
            status=int(lib.TD_E_VERSION),
        )
    *facts, capacity = reply[1:]
    return Hello(capacity=tuple(capacity), **dict(zip(_HELLO_FACTS, facts, strict=True)))


def _version(number: Any) -> str:
    if not isinstance(number, int):
        return str(number)
    return f"{number >> 16}.{number >> 8 & 0xFF}.{number & 0xFF}"


_HINTS: dict[tuple[_Command | None, str], str] = {
    (_Command.TRAIN_BEGIN, "not found"): "push it first",
    (_Command.TRAIN_BEGIN, "unsupported"): "the model was compiled whole and has nothing to train",
    (_Command.TRAIN_BEGIN, "range"): "the pack does not fit the model: pack it through the model that was pushed",
    (_Command.TRAIN_BEGIN, "state"): "push a model, then packs that were made through it",
    (
        _Command.TRAIN_EPOCH,
        "range",
    ): "the weights have left the range of f32, or a label that of the classes: lower the rate",
    (_Command.TRAIN_EPOCH, "state"): "begin the training again",
    (_Command.COMMIT, "memory"): "the model needs more RAM than the board's arena has: see `tinydream plan`",
    (_Command.INPUT, "state"): "push a model first",
    (_Command.INPUT, "range"): "the window is longer than the model's input",
    (None, "format"): "it is not what it should be: pack or compile it again",
    (None, "version"): "it was written by another version of TinyDream",
    (None, "crc"): "its bytes were damaged: push it again",
    (None, "full"): "its partition is too small: see [store] of the board",
    (None, "flash"): "the board's flash does not keep what is written: it may be worn out",
    (None, "unsupported"): "the firmware does not have this: flash it again with `tinydream flash`",
}


def _refusal(board: str, command: _Command, status: int, number: int | None) -> BoardError:
    error = status_name(status)
    about = f" about its {OBJECTS[number]}" if number is not None and number < len(OBJECTS) else ""
    hint = _HINTS.get((command, error)) or _HINTS.get((None, error))
    what = command.name.lower().replace("_", " ")
    return BoardError(f"{board} refused `{what}`: {error}{about}" + (f". {hint}" if hint else ""), status=status)
