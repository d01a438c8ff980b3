"""A connection to Apple without a network: what the other side may do, byte by byte."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, RequestReceived, StreamEnded, StreamReset
from h2.settings import SettingCodes, Settings
from hpack.struct import NeverIndexedHeaderTuple
from hypothesis import given
from hypothesis import strategies as st

from channels.push.apns.connection import STREAM_ID_MAX, STREAMS_MAX, Connection, Timing
from channels.push.apns.engine import SWEEP_STREAMS

HEADERS = [
    (b":method", b"POST"),
    (b":scheme", b"https"),
    (b":authority", b"x"),
    (b":path", b"/3/device/ab"),
]


class Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.aborted = self.closed = False

    def write(self, data: Any) -> None:
        self.written += data

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def abort(self) -> None:
        self.aborted = True

    def close(self) -> None:
        self.closed = True


class Owner:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.told: dict[int, Any] = {}
        self.events: list[str] = []

    def opened(self, connection: Connection) -> None:
        self.events.append("opened")

    def resized(self, connection: Connection) -> None:
        self.events.append("resized")

    def answered(
        self, connection: Connection, ticket: Any, status: int, headers: Any, body: bytes
    ) -> None:
        assert ticket not in self.told
        self.told[ticket] = (status, body)

    def unanswered(self, connection: Connection, ticket: Any, *, left: bool, reason: str) -> None:
        assert ticket not in self.told
        self.told[ticket] = "left" if left else "never"

    def leaving(self, connection: Connection) -> None:
        self.events.append("leaving")

    def closed(self, connection: Connection) -> None:
        self.events.append("closed")


class Pair:
    """A connection, and h2's server at the other end of it."""

    def __init__(self, **settings: int) -> None:
        self.owner = Owner()
        self.wire = Wire()
        self.connection = Connection(Timing(5.0, 30.0, 60.0), self.owner)
        self.server = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        values = {SettingCodes[name.upper()]: value for name, value in settings.items()}
        self.server.local_settings = Settings(client=False, initial_values=values)
        self.server.initiate_connection()
        self.bodies: dict[int, bytes] = {}
        self.whole: list[int] = []
        self.reset: list[int] = []
        self.connection.connection_made(self.wire)

    def run(self, rounds: int = 4) -> None:
        """Carry bytes both ways."""
        for _ in range(rounds):
            self.connection.flush()
            data, self.wire.written = bytes(self.wire.written), bytearray()
            for event in self.server.receive_data(data):
                if isinstance(event, RequestReceived):
                    self.bodies[event.stream_id] = b""
                elif isinstance(event, DataReceived):
                    self.bodies[event.stream_id] += event.data
                elif isinstance(event, StreamEnded):
                    self.whole.append(event.stream_id)
                elif isinstance(event, StreamReset):
                    self.reset.append(event.stream_id)
            self.push()

    def push(self) -> None:
        """Carry what the server has said."""
        if data := self.server.data_to_send():
            self.connection.data_received(data)

    def answer(self, stream_id: int, status: bytes = b"200", body: bytes = b"") -> None:
        self.server.send_headers(stream_id, [(b":status", status)], end_stream=not body)
        if body:
            self.server.send_data(stream_id, body, end_stream=True)
        self.push()

    def lose(self) -> None:
        self.connection.connection_lost(None)


@pytest.fixture(autouse=True)
async def in_a_loop() -> None:
    """Connections are made within one."""


async def test_one_request() -> None:
    pair = Pair(max_concurrent_streams=10)
    assert pair.connection.room == 0
    pair.run()
    assert pair.owner.events == ["opened"]
    assert pair.connection.room == 10
    pair.connection.begin(7, HEADERS, b"{}")
    pair.run()
    assert pair.bodies == {1: b"{}"}
    assert pair.connection.room == 9
    pair.answer(1, b"410", b'{"reason":"Unregistered"}')
    assert pair.owner.told == {7: (410, b'{"reason":"Unregistered"}')}
    assert pair.connection.room == 10
    pair.lose()


async def test_what_differs_each_time_fills_no_table() -> None:
    pair = Pair(max_concurrent_streams=10)
    pair.run()
    for ticket in range(3):
        own = NeverIndexedHeaderTuple(b"apns-id", b"%d" % ticket)
        pair.connection.begin(ticket, [*HEADERS, own], b"{}")
    pair.run()
    assert len(pair.bodies) == 3
    names = [name for name, _ in pair.connection._h2.encoder.header_table.dynamic_entries]
    assert sorted(map(bytes, names)) == [b":authority", b":path"]
    pair.lose()


async def test_no_more_than_we_want() -> None:
    pair = Pair(max_concurrent_streams=100_000)
    pair.run()
    assert pair.connection.limit == STREAMS_MAX
    pair.lose()


async def test_a_body_goes_as_far_as_the_stream_lets_it() -> None:
    pair = Pair(max_concurrent_streams=10, initial_window_size=100)
    pair.run()
    pair.connection.begin(1, HEADERS, b"x" * 250)
    pair.run()
    assert pair.bodies == {1: b"x" * 100}
    assert pair.connection.room == 0  # what has not begun can leave elsewhere
    pair.server.increment_flow_control_window(100, 1)
    pair.run()
    assert len(pair.bodies[1]) == 200
    pair.server.increment_flow_control_window(100, 1)
    pair.run()
    assert pair.whole == [1]
    assert pair.connection.room == 9
    pair.answer(1)
    assert pair.owner.told == {1: (200, b"")}
    pair.lose()


async def test_a_request_that_was_not_whole_was_not_acted_on() -> None:
    pair = Pair(max_concurrent_streams=10, initial_window_size=100)
    pair.run()
    pair.connection.begin(1, HEADERS, b"x" * 250)
    pair.run()
    pair.lose()
    assert pair.owner.told == {1: "never"}


async def test_what_was_not_written_never_left() -> None:
    pair = Pair(max_concurrent_streams=10)
    pair.run()
    pair.connection.begin(1, HEADERS, b"{}")
    pair.connection.flush()
    pair.connection.begin(2, HEADERS, b"{}")
    pair.lose()
    assert pair.owner.told == {1: "left", 2: "never"}
    assert pair.owner.events == ["opened", "leaving", "closed"]


async def test_nothing_begins_while_the_socket_is_full() -> None:
    pair = Pair(max_concurrent_streams=10)
    pair.run()
    pair.connection.pause_writing()
    assert pair.connection.room == 0
    pair.connection.resume_writing()
    assert pair.connection.room == 10
    assert pair.owner.events == ["opened", "resized"]
    pair.lose()


async def test_an_answer_before_the_request_was_whole() -> None:
    pair = Pair(max_concurrent_streams=10, initial_window_size=100)
    pair.run()
    pair.connection.begin(1, HEADERS, b"x" * 250)
    pair.run()
    pair.answer(1, b"413", b"{}")
    pair.run()
    assert pair.owner.told == {1: (413, b"{}")}
    assert pair.reset == [1]
    assert pair.connection.room == 10
    pair.lose()


async def test_a_window_and_a_reset_in_one_packet() -> None:
    """h2 has read both when the first is handled."""
    pair = Pair(max_concurrent_streams=10, initial_window_size=100)
    pair.run()
    pair.connection.begin(1, HEADERS, b"x" * 250)
    pair.run()
    pair.server.increment_flow_control_window(100, 1)
    pair.server.reset_stream(1, ErrorCodes.INTERNAL_ERROR)
    pair.push()
    assert pair.owner.told == {1: "never"}
    assert pair.connection.room == 10
    pair.lose()


async def test_answers_after_a_goaway() -> None:
    """In the same packet, and in a later one."""
    pair = Pair(max_concurrent_streams=10)
    pair.run()
    for ticket in range(3):
        pair.connection.begin(ticket, HEADERS, b"{}")
    pair.run()
    server = pair.server
    goaway = bytes.fromhex("000008 07 00 00000000 00000003 00000000")
    server.send_headers(1, [(b":status", b"200")], end_stream=True)
    pair.connection.data_received(goaway + server.data_to_send())
    assert pair.owner.told == {0: (200, b""), 2: "never"}
    assert not pair.wire.closed
    server.send_headers(3, [(b":status", b"200")], end_stream=True)
    pair.connection.data_received(server.data_to_send())
    assert pair.owner.told[1] == (200, b"")
    assert pair.wire.closed
    assert pair.connection.reason == "GOAWAY NO_ERROR"
    pair.lose()


async def test_a_goaway_that_comes_again_with_fewer_streams() -> None:
    """First "nothing new, please", then which was the last (6.8); a third says nothing more."""
    pair = Pair(max_concurrent_streams=10)
    pair.run()
    for ticket in range(3):
        pair.connection.begin(ticket, HEADERS, b"{}")
    pair.run()
    first, second = (f"000008 07 00 00000000 {last} 00000000" for last in ("7fffffff", "00000001"))
    pair.connection.data_received(bytes.fromhex(first))
    assert pair.owner.told == {}
    pair.connection.data_received(bytes.fromhex(second))
    assert pair.owner.told == {1: "never", 2: "never"}
    pair.server.send_headers(1, [(b":status", b"200")], end_stream=True)
    pair.connection.data_received(pair.server.data_to_send() + bytes.fromhex(second))
    assert pair.owner.told[0] == (200, b"")
    assert pair.wire.closed
    pair.lose()
    assert pair.owner.events[-1] == "closed"


async def test_a_goaway_before_a_request_was_written() -> None:
    """It is within the last stream that counts, so it leaves and is answered."""
    pair = Pair(max_concurrent_streams=10)
    pair.run()
    pair.connection.begin(1, HEADERS, b"{}")
    pair.connection.data_received(bytes.fromhex("000008 07 00 00000000 7fffffff 00000000"))
    assert pair.connection.room == 0
    pair.run()
    assert pair.whole == [1]
    pair.answer(1)
    assert pair.owner.told == {1: (200, b"")}
    pair.lose()


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b'{"reason":"Shutdown"}', "Shutdown"),
        (b'{"reason":"a b"}', "NO_ERROR"),
        (b'{"reason":1}', "NO_ERROR"),
        (b"\xff", "NO_ERROR"),
        (b"[" * 5_000, "NO_ERROR"),
    ],
)
async def test_why_a_goaway(said: bytes, reason: str) -> None:
    pair = Pair(max_concurrent_streams=10)
    pair.run()
    pair.server.close_connection(additional_data=said)
    pair.push()
    assert pair.connection.reason == f"GOAWAY {reason}"
    pair.lose()


async def test_streams_that_are_over_are_forgotten() -> None:
    pair = Pair(max_concurrent_streams=10)
    pair.run()
    for ticket in range(3 * SWEEP_STREAMS):
        pair.connection.begin(ticket, HEADERS, b"{}")
        pair.run(1)
        pair.answer(2 * ticket + 1)
    assert len(pair.connection._h2.streams) <= SWEEP_STREAMS
    assert len(pair.owner.told) == 3 * SWEEP_STREAMS
    pair.lose()


async def test_stream_ids_are_used_up() -> None:
    pair = Pair(max_concurrent_streams=10)
    pair.run()
    pair.connection._next_id = STREAM_ID_MAX
    pair.connection.begin(1, HEADERS, b"{}")
    assert pair.connection.room == 0
    assert "leaving" in pair.owner.events
    pair.run()
    pair.answer(STREAM_ID_MAX)
    assert pair.owner.told == {1: (200, b"")}
    assert pair.wire.closed
    pair.lose()


async def test_timers_that_come_late_wait_for_what_was_heard() -> None:
    """A process that stood still has answers to read before it calls them missing."""
    pair = Pair(max_concurrent_streams=10)
    pair.run()
    pair.connection.begin(1, HEADERS, b"{}")
    pair.run()
    pair.connection._streams[1].deadline = 0.0
    pair.connection._ticked -= 60.0
    pair.connection._tick()
    assert pair.owner.told == {}
    pair.connection._tick()
    assert pair.owner.told == {1: "left"}
    pair.run()
    assert pair.reset == [1]
    pair.lose()


async def test_an_answer_without_sense() -> None:
    pair = Pair(max_concurrent_streams=10)
    pair.run()
    pair.connection.begin(1, HEADERS, b"{}")
    pair.run()
    pair.answer(1, b"2xx")
    assert pair.owner.told == {1: (0, b"")}
    pair.lose()


@given(st.binary(max_size=400), st.booleans())
async def test_any_bytes(data: bytes, framed: bool) -> None:
    """Each request has one end, whatever comes."""
    pair = Pair(max_concurrent_streams=10)
    pair.run()
    for ticket in range(3):
        pair.connection.begin(ticket, HEADERS, b"{}")
    pair.run()
    if framed and len(data) > 5:  # a frame of its own length, on a stream that is there
        kind, flags, stream_id = data[0] % 11, data[1], data[2] % 8
        data = (
            len(data[5:]).to_bytes(3, "big") + bytes((kind, flags, 0, 0, 0, stream_id)) + data[5:]
        )
    pair.connection.data_received(data)
    pair.lose()
    assert set(pair.owner.told) == {0, 1, 2}
