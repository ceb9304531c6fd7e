"""Who may change something through the admin port: whoever is in the pod. Pure.

What comes from loopback comes through `kubectl exec` or `kubectl port-forward`, for which the API server has asked for a right
already, or from a process of the same pod (with host networking: of the node). Two kinds of stranger come from there too, and are
told by what they cannot leave out: a web page in the browser of whoever forwards a port (`Origin`), and whoever is behind a proxy
in the pod (the headers that proxies add). The sidecar of a service mesh brings everybody by way of 127.0.0.6, at times without a
header, so that of loopback only the two addresses count that programs mean by "localhost".
"""

import re
from collections.abc import Mapping
from ipaddress import IPv6Address, ip_address

LOCALHOST = (ip_address("127.0.0.1"), ip_address("::1"))
FOREIGN_HEADERS = re.compile(r"origin|forwarded|via|x-real-ip|x-forwarded-.*|x-envoy-.*", re.IGNORECASE)


def why_not(peer: str, headers: Mapping[str, str]) -> str:
    """Return why a request must not change anything; empty when it may.

    Args:
        peer: address the connection comes from; empty when it is not known.
        headers: of the request; their names in any case.
    """
    if not _is_localhost(peer):
        return "changes are taken from loopback only: use kubectl exec or kubectl port-forward"
    foreign = next(filter(FOREIGN_HEADERS.fullmatch, headers), "")
    return f"changes are not taken from a web page or through a proxy (header {foreign})" if foreign else ""


def _is_localhost(peer: str) -> bool:
    try:
        address = ip_address(peer)
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address in LOCALHOST
