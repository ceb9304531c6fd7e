import random

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.errors import StatusError
from epp.transport.grpc_wire import Deframer, is_grpc, percent_encode, status, timeout_s
from tests.unit.transport.raw import framed


@given(st.lists(st.binary(max_size=200), max_size=8), st.lists(st.integers(0, 1_000), max_size=12).map(sorted))
def test_messages_come_out_whole_however_they_are_cut(messages, places):
    data, deframer, got = b"".join(map(framed, messages)), Deframer(-1, compressed=False), []
    for start, stop in zip([0, *places], [*places, len(data)], strict=True):
        got += deframer.feed(data[start:stop])
        assert deframer.held_bytes <= 204
    assert got == messages
    assert deframer.between_messages
    assert not deframer.held_bytes


def test_an_incomplete_message_is_known_as_such():
    for cut in range(1, 9):
        deframer = Deframer(-1, compressed=False)
        assert deframer.feed(framed(b"1234")[:cut]) == []
        assert not deframer.between_messages
    assert Deframer(-1, compressed=False).between_messages


def test_a_large_message_in_frames():
    message, deframer = random.Random(1).randbytes(300_000), Deframer(-1, compressed=False)
    data = framed(message)
    got = [one for at in range(0, len(data), 16_384) for one in deframer.feed(data[at : at + 16_384])]
    assert got == [message]


@pytest.mark.parametrize(
    ("flag", "compressed", "size", "code"), [(0, False, 101, 8), (1, True, 1, 12), (1, False, 1, 13), (2, True, 1, 13)]
)
def test_what_is_not_taken(flag, compressed, size, code):
    with pytest.raises(StatusError) as caught:
        Deframer(100, compressed=compressed).feed(framed(bytes(size), flag)[:7])
    assert caught.value.code == code


def test_the_largest_message_allowed_is():
    assert Deframer(100, compressed=False).feed(framed(bytes(100))) == [bytes(100)]


@pytest.mark.parametrize(
    ("text", "seconds"), [(b"1H", 3600), (b"2M", 120), (b"3S", 3), (b"40m", 0.04), (b"5u", 5e-6), (b"99999999n", 0.099999999)]
)
def test_timeouts(text, seconds):
    assert timeout_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", [b"", b"1", b"S", b"1s", b"-1S", b"1.5S", b"123456789S", b" 1S"])
def test_what_is_no_timeout(text):
    with pytest.raises(StatusError, match="grpc-timeout"):
        timeout_s(text)


CONTENT_TYPES = {
    "application/grpc": True,
    "application/grpc+proto": True,
    "application/grpc;x": True,
    "application/grpc-web": False,
    "application/json": False,
    "": False,
}


@pytest.mark.parametrize(("kind", "expected"), CONTENT_TYPES.items())
def test_content_types(kind, expected):
    assert is_grpc({b":method": b"POST", b"content-type": kind.encode()}) is expected
    assert not is_grpc({b":method": b"GET", b"content-type": kind.encode()})


def test_a_status_is_trailers_or_a_whole_answer():
    decode = hpack.Decoder().decode
    assert decode(status(0, "", alone=False)) == [("grpc-status", "0")]
    assert decode(status(5, "no", alone=True)) == [
        (":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "5"), ("grpc-message", "no")
    ]  # fmt: skip
    assert decode(status(99, "", alone=False)) == [("grpc-status", "2")]


def test_a_message_of_any_text_is_printable_and_bounded():
    assert percent_encode("50% \n\u00fc") == b"50%25 %0A%C3%BC"
    assert len(status(2, "\u00fc" * 100_000, alone=True)) < 16_384
