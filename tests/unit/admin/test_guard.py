"""Who may change something."""

import pytest

from epp.admin.guard import why_not


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_whoever_is_in_the_pod(peer):
    assert why_not(peer, {}) == ""


@pytest.mark.parametrize("peer", ["", "10.0.0.1", "0.0.0.0", "::", "fe80::1%eth0", "::ffff:10.0.0.1", "unix", "127.0.0.1.example"])
def test_nobody_else(peer):
    assert "loopback" in why_not(peer, {})


@pytest.mark.parametrize("peer", ["127.0.0.6", "::ffff:127.0.0.6", "127.9.9.9"])
def test_not_who_comes_through_a_mesh(peer):
    assert "loopback" in why_not(peer, {})


@pytest.mark.parametrize("header", ["Origin", "X-Forwarded-For", "x-forwarded-proto", "Forwarded", "Via", "X-Envoy-Attempt-Count"])
def test_not_in_the_name_of_another(header):
    assert header in why_not("127.0.0.1", {header: ""})


def test_in_their_own():
    assert why_not("127.0.0.1", {"Host": "localhost:9090", "Accept": "*/*", "Authorization": "Bearer x"}) == ""
