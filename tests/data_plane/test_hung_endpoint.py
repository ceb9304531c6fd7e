"""An endpoint that hangs, connections open and nothing said, loses its traffic as soon as a client has given it up."""

import http.client
import json
import signal
from typing import Any

from epp.testing.stack import MODEL, Fleet, Gateway
from tests.data_plane.rig import RANDOM, eventually

BODY = json.dumps({"model": MODEL, "max_tokens": 1, "messages": [{"role": "user", "content": "hello"}]})


def ask(gateway: Gateway, timeout_s: float = 0.5) -> str:
    """Send a request; return who served it, or nothing when there was no answer in time."""
    connection = http.client.HTTPConnection(gateway.envoy.host, gateway.envoy.port, timeout=timeout_s)
    try:
        connection.request("POST", "/v1/chat/completions", BODY)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == http.client.OK
        return answer.headers["x-served-by"]
    except TimeoutError:
        return ""
    finally:
        connection.close()


def latest(gateway: Gateway) -> dict[str, Any]:
    """The last decision."""
    return gateway.admin("/decisions?limit=1")["decisions"][0]


def silence_s(gateway: Gateway, authority: str) -> float:
    """For how long an endpoint has given no metrics page."""
    return next(one["scraped_age_s"] or 0.0 for one in gateway.admin("/pool")["endpoints"] if one["authority"] == authority)


def test_traffic_moves_away_and_comes_back(tmp_path):
    with Fleet(tmp_path / "fleet", 2, ["--time-scale", "0.1"]) as fleet, Gateway(fleet, RANDOM, tmp_path / "gateway") as gateway:
        hung, well = (server.authority for server in fleet.servers)
        eventually(lambda: {ask(gateway, 5.0) for _ in range(4)} == {hung, well}, "both serve")
        fleet.servers[0].child.signal(signal.SIGSTOP)
        try:
            eventually(lambda: silence_s(gateway, hung) > 5.0, "its metrics are missed")
            eventually(lambda: ask(gateway) == "", "a client waits in vain")
            eventually(lambda: latest(gateway)["outcome"], "it has left")
            assert ask(gateway, 5.0) == well
            assert latest(gateway)["candidates"] == 1
        finally:
            fleet.servers[0].child.signal(signal.SIGCONT)
        eventually(lambda: ask(gateway, 5.0) == hung, "it serves again")
        eventually(lambda: all(one["requests"] == 0 for one in gateway.admin("/pool")["endpoints"]), "nothing in flight")
