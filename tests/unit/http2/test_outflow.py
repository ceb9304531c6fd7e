"""What goes out: within the peer's windows, in order, in turns, in bounded pieces."""

from epp.http2 import frames
from epp.http2.frames import DATA, END_STREAM, HEADERS, RST_STREAM, Code, Setting
from epp.http2.limits import Limits
from tests.unit.http2.peers import OK, TRAILERS, RawPeer, closed_with


def opened(count: int, limits: Limits | None = None, window: int = 65_535) -> RawPeer:
    """A peer with streams 1, 3, ... whose response headers are out."""
    peer = RawPeer(limits)
    peer.send(frames.settings({Setting.INITIAL_WINDOW_SIZE: window}))
    for number in range(1, 2 * count, 2):
        peer.send(peer.headers(number, ended=True))
        peer.server.headers(number, OK)
    peer.server.take()
    return peer


def data_of(peer: RawPeer) -> list[tuple[int, int]]:
    """The DATA that the server has to send, as (stream, size)."""
    return [(stream, len(payload)) for kind, _, stream, payload in peer.received() if kind == DATA]


def test_small_data_goes_out_at_once_prefix_first():
    peer = opened(1)
    peer.server.data(1, b"body", prefix=b"pre")
    peer.server.end(1, TRAILERS)
    assert [(kind, flags, payload) for kind, flags, _, payload in peer.received()] == [
        (DATA, 0, b"prebody"),
        (HEADERS, frames.END_HEADERS | END_STREAM, TRAILERS),
    ]
    assert peer.server.streams == 0


def test_an_end_without_trailers_is_an_empty_data_frame():
    peer = opened(1)
    peer.server.data(1, b"body")
    peer.server.end(1, b"")
    assert [(kind, flags) for kind, flags, *_ in peer.received()] == [(DATA, 0), (DATA, END_STREAM)]


def test_frames_are_as_large_as_the_peer_allows():
    peer = opened(1)
    peer.server.data(1, bytes(40_000))
    assert data_of(peer) == [(1, 16_384), (1, 16_384), (1, 7_232)]
    peer.send(frames.settings({Setting.MAX_FRAME_SIZE: 20_000}))
    peer.server.data(1, bytes(22_000))
    assert data_of(peer) == [(1, 20_000), (1, 2_000)]


def test_small_messages_that_had_to_wait_share_a_frame():
    peer = opened(1, window=0)
    for _ in range(10):
        peer.server.data(1, b"12345", prefix=b"67")
    peer.send(frames.window_update(1, 30))
    assert data_of(peer) == [(1, 30)]
    peer.send(frames.window_update(1, 1000))
    assert data_of(peer) == [(1, 40)]


def test_nothing_passes_a_windows_edge_and_trailers_wait_for_the_queue():
    peer = opened(1, window=10)
    peer.server.data(1, bytes(25))
    peer.server.end(1, TRAILERS)
    assert data_of(peer) == [(1, 10)]
    peer.send(frames.window_update(1, 10))
    assert data_of(peer) == [(1, 10)]
    assert peer.server.stream_queued_bytes(1) == peer.server.queued_bytes == 5
    peer.send(frames.window_update(1, 10))
    assert [kind for kind, *_ in peer.received()] == [DATA, HEADERS]
    assert peer.server.queued_bytes == 0


def test_the_connections_window_is_shared_in_turns():
    peer = opened(3)
    for number in (1, 3, 5):
        peer.server.data(number, bytes(60_000))
    assert [stream for stream, _ in data_of(peer)] == [1, 3, 5, 1]
    assert not peer.server.waiting
    peer.send(frames.window_update(0, 1_000_000))
    assert peer.server.waiting
    sizes = {1: 0, 3: 0, 5: 0}
    for stream, size in data_of(peer):
        sizes[stream] += size
    assert sum(sizes.values()) == 180_000 - 65_535


def test_a_stream_without_a_window_holds_up_nobody():
    peer = opened(2, window=0)
    peer.server.data(1, bytes(100))
    peer.send(frames.window_update(3, 100))
    peer.server.data(3, bytes(100))
    assert data_of(peer) == [(3, 100)]


def test_a_new_initial_window_counts_for_open_streams_and_may_go_below_zero():
    peer = opened(1, window=100)
    peer.server.data(1, bytes(100))
    peer.server.take()
    peer.send(frames.settings({Setting.INITIAL_WINDOW_SIZE: 50}))
    peer.server.data(1, bytes(10))
    peer.send(frames.window_update(1, 50))
    assert data_of(peer) == [], "the window is 0 now, not 50"
    peer.send(frames.settings({Setting.INITIAL_WINDOW_SIZE: 55}))
    assert data_of(peer) == [(1, 5)]


def test_a_new_initial_window_that_overflows_costs_the_connection():
    peer = opened(1, window=10)
    peer.send(frames.window_update(1, (1 << 31) - 11))
    assert closed_with(peer.send(frames.settings({Setting.INITIAL_WINDOW_SIZE: 11}))) == Code.FLOW_CONTROL_ERROR


def test_one_take_is_bounded_whatever_is_queued():
    peer = opened(1, Limits(output_bytes_max=50_000), window=(1 << 31) - 1)
    peer.send(frames.window_update(0, 1 << 30))
    peer.server.data(1, bytes(1_000_000))
    sizes = []
    while peer.server.waiting:
        sizes.append(len(peer.server.take()))
    assert max(sizes) < 50_000 + 2 * 16_393
    assert sum(sizes) > 1_000_000


def test_what_is_discarded_is_not_sent():
    peer = opened(2, window=5)
    for number in (1, 3):
        peer.server.data(number, bytes(100))
    peer.server.take()
    peer.server.end(1, TRAILERS, discard=True)
    peer.server.reset(3, Code.CANCEL)
    assert [(kind, stream) for kind, _, stream, _ in peer.received()] == [(HEADERS, 1), (RST_STREAM, 3)]
    assert peer.server.queued_bytes == 0
    peer.send(frames.window_update(1, 1000), frames.window_update(3, 1000))
    assert peer.received() == []


def test_a_stream_may_go_while_it_waits_its_turn():
    peer = opened(2)
    peer.server.data(1, bytes(70_000))
    peer.server.data(3, bytes(70_000))
    peer.send(frames.rst_stream(1, Code.CANCEL))
    assert {stream for stream, _ in data_of(peer)} == {3}
