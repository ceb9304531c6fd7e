"""HTTP/2 against the `h2` library as client, bytes cut anywhere; and against bytes that are nothing at all."""

import random
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import hpack
from hypothesis import given, settings
from hypothesis import strategies as st

from epp.http2 import frames
from epp.http2.connection import Connection
from epp.http2.events import ConnectionClosed, DataReceived, RequestReceived, StreamEnded, StreamReset
from epp.http2.limits import Limits
from tests.unit.http2.peers import OK, REQUEST, TRAILERS, H2Peer, RawPeer, hear

CORPUS = Path(__file__).parents[1] / "data" / "http2"
"""A sample, by size, of the inputs that `hack/fuzz_http2.py` kept."""
SMALL = Limits(stream_window=2_000, connection_window=70_000, unread_bytes_max=3_000, output_bytes_max=3_000, frames_at_once=3)

ACTIONS = st.one_of(
    st.tuples(st.just("open"), st.booleans()),
    st.tuples(st.just("data"), st.integers(0, 5), st.binary(max_size=1_500), st.booleans()),
    st.tuples(st.just("reset"), st.integers(0, 5)),
    st.tuples(st.just("ping"), st.binary(min_size=8, max_size=8)),
    st.tuples(st.just("window"), st.integers(0, 100_000)),
    st.tuples(st.just("answer"), st.integers(0, 5), st.integers(0, 30_000)),
    st.tuples(st.just("end"), st.integers(0, 5)),
    st.tuples(st.just("exchange"), st.integers(1, 50)),
)


class Model:
    """What a client and a server did, and so what each must have heard."""

    def __init__(self) -> None:
        self.peer = H2Peer(SMALL)
        self.peer.exchange()
        self.sent: dict[int, bytes] = {}
        self.answered: dict[int, bytes] = {}
        self.gone: set[int] = set()
        """Reset by the client, or ended by the server: of these less may arrive."""
        self.half_closed: set[int] = set()

    def stream(self, index: int) -> int | None:
        numbers = list(self.sent)
        return numbers[index % len(numbers)] if numbers else None

    def act(self, action: tuple) -> None:  # noqa: C901 - a table of what may happen
        client, server = self.peer.client, self.peer.server
        match action:
            case "open", ended:
                number = client.get_next_available_stream_id()
                client.send_headers(number, REQUEST, end_stream=ended)
                self.sent[number] = self.answered[number] = b""
                self.half_closed |= {number} if ended else set()
            case "data", index, data, ended if (number := self.stream(index)) and number not in self.half_closed | self.gone:
                if client.local_flow_control_window(number) >= len(data):
                    client.send_data(number, data, end_stream=ended)
                    self.sent[number] += data
                    self.half_closed |= {number} if ended else set()
            case "reset", index if (number := self.stream(index)) and number not in self.gone:
                client.reset_stream(number)
                self.gone.add(number)
            case "ping", payload:
                client.ping(payload)
            case "window", size:
                client.update_settings({4: size})
            case "answer", index, size if (number := self.stream(index)) and number not in self.gone:
                self.peer.exchange()  # so that the server knows the stream
                if not self.answered[number]:
                    server.headers(number, OK)
                body = random.Random(size).randbytes(size) + b"."
                server.data(number, body)
                self.answered[number] += body
            case "end", index if (number := self.stream(index)) and number not in self.gone and self.answered[number]:
                server.end(number, TRAILERS)
                self.gone.add(number)
            case "exchange", piece:
                self.peer.exchange(piece=piece)


@settings(max_examples=150, deadline=None)
@given(st.lists(ACTIONS, max_size=40), st.integers(1, 100))
def test_client_and_server_hear_what_the_other_said(actions, piece):
    model = Model()
    for action in actions:
        model.act(action)
    model.peer.client.update_settings({4: 1_000_000})
    model.peer.exchange(piece=piece)
    heard = dict.fromkeys(model.sent, b"")
    for event in model.peer.server_events:
        assert not isinstance(event, ConnectionClosed)
        if isinstance(event, DataReceived):
            heard[event.stream_id] += event.data
    read = dict.fromkeys(model.sent, b"")
    for event in model.peer.client_events:
        assert not isinstance(event, h2.events.ConnectionTerminated)
        if isinstance(event, h2.events.DataReceived):
            read[event.stream_id] += event.data
    for number, sent in model.sent.items():
        if number in model.gone:
            assert sent.startswith(heard[number])
            assert model.answered[number].startswith(read[number])
        else:
            assert heard[number] == sent
            assert read[number] == model.answered[number]
    assert model.peer.server.streams == len(set(model.sent) - model.gone)
    assert model.peer.server.queued_bytes == 0


def conversation() -> bytes:
    """Bytes of an ordinary client."""
    peer = RawPeer(greet=False)
    pieces = [
        frames.PREFACE,
        frames.settings({frames.Setting.INITIAL_WINDOW_SIZE: 100_000}),
        frames.window_update(0, 1_000_000),
        peer.headers(1),
        frames.frame(frames.DATA, 0, 1, bytes(300)),
        frames.ping(b"12345678"),
        peer.headers(3, ended=True),
        frames.frame(frames.DATA, frames.PADDED, 1, b"\x02xx\x00\x00"),
        frames.window_update(1, 5),
        frames.frame(frames.HEADERS, frames.PRIORITY_FIELDS, 5, bytes(5) + peer.block()),
        frames.frame(frames.CONTINUATION, frames.END_HEADERS, 5, b""),
        frames.rst_stream(3, frames.Code.CANCEL),
        peer.headers(1, [("x", "y")], ended=True),
        frames.goaway(0, 0),
    ]
    return b"".join(pieces)


@given(st.lists(st.integers(0, 700), max_size=8).map(sorted))
def test_any_cut_of_the_bytes_gives_the_same_events(places):
    data = conversation()
    whole = hear(Connection(Limits(), 0.0), data)
    server = Connection(Limits(), 0.0)
    pieces = [data[start:stop] for start, stop in zip([0, *places], [*places, len(data)], strict=True)]
    assert [event for piece in pieces for event in hear(server, piece)] == whole
    kinds = [type(event) for event in whole]
    assert kinds == [RequestReceived, DataReceived, RequestReceived, DataReceived, RequestReceived, StreamReset, StreamEnded]


def upload() -> bytes:
    """Bytes of a client that sends much: of a read of these most is never copied whole."""
    peer = RawPeer(greet=False)
    sizes = (16_384, 3, 9_000, 16_384, 1, 12_000, 16_384, 7)
    pieces = [frames.frame(frames.DATA, 0, 1, bytes([number]) * size) for number, size in enumerate(sizes)]
    return b"".join([frames.PREFACE, frames.settings({}), peer.headers(1), *pieces, frames.ping(b"12345678")])


@given(st.lists(st.integers(0, 71_000), max_size=5).map(sorted), st.sampled_from([2, 3, 128]))
def test_any_cut_of_an_upload_gives_the_same_events(places, frames_at_once):
    data = upload()
    whole = hear(Connection(Limits(), 0.0), data)
    server = Connection(Limits(frames_at_once=frames_at_once), 0.0)
    pieces = [data[start:stop] for start, stop in zip([0, *places], [*places, len(data)], strict=True)]
    assert [event for piece in pieces for event in hear(server, piece)] == whole
    assert [len(event.data) for event in whole[1:]] == [16_384, 3, 9_000, 16_384, 1, 12_000, 16_384, 7]


def mutated(rng: random.Random) -> bytes:
    """An ordinary conversation, spoilt: bits turned, pieces dropped, repeated, put elsewhere, invented."""
    data = bytearray(conversation())
    for _ in range(rng.randint(1, 12)):
        at, size = rng.randrange(24, len(data)), rng.randint(1, 40)
        match rng.randrange(5):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                del data[at : at + size]
            case 2:
                data[at:at] = data[max(24, at - size) : at]
            case 3:
                data[at : at + size] = rng.randbytes(size)
            case 4:
                data[at:at] = frames.frame(
                    rng.randrange(11), rng.randrange(256), rng.randrange(12), rng.randbytes(rng.randrange(60))
                )
        if len(data) <= 25:
            break
    return bytes(data)


def feed(data: bytes, rng: random.Random) -> Connection:
    """Give bytes to a connection in pieces, answer some of what comes of them, and hold it to its bounds."""
    server = Connection(SMALL, 0.0)
    while data:
        cut = rng.randint(1, 400)
        piece, data = data[:cut], data[cut:]
        for event in hear(server, piece, rng.random()):
            if isinstance(event, RequestReceived):
                server.headers(event.stream_id, OK)
                server.data(event.stream_id, bytes(rng.randrange(5_000)))
                if rng.random() < 0.3:
                    server.end(event.stream_id, TRAILERS)
        if rng.random() < 0.7:
            assert len(server.take()) < 3_000 + 65_536 + 20_000
        assert len(server._in._rest) <= 16_384 + 9
    server.tick(1_000.0)
    return server


def replay(data: bytes) -> None:
    """One input of the fuzzer: a byte of how to cut, then what a client says after its preface."""
    if data:
        feed(frames.PREFACE + frames.settings({}) + data[1:], random.Random(data[0]))


def test_what_the_fuzzer_found_is_still_harmless():
    corpus = sorted(CORPUS.iterdir())
    assert corpus
    for file in corpus:
        replay(file.read_bytes())


def test_nothing_that_a_peer_sends_raises_or_piles_up():
    for seed in range(3_000):
        rng = random.Random(seed)
        feed(mutated(rng), rng)


@settings(deadline=None)
@given(st.binary(max_size=2_000), st.integers(0, 1_000))
def test_nor_does_noise(noise, seed):
    feed(frames.PREFACE + frames.settings({}) + noise, random.Random(seed))


@given(st.lists(st.tuples(st.sampled_from(["x-a", "x-b", "te"]), st.sampled_from(["trailers", "1", "2"])), max_size=4), st.data())
def test_kept_blocks_say_what_a_decoder_without_memory_says(extra, data):
    """Requests in any order of repetition, some of which change the dynamic table, decoded beside plain hpack."""
    peer, plain = RawPeer(), hpack.Decoder()
    encoder = hpack.Encoder()
    number = 1
    for _ in range(12):
        fields = [*REQUEST[:4], *data.draw(st.sampled_from([[], extra, extra[:1]]))]
        block = encoder.encode([(name, value, data.draw(st.booleans())) for name, value in fields])
        expected: dict[bytes, bytes] = {}
        for name, value in plain.decode(block, raw=True):
            expected[name] = expected[name] + b"," + value if name in expected else value
        events = peer.send(frames.frame(frames.HEADERS, frames.END_HEADERS, number, block))
        if ("te", "1") not in fields and ("te", "2") not in fields:
            assert events[0].request.fields == expected
        number += 2
