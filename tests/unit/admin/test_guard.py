"""Who may change something."""

import pytest

from epp.admin.guard import why_not


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_whoever_is_in_the_pod(peer):
    assert why_not(peer, {}) == ""


@pytest.mark.parametrize("peer", ["", "10.0.0.1", "0.0.0.0", "::", "fe80::1%eth0", "::ffff:10.0.0.1", "unix", "127.0.0.1.example"])
def test_nobody_else(peer):
    assert "loopback" in why_not(peer, {})


@pytest.mark.parametrize("header", ["Origin", "X-Forwarded-For", "Forwarded"])
def test_not_in_the_name_of_another(header):
    assert header in why_not("127.0.0.1", {header: ""})
