"""A connection as a whole: preface, settings, pings, shutdown, time, and the floods it does not put up with."""

import hpack
import pytest

from epp.errors import Http2Error
from epp.http2 import frames
from epp.http2.connection import Connection
from epp.http2.events import DataReceived, PingAnswered, RequestReceived, StreamEnded, StreamReset
from epp.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PRIORITY_FIELDS,
    RST_STREAM,
    SETTINGS,
    SETTINGS_ACK,
    WINDOW_UPDATE,
    Code,
    Setting,
)
from epp.http2.limits import Allowance, Limits, Rate
from tests.unit.http2.peers import OK, REQUEST, TRAILERS, RawPeer, closed_with, reset_with, split

FEW = Rate(burst=5, per_s=1)


def test_the_server_greets_first_and_opens_its_window():
    limits = Limits(streams_max=7, stream_window=100_000, connection_window=200_000)
    settings, window = split(Connection(limits, 0.0).take())
    assert settings[0] == SETTINGS
    assert dict(frames.read_settings(settings[3])) == {
        Setting.MAX_CONCURRENT_STREAMS: 7,
        Setting.INITIAL_WINDOW_SIZE: 100_000,
        Setting.MAX_FRAME_SIZE: 16_384,
        Setting.MAX_HEADER_LIST_SIZE: 65_536,
    }
    assert window == (WINDOW_UPDATE, 0, 0, (200_000 - 65_535).to_bytes(4, "big"))


def test_a_request_with_padding_priority_and_continuation():
    peer = RawPeer()
    block = peer.block()
    padded = b"\x03" + b"\x00\x00\x00\x00\x10" + block[:4] + bytes(3)
    events = peer.send(
        frames.frame(HEADERS, PADDED | PRIORITY_FIELDS, 1, padded),
        frames.frame(CONTINUATION, 0, 1, block[4:9]),
        frames.frame(CONTINUATION, END_HEADERS, 1, block[9:]),
        frames.frame(DATA, PADDED, 1, b"\x02body\x00\x00"),
        peer.headers(1, [("x-trailer", "1")], ended=True),
    )
    request, data, end = events
    assert isinstance(request, RequestReceived)
    assert request.request.fields == {name.encode(): value.encode() for name, value in REQUEST}
    assert (data.data, data.ended) == (b"body", False)
    assert end == StreamEnded(1)


@pytest.mark.parametrize("cut", range(1, 24, 4))
def test_the_preface_may_come_in_pieces(cut):
    peer = RawPeer(greet=False)
    assert peer.send(PREFACE[:cut]) == []
    assert peer.send(PREFACE[cut:], frames.settings({}), peer.headers(1))[0].stream_id == 1


NOT_HTTP2 = [
    b"GET / HTTP/1.1\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
    b"\x16\x03\x01",
    PREFACE + frames.ping(bytes(8)),
    PREFACE + SETTINGS_ACK,
]


@pytest.mark.parametrize("data", NOT_HTTP2)
def test_what_is_not_http2_is_closed(data):
    peer = RawPeer(greet=False)
    assert closed_with(peer.send(data)) == Code.PROTOCOL_ERROR
    assert peer.received()[-1][0] == GOAWAY
    assert peer.send(data) == []
    assert peer.server.closed


MISTAKES = {
    "frame too large": (frames.frame(PING, 0, 0, bytes(16_385)), Code.FRAME_SIZE_ERROR),
    "DATA on stream 0": (frames.frame(DATA, 0, 0, b"x"), Code.PROTOCOL_ERROR),
    "HEADERS on stream 0": (frames.frame(HEADERS, END_HEADERS, 0, b""), Code.PROTOCOL_ERROR),
    "SETTINGS on a stream": (frames.frame(SETTINGS, 0, 1, b""), Code.PROTOCOL_ERROR),
    "SETTINGS of 5 bytes": (frames.frame(SETTINGS, 0, 0, bytes(5)), Code.FRAME_SIZE_ERROR),
    "SETTINGS acknowledged with a payload": (frames.frame(SETTINGS, ACK, 0, bytes(6)), Code.FRAME_SIZE_ERROR),
    "ENABLE_PUSH 2": (frames.settings({Setting.ENABLE_PUSH: 2}), Code.PROTOCOL_ERROR),
    "INITIAL_WINDOW_SIZE 2^31": (frames.settings({Setting.INITIAL_WINDOW_SIZE: 1 << 31}), Code.FLOW_CONTROL_ERROR),
    "MAX_FRAME_SIZE small": (frames.settings({Setting.MAX_FRAME_SIZE: 16_383}), Code.PROTOCOL_ERROR),
    "MAX_FRAME_SIZE large": (frames.settings({Setting.MAX_FRAME_SIZE: 1 << 24}), Code.PROTOCOL_ERROR),
    "PING of 7 bytes": (frames.frame(PING, 0, 0, bytes(7)), Code.FRAME_SIZE_ERROR),
    "PING on a stream": (frames.frame(PING, 0, 1, bytes(8)), Code.PROTOCOL_ERROR),
    "GOAWAY of 7 bytes": (frames.frame(GOAWAY, 0, 0, bytes(7)), Code.FRAME_SIZE_ERROR),
    "RST_STREAM of 3 bytes": (frames.frame(RST_STREAM, 0, 1, bytes(3)), Code.FRAME_SIZE_ERROR),
    "RST_STREAM on stream 0": (frames.rst_stream(0, 0), Code.PROTOCOL_ERROR),
    "PUSH_PROMISE": (frames.frame(frames.PUSH_PROMISE, END_HEADERS, 1, bytes(4)), Code.PROTOCOL_ERROR),
    "window increment 0": (frames.window_update(0, 0), Code.PROTOCOL_ERROR),
    "window of 2^31": (frames.window_update(0, (1 << 31) - 1), Code.FLOW_CONTROL_ERROR),
    "CONTINUATION alone": (frames.frame(CONTINUATION, END_HEADERS, 1, b""), Code.PROTOCOL_ERROR),
    "header block interrupted": (frames.frame(HEADERS, 0, 1, b"") + frames.ping(bytes(8)), Code.PROTOCOL_ERROR),
    "padding over the end": (frames.frame(HEADERS, PADDED | END_HEADERS, 1, b"\x05abc"), Code.PROTOCOL_ERROR),
    "priority cut short": (frames.frame(HEADERS, PRIORITY_FIELDS | END_HEADERS, 1, bytes(4)), Code.FRAME_SIZE_ERROR),
    "block that is no HPACK": (frames.frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff"), Code.COMPRESSION_ERROR),
    "index of nothing": (frames.frame(HEADERS, END_HEADERS, 1, b"\xbe"), Code.COMPRESSION_ERROR),
    "table larger than allowed": (frames.frame(HEADERS, END_HEADERS, 1, b"\x3f\xe2\x1f"), Code.COMPRESSION_ERROR),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_that_cost_the_connection(name):
    data, code = MISTAKES[name]
    peer = RawPeer()
    assert closed_with(peer.send(data)) == code
    kind, _, _, payload = peer.received()[-1]
    assert kind == GOAWAY
    assert int.from_bytes(payload[4:8], "big") == code


BAD_REQUESTS = {
    "no method": REQUEST[1:],
    "no scheme": REQUEST[:1] + REQUEST[2:],
    "no path": REQUEST[:2] + REQUEST[3:],
    "empty path": [*REQUEST[:2], (":path", ""), *REQUEST[3:]],
    "method twice": [REQUEST[0], *REQUEST],
    "unknown pseudo": [(":protocol", "x"), *REQUEST],
    "pseudo of a response": [(":status", "200"), *REQUEST],
    "pseudo after regular": [*REQUEST, (":authority", "b")],
    "uppercase": [*REQUEST, ("X-Upper", "1")],
    "space in a name": [*REQUEST, ("x y", "1")],
    "empty name": [*REQUEST, ("", "1")],
    "line feed in a value": [*REQUEST, ("x", "a\nb")],
    "NUL in a value": [*REQUEST, ("x", "a\0b")],
    "connection": [*REQUEST, ("connection", "close")],
    "transfer-encoding": [*REQUEST, ("transfer-encoding", "chunked")],
    "te": [*REQUEST[:4], ("te", "gzip")],
    "content-length of letters": [*REQUEST, ("content-length", "ten")],
    "two content-lengths": [*REQUEST, ("content-length", "1"), ("content-length", "2")],
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_a_malformed_request_costs_its_stream_only(name):
    peer = RawPeer()
    assert peer.send(peer.headers(1, BAD_REQUESTS[name])) == []
    assert peer.received() == [(RST_STREAM, 0, 1, Code.PROTOCOL_ERROR.to_bytes(4, "big"))]
    assert len(peer.send(peer.headers(3))) == 1


STREAM_MISTAKES = {
    "window increment 0": (frames.window_update(1, 0), Code.PROTOCOL_ERROR),
    "window of 2^31": (frames.window_update(1, (1 << 31) - 1), Code.FLOW_CONTROL_ERROR),
    "priority of 4 bytes": (frames.frame(PRIORITY, 0, 1, bytes(4)), Code.FRAME_SIZE_ERROR),
    "depends on itself": (frames.frame(PRIORITY, 0, 1, bytes([0, 0, 0, 1, 0])), Code.PROTOCOL_ERROR),
    "body above content-length": (frames.frame(DATA, 0, 1, b"12345"), Code.PROTOCOL_ERROR),
    "body below content-length": (frames.frame(DATA, END_STREAM, 1, b"123"), Code.PROTOCOL_ERROR),
}


@pytest.mark.parametrize("name", STREAM_MISTAKES)
def test_mistakes_that_cost_a_stream(name):
    data, code = STREAM_MISTAKES[name]
    peer = RawPeer()
    peer.send(peer.headers(1, [*REQUEST, ("content-length", "4")]), peer.headers(3))
    assert reset_with(peer.send(data), 1) == code
    assert peer.server.streams == 1


def test_trailers_must_end_the_stream_and_hold_no_pseudo_header():
    for fields, ended in [([("x", "1")], False), ([(":path", "/")], True)]:
        peer = RawPeer()
        peer.send(peer.headers(1))
        assert reset_with(peer.send(peer.headers(1, fields, ended=ended)), 1) == Code.PROTOCOL_ERROR


def test_pings_are_answered_and_our_own_come_back():
    peer = RawPeer()
    assert peer.send(frames.ping(b"12345678")) == []
    assert peer.received() == [(PING, ACK, 0, b"12345678")]
    peer.server.ping(b"abcdefgh")
    assert peer.received() == [(PING, 0, 0, b"abcdefgh")]
    assert peer.send(frames.ping(b"abcdefgh", ack=True)) == [PingAnswered(b"abcdefgh")]


def test_frames_are_read_some_at_a_time_and_none_is_lost():
    peer = RawPeer(Limits(frames_at_once=4))
    payloads = [bytes([i] * 8) for i in range(10)]
    data = b"".join(frames.ping(payload, ack=True) for payload in payloads)
    received = [peer.server.receive(data[:-5], 0.0)]
    while peer.server.more:
        received.append(peer.server.receive(b"", 0.0))
    received.append(peer.server.receive(data[-5:], 0.0))
    assert [len(events) for events in received] == [4, 4, 1, 1]
    assert [event.payload for events in received for event in events] == payloads


def test_nothing_more_is_read_after_a_mistake():
    peer = RawPeer(Limits(frames_at_once=2))
    events = peer.server.receive(frames.ping(bytes(8)) + frames.ping(bytes(7)) + frames.ping(bytes(8)), 0.0)
    assert closed_with(events) is Code.FRAME_SIZE_ERROR
    assert not peer.server.more


def test_unknown_frames_settings_and_flags_are_ignored():
    peer = RawPeer()
    assert peer.send(frames.frame(0x42, 0xFF, 7, b"x"), frames.settings({0x99: 5}), frames.frame(PRIORITY, 0, 9, bytes(5))) == []
    assert peer.received() == [(SETTINGS, ACK, 0, b"")]


def test_shutdown_in_two_steps():
    peer = RawPeer()
    peer.send(peer.headers(1))
    peer.server.announce_shutdown()
    assert len(peer.send(peer.headers(3))) == 1, "under way when the first GOAWAY went out"
    peer.server.shut_down()
    last = [int.from_bytes(payload[:4], "big") for kind, _, _, payload in peer.received() if kind == GOAWAY]
    assert last == [(1 << 31) - 1, 3]
    assert peer.send(peer.headers(5)) == []


def flood_of(name: str, peer: RawPeer) -> bytes:
    match name:
        case "settings":
            return frames.settings({})
        case "pings":
            return frames.ping(bytes(8))
        case "empty_frames":
            return frames.frame(DATA, 0, 1, b"")
        case "idle_frames":
            return frames.frame(PRIORITY, 0, 1, bytes(5))
        case _:
            number = peer.server._streams.last_id + 2
            return peer.headers(number) + frames.rst_stream(number, Code.CANCEL)


@pytest.mark.parametrize("name", ["settings", "pings", "empty_frames", "idle_frames", "rapid_resets"])
def test_floods_are_met_with_calm_and_the_slow_are_not(name):
    peer = RawPeer(Limits(**{name: FEW}))
    peer.send(peer.headers(1))
    for _ in range(20):
        peer.now += 1.0
        assert closed_with(peer.send(flood_of(name, peer))) is None
    codes = [closed_with(peer.send(flood_of(name, peer))) for _ in range(6)]
    assert codes == [None] * 4 + [Code.ENHANCE_YOUR_CALM, None], "four are left, and after the end nothing is heard"


def test_what_was_under_way_when_we_reset_a_stream_costs_the_peer_nothing():
    peer = RawPeer(Limits(idle_frames=Rate(burst=3, per_s=0), empty_frames=Rate(burst=3, per_s=0)))
    for number in range(1, 21, 2):
        peer.send(peer.headers(number), frames.frame(DATA, 0, number, b"x"))
        peer.server.reset(number, Code.NO_ERROR)
        under_way = frames.frame(DATA, 0, number, bytes(1000)) * 10 + frames.window_update(number, 1000)
        assert closed_with(peer.send(under_way, frames.rst_stream(number, Code.CANCEL))) is None
    assert peer.send(peer.headers(21))[0].stream_id == 21


@pytest.mark.parametrize("late", [frames.frame(DATA, 0, 1, b""), frames.rst_stream(1, Code.CANCEL)])
def test_what_cannot_all_have_been_under_way_is_a_flood(late):
    peer = RawPeer(Limits(idle_frames=Rate(burst=3, per_s=0), empty_frames=Rate(burst=3, per_s=0)))
    peer.send(peer.headers(1))
    peer.server.reset(1, Code.NO_ERROR)
    assert closed_with(peer.send(late * 6)) is Code.ENHANCE_YOUR_CALM


def test_what_follows_a_malformed_request_on_its_stream_costs_nobody_else():
    peer = RawPeer()
    peer.send(peer.headers(1))
    events = peer.send(peer.headers(3, [*REQUEST, ("x-tenant", "acme ")]), frames.frame(DATA, 0, 3, b"x"), frames.rst_stream(3, 8))
    assert events == []
    assert [(kind, stream) for kind, _, stream, _ in peer.received()] == [(RST_STREAM, 3)]
    assert peer.send(frames.frame(DATA, 0, 1, b"x"))[0].data == b"x"


def test_resets_after_an_answer_are_not_counted():
    peer = RawPeer(Limits(rapid_resets=FEW))
    for number in range(1, 101, 2):
        peer.send(peer.headers(number))
        peer.server.headers(number, OK)
        assert closed_with(peer.send(frames.rst_stream(number, Code.CANCEL))) is None


@pytest.mark.parametrize("payload", [b"", b"\x00"])
def test_continuation_flood(payload):
    peer = RawPeer()
    peer.send(frames.frame(HEADERS, 0, 1, b""))
    codes = [closed_with(peer.send(frames.frame(CONTINUATION, 0, 1, payload))) for _ in range(17)]
    assert codes == [None] * 16 + [Code.ENHANCE_YOUR_CALM]


def test_header_blocks_and_lists_are_bounded():
    peer = RawPeer(Limits(header_block_bytes_max=20_000))
    peer.send(frames.frame(HEADERS, 0, 1, bytes(16_384)))
    assert closed_with(peer.send(frames.frame(CONTINUATION, 0, 1, bytes(16_384)))) == Code.ENHANCE_YOUR_CALM
    peer = RawPeer(Limits(header_list_bytes_max=10_000))
    bomb = peer.block([*REQUEST, ("x", "y" * 1000)]) + b"\xbe" * 100  # one kilobyte, a hundred times for a byte each
    assert closed_with(peer.send(frames.frame(HEADERS, END_HEADERS, 1, bomb))) == Code.ENHANCE_YOUR_CALM


def test_answers_nobody_reads_are_bounded():
    peer = RawPeer(Limits(output_bytes_max=100, control_bytes_max=100))
    codes = [closed_with(peer.send(frames.ping(bytes(8)))) for _ in range(12)]
    assert codes == [None] * 11 + [Code.ENHANCE_YOUR_CALM]


def test_the_windows_given_are_kept():
    limits = Limits(stream_window=1_000, connection_window=70_000)
    peer = RawPeer(limits)
    peer.send(peer.headers(1))
    assert reset_with(peer.send(frames.frame(DATA, 0, 1, bytes(1_001))), 1) == Code.FLOW_CONTROL_ERROR
    peer = RawPeer(Limits(stream_window=100_000, connection_window=65_535))
    peer.server._in._window = 10
    assert closed_with(peer.send(peer.headers(1), frames.frame(DATA, 0, 1, bytes(11)))) == Code.FLOW_CONTROL_ERROR


def test_credit_is_given_at_half_and_withheld_while_answers_are_not_read():
    peer = RawPeer(Limits(stream_window=1_000, unread_bytes_max=50))
    peer.send(frames.settings({Setting.INITIAL_WINDOW_SIZE: 0}), peer.headers(1), frames.frame(DATA, 0, 1, bytes(400)))
    peer.server.take()
    peer.send(frames.frame(DATA, 0, 1, bytes(200)))
    assert peer.received() == [(WINDOW_UPDATE, 0, 1, (600).to_bytes(4, "big"))]
    peer.server.headers(1, OK)
    peer.server.data(1, bytes(60))
    peer.server.take()
    peer.send(frames.frame(DATA, 0, 1, bytes(600)))
    assert peer.received() == [], "60 bytes wait for a peer that has shut its window"
    peer.send(frames.window_update(1, 20))
    assert [kind for kind, *_ in peer.received()] == [DATA, WINDOW_UPDATE]


def test_time_ends_what_does_not_go_on():
    silent = RawPeer(greet=False)
    assert closed_with(silent.server.tick(9.9)) is None
    assert closed_with(silent.server.tick(10.0)) == Code.SETTINGS_TIMEOUT
    idle = RawPeer()
    idle.send(idle.headers(1))
    assert idle.server.tick(10_000.0) == []
    idle.send(frames.rst_stream(1, Code.CANCEL))
    assert closed_with(idle.server.tick(13_599.0)) is None
    assert closed_with(idle.server.tick(13_600.0)) == Code.NO_ERROR
    assert idle.server.tick(20_000.0) == []


def test_a_stalled_stream_is_reset_and_one_that_moves_is_not():
    peer = RawPeer()
    peer.send(frames.settings({Setting.INITIAL_WINDOW_SIZE: 10}), peer.headers(1), peer.headers(3))
    for number in (1, 3):
        peer.server.headers(number, OK)
        peer.server.data(number, bytes(100))
    peer.server.take()
    assert peer.server.tick(200.0) == []
    peer.now = 200.0
    peer.send(frames.window_update(3, 10))
    peer.server.take()
    assert peer.server.tick(301.0) == [StreamReset(1, Code.ENHANCE_YOUR_CALM, by_peer=False)]
    assert peer.server.stream_queued_bytes(3) == 80


def test_an_allowance_refills_up_to_its_burst():
    allowance = Allowance(Rate(burst=2, per_s=1), "things")
    allowance.spend(0)
    allowance.spend(0)
    with pytest.raises(Http2Error, match="too many things"):
        allowance.spend(0.5)
    allowance = Allowance(Rate(burst=2, per_s=1), "things")
    for _ in range(2):
        allowance.spend(1_000)
    with pytest.raises(Http2Error):
        allowance.spend(1_000)


def test_calls_for_a_stream_that_is_over_do_nothing():
    peer = RawPeer()
    for number in (1, 3):
        peer.server.headers(number, OK)
        peer.server.data(number, b"x")
        peer.server.end(number, TRAILERS)
        peer.server.reset(number, Code.CANCEL)
    assert peer.received() == []


def test_a_smaller_header_table_is_acknowledged_in_the_next_block():
    peer = RawPeer()
    peer.send(frames.settings({Setting.HEADER_TABLE_SIZE: 0}), peer.headers(1), peer.headers(3))
    decoder = hpack.Decoder()
    decoder.max_allowed_table_size = 0
    peer.server.headers(1, OK)
    peer.server.headers(3, OK)
    blocks = [payload for kind, _, _, payload in peer.received() if kind == HEADERS]
    assert [dict(decoder.decode(block)) for block in blocks] == [{":status": "200"}] * 2
    assert [block[:1] == b"\x20" for block in blocks] == [True, False]


def test_data_and_end_in_one_frame():
    peer = RawPeer()
    request, data = peer.send(peer.headers(1), frames.frame(DATA, END_STREAM, 1, b"x"))
    assert not request.ended
    assert data == DataReceived(1, b"x", ended=True)
