"""What only the native transport decides itself: gRPC by the letter, over a client that can say anything."""

import asyncio
import logging
import ssl
from contextlib import suppress

import pytest

from epp.http2.limits import Limits
from epp.telemetry.health import HealthState
from epp.transport import native, native_link
from epp.transport.base import TransportOptions
from epp.transport.native import NativeTransport
from epp.transport.tls import TlsOptions
from tests.unit.transport.conftest import CARRIERS
from tests.unit.transport.raw import GRPC, framed, raw_client
from tests.unit.transport.streams import Recorder, Streams, until


@pytest.fixture(params=["native", "native-uvloop"])
def carrier(request):
    return CARRIERS[request.param]


def client_context(version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3, protocols: tuple[str, ...] = ("h2",)) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


def test_an_answer_is_headers_messages_and_trailers(serving, run):
    async def main():
        async with serving(Streams()) as (_, port), raw_client(port) as client:
            stream = client.open()
            data = framed(b"one") + framed(b"") + framed(b"three")
            for at in range(0, len(data), 3):
                client.send(stream, data[at : at + 3])
            client.send(stream, b"", ended=True)
            answer = await client.answer(stream)
            assert answer.headers == {":status": "200", "content-type": "application/grpc"}
            assert answer.body == data
            assert answer.trailers == {"grpc-status": "0"}
            assert answer.reset is None

    run(main())


@pytest.mark.parametrize(("changes", "status"), [
    ({":path": "/envoy.service.ext_proc.v3.ExternalProcessor/Other"}, "12"),
    ({":path": "/no.Such/Method"}, "12"),
    ({"grpc_timeout": "soon"}, "13"),
])  # fmt: skip
def test_a_call_that_cannot_be_is_answered_by_headers_alone(serving, run, changes, status):
    async def main():
        async with serving(Streams()) as (_, port), raw_client(port) as client:
            answer = await client.answer(client.open(**changes))
            assert answer.headers[":status"] == "200"
            assert (answer.status, answer.trailers) == (status, {})

    run(main())


@pytest.mark.parametrize("changes", [{"content_type": "application/json"}, {"content_type": None}, {":method": "GET"}])
def test_what_is_not_grpc_is_415_once_it_is_complete(serving, run, changes):
    async def main():
        streams = Streams()
        async with serving(streams) as (_, port), raw_client(port) as client:
            stream = client.open(**changes)
            client.send(stream, b"x" * 1000)
            client.send(stream, b"", ended=True)
            answer = await client.answer(stream)
            assert (answer.headers[":status"], answer.reset) == ("415", None)
            assert b"gRPC" in answer.body
            assert not streams.all

    run(main())


@pytest.mark.parametrize(
    ("encoding", "flag", "status"), [("gzip", 1, "12"), (None, 1, "13"), ("identity", 1, "13"), ("gzip", 0, None)]
)
def test_compression_is_refused_where_it_is_used(serving, run, encoding, flag, status):
    async def main():
        async with serving(Streams()) as (_, port), raw_client(port) as client:
            stream = client.open(grpc_encoding=encoding)
            client.send(stream, framed(b"x", flag))
            if status is None:
                await client.until(lambda: client.answers[stream].body == framed(b"x"))
            else:
                assert (await client.answer(stream)).status == status

    run(main())


def test_a_message_cut_short_by_the_end_is_an_error(serving, run):
    async def main():
        streams = Streams()
        async with serving(streams) as (_, port), raw_client(port) as client:
            stream = client.open()
            client.send(stream, framed(b"whole") + framed(b"torn")[:-1], ended=True)
            assert (await client.answer(stream)).status == "13"
            assert streams.all[0].received == [b"whole"]
            await until(lambda: streams.all[0].ends == 1)

    run(main())


def test_a_status_message_of_any_text_arrives(serving, run):
    text = "\t100 % \u00fcber \U0001f600 \n"

    async def main():
        async with serving(Streams(lambda stream, _: stream.outlet.fail(10, text))) as (_, port), raw_client(port) as client:
            stream = client.open()
            client.send(stream, framed(b"x"))
            answer = await client.answer(stream)
            assert answer.status == "10"
            assert answer.message == "%09100 %25 %C3%BCber %F0%9F%98%80 %0A"

    run(main())


def test_a_deadline_ends_the_call_and_an_ended_call_has_none(serving, run):
    async def main():
        streams = Streams(lambda stream, message: stream.outlet.close() if message == b"close" else None)
        async with serving(streams) as (_, port), raw_client(port) as client:
            slow, quick = client.open(grpc_timeout="30m"), client.open(grpc_timeout="30m")
            client.send(slow, framed(b"x"))
            client.send(quick, framed(b"close"))
            assert (await client.answer(quick)).status == "0"
            assert (await client.answer(slow)).status == "4"
            await until(lambda: [stream.ends for stream in streams.all] == [1, 1])

    run(main())


def test_the_peer_may_answer_early_ends_without_its_half_close(serving, run):
    """Trailers before the request is complete, then RST_STREAM with NO_ERROR: what the peer still sends is ignored."""

    async def main():
        streams = Streams(lambda stream, _: stream.outlet.close())
        async with serving(streams) as (_, port), raw_client(port) as client:
            stream = client.open()
            client.send(stream, framed(b"x") * 3)
            answer = await client.answer(stream)
            assert answer.status == "0"
            other = client.open(ended=True)
            assert (await client.answer(other)).status == "0"
            assert streams.all[0].received[:1] == [b"x"]

    run(main())


def test_all_that_one_turn_brings_about_is_one_write(serving, run, monkeypatch):
    writes: list[int] = []
    flush = native_link.Link._flush

    def counting(self):
        socket, self._socket = self._socket, _Counting(self._socket, writes)
        flush(self)
        self._socket = socket

    async def main():
        async with serving(Streams()) as (_, port), raw_client(port) as client:
            streams = [client.open() for _ in range(50)]
            await client.until(lambda: client.h2.remote_settings.max_concurrent_streams == 10_000)
            monkeypatch.setattr(native_link.Link, "_flush", counting)
            for stream in streams:
                client.h2.send_data(stream, framed(b"x"))
            client.flush()
            await client.until(lambda: all(client.answers[stream].body for stream in streams))
        assert len(writes) <= 3, "one for each read at most, not one for each stream"

    run(main())


def test_a_peer_with_much_to_say_does_not_hold_up_the_others(serving, run):
    """By count: of the streams that one peer opens at once, many come after one that another opens when the first have come."""

    async def main():
        streams = Streams()
        async with serving(streams) as (_, port), raw_client(port) as busy, raw_client(port) as other:
            for client in (busy, other):
                await client.until(lambda client=client: client.h2.remote_settings.max_concurrent_streams == 10_000)
            for _ in range(2_000):
                busy.h2.send_headers(busy.h2.get_next_available_stream_id(), list(GRPC.items()))
            busy.flush()
            async with asyncio.timeout(10):
                while not streams.all:  # noqa: ASYNC110 - the very next turn is meant
                    await asyncio.sleep(0)
            other.send(other.open(), framed(b"me"))
            await until(lambda: len(streams.all) == 2_001)
            await until(lambda: any(stream.received for stream in streams.all))
            place = next(i for i, stream in enumerate(streams.all) if stream.received)
            assert place < 1_000

    run(main())


def test_a_connection_lost_ends_thousands_of_streams_though_not_all_at_once(serving, run):
    """Those that have not heard of it yet may go on sending."""

    async def main():
        loop = asyncio.get_running_loop()
        streams = Streams()
        first: list[int] = []
        async with serving(streams) as (_, port), raw_client(port) as client:
            for _ in range(2_000):
                client.h2.send_headers(client.h2.get_next_available_stream_id(), list(GRPC.items()))
            client.flush()
            await until(lambda: len(streams.all) == 2_000)

            def look(*_) -> None:
                first.append(sum(stream.ends for stream in streams.all))
                streams.all[-1].outlet.send(b"to nobody")

            streams.all[0].end = lambda: loop.call_soon(look)
            client.abort()
            await until(lambda: [stream.ends for stream in streams.all[1:]] == [1] * 1_999)
            assert 0 < first[0] <= 2 * native_link.CUT_AT_ONCE

    run(main())


class _Counting:
    def __init__(self, socket, writes: list[int]) -> None:
        self._socket, self._writes = socket, writes

    def write(self, data: bytes) -> None:
        self._writes.append(len(data))
        self._socket.write(data)

    def __getattr__(self, name: str):
        return getattr(self._socket, name)


def test_what_a_peer_does_not_read_shows_in_pending_bytes_and_stops_it(serving, run):
    """The echo of a peer that reads nothing: it may send until we hold `unread_bytes_max`, and no further."""

    async def main():
        streams = Streams()
        limits = Limits(stream_window=100_000, unread_bytes_max=200_000)
        async with serving(streams, http2=limits) as (_, port), raw_client(port, initial_window_size=0) as client:
            stream = client.open()
            await client.until(lambda: client.h2.local_flow_control_window(stream) > 65_535)
            sent = 0
            while sent < 600_000:
                if client.h2.local_flow_control_window(stream) >= 10_005:
                    client.send(stream, framed(bytes(10_000)))
                    sent += 10_005
                    continue
                try:
                    async with asyncio.timeout(0.3):
                        await client.read()
                except TimeoutError:
                    break
            assert 200_000 <= streams.all[0].outlet.pending_bytes() == sent < 320_000
            client.h2.update_settings({4: 1_000_000})
            client.h2.increment_flow_control_window(2_000_000)
            client.flush()
            await client.until(lambda: len(client.answers[stream].body) == sent)
            assert streams.all[0].outlet.pending_bytes() == 0

    run(main())


def test_incomplete_messages_are_bounded_over_all_connections(serving, run):
    async def main():
        streams = Streams()
        async with (
            serving(streams, inbound_bytes_max=100_000) as (transport, port),
            raw_client(port) as one,
            raw_client(port) as two,
        ):
            held, over = one.open(), two.open()
            await one.until(lambda: one.h2.local_flow_control_window(held) > 65_000)
            await two.until(lambda: two.h2.local_flow_control_window(over) > 65_000)
            for client, stream in ((one, held), (two, over)):
                for at in range(0, 60_000, 15_000):
                    client.send(stream, (framed(bytes(90_000)))[at : at + 15_000])
                await until(lambda: transport._shared.inbound.held >= 59_995)
            assert (await two.answer(over)).status == "8"
            await until(lambda: transport._shared.inbound.held == 59_995)
            one.h2.reset_stream(held)
            one.flush()
            await until(lambda: transport._shared.inbound.held == 0)

    run(main())


def test_connections_are_bounded(serving, run, caplog):
    async def main():
        async with serving(Streams(), connections_max=1) as (_, port), raw_client(port) as first:
            stream = first.open(ended=True)
            assert (await first.answer(stream)).status == "0"
            async with raw_client(port) as second:
                await second.until_closed()
            assert (await first.answer(first.open(ended=True))).status == "0"

    run(main())
    assert [record.why for record in caplog.records] == ["too many connections"]


def test_stop_asks_twice_and_waits_for_what_is_open(serving, run):
    async def main():
        streams = Streams()
        async with serving(streams) as (transport, port), raw_client(port) as client:
            stream = client.open()
            client.send(stream, framed(b"x"))
            await client.until(lambda: client.answers[stream].body)
            stopping = asyncio.create_task(transport.stop(30))
            await client.until(lambda: len(client.goaways) == 2)
            assert [event.last_stream_id for event in client.goaways] == [(1 << 31) - 1, stream]
            assert client.pings == 1
            client.send(stream, framed(b"y"))
            await client.until(lambda: client.answers[stream].body == framed(b"x") + framed(b"y"))
            assert not stopping.done()
            client.send(stream, b"", ended=True)
            assert (await client.answer(stream)).status == "0"
            await client.until_closed()
            await asyncio.wait_for(stopping, 10)

    run(main())


def test_a_peer_that_does_not_answer_the_last_ping_is_not_waited_for(serving, run, monkeypatch):
    monkeypatch.setattr(native_link, "LAST_CALL_S", 0.05)

    async def main():
        async with serving(Streams()) as (transport, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
            await reader.readexactly(9)
            await asyncio.wait_for(transport.stop(30), 10)
            writer.transport.abort()

    run(main())


def test_a_stream_that_outlives_the_grace_is_told_unavailable(serving, run):
    async def main():
        streams = Streams()
        async with serving(streams) as (transport, port), raw_client(port) as client:
            stream = client.open()
            client.send(stream, framed(b"x"))
            await client.until(lambda: client.answers[stream].body)
            stopping = asyncio.create_task(transport.stop(0.05))
            assert (await client.answer(stream)).status == "14"
            await stopping
            assert streams.all[0].ends == 1

    run(main())


@pytest.mark.parametrize("limits", [Limits(preface_timeout_s=0.05), Limits(idle_timeout_s=0.05)], ids=["preface", "idle"])
def test_connections_that_do_nothing_are_closed(serving, run, monkeypatch, limits):
    monkeypatch.setattr(native, "TICK_S", 0.02)

    async def main():
        async with serving(Streams(), http2=limits) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            if limits.idle_timeout_s < 1:
                writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
            async with asyncio.timeout(10):
                await reader.read()
            writer.transport.abort()

    run(main())


def test_a_silent_peer_is_pinged_and_then_cut(serving, run, monkeypatch):
    monkeypatch.setattr(native, "TICK_S", 0.02)

    async def main():
        streams = Streams()
        async with serving(streams, keepalive_s=0.2) as (transport, port), raw_client(port) as client:
            client.open()
            await client.until(lambda: client.pings >= 2)  # reading is answering
            assert transport._shared.links
            await until(lambda: not transport._shared.links)  # we read no more
            assert streams.all[0].ends == 1

    run(main())


def test_a_connection_lost_ends_its_streams(serving, run):
    async def main():
        streams = Streams()
        async with serving(streams) as (_, port):
            async with raw_client(port) as client:
                for _ in range(5):
                    client.send(client.open(), framed(b"x"))
                await until(lambda: len(streams.all) == 5)
            await until(lambda: [stream.ends for stream in streams.all] == [1] * 5)

    run(main())


def test_the_minimum_version_of_tls_is_kept(serving, run):
    async def main():
        async with serving(Streams(), tls=TlsOptions(min_version="VersionTLS13")) as (_, port):
            async with raw_client(port, client_context()) as client:
                assert (await client.answer(client.open(ended=True))).status == "0"
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.open_connection("127.0.0.1", port, ssl=client_context(ssl.TLSVersion.TLSv1_2))

    run(main())


def test_a_client_that_does_not_choose_http2_is_turned_away(serving, run):
    async def main():
        async with serving(Streams(), tls=TlsOptions()) as (transport, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_context(protocols=()))
            with suppress(ConnectionError):
                assert await reader.read() == b""
            assert not transport._shared.links
            writer.transport.abort()

    run(main())


def test_a_mistake_of_the_peer_is_logged_without_what_it_said(serving, run, caplog):
    async def main():
        async with serving(Streams()) as (_, port), raw_client(port) as client:
            client.write(b"\x00\x00\x05\x06\x00\x00\x00\x00\x00" + b"secrt")
            await client.until_closed()

    with caplog.at_level(logging.INFO):
        run(main())
    (record,) = (record for record in caplog.records if record.name == "epp.transport.native_link")
    assert (record.getMessage(), record.why, record.code) == ("connection closed", "frame of the wrong size", 6)
    assert "secrt" not in str(record.__dict__)


def test_both_addresses_are_heard(run):
    async def main():
        transport = NativeTransport(TransportOptions(port=0, tls=TlsOptions(secure=False)))
        port = await transport.start(None, HealthState())
        for host in ("127.0.0.1", "::1"):
            _, writer = await asyncio.open_connection(host, port)
            writer.transport.abort()
        await transport.stop(0)

    run(main())


def test_a_handler_may_end_what_it_is_not_asked_about(serving, run):
    """A second `close`, a `send` after it, a `fail` after the peer has gone: nothing happens."""

    async def main():
        streams: list[Recorder] = []

        def accept(outlet):
            streams.append(Recorder(outlet))
            return streams[-1]

        async with serving(accept) as (_, port), raw_client(port) as client:
            stream = client.open(ended=True)
            assert (await client.answer(stream)).status == "0"
            streams[0].outlet.close()
            streams[0].outlet.fail(13, "late")
            streams[0].outlet.send(b"late")
            assert streams[0].outlet.pending_bytes() == 0
            assert (await client.answer(client.open(ended=True))).status == "0"
            assert streams[0].ends == 1

    run(main())
