"""Where the three ports listen: every form of an address, for whatever opens a port."""

import asyncio
import json
import socket
import subprocess
import sys

import pytest

from epp import sockets
from epp.admin.server import Admin
from epp.sockets import ANY_ADDRESS, listen, place
from epp.telemetry.health import HealthState
from epp.telemetry.metrics import Metrics
from epp.telemetry.sheets import DecisionRing
from epp.telemetry.state_metrics import Sources
from epp.transport.base import TransportOptions
from epp.transport.grpc_aio import GrpcAioTransport
from epp.transport.native import NativeTransport
from epp.transport.tls import TlsOptions

V4, V6 = "127.0.0.1", "::1"
FORMS = [
    (ANY_ADDRESS, {V4, V6}),
    ("::", {V4, V6}),
    (V6, {V6}),
    ("[::1]", {V6}),
    (V4, {V4}),
    ("0.0.0.0", {V4}),
]


class AdminPort:
    def __init__(self, host: str, port: int) -> None:
        self._where = host, port
        none = Sources(snapshot=None, clock=None, strategies=None, config=None, pool_name="")
        self._admin = Admin(none, Metrics(float), DecisionRing(float), HealthState())

    async def start(self) -> int:
        return await self._admin.start(*self._where)

    async def stop(self) -> None:
        await self._admin.stop()


class TransportPort:
    def __init__(self, kind, host: str, port: int) -> None:
        self._transport = kind(TransportOptions(host=host, port=port, tls=TlsOptions(secure=False)))

    async def start(self) -> int:
        return await self._transport.start(None, HealthState())

    async def stop(self) -> None:
        await self._transport.stop(0)


@pytest.fixture(params=["admin", "native", "grpcio"])
def open_port(request):
    """Makes what opens a port at a host."""
    kinds = {"native": NativeTransport, "grpcio": GrpcAioTransport}
    if request.param == "admin":
        return AdminPort
    return lambda host, port: TransportPort(kinds[request.param], host, port)


def hears(host: str, port: int) -> bool:
    """Whether somebody is there, who ends a connection in which nonsense comes."""
    try:
        with socket.create_connection((host, port), 5) as connection:
            connection.sendall(b"nonsense\r\n\r\n" * 10)
            while connection.recv(1000):
                pass
    except ConnectionRefusedError:
        return False
    except ConnectionResetError:
        return True
    return True


@pytest.mark.parametrize(("host", "heard"), FORMS)
def test_every_form_of_an_address_is_listened_on(open_port, host, heard):
    async def main() -> None:
        with listen(ANY_ADDRESS, 0) as free:  # of either family: a port that is free for the one may be somebody's for the other
            port = free.getsockname()[1]
        opened = open_port(host, port)
        assert await opened.start() == port
        found = {one for one in (V4, V6) if await asyncio.to_thread(hears, one, port)}
        assert found >= heard
        if host != "0.0.0.0":  # which grpcio takes for any address
            assert found == heard
        await opened.stop()

    asyncio.run(main())


@pytest.mark.parametrize(("host", "shown"), [(V4, V4), (V6, "[::1]"), ("[::]", "[::]")])
def test_a_taken_port_is_said_with_its_address(open_port, host, shown):
    async def main() -> None:
        first = open_port(host, 0)
        port = await first.start()
        second = open_port(host, port)
        with pytest.raises(OSError, match="cannot listen on") as caught:
            await second.start()
        assert f"cannot listen on {shown}:{port}: " in str(caught.value)
        await second.stop()
        await first.stop()

    asyncio.run(main())


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "nobody.invalid", "127.0.0.1:80"])
def test_an_address_that_is_not_ours_is_said(open_port, host):
    with pytest.raises(OSError, match=r"cannot listen on .+:0: "):
        asyncio.run(open_port(host, 0).start())


@pytest.mark.parametrize("host", ["::", "[::]"])
def test_where_there_is_no_ipv6_everywhere_is_all_of_ipv4(monkeypatch, host):
    monkeypatch.setattr(sockets.socket, "has_dualstack_ipv6", lambda: False)
    with listen(host, 0) as opened:
        assert opened.family is socket.AF_INET
        socket.create_connection((V4, opened.getsockname()[1]), 5).close()


@pytest.mark.parametrize(
    ("host", "shown"), [("::", "[::]:80"), ("[::1]", "[::1]:80"), ("10.0.0.1", "10.0.0.1:80"), ("localhost", "localhost:80")]
)
def test_a_place_has_brackets_where_they_are_needed(host, shown):
    assert place(host, 80) == shown


@pytest.mark.parametrize("transport", ["native", "grpcio"])
@pytest.mark.parametrize(("bind", "heard"), [("", {V4, V6}), ("::", {V4, V6}), ("[::1]", {V6})])
def test_a_picker_listens_on_all_three_ports_alike(tmp_path, transport, bind, heard):
    pool, file = tmp_path / "pool.yaml", tmp_path / "picker.yaml"
    pool.write_text("endpoints: []\n")
    file.write_text(
        f"plugins: [{{type: file-discovery, parameters: {{path: {pool}}}}}]\n"
        "dataLayer: {discovery: {pluginRef: file-discovery}}\n"
    )
    ports = ["--grpc-port=0", "--grpc-health-port=0", "--metrics-port=0"]
    flags = ["--config-file", str(file), f"--bind={bind}", f"--transport={transport}", "--log-format=json", "--drain-timeout=0s"]
    command = [sys.executable, "-m", "epp", "serve", *flags, *ports]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as picker:
        try:
            lines = (json.loads(line) for line in picker.stdout if line.startswith("{"))
            said = next(line for line in lines if "grpc_port" in line)
            for name in ("grpc_port", "grpc_health_port", "metrics_port"):
                assert {one for one in (V4, V6) if hears(one, said[name])} == heard, name
        finally:
            picker.terminate()
