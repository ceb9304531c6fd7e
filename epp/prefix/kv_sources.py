"""Where an endpoint publishes its KV events."""

from dataclasses import dataclass
from typing import Final

from epp.errors import ConfigError
from epp.model.endpoint import Endpoint, join_host_port

EVENTS_PORT_LABEL: Final = "llm-d.ai/kv-events-port"
"""Label of an endpoint: port of its event stream, as it is (no rank is added). For engines that share an address."""
REPLAY_PORT_LABEL: Final = "llm-d.ai/kv-replay-port"
"""The same for its replay socket; `0` means that it has none."""
EVENTS_PORT: Final = 5557
"""vLLM's default (vllm/config/kv_events.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Ports of engines that say nothing of their own. A data-parallel rank has both ports plus its rank, as in vLLM and SGLang."""

    events: int = EVENTS_PORT
    replay: int | None = None
    """None: engines have no replay socket."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The sockets of one life of one endpoint; another source in the same slot is another stream."""

    endpoint: str
    generation: str
    rank: int
    live: str
    """ZMQ address to subscribe to."""
    replay: str | None
    """ZMQ address to ask for what was missed, if there is one."""


def source_of(endpoint: Endpoint, ports: Ports) -> Source:
    """Return where an endpoint publishes.

    Raises:
        ConfigError: a label is not a port.
    """
    live = _label(endpoint, EVENTS_PORT_LABEL, least=1)
    replay = _label(endpoint, REPLAY_PORT_LABEL, least=0)
    if live is None:
        live = ports.events + endpoint.rank
    if replay is None and ports.replay is not None:
        replay = ports.replay + endpoint.rank
    return Source(
        endpoint=endpoint.name,
        generation=endpoint.generation,
        rank=endpoint.rank,
        live=f"tcp://{join_host_port(endpoint.address, live)}",
        replay=f"tcp://{join_host_port(endpoint.address, replay)}" if replay else None,
    )


def _label(endpoint: Endpoint, name: str, *, least: int) -> int | None:
    text = endpoint.labels.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and least <= int(text) <= 65535):
        raise ConfigError(f"label {name} is no port", endpoint.name)
    return int(text)
