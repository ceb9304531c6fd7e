"""The cases of gRPC's interoperability tests that a stream service can run, driven by grpcio.

Each is named and done as in doc/interop-test-descriptions.md of grpc.
"""

import queue
from collections.abc import Callable, Iterator

import grpc
import pytest

from tests.transport.conftest import Server
from tests.transport.interop import (
    SERVICE,
    EchoStatus,
    Payload,
    ResponseParameters,
    SimpleRequest,
    SimpleResponse,
    StreamingInputCallRequest,
    StreamingInputCallResponse,
    StreamingOutputCallRequest,
    StreamingOutputCallResponse,
)
from tests.transport.waiting import eventually
from tests.unit.transport.streams import DEADLINE_S, UNLIMITED

PING_PONG = [(27_182, 31_415), (8, 9), (1_828, 2_653), (45_904, 58_979)]
"""Sizes of request and answer."""
LARGE = 40_000_000
SPECIAL = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"
EMPTY_REQUEST = b""


@pytest.fixture(scope="module")
def channel(any_server: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(any_server.address, options=UNLIMITED) as channel:
        yield channel


@pytest.fixture(autouse=True)
def _every_stream_ends_once(any_server: Server) -> Iterator[None]:
    """Whatever a case does, the server has heard the end of every stream when it is over."""
    yield
    eventually(lambda: len(set(any_server.counts())) == 1)


class Duplex:
    """An open FullDuplexCall."""

    def __init__(self, channel: grpc.Channel, timeout: float | None = DEADLINE_S) -> None:
        self._requests: queue.Queue[StreamingOutputCallRequest | None] = queue.Queue()
        method = channel.stream_stream(
            SERVICE + "FullDuplexCall",
            request_serializer=StreamingOutputCallRequest.SerializeToString,
            response_deserializer=StreamingOutputCallResponse.FromString,
        )
        self.call = method(iter(self._requests.get, None), timeout=timeout)

    def send(self, request: StreamingOutputCallRequest) -> None:
        self._requests.put(request)

    def half_close(self) -> None:
        self._requests.put(None)

    def answers(self) -> list[int]:
        """The sizes of all answers to come."""
        return [len(answer.payload.body) for answer in self.call]


def asking_for(*sizes: int, body: int = 0) -> StreamingOutputCallRequest:
    parameters = [ResponseParameters(size=size) for size in sizes]
    return StreamingOutputCallRequest(response_parameters=parameters, payload=Payload(body=bytes(body)))


def unary(channel: grpc.Channel, method: str = SERVICE + "UnaryCall") -> Callable:
    return channel.unary_unary(
        method, request_serializer=SimpleRequest.SerializeToString, response_deserializer=SimpleResponse.FromString
    )


def test_empty_unary(channel):
    assert channel.unary_unary(SERVICE + "EmptyCall")(EMPTY_REQUEST, timeout=DEADLINE_S) == b""


def test_large_unary(channel):
    request = SimpleRequest(response_size=314_159, payload=Payload(body=bytes(271_828)))
    assert len(unary(channel)(request, timeout=DEADLINE_S).payload.body) == 314_159


def test_client_streaming(channel):
    method = channel.stream_unary(
        SERVICE + "StreamingInputCall",
        request_serializer=StreamingInputCallRequest.SerializeToString,
        response_deserializer=StreamingInputCallResponse.FromString,
    )
    requests = [StreamingInputCallRequest(payload=Payload(body=bytes(size))) for size in (27_182, 8, 1_828, 45_904)]
    assert method(iter(requests), timeout=DEADLINE_S).aggregated_payload_size == 74_922


def test_server_streaming(channel):
    method = channel.unary_stream(
        SERVICE + "StreamingOutputCall",
        request_serializer=StreamingOutputCallRequest.SerializeToString,
        response_deserializer=StreamingOutputCallResponse.FromString,
    )
    sizes = [31_415, 9, 2_653, 58_979]
    assert [len(answer.payload.body) for answer in method(asking_for(*sizes), timeout=DEADLINE_S)] == sizes


def test_empty_stream(channel):
    duplex = Duplex(channel)
    duplex.half_close()
    assert duplex.answers() == []
    assert duplex.call.code() is grpc.StatusCode.OK


def test_ping_pong(channel):
    duplex = Duplex(channel)
    for sent, wanted in PING_PONG:
        duplex.send(asking_for(wanted, body=sent))
        assert len(next(duplex.call).payload.body) == wanted
    duplex.half_close()
    assert duplex.answers() == []
    assert duplex.call.code() is grpc.StatusCode.OK


def test_large_messages(channel):
    """Far above every window and frame, both ways at once."""
    duplex = Duplex(channel, timeout=3 * DEADLINE_S)
    for _ in range(2):
        duplex.send(asking_for(LARGE, body=LARGE))
    duplex.half_close()
    assert duplex.answers() == [LARGE, LARGE]
    assert duplex.call.code() is grpc.StatusCode.OK


def test_cancel_after_begin(any_server, channel):
    before, _ = any_server.counts()
    duplex = Duplex(channel)
    eventually(lambda: any_server.counts()[0] == before + 1)
    duplex.call.cancel()
    assert duplex.call.code() is grpc.StatusCode.CANCELLED


def test_cancel_after_first_response(channel):
    duplex = Duplex(channel)
    sent, wanted = PING_PONG[0]
    duplex.send(asking_for(wanted, body=sent))
    assert len(next(duplex.call).payload.body) == wanted
    duplex.call.cancel()
    with pytest.raises(grpc.RpcError):
        next(duplex.call)
    assert duplex.call.code() is grpc.StatusCode.CANCELLED


@pytest.mark.parametrize("timeout_s", [0.001, 0.1], ids=["before-it-begins", "while-it-waits"])
def test_timeout_on_sleeping_server(channel, timeout_s):
    duplex = Duplex(channel, timeout=timeout_s)
    duplex.send(asking_for(body=27_182))
    with pytest.raises(grpc.RpcError):
        next(duplex.call)
    assert duplex.call.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("message", ["test status message", SPECIAL, "100 %", "%41", ""], ids=range(5))
def test_status_code_and_message(channel, message):
    """And special_status_message."""
    status = EchoStatus(code=2, message=message)
    with pytest.raises(grpc.RpcError) as caught:
        unary(channel)(SimpleRequest(response_status=status), timeout=DEADLINE_S)
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.UNKNOWN, message)
    duplex = Duplex(channel)
    duplex.send(StreamingOutputCallRequest(response_status=status))
    with pytest.raises(grpc.RpcError):
        next(duplex.call)
    assert (duplex.call.code(), duplex.call.details()) == (grpc.StatusCode.UNKNOWN, message)


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK], ids=lambda code: code.name)
def test_every_status_code(channel, code):
    with pytest.raises(grpc.RpcError) as caught:
        unary(channel)(SimpleRequest(response_status=EchoStatus(code=code.value[0], message="m")), timeout=DEADLINE_S)
    assert caught.value.code() is code


@pytest.mark.parametrize("method", [SERVICE + "UnimplementedCall", "/grpc.testing.UnimplementedService/UnimplementedCall"])
def test_unimplemented_method_and_service(channel, method):
    with pytest.raises(grpc.RpcError) as caught:
        unary(channel, method)(SimpleRequest(), timeout=DEADLINE_S)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
