"""Who may change something through the admin port: whoever is in the pod. Pure.

Reading is as open as metrics are; changing is not. What comes from loopback comes through `kubectl exec` or `kubectl port-forward`,
for which the API server has asked for a right already, or from a process of the same pod (with host networking: of the node). Two
kinds of stranger come from there too, and are told by what they cannot leave out: a web page in the browser of whoever forwards a
port (`Origin`), and whoever is behind a proxy in the pod (`X-Forwarded-For`, `Forwarded`).
"""

from collections.abc import Mapping
from ipaddress import IPv6Address, ip_address

FOREIGN_HEADERS = ("Origin", "X-Forwarded-For", "Forwarded")


def why_not(peer: str, headers: Mapping[str, str]) -> str:
    """Return why a request must not change anything; empty when it may.

    Args:
        peer: address the connection comes from; empty when it is not known.
        headers: of the request; looked up whatever their case.
    """
    if not _is_loopback(peer):
        return "changes are taken from loopback only: use kubectl exec or kubectl port-forward"
    foreign = next((name for name in FOREIGN_HEADERS if name in headers), "")
    return f"changes are not taken from a web page or through a proxy (header {foreign})" if foreign else ""


def _is_loopback(peer: str) -> bool:
    try:
        address = ip_address(peer.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback
