"""A pipe that fails on purpose, a board at its end, and a clock that only moves when somebody waits. For tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tinydream._native import ffi, lib
from tinydream.devices.link import Link, Transport

UP, DOWN = "to the board", "to the host"
# drop: byte N is lost. corrupt: some of its bits flip. zero: it becomes a delimiter. repeat: it comes twice. echo: it
# and the 40 bytes before it come again. cut: the pipe closes before it. reset: the board restarts before it.
# silence: it and everything after it in this direction is lost, until the plan is mended.
KINDS = ("drop", "corrupt", "zero", "repeat", "echo", "cut", "reset", "silence")


@dataclass
class Fault:
    direction: str
    at: int
    kind: str


@dataclass
class Plan:
    """What goes wrong at which byte of each direction, counted over all the transports that share the plan."""

    faults: list[Fault]
    on_reset: Callable[[], None] = lambda: None
    n_bytes: dict[str, int] = field(default_factory=lambda: {UP: 0, DOWN: 0})
    history: dict[str, bytes] = field(default_factory=lambda: {UP: b"", DOWN: b""})
    silent: set[str] = field(default_factory=set)

    def mend(self) -> None:
        self.faults = []
        self.silent.clear()

    def carry(self, direction: str, data: bytes) -> tuple[bytes, bool]:
        """What arrives of `data`, and whether the pipe was cut on the way."""
        arrived = b""
        for byte in data:
            value, cut = self.carry_byte(direction, byte)
            arrived += value
            if cut:
                return arrived, True
        return arrived, False

    def carry_byte(self, direction: str, byte: int) -> tuple[bytes, bool]:
        kinds = [f.kind for f in self.faults if f.direction == direction and f.at == self.n_bytes[direction]]
        self.n_bytes[direction] += 1
        self.history[direction] = (self.history[direction] + bytes([byte]))[-41:]
        value = bytes([byte])
        for kind in kinds:
            if kind == "cut":
                return b"", True
            if kind == "reset":
                self.on_reset()
            if kind == "silence":
                self.silent.add(direction)
            value = {
                "drop": b"",
                "corrupt": bytes([byte ^ 0x24]),
                "zero": b"\0",
                "repeat": value * 2,
                "echo": self.history[direction],
            }.get(kind, value)
        return (b"" if direction in self.silent else value), False


class FaultyTransport:
    """Any transport, with the faults of a plan in between. A cut shows as a pulled cable does: the write that it hits
    still seems to succeed, everything afterwards raises OSError."""

    def __init__(self, inner: Transport, plan: Plan) -> None:
        self.inner, self.plan, self.is_cut = inner, plan, False

    def _check(self) -> None:
        if self.is_cut:
            raise OSError("the cable was pulled")

    def write(self, data: bytes) -> int:
        self._check()
        arrived, self.is_cut = self.plan.carry(UP, data)
        self.inner.write(arrived)
        return len(data)

    def read(self, size: int = 1) -> bytes:
        self._check()
        arrived, self.is_cut = self.plan.carry(DOWN, self.inner.read(size))
        return arrived

    def close(self) -> None:
        self.is_cut = True
        self.inner.close()


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Board:
    """The core's server; it answers the n-th request since it started with n and the request backwards."""

    def __init__(self) -> None:
        self.receiver = ffi.new("td_receiver *")
        self.server = ffi.new("td_server *")
        self.frame = ffi.new("td_frame *")
        self.boots: list[list[bytes]] = []
        self.reset()

    def reset(self) -> None:
        lib.td_receiver_init(self.receiver)
        lib.td_server_init(self.server)
        self.boots.append([])

    @property
    def applied(self) -> list[bytes]:
        return self.boots[-1]

    def feed(self, data: bytes) -> bytes:
        """Takes bytes from the wire, returns those that it answers."""
        sent = b""
        for byte in data:
            if lib.td_receiver_byte(self.receiver, byte, self.frame) != lib.TD_OK:
                continue
            verdict = lib.td_server_receive(self.server, self.frame)
            if verdict == lib.TD_SERVE_APPLY:
                request = bytes(ffi.buffer(self.frame.payload, self.frame.size))
                self.applied.append(request)
                reply = answer(len(self.applied), request)
                assert lib.td_server_reply(self.server, reply, len(reply)) == lib.TD_OK
            if verdict != lib.TD_SERVE_IGNORE:
                sent += bytes(ffi.buffer(self.server.reply, self.server.n_reply))
        return sent


def answer(n: int, request: bytes) -> bytes:
    return (bytes([n & 0xFF]) + request[::-1])[: lib.TD_LINK_MTU]


class BoardPipe:
    """A transport to a Board in this process; a read that finds nothing moves the clock."""

    def __init__(self, board: Board, clock: Clock) -> None:
        self.board, self.clock, self.waiting = board, clock, b""

    @property
    def in_waiting(self) -> int:
        return len(self.waiting)

    def write(self, data: bytes) -> int:
        self.waiting += self.board.feed(data)
        return len(data)

    def read(self, size: int = 1) -> bytes:
        if not self.waiting:
            self.clock.sleep(0.05)
        data, self.waiting = self.waiting[:size], self.waiting[size:]
        return data

    def close(self) -> None:
        self.waiting = b""


def faulty_link(board: Board, faults: list[Fault], patience: float = 10.0) -> tuple[Link, Plan]:
    """A Link to the board, over a pipe with these faults."""
    clock, plan = Clock(), Plan(faults, board.reset)
    link = Link(
        lambda: FaultyTransport(BoardPipe(board, clock), plan), patience=patience, clock=clock, sleep=clock.sleep
    )
    return link, plan
