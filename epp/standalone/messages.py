"""The few message shapes that every part of the bootstrap uses, and the form they are written in."""

import json

from betterproto2 import Message
from envoy_data_plane.envoy.config.core.v3 import Address, TypedExtensionConfig
from envoy_data_plane.envoy.config.core.v3 import SocketAddress as SocketAddressMessage
from envoy_data_plane.google.protobuf import Any

from epp.standalone.options import SocketAddress


def address(of: SocketAddress) -> Address:
    """Return `of` as Envoy's message."""
    return Address(socket_address=SocketAddressMessage(address=of.host, port_value=of.port))


def extension(name: str, config: Message) -> TypedExtensionConfig:
    """Return `config` under a name, as extension points take it."""
    return TypedExtensionConfig(name=name, typed_config=Any.pack(config))


def to_json(message: Message) -> str:
    """Return `message` in protobuf's JSON form, which Envoy reads from a file named `*.json`."""
    return json.dumps(message.to_dict(), indent=2) + "\n"
