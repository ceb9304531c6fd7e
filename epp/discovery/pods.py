"""Which endpoints a set of pods makes: one per ready pod and port. Pure.

    pod `vllm-0` at 10.0.0.7, ports 8000 and 8001  ->  ns/vllm-0-rank-0 at 10.0.0.7:8000, ns/vllm-0-rank-1 at 10.0.0.7:8001

A pod that is being deleted, is not Ready or has no address makes none; a pod that says in an annotation on which of the ports its
engines listen makes those alone. The rank is the port's place among the pool's ports, whatever a pod says.
"""

from collections.abc import Iterable, Sequence
from ipaddress import ip_address

from epp.kube.objects import Pod
from epp.model.endpoint import Endpoint


class PodEndpoints:
    """Makes endpoints of pods, and remembers what it made of each, so that a change of one does not cost the work of all."""

    def __init__(self) -> None:
        self._ports: tuple[int, ...] = ()
        self._made: dict[str, tuple[Pod, tuple[Endpoint, ...]]] = {}
        """By the pod's name; as large as the last set of pods."""

    def of(self, pods: Iterable[Pod], ports: Sequence[int]) -> tuple[Endpoint, ...]:
        """Return the endpoints of the pods, ordered by name.

        Of two at one address, which the API server can show for a moment when an address has been given to another pod, it is the
        younger pod's.
        """
        before = self._made if self._ports == tuple(ports) else {}
        self._ports, self._made = tuple(ports), {}
        # The oldest first, so that the younger takes the place of the older.
        for pod in sorted(pods, key=lambda one: (one.metadata.creation_timestamp, one.metadata.name)):
            known = before.get(pod.metadata.name)
            same = known is not None and known[0] is pod
            self._made[pod.metadata.name] = known if known is not None and same else (pod, pod_endpoints(pod, self._ports))
        by_authority = {endpoint.authority: endpoint for _, made in self._made.values() for endpoint in made}
        return tuple(sorted(by_authority.values(), key=lambda endpoint: endpoint.name))


def pod_endpoints(pod: Pod, ports: Sequence[int]) -> tuple[Endpoint, ...]:
    """Return the endpoints of one pod, in the order of the ports; none if nobody should be sent there."""
    metadata, address = pod.metadata, _address(pod.status.pod_ip)
    if metadata.deletion_timestamp is not None or not is_ready(pod) or address is None:
        return ()
    active = active_ports(pod)
    life = _life(pod)
    return tuple(
        Endpoint(
            name=f"{metadata.namespace}/{metadata.name}-rank-{rank}",
            address=address,
            port=port,
            labels=metadata.labels,
            generation=life,
            rank=rank,
        )
        for rank, port in enumerate(ports)
        if active is None or port in active
    )


def is_ready(pod: Pod) -> bool:
    """Return whether the pod says that it can serve."""
    return any(condition.type == "Ready" and condition.status == "True" for condition in pod.status.conditions)


def active_ports(pod: Pod) -> frozenset[int] | None:
    """Return the ports that the pod's annotation lists; None without one. What is no port counts as not listed."""
    annotations = pod.metadata.annotations
    text = annotations.active_ports if annotations.active_ports is not None else annotations.legacy_active_ports
    if text is None:
        return None
    items = (item.strip() for item in text.split(","))
    return frozenset(int(item) for item in items if item.isascii() and item.isdigit() and len(item) <= 5)


def _address(text: str) -> str | None:
    try:
        return str(ip_address(text))
    except ValueError:
        return None


def _life(pod: Pod) -> str:
    """Return what changes when an engine in the pod is another one: the pod itself, or a container that was started again.

    Which of the containers is the engine is not written anywhere, so any of them counts: one restart of a sidecar makes us forget
    a cache that is still there, the other mistake would be to believe for hours in one that is not.
    """
    lives = (f"{one.name}={one.container_id}#{one.restart_count}" for one in pod.status.container_statuses)
    return " ".join((pod.metadata.uid, *sorted(lives)))
