"""Model servers that do exactly what a test tells them, and remember exactly what reached them.

Not a simulation (that is `epp.testing.model_server`): a test names a script in the header `x-script`, and the script, a function
run in the connection's thread, sends, waits for the test, sends more, or cuts the connection. Of every body the digest is kept.
"""

import hashlib
import json
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

DEADLINE_S = 10.0
METRICS = b"vllm:num_requests_waiting 0\nvllm:num_requests_running 0\nvllm:kv_cache_usage_perc 0.0\n"


@dataclass(kw_only=True)
class Received:
    """One request as it reached a model server."""

    port: int
    method: str
    path: str
    headers: list[tuple[str, str]]
    """Lower-case names, in order, repeated ones repeated."""
    sha256: str = ""
    length: int = 0
    trailers: list[tuple[str, str]] = field(default_factory=list)

    def header(self, name: str) -> str | None:
        values = self.all(name)
        return values[-1] if values else None

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]


class Exchange:
    """A request that a script is answering."""

    def __init__(self, connection: socket.socket, request: Received) -> None:
        self._connection = connection
        self.request = request
        self.open = True

    def respond(self, status: int = 200, body: bytes = b"", headers: Iterable[tuple[str, str]] = ()) -> None:
        self._head(status, [*headers, ("content-length", str(len(body)))])
        self._connection.sendall(body)

    def start(self, status: int = 200, headers: Iterable[tuple[str, str]] = (("content-type", "text/event-stream"),)) -> None:
        self._head(status, [*headers, ("transfer-encoding", "chunked")])

    def chunk(self, data: bytes) -> None:
        self._connection.sendall(b"%x\r\n%s\r\n" % (len(data), data))

    def end(self) -> None:
        self._connection.sendall(b"0\r\n\r\n")

    def reset(self) -> None:
        """Cut the connection with a TCP reset."""
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.open = False

    def wait_until_gone(self) -> None:
        """Return once the gateway has closed this connection; fails when it does not."""
        readable, _, _ = select.select([self._connection], [], [], DEADLINE_S)
        assert readable, "the gateway kept the connection to the model server open"
        with suppress(ConnectionError):
            assert self._connection.recv(1) == b""
        self.open = False

    def _head(self, status: int, headers: list[tuple[str, str]]) -> None:
        lines = [f"HTTP/1.1 {status} Scripted", f"x-upstream-port: {self.request.port}"]
        lines += [f"{name}: {value}" for name, value in headers]
        self._connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())


Script = Callable[[Exchange], None]


def answer(exchange: Exchange) -> None:
    """What is done without a script: a completion with usage."""
    usage = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}
    body = {"id": "cmpl-1", "object": "text_completion", "choices": [{"index": 0, "text": "ok"}], "usage": usage}
    exchange.respond(200, json.dumps(body).encode(), [("content-type", "application/json")])


class Upstream:
    """One model server on a port of its own."""

    def __init__(self, fleet: "Fleet", host: str) -> None:
        self._fleet = fleet
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family)
        self.port: int = self._listener.getsockname()[1]
        self._connections: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Refuse connections from now on, and cut those that are open."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in tuple(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connections.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        reader = connection.makefile("rb")
        with suppress(OSError), connection, reader:
            while (request := _read_request(reader, self.port)) is not None:
                exchange = Exchange(connection, request)
                if request.path == "/metrics":
                    exchange.respond(200, METRICS, [("content-type", "text/plain")])
                    continue
                self._fleet.note(request)
                self._fleet.scripts.get(request.header("x-script") or "", answer)(exchange)
                if not exchange.open:
                    break
        self._connections.discard(connection)


class Fleet:
    """Several model servers with one memory and one set of scripts."""

    def __init__(self, size: int) -> None:
        self.scripts: dict[str, Script] = {}
        self._received: list[Received] = []
        self._changed = threading.Condition()
        self.members = [Upstream(self, "127.0.0.1") for _ in range(size)]
        self._more: list[Upstream] = []

    @property
    def ports(self) -> list[int]:
        return [member.port for member in self.members]

    def add(self, host: str = "127.0.0.1") -> Upstream:
        """One more, which the shared picker does not know."""
        self._more.append(Upstream(self, host))
        return self._more[-1]

    def close(self) -> None:
        for member in (*self.members, *self._more):
            member.close()

    def note(self, request: Received) -> None:
        with self._changed:
            self._received.append(request)
            self._changed.notify_all()

    def received(self, test_id: str) -> list[Received]:
        """Requests that carried this `x-test-id`, so far."""
        with self._changed:
            return [one for one in self._received if one.header("x-test-id") == test_id]

    def wait_for(self, test_id: str) -> Received:
        """The first request with this `x-test-id`, waited for."""
        deadline = time.monotonic() + DEADLINE_S
        with self._changed:
            while True:
                for one in self._received:
                    if one.header("x-test-id") == test_id:
                        return one
                assert self._changed.wait(deadline - time.monotonic()), f"no request {test_id} reached a model server"


def _read_request(reader, port: int) -> Received | None:
    """The next request of a connection with its body digested; None when there is none."""
    line = reader.readline()
    if not line:
        return None
    method, path, _ = line.decode().split(" ", 2)
    request = Received(port=port, method=method, path=path, headers=_read_headers(reader))
    digest = hashlib.sha256()
    for piece in _body(reader, request):
        digest.update(piece)
        request.length += len(piece)
    request.sha256 = digest.hexdigest()
    return request


def _read_headers(reader) -> list[tuple[str, str]]:
    headers = []
    while (line := reader.readline().rstrip(b"\r\n")) != b"":
        name, _, value = line.decode().partition(":")
        headers.append((name.lower(), value.strip()))
    return headers


def _body(reader, request: Received) -> Iterable[bytes]:
    if request.header("transfer-encoding") == "chunked":
        while size := int(_all(reader.readline()).split(b";")[0], 16):
            yield _all(reader.read(size), size)
            reader.readline()
        request.trailers = _read_headers(reader)
    elif length := int(request.header("content-length") or 0):
        yield _all(reader.read(length), length)


def _all(data: bytes, size: int = 1) -> bytes:
    """`data`, unless the gateway has cut the connection before its end."""
    if len(data) < size:
        raise ConnectionError("the request was cut")
    return data


def chunks(pieces: Sequence[bytes], go_on: Callable[[int], object]) -> Script:
    """A script that streams `pieces` and calls `go_on(i)` after piece i: where a test makes it wait."""

    def script(exchange: Exchange) -> None:
        exchange.start()
        for index, piece in enumerate(pieces):
            exchange.chunk(piece)
            go_on(index)
        exchange.end()

    return script
