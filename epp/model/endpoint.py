"""An endpoint: an address and port that serves a model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntFlag
from functools import lru_cache
from ipaddress import IPv6Address, ip_address

ROLE_LABEL = "llm-d.ai/role"
ENGINE_LABEL = "llm-d.ai/engine-type"
SPELLING_CHARS_MAX = 64
"""Longest `[ip]:port` that is looked at: an IPv6 address in full is 39 long, a zone with it some more."""
SPELLINGS_KEPT = 8192
"""Two for each endpoint of a pool of the usual bound."""


class Role(IntFlag):
    """What an endpoint does with a request, as bits, so that roles can be a column."""

    PREFILL = 1
    DECODE = 2
    ENCODE = 4


# Values of the role label. An unlabelled endpoint serves whole requests; in a split fleet that makes it a decoder.
ROLES: Mapping[str, Role] = {
    "": Role.DECODE,
    "both": Role.PREFILL | Role.DECODE,
    "prefill-decode": Role.PREFILL | Role.DECODE,
    "prefill": Role.PREFILL,
    "decode": Role.DECODE,
    "encode": Role.ENCODE,
    "encode-prefill": Role.ENCODE | Role.PREFILL,
    "encode-prefill-decode": Role.ENCODE | Role.PREFILL | Role.DECODE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a model is served.

    Identity is `name`: an endpoint whose name stays and whose other fields change is the same endpoint, changed.
    `generation` tells two lives of the same name apart (a container restarted in place holds no cache).
    """

    name: str
    """Unique in the pool, `<namespace>/<name>`; for pods `<namespace>/<pod>-rank-<n>`."""
    address: str
    """IPv4 or IPv6 literal, without brackets."""
    port: int
    labels: Mapping[str, str] = field(default_factory=dict)
    generation: str = ""
    rank: int = 0
    """Data-parallel rank: index of the port among the target ports of the pod."""
    authority: str = field(init=False, repr=False, compare=False)
    """`address:port` as a header wants it, IPv6 in brackets."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "authority", join_host_port(self.address, self.port))  # the class is frozen

    @property
    def life(self) -> tuple[str, str, str, int]:
        """What must stay for it to be the same engine, whose cache is believed in and whose failures are its own."""
        return (self.name, self.generation, self.address, self.port)

    @property
    def role(self) -> Role:
        """The role bits of the endpoint's label; an unknown value serves nothing."""
        return ROLES.get(self.labels.get(ROLE_LABEL, ""), Role(0))


def join_host_port(address: str, port: int) -> str:
    """Return `address:port`, with brackets around an IPv6 address."""
    return f"[{address}]:{port}" if isinstance(ip_address(address), IPv6Address) else f"{address}:{port}"


def canonical(item: str) -> str:
    """Return `ip`, `[ip]` or `ip:port` with the address in its one canonical spelling; anything else as it is."""
    return item if len(item) > SPELLING_CHARS_MAX else _canonical(item)


@lru_cache(maxsize=SPELLINGS_KEPT)
def _canonical(item: str) -> str:
    host, rest = item.strip(), ""
    if host.startswith("["):
        host, _, rest = host[1:].partition("]")
    elif host.count(":") == 1:
        host, _, port = host.partition(":")
        rest = ":" + port
    try:
        address = str(ip_address(host))
    except ValueError:
        return item
    if not rest:
        return address
    port = rest.removeprefix(":")
    return join_host_port(address, int(port)) if port != rest and port.isascii() and port.isdigit() else item
