"""Framing, the at-most-once rule, and whole sessions over a pipe that fails at every byte."""

from __future__ import annotations

import os
import select
import socket
import threading
import zlib
from collections.abc import Iterator

import pytest
from faulty import DOWN, KINDS, UP, Board, Fault, Plan, answer, faulty_link
from hypothesis import given, settings
from hypothesis import strategies as st

from tinydream._native import ffi, lib
from tinydream.devices.link import MAX_PAYLOAD, Link, SessionLost, connect
from tinydream.errors import LinkError, UsageError

SESSION = [b"hello", b"", b"\0\0\1\0", b"write 0", b"write 1"]
payloads = st.binary(max_size=MAX_PAYLOAD) | st.integers(0, MAX_PAYLOAD).map(lambda n: b"\x55" * n)


# ---------------------------------------------------------------- frames


def encode(payload: bytes, kind: int = 1, number: int = 2, session: int = 3) -> bytes:
    keep = ffi.from_buffer(payload)
    frame = ffi.new("td_frame *", {"kind": kind, "id": number, "session": session, "size": len(payload)})
    frame.payload = ffi.cast("const uint8_t *", keep)
    out = ffi.new("uint8_t[]", lib.TD_LINK_WIRE)
    size = lib.td_frame_encode(frame, out, len(out))
    assert 0 < size <= lib.TD_LINK_WIRE
    return bytes(ffi.buffer(out, size))


class Receiver:
    def __init__(self) -> None:
        self.c = ffi.new("td_receiver *")
        self.frame = ffi.new("td_frame *")
        self.errors: list[int] = []
        lib.td_receiver_init(self.c)

    def feed(self, data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
        for byte in data:
            status = lib.td_receiver_byte(self.c, byte, self.frame)
            if status == lib.TD_OK:
                f = self.frame
                yield f.kind, f.id, f.session, bytes(ffi.buffer(f.payload, f.size))
            elif status != lib.TD_NEED_INPUT:
                self.errors.append(status)


def decode_cobs(data: bytes) -> bytes:
    """From the description of COBS, apart from the core."""
    out, at = b"", 0
    while at < len(data):
        code = data[at]
        group = data[at + 1 : at + code]
        assert code != 0
        assert len(group) == code - 1
        at += code
        out += group + (b"\0" if code < 255 and at < len(data) else b"")
    return out


def test_a_frame_byte_by_byte() -> None:
    """The example of docs/SPEC.md, "Link"."""
    raw = bytes([1, 0, 2, 0, 0x44, 0x33, 0x22, 0x11]) + b"A\0"
    raw += zlib.crc32(raw).to_bytes(4, "little")
    assert raw.hex() == "01000200443322114100af5e98c2"
    assert encode(b"A\0", session=0x11223344).hex(" ") == "00 02 01 02 02 06 44 33 22 11 41 05 af 5e 98 c2 00"


@given(payloads, st.integers(1, 4), st.integers(0, 65535), st.integers(1, 2**32 - 1))
def test_frames_round_trip(payload: bytes, kind: int, number: int, session: int) -> None:
    wire = encode(payload, kind, number, session)
    assert wire[0] == wire[-1] == 0
    assert 0 not in wire[1:-1]
    raw = decode_cobs(wire[1:-1])
    assert raw[:-4] == bytes([kind, 0]) + number.to_bytes(2, "little") + session.to_bytes(4, "little") + payload
    assert raw[-4:] == zlib.crc32(raw[:-4]).to_bytes(4, "little")
    assert list(Receiver().feed(wire)) == [(kind, number, session, payload)]


@given(st.lists(st.tuples(payloads, st.integers(0, 3), st.booleans()), max_size=5))
def test_frames_may_share_a_delimiter_or_have_several(frames: list[tuple[bytes, int, bool]]) -> None:
    wire = b""
    for payload, n_zeros, shared in frames:
        frame = encode(payload)
        wire += bytes(n_zeros) + (frame[1:] if shared and wire.endswith(b"\0") else frame)
    receiver = Receiver()
    assert [f[3] for f in receiver.feed(wire)] == [f[0] for f in frames]
    assert receiver.errors == []


@given(st.binary(max_size=700), payloads)
def test_garbage_is_survived_and_the_next_frame_arrives(garbage: bytes, payload: bytes) -> None:
    receiver = Receiver()
    frames = list(receiver.feed(garbage + encode(payload)))
    assert frames[-1] == (1, 2, 3, payload)
    assert len(receiver.errors) == receiver.c.n_crc_errors + receiver.c.n_overruns


@given(payloads, st.data())
def test_a_damaged_frame_is_reported_once_and_dropped(payload: bytes, data: st.DataObject) -> None:
    wire = bytearray(encode(payload))
    at = data.draw(st.integers(1, len(wire) - 2))
    wire[at] ^= data.draw(st.integers(1, 255))
    receiver = Receiver()
    assert list(receiver.feed(bytes(wire))) == []
    assert 1 <= len(receiver.errors) <= 2  # two pieces when the damage made a delimiter
    assert [f[3] for f in receiver.feed(encode(b"next"))] == [b"next"]


def test_limits_of_frames() -> None:
    receiver = Receiver()
    assert [len(f[3]) for f in receiver.feed(encode(b"\1" * MAX_PAYLOAD))] == [MAX_PAYLOAD]
    assert len(encode(b"\1" * MAX_PAYLOAD, number=0x0101, session=0x01010101)) <= lib.TD_LINK_WIRE
    assert list(receiver.feed(b"\0" + b"\1" * 400 + b"\0")) == []
    assert receiver.errors == [lib.TD_E_FULL]
    assert receiver.c.n_overruns == 1

    out = ffi.new("uint8_t[]", lib.TD_LINK_WIRE)
    frame = ffi.new("td_frame *", {"kind": 1, "id": 1, "session": 1, "size": MAX_PAYLOAD + 1, "payload": out})
    assert lib.td_frame_encode(frame, out, len(out)) == lib.TD_E_FULL
    frame.size = 0
    assert lib.td_frame_encode(frame, out, 14) == lib.TD_E_FULL
    assert lib.td_frame_encode(frame, out, 15) == 15
    for kind, session in ((0, 1), (5, 1), (1, 0)):
        frame.kind, frame.session = kind, session
        assert lib.td_frame_encode(frame, out, len(out)) == lib.TD_E_ARGUMENT


@pytest.mark.parametrize(("at", "value"), [(0, 0), (0, 5), (1, 1), (4, 0)])
def test_headers_that_no_sender_writes_are_refused(at: int, value: int) -> None:
    raw = bytearray([1, 0, 2, 0, 3, 0, 0, 0])
    raw[at] = value
    raw += zlib.crc32(raw).to_bytes(4, "little")
    wire = b"\0" + b"".join(bytes([len(part) + 1]) + part for part in bytes(raw).split(b"\0")) + b"\0"
    receiver = Receiver()
    assert list(receiver.feed(wire)) == []
    assert receiver.errors == [lib.TD_E_FORMAT]


# ---------------------------------------------------------------- server and client


class Server:
    def __init__(self) -> None:
        self.c = ffi.new("td_server *")
        lib.td_server_init(self.c)

    def receive(self, kind: int, number: int, session: int) -> int:
        return lib.td_server_receive(self.c, ffi.new("td_frame *", {"kind": kind, "id": number, "session": session}))

    def reply(self, payload: bytes) -> int:
        return lib.td_server_reply(self.c, payload, len(payload))

    def sent(self) -> tuple[int, int, int, bytes]:
        (frame,) = Receiver().feed(bytes(ffi.buffer(self.c.reply, self.c.n_reply)))
        return frame


REQUEST, REPLY, HELLO, NO_SESSION = 1, 2, 3, 4
IGNORE, APPLY, SEND = 0, 1, 2


def test_server_applies_once() -> None:
    s = Server()
    assert s.reply(b"") == lib.TD_E_STATE
    assert s.receive(REQUEST, 2, 7) == SEND
    assert s.sent() == (NO_SESSION, 2, 7, b"")
    assert s.receive(HELLO, 2, 7) == IGNORE  # a hello has id 1
    assert s.receive(HELLO, 1, 0) == IGNORE
    assert s.receive(HELLO, 1, 7) == APPLY
    assert s.receive(HELLO, 1, 7) == s.receive(REQUEST, 2, 7) == s.receive(HELLO, 1, 8) == IGNORE  # busy
    assert s.reply(bytes(257)) == lib.TD_E_FULL
    assert s.reply(b"welcome") == 0
    assert s.sent() == (REPLY, 1, 7, b"welcome")
    assert s.receive(HELLO, 1, 7) == SEND
    assert s.receive(REQUEST, 2, 7) == APPLY
    assert s.reply(b"two") == 0
    assert s.receive(REQUEST, 2, 7) == SEND
    assert s.sent() == (REPLY, 2, 7, b"two")
    assert s.receive(HELLO, 1, 7) == IGNORE  # a late copy
    assert s.receive(REQUEST, 3, 8) == s.receive(REPLY, 3, 7) == s.receive(REQUEST, 1, 7) == IGNORE
    assert s.receive(REQUEST, 2, 7) == SEND
    assert s.sent() == (REPLY, 2, 7, b"two")
    assert s.receive(HELLO, 1, 8) == APPLY
    assert s.reply(b"new") == 0
    assert s.receive(REQUEST, 3, 7) == IGNORE
    assert s.receive(REQUEST, 2, 8) == APPLY


def test_server_that_was_reset_and_opened_by_a_late_hello_says_so() -> None:
    s = Server()
    assert s.receive(HELLO, 1, 7) == APPLY
    assert s.reply(b"") == 0
    assert s.receive(REQUEST, 5, 7) == SEND
    assert s.sent() == (NO_SESSION, 5, 7, b"")
    assert s.receive(REQUEST, 5, 7) == SEND
    assert s.receive(HELLO, 1, 8) == APPLY


def test_ids_wrap_past_those_of_the_hello() -> None:
    s = Server()
    client = ffi.new("td_client *")
    lib.td_client_init(client, 9)
    out = ffi.new("uint8_t[]", lib.TD_LINK_WIRE)
    frame = ffi.new("td_frame *")
    receiver = ffi.new("td_receiver *")
    seen = []
    for _ in range(65537):
        size = lib.td_client_request(client, b"", 0, out, len(out))
        lib.td_receiver_init(receiver)
        for byte in bytes(ffi.buffer(out, size)):
            status = lib.td_receiver_byte(receiver, byte, frame)
        assert status == lib.TD_OK
        assert lib.td_server_receive(s.c, frame) == APPLY
        seen.append(frame.id)
        assert s.reply(b"") == 0
        assert s.receive(frame.kind, frame.id, 9) == SEND
        frame.kind = REPLY
        assert lib.td_client_receive(client, frame) == lib.TD_CLIENT_REPLY
    assert seen == [*range(1, 65536), 2, 3]


def test_client_takes_only_what_it_asked_for() -> None:
    client = ffi.new("td_client *")
    out = ffi.new("uint8_t[]", lib.TD_LINK_WIRE)

    def receive(kind: int, number: int, session: int) -> int:
        return lib.td_client_receive(client, ffi.new("td_frame *", {"kind": kind, "id": number, "session": session}))

    def request(size: int = 0) -> int:
        return lib.td_client_request(client, bytes(size), size, out, len(out))

    lib.td_client_init(client, 0)
    assert request() == lib.TD_E_ARGUMENT
    lib.td_client_init(client, 5)
    assert request(257) == lib.TD_E_FULL
    assert receive(REPLY, 0, 5) == lib.TD_CLIENT_IGNORE
    assert request() > 0
    assert request() == lib.TD_E_STATE
    assert receive(NO_SESSION, 1, 5) == receive(REPLY, 1, 6) == receive(REPLY, 2, 5) == lib.TD_CLIENT_IGNORE
    assert receive(REQUEST, 1, 5) == lib.TD_CLIENT_IGNORE
    assert receive(REPLY, 1, 5) == lib.TD_CLIENT_REPLY
    assert receive(REPLY, 1, 5) == lib.TD_CLIENT_IGNORE
    assert request() > 0
    assert receive(NO_SESSION, 1, 5) == receive(NO_SESSION, 2, 6) == lib.TD_CLIENT_IGNORE
    assert receive(NO_SESSION, 2, 5) == lib.TD_CLIENT_LOST_SESSION


# ---------------------------------------------------------------- sessions over a bad pipe


def ask(link: Link, request: bytes) -> bytes:
    return link.hello(request) if request == SESSION[0] else link.request(request)


def wire_bytes(direction: str) -> int:
    """Bytes of SESSION in one direction when nothing fails."""
    link, plan = faulty_link(Board(), [])
    for request in SESSION:
        ask(link, request)
    assert link.n_repeats == link.n_reopens == link.n_damaged == 0
    assert plan.n_bytes == {UP: link.bytes_sent, DOWN: link.bytes_received}
    return plan.n_bytes[direction]


def walk(faults: list[Fault], session: list[bytes]) -> tuple[Board, Link, Plan]:
    """A session whose requests must all be applied, once and in order, whatever the faults."""
    board = Board()
    link, plan = faulty_link(board, faults)
    for n, request in enumerate(session, 1):
        assert ask(link, request) == answer(n, request)
        assert board.applied == session[:n]
    link.close()
    return board, link, plan


@pytest.mark.parametrize("direction", [UP, DOWN])
@pytest.mark.parametrize("kind", ["drop", "corrupt", "zero", "repeat", "echo", "cut"])
def test_a_fault_at_every_byte(kind: str, direction: str) -> None:
    n_repeats = n_reopens = 0
    for at in range(wire_bytes(direction)):
        _, link, plan = walk([Fault(direction, at, kind)], SESSION)
        assert plan.n_bytes[direction] > at
        n_repeats += link.n_repeats
        n_reopens += link.n_reopens
    assert (n_reopens > 0) == (kind == "cut")
    assert n_repeats > 0 or kind == "echo"


@pytest.mark.parametrize("direction", [UP, DOWN])
def test_silence_from_every_byte_on(direction: str) -> None:
    for at in range(wire_bytes(direction)):
        board = Board()
        link, plan = faulty_link(board, [Fault(direction, at, "silence")])
        n_failed = 0
        for n, request in enumerate(SESSION, 1):
            try:
                reply = ask(link, request)
            except LinkError as error:
                assert "does not answer" in str(error)
                assert not isinstance(error, SessionLost)
                n_failed += 1
                plan.mend()
                reply = ask(link, request)
            if n == 1:  # another hello is another session, whether the first one arrived or not
                assert reply == answer(len(board.applied), request)
                board.applied[:] = board.applied[-1:]
            else:
                assert reply == answer(n, request)
            assert board.applied == SESSION[:n]
        assert n_failed == 1


@pytest.mark.parametrize("direction", [UP, DOWN])
def test_a_reset_at_every_byte(direction: str) -> None:
    n_lost = 0
    for at in range(wire_bytes(direction)):
        board = Board()
        link, plan = faulty_link(board, [Fault(direction, at, "reset")])
        todo = list(SESSION)
        while todo:
            try:
                ask(link, todo[0])
            except SessionLost as error:
                assert "reset" in str(error)
                with pytest.raises(UsageError, match="hello"):
                    link.request(todo[0])
                link.hello(b"again")
                n_lost += 1
                continue
            todo.pop(0)
        plan.mend()
        assert len(board.boots) == 2
        for boot in board.boots:
            assert len(set(boot)) == len(boot)  # nothing twice between two resets
        first, second = board.boots
        assert first == SESSION[: len(first)]
        n_second = max(0, len(second) - 1)
        assert second[1:] == SESSION[len(SESSION) - n_second :]  # behind the hello
        assert set(SESSION) <= {*first, *second}
    assert n_lost > 0


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.builds(
            Fault,
            st.sampled_from([UP, DOWN]),
            st.integers(0, 1500),
            st.sampled_from([kind for kind in KINDS if kind not in ("reset", "silence")]),
        ),
        max_size=6,
    ),
    st.lists(payloads, max_size=4),
)
def test_many_faults(faults: list[Fault], requests: list[bytes]) -> None:
    session = [SESSION[0], *(request for request in requests if request != SESSION[0])]
    walk(faults, session)


def test_a_request_without_an_answer_stays_in_flight() -> None:
    board = Board()
    link, plan = faulty_link(board, [])
    link.hello(b"hello")
    plan.silent = {DOWN}
    with pytest.raises(LinkError, match="does not answer"):
        link.request(b"one")
    with pytest.raises(LinkError, match="before this one"):
        link.request(b"two")
    plan.mend()
    assert link.request(b"one") == answer(2, b"one")
    assert link.request(b"one") == answer(3, b"one")
    assert board.applied == [b"hello", b"one", b"one"]


def test_patience_is_kept_and_waits_grow() -> None:
    link, plan = faulty_link(Board(), [], patience=20.0)
    link.hello(b"")
    plan.silent = {UP}
    clock = link._clock
    start = clock()
    with pytest.raises(LinkError, match="asked 8 times"):
        link.request(b"x")
    assert 20.0 <= clock() - start < 20.2
    start = clock()
    with pytest.raises(LinkError):
        link.request(b"x", timeout=1.0)
    assert 1.0 <= clock() - start < 1.2


def test_a_port_that_cannot_be_opened() -> None:
    board = Board()
    link, _ = faulty_link(board, [])
    opened = link._open_transport
    attempts = []

    def refuse_twice() -> object:
        attempts.append(1)
        if len(attempts) < 3:
            raise OSError("no such port")
        return opened()

    link._open_transport = refuse_twice  # type: ignore[assignment]
    assert link.hello(b"x") == answer(1, b"x")
    assert len(attempts) == 3

    link.close()
    attempts.clear()
    with pytest.raises(LinkError, match=r"does not answer .*no such port"):
        link.request(b"y", timeout=0.3)
    assert board.applied == [b"x"]
    assert link.request(b"y") == answer(2, b"y")


def test_calls_that_cannot_work() -> None:
    link, _ = faulty_link(Board(), [])
    with pytest.raises(UsageError, match="hello first"):
        link.request(b"x")
    with pytest.raises(UsageError, match="257 bytes"):
        link.hello(bytes(257))
    link.hello(b"")
    with pytest.raises(UsageError, match="257 bytes"):
        link.request(bytes(257))
    with pytest.raises(UsageError, match="foo"):
        connect("foo://bar").hello(b"")


def test_over_a_socket_that_closes() -> None:
    """The real transport: pyserial's socket://, to a board that hangs up after some bytes and listens again."""
    board = Board()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(10)

    def serve() -> None:
        for n_bytes in (40, 400, 1 << 30):
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(10)
                while n_bytes > 0 and (data := connection.recv(min(16, n_bytes))):
                    n_bytes -= len(data)
                    connection.sendall(board.feed(data))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    requests = [b"\xa5" * n for n in range(0, 257, 16)]
    with connect(f"socket://127.0.0.1:{listener.getsockname()[1]}") as link:
        assert link.hello(b"hi") == answer(1, b"hi")
        for n, request in enumerate(requests, 2):
            assert link.request(request) == answer(n, request)
        assert link.n_reopens == 2
    thread.join(10)
    assert not thread.is_alive()
    listener.close()
    assert board.applied == [b"hi", *requests]


def test_over_a_serial_port() -> None:
    """pyserial's own driver, on a pseudo terminal; then the board goes away."""
    board = Board()
    master, slave = os.openpty()

    def serve() -> None:
        while select.select([master], [], [], 10)[0] and (data := os.read(master, 64)):
            if b"\0stop\0" in data:
                break
            os.write(master, board.feed(data))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    link = connect(os.ttyname(slave), patience=2.0)
    requests = [b"hi", b"\r\n\x03\x11\x13", bytes(range(256))]  # nothing that a terminal would take for itself
    assert link.hello(requests[0]) == answer(1, requests[0])
    for n, request in enumerate(requests[1:], 2):
        assert link.request(request) == answer(n, request)
    assert link.n_repeats == link.n_damaged == 0
    assert link._transport is not None
    link._transport.write(b"\0stop\0")
    thread.join(10)
    assert not thread.is_alive()
    os.close(slave)
    os.close(master)
    with pytest.raises(LinkError, match="does not answer"):
        link.request(b"gone", timeout=0.5)
    link.close()


def test_a_closed_port_is_a_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(LinkError, match=rf"cannot open socket://127\.0\.0\.1:{port}.*plugged in"):
        connect(f"socket://127.0.0.1:{port}", patience=0.3).hello(b"")
