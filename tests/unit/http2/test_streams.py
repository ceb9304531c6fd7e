"""Every row of the table of stream states, driven by real frames: what each frame does in each state."""

import pytest

from epp.http2 import frames
from epp.http2.frames import DATA, HEADERS, RST_STREAM, WINDOW_UPDATE, Code
from epp.http2.limits import Limits
from epp.http2.streams import RECEIVED, Refusal, State
from tests.unit.http2.peers import OK, REQUEST, TRAILERS, RawPeer, closed_with, reset_with


def bring_to(state: State, peer: RawPeer) -> None:
    """Put stream 1 in a state."""
    match state:
        case State.IDLE:
            pass
        case State.OPEN:
            peer.send(peer.headers(1))
        case State.HALF_CLOSED:
            peer.send(peer.headers(1, ended=True))
        case State.ENDED:
            peer.send(peer.headers(1, ended=True))
            peer.server.headers(1, OK)
            peer.server.end(1, TRAILERS)
        case State.RESET_BY_PEER:
            peer.send(peer.headers(1), frames.rst_stream(1, Code.CANCEL))
        case State.RESET_BY_US:
            peer.send(peer.headers(1))
            peer.server.reset(1, Code.CANCEL)
    peer.server.take()


def frame(kind: int, peer: RawPeer, state: State) -> bytes:
    match kind:
        case frames.DATA:
            return frames.frame(DATA, 0, 1, b"x")
        case frames.HEADERS if state is State.IDLE:
            return peer.headers(1)
        case frames.HEADERS:
            return peer.headers(1, [("trailer", "x")], ended=True)
        case frames.RST_STREAM:
            return frames.rst_stream(1, Code.CANCEL)
        case _:
            return frames.window_update(1, 1)


@pytest.mark.parametrize("kind", [DATA, HEADERS, RST_STREAM, WINDOW_UPDATE])
@pytest.mark.parametrize("state", State)
def test_each_frame_in_each_state(state, kind):
    peer = RawPeer()
    bring_to(state, peer)
    events = peer.send(frame(kind, peer, state))
    answers = [(kind, int.from_bytes(payload[-4:], "big")) for kind, _, stream, payload in peer.received() if stream == 1]
    expected = RECEIVED[state, kind]
    if isinstance(expected, Refusal) and expected.whole_connection:
        assert closed_with(events) == expected.code
        return
    assert closed_with(events) is None
    if isinstance(expected, Refusal):
        assert answers == [(RST_STREAM, expected.code)]
        assert reset_with(events, 1) == (expected.code if state is State.HALF_CLOSED else None)
    else:
        assert (RST_STREAM, Code.STREAM_CLOSED) not in answers
        assert bool(events) is (expected is not None and kind != WINDOW_UPDATE)


def test_the_table_is_complete():
    assert {state for state, _ in RECEIVED} == set(State)
    assert len(RECEIVED) == len(State) * 4


def test_an_answer_before_the_request_is_complete_resets_without_error():
    peer = RawPeer()
    peer.send(peer.headers(1))
    peer.server.headers(1, OK, end_stream=True)
    assert [(kind, stream) for kind, _, stream, _ in peer.received()] == [(HEADERS, 1), (RST_STREAM, 1)]
    assert peer.send(frames.frame(DATA, 0, 1, b"late")) == []
    assert peer.server.streams == 0


def test_a_number_may_not_go_back_or_be_the_servers():
    peer = RawPeer()
    peer.send(peer.headers(5))
    assert closed_with(peer.send(peer.headers(3))) == Code.PROTOCOL_ERROR
    assert closed_with(RawPeer().send(RawPeer().headers(2))) == Code.PROTOCOL_ERROR


def test_streams_above_the_limit_are_refused_and_leave_room_when_they_end():
    peer = RawPeer(Limits(streams_max=2))
    events = peer.send(peer.headers(1), peer.headers(3), peer.headers(5))
    assert len(events) == 2
    assert peer.received() == [(RST_STREAM, 0, 5, Code.REFUSED_STREAM.to_bytes(4, "big"))]
    peer.send(frames.rst_stream(1, Code.CANCEL))
    assert [event.stream_id for event in peer.send(peer.headers(7))] == [7]


def test_streams_after_the_last_goaway_are_ignored_but_their_headers_read():
    peer = RawPeer()
    peer.send(peer.headers(1))
    peer.server.shut_down()
    new = peer.headers(3, [*REQUEST, ("x-new", "1")])
    assert peer.send(new, frames.frame(DATA, 0, 3, b"x")) == []
    assert peer.server.streams == 1
    assert [kind for kind, *_ in peer.received()] == [frames.GOAWAY]
    trailers = peer.headers(1, [("x-new", "1")], ended=True)  # refers to the dynamic table that stream 3 has changed
    assert len(peer.send(trailers)) == 1


def test_memory_of_closed_streams_is_bounded():
    peer = RawPeer(Limits(closed_streams_kept=4))
    for stream_id in range(1, 41, 2):
        peer.send(peer.headers(stream_id), frames.rst_stream(stream_id, Code.CANCEL))
    assert len(peer.server._streams._over) == 4
    assert peer.send(frames.frame(DATA, 0, 1, b"x")) == []  # too long ago to know better
