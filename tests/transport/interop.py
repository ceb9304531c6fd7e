"""The test service of gRPC's interoperability tests, behind the seam that the picker stands behind.

What it does is in doc/interop-test-descriptions.md of grpc. Left out is what nothing behind this seam can do, nor has to: metadata
and compression.
"""

import tempfile
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.message_factory import GetMessages
from grpc_tools import protoc

from epp.model.stream import Outlet
from epp.transport.routes import Route

HERE = Path(__file__).parent
SERVICE = "/grpc.testing.TestService/"


def _messages() -> dict[str, type]:
    """The message classes of interop.proto, by full name."""
    with tempfile.NamedTemporaryFile() as compiled:
        assert protoc.main(["", f"-I{HERE}", f"--descriptor_set_out={compiled.name}", "interop.proto"]) == 0
        return GetMessages(FileDescriptorSet.FromString(compiled.read()).file)


_BY_NAME = _messages()
Payload = _BY_NAME["grpc.testing.Payload"]
EchoStatus = _BY_NAME["grpc.testing.EchoStatus"]
ResponseParameters = _BY_NAME["grpc.testing.ResponseParameters"]
SimpleRequest = _BY_NAME["grpc.testing.SimpleRequest"]
SimpleResponse = _BY_NAME["grpc.testing.SimpleResponse"]
StreamingInputCallRequest = _BY_NAME["grpc.testing.StreamingInputCallRequest"]
StreamingInputCallResponse = _BY_NAME["grpc.testing.StreamingInputCallResponse"]
StreamingOutputCallRequest = _BY_NAME["grpc.testing.StreamingOutputCallRequest"]
StreamingOutputCallResponse = _BY_NAME["grpc.testing.StreamingOutputCallResponse"]


class Call:
    """One call of any kind."""

    def __init__(self, outlet: Outlet) -> None:
        self.outlet = outlet

    def receive(self, message: bytes) -> None:
        raise NotImplementedError

    def half_close(self) -> bool:
        return False

    def end(self) -> None:
        """Nothing to account for."""


class Empty(Call):
    """`EmptyCall`."""

    def receive(self, message: bytes) -> None:
        self.outlet.send(b"")
        self.outlet.close()


class Unary(Call):
    """`UnaryCall`: as many bytes as are asked for, or the status that is asked for."""

    def receive(self, message: bytes) -> None:
        request = SimpleRequest.FromString(message)
        if request.response_status.code:
            self.outlet.fail(request.response_status.code, request.response_status.message)
            return
        self.outlet.send(SimpleResponse(payload=Payload(body=bytes(request.response_size))).SerializeToString())
        self.outlet.close()


class Summing(Call):
    """`StreamingInputCall`: how many bytes there were, once there are no more."""

    def __init__(self, outlet: Outlet) -> None:
        super().__init__(outlet)
        self._sum = 0

    def receive(self, message: bytes) -> None:
        self._sum += len(StreamingInputCallRequest.FromString(message).payload.body)

    def half_close(self) -> bool:
        self.outlet.send(StreamingInputCallResponse(aggregated_payload_size=self._sum).SerializeToString())
        return False


class Streaming(Call):
    """`StreamingOutputCall` and `FullDuplexCall`: each request brings as many answers as it asks for, or a status."""

    def receive(self, message: bytes) -> None:
        request = StreamingOutputCallRequest.FromString(message)
        if request.response_status.code:
            self.outlet.fail(request.response_status.code, request.response_status.message)
            return
        for parameters in request.response_parameters:
            answer = StreamingOutputCallResponse(payload=Payload(body=bytes(parameters.size)))
            self.outlet.send(answer.SerializeToString())


ROUTES = {
    SERVICE + "EmptyCall": Route(accept=Empty),
    SERVICE + "UnaryCall": Route(accept=Unary),
    SERVICE + "StreamingInputCall": Route(accept=Summing),
    SERVICE + "StreamingOutputCall": Route(accept=Streaming),
    SERVICE + "FullDuplexCall": Route(accept=Streaming),
}
"""`UnimplementedCall` is, as the tests want it, not there."""
