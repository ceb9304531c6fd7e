"""The least that a gRPC echo on the `h2` library can do: a floor for the native transport, not a server."""

import asyncio

import h2.config
import h2.connection
import h2.events

RESPONSE = ((":status", "200"), ("content-type", "application/grpc"))
TRAILERS = (("grpc-status", "0"),)


class H2Echo(asyncio.Protocol):
    """Sends DATA back as it came, without looking into it, and waits for windows where it must."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        config = h2.config.H2Configuration(client_side=False, header_encoding=None, validate_inbound_headers=False)
        self._h2 = h2.connection.H2Connection(config)
        self._h2.initiate_connection()
        self._waiting: dict[int, bytes] = {}
        self._ended: set[int] = set()
        transport.write(self._h2.data_to_send())

    def data_received(self, data: bytes) -> None:
        for event in self._h2.receive_data(data):
            match event:
                case h2.events.RequestReceived():
                    self._h2.send_headers(event.stream_id, RESPONSE)
                    self._waiting[event.stream_id] = b""
                case h2.events.DataReceived():
                    self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    self._waiting[event.stream_id] += event.data
                case h2.events.StreamEnded():
                    self._ended.add(event.stream_id)
                case h2.events.StreamReset():
                    self._waiting.pop(event.stream_id, None)
        for stream_id in list(self._waiting):
            self._send(stream_id)
        self._transport.write(self._h2.data_to_send())

    def _send(self, stream_id: int) -> None:
        data = self._waiting[stream_id]
        while data and (room := min(self._h2.local_flow_control_window(stream_id), self._h2.max_outbound_frame_size)):
            self._h2.send_data(stream_id, data[:room])
            data = data[room:]
        self._waiting[stream_id] = data
        if not data and stream_id in self._ended:
            self._ended.discard(stream_id)
            del self._waiting[stream_id]
            self._h2.send_headers(stream_id, TRAILERS, end_stream=True)
