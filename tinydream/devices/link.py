"""Requests to a board over any byte pipe. Framing and the at-most-once rule are the C core's (c_src/link.c)."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

from .._native import check, ffi, lib
from ..errors import LinkError, UsageError

__all__ = ["MAX_PAYLOAD", "Link", "SessionLost", "Transport", "connect"]

MAX_PAYLOAD: int = int(lib.TD_LINK_MTU)
FIRST_WAIT = 0.3  # a board that boots loses what it was sent before its UART was up
LONGEST_WAIT = 4.0
REOPEN_WAIT = 0.2
READ_TIMEOUT = 0.05


class SessionLost(LinkError):  # noqa: N818 - named after what happened to the session
    """The board was reset and does not know the session any more: say hello again, then look what it still has."""


class Transport(Protocol):
    """What Link needs of a pyserial-like object. A broken pipe is an OSError, a quiet one returns b"" after a while."""

    def read(self, size: int = 1, /) -> bytes:
        """Up to `size` bytes; b"" when none came within the transport's own timeout."""

    def write(self, data: bytes, /) -> int | None:
        """Sends all of `data`."""

    def close(self) -> None:
        """Frees the pipe."""


class Link:
    """One client of one board: a request at a time, repeated until it is answered, applied at most once.

    `open_transport` makes a fresh transport; it is called again when the pipe breaks. `patience` is how many seconds a
    request may take in all, repeats and reopening included. `clock` and `sleep` exist for tests.

    A request that raised LinkError stays in flight: the same payload again goes on with it, under the same id; any
    other payload is refused until `hello` opens a new session.
    """

    def __init__(
        self,
        open_transport: Callable[[], Transport],
        *,
        name: str = "the board",
        patience: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.name = name
        self.patience = patience
        self.bytes_sent = 0
        self.bytes_received = 0
        self.n_repeats = 0
        self.n_reopens = 0
        self._open_transport = open_transport
        self._clock = clock
        self._sleep = sleep
        self._transport: Transport | None = None
        self._n_opened = 0
        self._why = ""
        self._receiver = ffi.new("td_receiver *")
        self._client = ffi.new("td_client *")
        self._frame = ffi.new("td_frame *")
        self._wire = b""
        self._payload: bytes | None = None

    def __enter__(self) -> Link:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def n_damaged(self) -> int:
        """Frames from the board that were dropped because they were damaged or too long."""
        return int(self._receiver.n_crc_errors + self._receiver.n_overruns)

    def close(self) -> None:
        """Closes the transport. The session lives on at the board; a later request opens the transport again."""
        transport, self._transport = self._transport, None
        if transport is not None:
            try:
                transport.close()
            except OSError as error:
                self._why = str(error)

    def hello(self, payload: bytes, timeout: float | None = None) -> bytes:
        """Opens a fresh session with `payload` as its first request and returns the board's answer.

        Raises LinkError when no answer came within `timeout` seconds (default: `patience`).
        """
        _check_size(payload)
        lib.td_client_init(self._client, 1 + secrets.randbelow(0xFFFFFFFF))
        self._start(payload)
        return self._finish(timeout, growth=1.0)

    def request(self, payload: bytes, timeout: float | None = None) -> bytes:
        """Sends `payload` (at most MAX_PAYLOAD bytes) and returns the answer's payload.

        Raises LinkError when no answer came within `timeout` seconds (default: `patience`), SessionLost when the board
        was reset since the hello, UsageError before the first hello or for a payload that is too long.
        """
        _check_size(payload)
        if self._client.session == 0:
            raise UsageError("Link.request before Link.hello: there is no session, or it was lost; call hello first")
        if not self._client.waiting:
            self._start(payload)
        elif payload != self._payload:
            raise LinkError(
                f"{self.name} has not answered the request before this one: repeat that one, or open a new session "
                "with hello and look what the board has"
            )
        return self._finish(timeout, growth=2.0)

    def _start(self, payload: bytes) -> None:
        out = ffi.new("uint8_t[]", lib.TD_LINK_WIRE)
        size = check(lib.td_client_request(self._client, payload, len(payload), out, len(out)), "link request")
        self._wire = bytes(ffi.buffer(out, size))
        self._payload = bytes(payload)

    def _finish(self, timeout: float | None, growth: float) -> bytes:
        deadline = self._clock() + (self.patience if timeout is None else timeout)
        wait = FIRST_WAIT
        n_sent = 0
        self._why = ""
        while self._clock() < deadline:
            if self._transport is None and not self._reopen():
                self._sleep(REOPEN_WAIT)
                continue
            if self._send():
                self.n_repeats += n_sent > 0
                n_sent += 1
                reply = self._await_reply(min(deadline, self._clock() + wait))
                if reply is not None:
                    return reply
                wait = min(wait * growth, LONGEST_WAIT)
        raise LinkError(self._no_answer(n_sent))

    def _reopen(self) -> bool:
        try:
            self._transport = self._open_transport()
        except OSError as error:
            self._why = str(error)
            return False
        self.n_reopens += self._n_opened > 0
        self._n_opened += 1
        # What the old pipe delivered of a frame does not continue on the new one.
        damaged, overruns = self._receiver.n_crc_errors, self._receiver.n_overruns
        lib.td_receiver_init(self._receiver)
        self._receiver.n_crc_errors, self._receiver.n_overruns = damaged, overruns
        return True

    def _broken(self, error: OSError) -> None:
        self.close()
        self._why = str(error)
        self._sleep(REOPEN_WAIT)

    def _send(self) -> bool:
        assert self._transport is not None
        try:
            self._transport.write(self._wire)
        except OSError as error:
            self._broken(error)
            return False
        self.bytes_sent += len(self._wire)
        return True

    def _await_reply(self, until: float) -> bytes | None:
        """The reply, or None when the time is up or the pipe broke."""
        while self._transport is not None and self._clock() < until:
            try:
                received = self._transport.read(max(1, getattr(self._transport, "in_waiting", 1)))
            except OSError as error:
                self._broken(error)
                return None
            self.bytes_received += len(received)
            reply = None
            for byte in received:
                taken = self._take(byte)
                reply = reply if taken is None else taken
            if reply is not None:
                return reply
        return None

    def _take(self, byte: int) -> bytes | None:
        if lib.td_receiver_byte(self._receiver, byte, self._frame) != lib.TD_OK:
            return None  # not whole yet, or damaged: a damaged frame is simply asked for again
        verdict = lib.td_client_receive(self._client, self._frame)
        if verdict == lib.TD_CLIENT_LOST_SESSION:
            lib.td_client_init(self._client, 0)
            raise SessionLost(
                f"{self.name} was reset while connected and forgot this session: connect again and repeat the command; "
                "what was already stored in its flash is kept"
            )
        if verdict != lib.TD_CLIENT_REPLY:
            return None
        return bytes(ffi.buffer(self._frame.payload, self._frame.size))

    def _no_answer(self, n_sent: int) -> str:
        if self._n_opened == 0:
            return (
                f"cannot open {self.name}: {self._why or 'no time was given'}. Is the board plugged in (or the "
                "emulator running), is the port right, and does no other program use it?"
            )
        last = f"; the pipe broke last with: {self._why}" if self._why else ""
        return (
            f"{self.name} does not answer (asked {n_sent} times{last}). Is TinyDream's firmware on it, is the "
            "cable in, and does no other program use the port? Press its reset button and try again"
        )


def connect(url: str, *, patience: float = 10.0, baudrate: int = 115200) -> Link:
    """A Link over anything that pyserial opens: "/dev/ttyACM0", "COM3", "socket://127.0.0.1:PORT".

    Nothing is opened before the first request, so the board may still be booting; that request raises UsageError for
    a URL that pyserial does not understand.
    """
    import serial  # here, because importing tinydream must stay fast

    def open_transport() -> Transport:
        try:
            transport: Transport = serial.serial_for_url(
                url, baudrate=baudrate, timeout=READ_TIMEOUT, write_timeout=patience, exclusive=True
            )
        except ValueError as error:
            raise UsageError(
                f"{url!r} is not a serial port or URL: {error}. Try /dev/ttyACM0 or socket://HOST:PORT"
            ) from error
        return transport

    return Link(open_transport, name=url, patience=patience)


def _check_size(payload: bytes) -> None:
    if len(payload) > MAX_PAYLOAD:
        raise UsageError(f"a request of {len(payload)} bytes does not fit a frame of {MAX_PAYLOAD}: send it in parts")
