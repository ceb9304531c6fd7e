import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest

from epp.pb import health_pb2 as pb
from epp.telemetry.health import EXT_PROC, INFERENCE_EXTENSION, LIVENESS, READINESS, Fact, HealthState
from epp.transport.tls import TlsOptions
from tests.unit.transport.streams import PLAINTEXT, Streams, until

SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3


class Stub:
    """A health client of grpcio's, on real messages."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        prefix, request = "/grpc.health.v1.Health/", pb.HealthCheckRequest.SerializeToString
        answer = pb.HealthCheckResponse.FromString
        self._check = channel.unary_unary(prefix + "Check", request, answer)
        self._watch = channel.unary_stream(prefix + "Watch", request, answer)
        self._list = channel.unary_unary(prefix + "List", pb.HealthListRequest.SerializeToString, pb.HealthListResponse.FromString)

    async def check(self, service: str) -> int:
        return (await self._check(pb.HealthCheckRequest(service=service))).status

    async def list(self) -> dict[str, int]:
        return {name: answer.status for name, answer in (await self._list(pb.HealthListRequest())).statuses.items()}

    def watch(self, service: str) -> grpc.aio.UnaryStreamCall:
        return self._watch(pb.HealthCheckRequest(service=service))


@pytest.fixture
def asking(serving):
    """A client of the health service on its own port or on the main one: `asking(state, port, **options)`."""

    @asynccontextmanager
    async def ask(state: HealthState, port: str = "own", **options) -> AsyncIterator[Stub]:
        accept = Streams() if port == "main" else None
        async with serving(accept, state, **options) as (_, bound), grpc.aio.insecure_channel(f"127.0.0.1:{bound}") as channel:
            yield Stub(channel)

    return ask


@pytest.mark.parametrize("port", ["own", "main"])
def test_check_and_list_follow_the_state(asking, run, port):
    async def main():
        state = HealthState()
        async with asking(state, port) as stub:
            for synced, draining, expected in [(0, 0, NOT_SERVING), (1, 0, SERVING), (1, 1, NOT_SERVING)]:
                state.set(Fact.POOL_SYNCED, bool(synced))
                state.set(Fact.DRAINING, bool(draining))
                for name in ("", READINESS, EXT_PROC, INFERENCE_EXTENSION):
                    assert await stub.check(name) == expected
                assert await stub.check(LIVENESS) == SERVING
                named = dict.fromkeys(["", READINESS, EXT_PROC, INFERENCE_EXTENSION], expected)
                assert await stub.list() == named | {LIVENESS: SERVING}

    run(main())


def test_check_of_an_unknown_service_is_not_found(asking, run):
    async def main():
        async with asking(HealthState()) as stub:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.check("nobody")
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND

    run(main())


@pytest.mark.parametrize("port", ["own", "main"])
def test_watch_sends_the_status_now_and_on_every_change(asking, run, port):
    async def main():
        state = HealthState()
        async with asking(state, port) as stub:
            watch = stub.watch(READINESS)
            assert (await watch.read()).status == NOT_SERVING
            state.set(Fact.POOL_SYNCED, True)
            assert (await watch.read()).status == SERVING
            state.set(Fact.DRAINING, True)
            assert (await watch.read()).status == NOT_SERVING
            watch.cancel()

    run(main())


def test_watch_of_an_unknown_service_stays_open(asking, run):
    async def main():
        async with asking(HealthState()) as stub:
            watch = stub.watch("nobody")
            assert (await watch.read()).status == SERVICE_UNKNOWN
            assert not watch.done()
            watch.cancel()

    run(main())


def test_watchers_are_bounded_and_leave_room_when_they_go(asking, run):
    async def main():
        state = HealthState()
        async with asking(state, watchers_max=2) as stub:
            watches = [stub.watch("") for _ in range(2)]
            for watch in watches:
                await watch.read()
            refused = stub.watch("")
            assert await refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            watches[0].cancel()

            async with asyncio.timeout(10):
                while await (again := stub.watch("")).read() is grpc.aio.EOF:
                    await again.code()
            for watch in (watches[1], again):
                watch.cancel()
            await until(lambda: not state._watchers)

    run(main())


def test_an_open_watch_does_not_hold_up_the_stop(serving, run):
    async def main():
        state = HealthState()
        async with serving(Streams(), state) as (transport, port), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            watch = Stub(channel).watch("")
            await watch.read()
            await asyncio.wait_for(transport.stop(60), 10)
            assert await watch.read() is grpc.aio.EOF

    run(main())


def test_the_main_port_answers_over_tls_and_the_other_in_plaintext(serving, run):
    def check(port: int) -> int:
        """As the kubelet does it: a synchronous client without TLS."""
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary("/grpc.health.v1.Health/Check")
            return pb.HealthCheckResponse.FromString(call(b"", timeout=5)).status

    async def main():
        state = HealthState()
        state.set(Fact.POOL_SYNCED, True)
        async with serving(None, state, tls=PLAINTEXT) as (_, probes), serving(Streams(), state, tls=TlsOptions()) as (_, secured):
            assert await asyncio.to_thread(check, probes) == SERVING
            with pytest.raises(grpc.RpcError):
                await asyncio.to_thread(check, secured)

    run(main())
