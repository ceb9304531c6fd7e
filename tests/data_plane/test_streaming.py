"""Streams come piece by piece: the model server sends the next event only when the client has the one before."""

import threading

import pytest

from tests.data_plane.clients import opened
from tests.data_plane.upstream import DEADLINE_S, chunks

BODY = b'{"model": "m", "prompt": "hello", "stream": true}'
EVENTS = [b'data: {"choices":[{"text":"%d"}]}\n\n' % number for number in range(5)] + [b"data: [DONE]\n\n"]
CUT_USAGE = [b'data: {"choices":[],"usage":{"prompt_tok', b'ens":9,"completion_tokens":4}}\n', b"\ndata: [DO", b"NE]\n\n"]


class Turns:
    """Lets the model server go on one piece at a time."""

    def __init__(self) -> None:
        self._turn = threading.Semaphore(0)

    def wait(self, _index: int) -> None:
        assert self._turn.acquire(timeout=DEADLINE_S), "the client never got the piece before"

    def next(self) -> None:
        self._turn.release()


@pytest.mark.parametrize("pieces", [EVENTS, CUT_USAGE], ids=["events", "events-cut-anywhere"])
def test_every_piece_arrives_before_the_next_is_sent(any_gateway, picker, fleet, pieces):
    turns = Turns()
    fleet.scripts["turns"] = chunks(pieces, turns.wait)
    with opened(any_gateway, "POST", "/v1/completions", BODY, [("x-script", "turns")]) as connection:
        response = connection.getresponse()
        assert response.status == 200
        for piece in pieces:
            got = b""
            while len(got) < len(piece):
                more = response.read1(len(piece) - len(got))
                assert more, "the stream ended early"
                got += more
            assert got == piece
            turns.next()
        assert response.read() == b""


def test_a_long_stream_arrives_whole_and_in_order(any_gateway, picker, fleet):
    pieces = [b"data: %d\n\n" % number for number in range(2_000)]
    fleet.scripts["long"] = chunks(pieces, lambda _index: None)
    with opened(any_gateway, "POST", "/v1/completions", BODY, [("x-script", "long")]) as connection:
        assert connection.getresponse().read() == b"".join(pieces)
