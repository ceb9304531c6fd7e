"""The pool file is followed while requests are served: nobody, somebody, somebody else."""

from tests.data_plane.clients import request
from tests.data_plane.rig import RANDOM, eventually
from tests.data_plane.test_picker_failure import traffic


def body(number: int) -> bytes:
    return b'{"model": "m", "prompt": "prompt number %d"}' % number


def used(gateway, start: int) -> set[int]:
    return {request(gateway, "POST", "/v1/completions", body(start + number)).port for number in range(12)}


def test_an_empty_pool_is_503_with_the_reason_until_somebody_comes(lab, fleet):
    with lab.picker([], config=RANDOM) as picker, lab.gateway(picker) as gateway:
        for answer in (request(gateway, "POST", "/v1/completions", body(0)), request(gateway, "GET", "/v1/models")):
            assert answer.status == 503
            assert answer.header("x-llm-d-request-dropped-reason") == "rejected-no-endpoints"
        picker.set_pool(fleet.ports)
        eventually(lambda: request(gateway, "POST", "/v1/completions", body(1)).status == 200, "the pool has come")


def test_servers_come_and_go_under_traffic_without_an_error(lab, fleet):
    first, second, third = fleet.ports
    with lab.picker([first, second], config=RANDOM) as picker, lab.gateway(picker) as gateway, traffic(gateway) as clients:
        assert used(gateway, 0) <= {first, second}
        picker.set_pool([first, second, third])
        eventually(lambda: third in used(gateway, 100), "the new one serves")
        # The gateway forgets a server only after the picker has: the other way round a request picked just before would fail.
        picker.set_pool([third], known_to_gateway=[first, second, third])
        eventually(lambda: used(gateway, 200) == {third}, "only the one that stayed serves")
        picker.set_pool([third])
        clients.seen(200, 20)
        assert set(clients.statuses) == {200}


def test_a_broken_file_changes_nothing_and_the_next_good_one_counts(lab, fleet):
    first, second, _ = fleet.ports
    quiet = lab.picker([first], config=RANDOM, flags=["-v", "0"])  # else the traffic would push the complaint out of the log kept
    with quiet as picker, lab.gateway(picker) as gateway, traffic(gateway) as clients:
        for text in ("", "endpoints: [", "endpoints: [{name: a}]", "something: else"):
            complaints = picker.child.tail().count("the last good one stays")
            picker.write_pool(text)
            eventually(lambda seen=complaints: picker.child.tail().count("the last good one stays") > seen, "it is refused")
            assert used(gateway, 0) == {first}
        picker.set_pool([second], known_to_gateway=[first, second])
        eventually(lambda: used(gateway, 100) == {second}, "the next one is followed")
        assert set(clients.statuses) == {200}
