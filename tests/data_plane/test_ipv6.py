"""An endpoint with an IPv6 address: in brackets in the header and the metadata, reached all the same."""

from tests.data_plane.clients import new_id, request

BODY = b'{"model": "m", "prompt": "hello"}'


def test_is_reached_and_named_in_brackets(lab, fleet):
    member = fleet.add(host="::1")
    with lab.picker([member.port], host="::1") as picker, lab.gateway(picker) as gateway:
        for method, path, body in (("POST", "/v1/completions", BODY), ("GET", "/v1/models", None)):
            test_id = new_id()
            assert request(gateway, method, path, body, [("x-test-id", test_id)]).status == 200
            (received,) = fleet.received(test_id)
            assert received.all("x-gateway-destination-endpoint") == [f"[::1]:{member.port}"]
