"""Blocks met again are not decoded again, unless the table has changed under them."""

import hpack
import pytest

from epp.errors import Http2Error
from epp.http2.headers import BLOCKS_KEPT, HeaderReader, encode
from tests.unit.http2.peers import REQUEST

PLAIN = [(name, value, True) for name, value in REQUEST]


def test_a_block_met_again_is_the_same_request():
    reader, encoder = HeaderReader(65_536), hpack.Encoder()
    first = reader.request(encoder.encode(REQUEST), 1)
    again = encoder.encode(REQUEST)  # all by index now
    second = reader.request(again, 3)
    assert reader.request(encoder.encode(REQUEST), 5) is second
    assert first == second
    assert first is not second


def test_a_change_of_the_table_changes_what_a_block_means():
    reader, encoder = HeaderReader(65_536), hpack.Encoder()
    reader.request(encoder.encode([*REQUEST, ("x", "1")]), 1)
    block = encoder.encode([*REQUEST, ("x", "1")])
    assert reader.request(block, 3).fields[b"x"] == b"1"
    reader.fields(encoder.encode([("x", "2")]))  # shifts the indices by one
    with pytest.raises(Http2Error):  # the last index is now that of x: 1 twice removed, so a pseudo-header field is missing or late
        reader.request(block, 5)


def test_a_resize_of_the_table_is_a_change():
    reader, encoder = HeaderReader(65_536), hpack.Encoder()
    reader.request(encoder.encode(REQUEST), 1)
    block = encoder.encode(REQUEST)
    reader.request(block, 3)
    assert reader._kept
    reader.fields(b"\x20")
    assert not reader._kept


def test_what_is_kept_is_bounded():
    reader, encoder = HeaderReader(65_536), hpack.Encoder()
    for number in range(100):
        reader.request(encoder.encode([*PLAIN, ("x", str(number), True)]), 1)
    assert len(reader._kept) == BLOCKS_KEPT
    reader.request(encoder.encode([*PLAIN, ("x", "y" * 1_000, True)]), 1)
    assert len(reader._kept) == BLOCKS_KEPT


def test_repeated_fields_are_joined():
    request = HeaderReader(65_536).request(hpack.Encoder().encode([*REQUEST, ("x", "1"), ("x", "2")]), 1)
    assert request.fields[b"x"] == b"1,2"


def test_encoded_blocks_leave_no_trace_in_the_table():
    decoder = hpack.Decoder()
    block = encode(((b":status", b"200"), (b"grpc-message", b"x%20y")))
    assert decoder.decode(block) == [(":status", "200"), ("grpc-message", "x%20y")]
    assert not decoder.header_table.dynamic_entries
