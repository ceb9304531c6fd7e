"""No prompt text in the log of a real process, at the level that says everything, whatever becomes of the request."""

import json

from tests.data_plane.clients import new_id, opened, request
from tests.data_plane.rig import eventually

SECRET = "xylophone"


def test_no_prompt_at_any_level(lab, fleet):
    test_id = new_id()
    with lab.picker(fleet.ports, flags=["-v=5", "--log-format=json"]) as picker, lab.gateway(picker) as gateway:
        good = json.dumps({"model": "m", "messages": [{"role": "user", "content": f"the {SECRET} " * 50}]}).encode()
        headers = [("x-request-id", test_id), ("x-secret", SECRET)]
        assert request(gateway, "POST", "/v1/chat/completions", good, headers).status == 200
        assert request(gateway, "POST", f"/v1/unknown?q={SECRET}", good).status == 200
        for bad in (good[:-20], good.replace(b'"m"', b"7"), good.replace(b"xyl", b"xyl\xff"), good.replace(b'"user"', b'{"a": 1}')):
            answer = request(gateway, "POST", "/v1/chat/completions", bad)
            assert answer.status == 400
            assert SECRET.encode() not in answer.body
        with opened(gateway, "POST", "/v1/chat/completions", good):
            pass  # a client that does not wait
        eventually(lambda: picker.in_flight() == 0 and "finished" in picker.child.tail(), "all is accounted and logged")
        eventually(lambda: picker.child.tail().count("rejected") == 4, "rejections are logged")
        log = picker.child.tail()
    decided = next(json.loads(line) for line in log.splitlines() if '"decided"' in line)
    assert decided["endpoint"].startswith("test/server-")
    assert decided["prompt_tokens"] > 100
    assert SECRET not in log
