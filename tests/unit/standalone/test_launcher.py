"""A real Envoy starts, says where it listens, follows its endpoint file, and tells why when it does not start."""

import http.client
import json
import threading

import pytest

from epp.errors import LaunchError
from epp.standalone.endpoints import endpoints_json, write
from epp.standalone.launcher import Envoy, start
from epp.standalone.options import EndpointFile, EndpointList, EnvoyOptions, SocketAddress


def options(**changes) -> EnvoyOptions:
    pool = EndpointList(addresses=(SocketAddress(port=1),))
    return EnvoyOptions(**{"listener": SocketAddress(port=0), "pickers": (SocketAddress(port=1),), "pool": pool, **changes})


def members(envoy: Envoy) -> list[int]:
    """Ports of the pool as Envoy sees it."""
    clusters = json.loads(envoy.admin("/clusters?format=json"))["cluster_statuses"]
    pool = next(one for one in clusters if one["name"] == "pool")
    return sorted(host["address"]["socket_address"]["port_value"] for host in pool.get("host_statuses", []))


def refuses(envoy: Envoy) -> bool:
    connection = http.client.HTTPConnection(envoy.host, envoy.port, timeout=5)
    try:
        connection.connect()
    except ConnectionRefusedError:
        return True
    finally:
        connection.close()
    return False


def test_serves_on_a_port_of_its_own_and_follows_its_file(tmp_path):
    file = tmp_path / "endpoints.json"
    write(file, endpoints_json([SocketAddress(port=8001)]))
    envoy = start(options(pool=EndpointFile(path=file)), tmp_path)
    try:
        assert envoy.port > 0
        assert members(envoy) == [8001]
        connection = http.client.HTTPConnection(envoy.host, envoy.port, timeout=5)
        connection.request("GET", "/")
        assert connection.getresponse().status == 500, "no picker, failing closed"
        connection.close()
        write(file, endpoints_json([SocketAddress(port=8001), SocketAddress(port=8002)]))
        envoy.child.wait_until(lambda: members(envoy) == [8001, 8002], 5, "both endpoints are known")
        with pytest.raises(LaunchError, match="/nothing answers 404"):
            envoy.admin("/nothing")
    finally:
        assert envoy.stop() == 0


def test_a_refused_bootstrap_is_reported_with_envoys_words(tmp_path):
    with pytest.raises(LaunchError, match="port_value"):
        start(options(listener=SocketAddress(port=70_000)), tmp_path)


def test_a_taken_port_is_reported_also_when_another_envoy_has_taken_it(tmp_path):
    first = start(options(), tmp_path)
    try:
        for number, taken in enumerate(({"admin": first.admin_port}, {"listener": first.port})):
            other = tmp_path / str(number)
            other.mkdir()
            addresses = {name: SocketAddress(port=port) for name, port in taken.items()}
            with pytest.raises(LaunchError, match="ddress already in use"):
                start(options(**addresses), other)
    finally:
        first.stop()


def test_drains(tmp_path):
    envoy = start(options(), tmp_path)
    try:
        assert envoy.active_requests() == 0
        envoy.drain()
        envoy.child.wait_until(lambda: refuses(envoy), 5, "new connections are refused")
    finally:
        envoy.stop()


def test_only_the_main_thread_may_start_it(tmp_path):
    raised: list[LaunchError] = []

    def attempt() -> None:
        try:
            start(options(), tmp_path)
        except LaunchError as error:
            raised.append(error)

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    assert "main thread" in str(raised[0])


def test_another_binary_may_be_named(tmp_path):
    with pytest.raises(LaunchError, match="envoy cannot be started"):
        start(options(), tmp_path, binary=tmp_path / "absent")
