"""Opens listening sockets, for every port in the same way, and reads the ports of flags.

A host is an address, of IPv6 with brackets or without, or a name, which stands for its IPv4 address.
"""

import argparse
import re
import socket

ANY_ADDRESS = "[::]"
"""IPv6 and IPv4; where there is no IPv6, only IPv4."""


def listen(host: str, port: int, *, reuse_port: bool = False) -> socket.socket:
    """Return a listening socket.

    Args:
        host: where; `ANY_ADDRESS` for everywhere.
        port: 0 for any free one.
        reuse_port: whether other sockets may have the same port.

    Raises:
        OSError: the port cannot be bound.
    """
    bare = host.strip("[]")
    any_address = bare == "::"
    if any_address and not socket.has_dualstack_ipv6():
        bare, any_address = "0.0.0.0", False
    family = socket.AF_INET6 if ":" in bare else socket.AF_INET
    try:
        return socket.create_server((bare, port), family=family, reuse_port=reuse_port, dualstack_ipv6=any_address)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {place(host, port)}: {error.strerror}") from error


def place(host: str, port: int) -> str:
    """Return `host:port`, with brackets around an IPv6 address."""
    bare = host.strip("[]")
    return f"[{bare}]:{port}" if ":" in bare else f"{bare}:{port}"


def parse_port(text: str) -> int:
    """Return the port that a flag gives; 0 is one, for any free port."""
    if not re.fullmatch("[0-9]{1,5}", text) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port")
    return int(text)
