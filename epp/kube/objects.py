"""The Kubernetes objects that are read, as structs of the fields that are used; everything else in them is skipped while decoding.

A struct holds what its reader acts on and nothing more: the reflector takes two objects that are equal here for the same one, and
says nothing of the difference. So no `resourceVersion`, and of the annotations only our own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import msgspec
from msgspec import field

POOL_GROUP = "inference.networking.k8s.io"
LEGACY_POOL_GROUP = "inference.networking.x-k8s.io"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolRef:
    """Names an InferencePool."""

    name: str
    namespace: str
    group: str = POOL_GROUP


class Object(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of what is read. What a server may leave out has a default."""


class _Annotations(Object, frozen=True):
    active_ports: str | None = field(default=None, name="llm-d.ai/active-ports")
    legacy_active_ports: str | None = field(default=None, name="inference.networking.k8s.io/active-ports")


class PodMetadata(Object, frozen=True):
    """Who a pod is."""

    name: str
    namespace: str = ""
    uid: str = ""
    creation_timestamp: str = ""
    deletion_timestamp: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    annotations: _Annotations = _Annotations()


class Condition(Object, frozen=True):
    """One of a pod's conditions."""

    type: str
    status: str


class ContainerStatus(Object, frozen=True):
    """What tells one life of a container from the next."""

    name: str
    container_id: str = field(default="", name="containerID")
    restart_count: int = 0


class PodStatus(Object, frozen=True):
    """What a pod is doing."""

    pod_ip: str = field(default="", name="podIP")
    conditions: tuple[Condition, ...] = ()
    container_statuses: tuple[ContainerStatus, ...] = ()


class Pod(Object, frozen=True):
    """A pod, as `v1`."""

    metadata: PodMetadata
    status: PodStatus = PodStatus()


class Pool(Protocol):
    """An InferencePool of whatever version: which pods are in it, and where they listen."""

    @property
    def selector(self) -> Mapping[str, str]:
        """Labels that a pod must have, all of them."""

    @property
    def ports(self) -> tuple[int, ...]:
        """Ports on which a pod serves; each is an endpoint."""

    @property
    def app_protocol(self) -> str:
        """What is spoken there, `http` or `kubernetes.io/h2c`: the gateway's business, shown in the log."""


class _Selector(Object, frozen=True):
    match_labels: dict[str, str] = field(default_factory=dict)


class _Port(Object, frozen=True):
    number: int


class _PoolSpec(Object, frozen=True):
    selector: _Selector
    target_ports: tuple[_Port, ...]
    app_protocol: str = "http"


class InferencePool(Object, frozen=True):
    """A pool, as `inference.networking.k8s.io/v1`.

    Source: https://gateway-api-inference-extension.sigs.k8s.io/reference/spec
    """

    spec: _PoolSpec

    @property
    def selector(self) -> Mapping[str, str]:
        """See `Pool`."""
        return self.spec.selector.match_labels

    @property
    def ports(self) -> tuple[int, ...]:
        """See `Pool`."""
        return tuple(port.number for port in self.spec.target_ports)

    @property
    def app_protocol(self) -> str:
        """See `Pool`."""
        return self.spec.app_protocol


class _LegacyPoolSpec(Object, frozen=True):
    selector: dict[str, str]
    target_port_number: int


class LegacyInferencePool(Object, frozen=True):
    """A pool, as `inference.networking.x-k8s.io/v1alpha2`: a plain map of labels, and one port."""

    spec: _LegacyPoolSpec

    @property
    def selector(self) -> Mapping[str, str]:
        """See `Pool`."""
        return self.spec.selector

    @property
    def ports(self) -> tuple[int, ...]:
        """See `Pool`."""
        return (self.spec.target_port_number,)

    @property
    def app_protocol(self) -> str:
        """See `Pool`."""
        return "http"
