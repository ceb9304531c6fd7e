import asyncio
import logging
import os

import grpc
import grpc.aio
import pytest

from epp.telemetry import logs
from epp.transport.base import TransportOptions
from epp.transport.routes import PROCESS_METHOD
from tests.unit.transport.streams import PLAINTEXT, UNLIMITED, Recorder, Streams, calling, until


async def read_all(call) -> list[bytes]:
    messages = []
    while (message := await call.read()) is not grpc.aio.EOF:
        messages.append(message)
    return messages


def later(action) -> None:
    asyncio.get_running_loop().call_later(0.01, action)


def test_messages_are_answered_in_turn_and_eof_ends_the_stream_once(serving, run):
    async def main():
        streams = Streams()
        async with serving(streams) as (_, port), calling(port) as open_stream:
            call = open_stream()
            for i in range(50):
                await call.write(b"m%d" % i)
                assert await call.read() == b"m%d" % i
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
            assert await call.code() is grpc.StatusCode.OK
            await until(lambda: streams.all[0].ends == 1)
        assert streams.all[0].ends == 1

    run(main())


def test_a_synchronous_client_works_too(serving, run):
    async def main():
        async with serving(Streams()) as (_, port):

            def talk() -> list[bytes]:
                with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                    return list(channel.stream_stream(PROCESS_METHOD)(iter([b"a", b"", b"c"])))

            assert await asyncio.to_thread(talk) == [b"a", b"", b"c"]

    run(main())


def test_large_messages_pass_both_ways(serving, run):
    body = os.urandom(6_000_000)

    async def main():
        async with serving(Streams()) as (_, port), calling(port) as open_stream:
            call = open_stream()
            await call.write(body)
            assert await call.read() == body
            await call.done_writing()

    run(main())


def test_a_configured_message_bound_holds(serving, run):
    async def main():
        async with serving(Streams(), message_bytes_max=1000) as (_, port), calling(port) as open_stream:
            call = open_stream()
            await call.write(bytes(2000))
            assert await call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

    run(main())


def test_a_handler_may_speak_first(serving, run):
    def accept(outlet):
        outlet.send(b"hello")
        return Recorder(outlet)

    async def main():
        async with serving(accept) as (_, port), calling(port) as open_stream:
            call = open_stream()
            assert await call.read() == b"hello"
            await call.write(b"x")
            assert await call.read() == b"x"
            call.cancel()

    run(main())


def test_one_message_may_have_many_answers_or_none(serving, run):
    def answer(stream: Recorder, message: bytes) -> None:
        for i in range(int(message)):
            stream.outlet.send(b"%d" % i)

    async def main():
        async with serving(Streams(answer)) as (_, port), calling(port) as open_stream:
            call = open_stream()
            for count in (0, 3, 0, 2):
                await call.write(b"%d" % count)
            await call.done_writing()
            assert await read_all(call) == [b"0", b"1", b"2", b"0", b"1"]

    run(main())


def test_late_answers_keep_their_order_among_those_in_turn(serving, run):
    """Every third message is answered later; order is the order of `send`, whoever writes."""
    sent: list[bytes] = []

    def answer(stream: Recorder, message: bytes) -> None:
        def send() -> None:
            sent.append(message)
            stream.outlet.send(message)

        asyncio.get_running_loop().call_soon(send) if int(message) % 3 == 0 else send()

    async def main():
        async with serving(Streams(answer)) as (_, port), calling(port) as open_stream:
            call = open_stream()

            async def write() -> None:
                for i in range(300):
                    await call.write(b"%d" % i)

            writer = asyncio.create_task(write())
            got = [await call.read() for _ in range(300)]
            await writer
            call.cancel()
            assert got == sent
            assert sorted(map(int, got)) == list(range(300))

    run(main())


@pytest.mark.parametrize("in_turn", [True, False])
@pytest.mark.parametrize("code", [grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT])
def test_the_handlers_ending_comes_after_everything_queued(serving, run, in_turn, code):
    def answer(stream: Recorder, message: bytes) -> None:
        def act() -> None:
            for i in range(20):
                stream.outlet.send(b"%d" % i)
            stream.outlet.close() if code is grpc.StatusCode.OK else stream.outlet.fail(code.value[0], "because")
            stream.outlet.send(b"too late")

        act() if in_turn else later(act)

    async def main():
        streams = Streams(answer)
        async with serving(streams) as (_, port), calling(port) as open_stream:
            call = open_stream()
            await call.write(b"x")
            assert [await call.read() for _ in range(20)] == [b"%d" % i for i in range(20)]
            assert await call.code() is code
            assert await call.details() == ("" if code is grpc.StatusCode.OK else "because")
            await until(lambda: streams.all[0].ends == 1)

    run(main())


@pytest.mark.parametrize("code", [grpc.StatusCode.OK, grpc.StatusCode.ABORTED])
def test_an_idle_stream_can_be_ended_with_nothing_queued(serving, run, code):
    async def main():
        streams = Streams(lambda stream, message: None)
        async with serving(streams) as (_, port), calling(port) as open_stream:
            call = open_stream()
            await call.write(b"x")
            await until(lambda: bool(streams.all and streams.all[0].received))
            outlet = streams.all[0].outlet
            outlet.close() if code is grpc.StatusCode.OK else outlet.fail(code.value[0], "")
            assert await call.code() is code
            await until(lambda: streams.all[0].ends == 1)

    run(main())


def test_a_handler_may_go_on_after_the_peers_half_close(serving, run):
    async def main():
        def answer(recorder, message):
            recorder.goes_on = True
            later(lambda: (recorder.outlet.send(b"late " + message), recorder.outlet.close()))

        streams = Streams(answer)
        async with serving(streams) as (_, port), calling(port) as open_stream:
            call = open_stream()
            await call.write(b"answer")
            await call.done_writing()
            assert await read_all(call) == [b"late answer"]
            assert await call.code() is grpc.StatusCode.OK
            await until(lambda: streams.all[0].ends == 1)

    run(main())


def test_a_peer_that_gives_up_after_its_half_close_is_heard(serving, run):
    async def main():
        def answer(recorder, _message):
            recorder.goes_on = True

        streams = Streams(answer)
        async with serving(streams) as (_, port), calling(port) as open_stream:
            call = open_stream()
            await call.write(b"never answered")
            await call.done_writing()
            await until(lambda: bool(streams.all and streams.all[0].received))
            await asyncio.sleep(0.05)
            assert streams.all[0].ends == 0
            call.cancel()
            await until(lambda: streams.all[0].ends == 1)

    run(main())


@pytest.mark.parametrize("late", [True, False])
def test_cancel_by_the_peer_ends_once(serving, run, late):
    def answer(stream: Recorder, message: bytes) -> None:
        later(lambda: stream.outlet.send(message)) if late else stream.outlet.send(message)

    async def main():
        streams = Streams(answer)
        async with serving(streams) as (_, port), calling(port) as open_stream:
            calls = [open_stream() for _ in range(20)]
            for call in calls:
                await call.write(b"x")
                await call.read()
                call.cancel()
            await until(lambda: sum(stream.ends for stream in streams.all) == 20)
        assert [stream.ends for stream in streams.all] == [1] * 20
        assert len(asyncio.all_tasks()) == 1, "no flusher outlives its stream"

    run(main())


def test_a_peer_that_leaves_while_we_write_disturbs_nobody(serving, run, caplog):
    def flood(stream: Recorder, message: bytes) -> None:
        for _ in range(50):
            stream.outlet.send(bytes(20_000))

    async def main():
        streams = Streams(flood)
        async with serving(streams) as (_, port), calling(port) as open_stream:
            for _ in range(30):
                call = open_stream()
                await call.write(b"x")
                await call.read()
                call.cancel()
            await until(lambda: sum(stream.ends for stream in streams.all) == 30)

    with caplog.at_level(logging.INFO):
        run(main())
    assert not caplog.records


@pytest.mark.parametrize("late", [True, False])
def test_a_peer_that_never_reads_is_failed_at_the_bound(serving, run, late):
    seen: list[int] = []

    def answer(stream: Recorder, message: bytes) -> None:
        def flood() -> None:
            for _ in range(40):
                stream.outlet.send(bytes(100_000))
                seen.append(stream.outlet.pending_bytes())

        later(flood) if late else flood()

    async def main():
        streams = Streams(answer)
        async with serving(streams, outlet_bytes_max=1_000_000) as (_, port), calling(port) as open_stream:
            call = open_stream()
            await call.write(b"x")
            await until(lambda: bool(streams.all) and streams.all[0].ends == 1)
            with pytest.raises(grpc.aio.AioRpcError):
                await read_all(call)
            assert await call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

    run(main())
    assert max(seen) <= 1_100_000


def test_a_write_that_blocks_is_abandoned_at_the_bound(serving, run):
    """The peer's window is full, so the write does not come back; the handler's next messages pass the bound."""

    def answer(stream: Recorder, message: bytes) -> None:
        for _ in range(9):
            stream.outlet.send(bytes(1_000_000))

    async def main():
        streams = Streams(answer)
        async with serving(streams, outlet_bytes_max=10_000_000) as (_, port), calling(port) as open_stream:
            call = open_stream()
            await call.write(b"x")
            await until(lambda: bool(streams.all and streams.all[0].received))
            stream = streams.all[0]
            assert stream.ends == 0
            for _ in range(9):
                stream.outlet.send(bytes(1_000_000))
            await until(lambda: stream.ends == 1)
            call.cancel()

    run(main())


@pytest.mark.parametrize("where", ["accept", "receive", "end"])
def test_a_handler_that_raises_ends_its_own_stream_only(serving, run, where, caplog):
    class Broken(Recorder):
        def receive(self, message: bytes) -> None:
            if where == "receive" and message == b"bad":
                raise ValueError("the prompt is a secret")
            super().receive(message)

        def end(self) -> None:
            super().end()
            if where == "end" and self.received == [b"bad"]:
                raise ValueError("the prompt is a secret")

    streams: list[Broken] = []

    def accept(outlet):
        if where == "accept" and not streams:
            streams.append(Broken(outlet))
            raise ValueError("the prompt is a secret")
        streams.append(Broken(outlet))
        return streams[-1]

    async def main():
        async with serving(accept) as (_, port), calling(port) as open_stream:
            bad = open_stream()
            if where != "accept":
                await bad.write(b"bad")
            await bad.done_writing()
            if where == "end":
                assert await bad.read() == b"bad"
            assert await bad.code() is grpc.StatusCode.INTERNAL
            assert await bad.details() == "internal error"
            good = open_stream()
            await good.write(b"good")
            assert await good.read() == b"good"
            good.cancel()
            await until(lambda: streams[-1].ends == 1)
        assert streams[0].ends == (0 if where == "accept" else 1)

    run(main())
    (record,) = caplog.records
    assert record.getMessage() == "handler failed"
    assert record.exc_info[0] is ValueError
    line = logs.JsonFormatter().format(record)
    assert "ValueError" in line
    assert "secret" not in line.replace('raise ValueError(\\"the prompt is a secret\\")', "")


def test_other_methods_are_unimplemented(serving, run):
    async def main():
        async with serving(Streams()) as (_, port), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary("/some.Other/Method")(b"")
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED

    run(main())


def test_stop_refuses_new_streams_and_lets_open_ones_finish(serving, run):
    async def main():
        streams = Streams()
        async with serving(streams) as (transport, port), calling(port) as open_stream:
            call = open_stream()
            await call.write(b"before")
            assert await call.read() == b"before"
            stopping = asyncio.create_task(transport.stop(30))
            async with asyncio.timeout(10):
                while True:
                    refused = open_stream()
                    try:
                        await refused.write(b"new")
                        await refused.read()
                    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                        break
                    refused.cancel()
            await call.write(b"during")
            assert await call.read() == b"during"
            assert not stopping.done()
            await call.done_writing()
            assert await call.code() is grpc.StatusCode.OK
            await asyncio.wait_for(stopping, 10)
        assert [stream.ends for stream in streams.all] == [1] * len(streams.all)

    run(main())


def test_streams_that_outlive_the_grace_are_cut_and_told(serving, run):
    async def main():
        streams = Streams()
        async with serving(streams) as (transport, port), calling(port) as open_stream:
            call = open_stream()
            await call.write(b"x")
            assert await call.read() == b"x"
            await transport.stop(0.05)
            assert await call.code() in {grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE}
            await until(lambda: streams.all[0].ends == 1)

    run(main())


def test_a_port_is_not_shared_unless_asked(kind, serving, run):
    async def main():
        async with serving(Streams()) as (_, port):
            second = kind(TransportOptions(host="127.0.0.1", port=port, tls=PLAINTEXT))
            with pytest.raises(OSError, match="cannot listen"):
                await second.start(Streams())
        async with serving(Streams(), so_reuseport=True) as (_, port):
            third = kind(TransportOptions(host="127.0.0.1", port=port, tls=PLAINTEXT, so_reuseport=True))
            assert await third.start(Streams()) == port
            await third.stop(0)

    run(main())


def test_frequent_pings_do_not_tear_the_connection_down(serving, run):
    """grpc's default allows two pings in five minutes, then GOAWAY; Envoy may send one every second."""

    async def main():
        options = [*UNLIMITED, ("grpc.keepalive_time_ms", 10), ("grpc.http2.max_pings_without_data", 0)]
        options += [("grpc.keepalive_permit_without_calls", 1)]
        async with serving(Streams()) as (_, port), grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            call = channel.stream_stream(PROCESS_METHOD)()
            for i in range(20):
                await call.write(b"%d" % i)
                assert await call.read() == b"%d" % i
            call.cancel()

    run(main())
