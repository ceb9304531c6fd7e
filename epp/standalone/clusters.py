"""The connecting side of the bootstrap: the cluster of pickers and the cluster of model servers."""

from collections.abc import Iterable
from datetime import timedelta
from typing import assert_never

from betterproto2 import Message
from envoy_data_plane.envoy.config.cluster.v3 import (
    CircuitBreakers,
    CircuitBreakersThresholds,
    Cluster,
    ClusterCommonLbConfig,
    ClusterDiscoveryType,
    ClusterEdsClusterConfig,
    ClusterLbPolicy,
    ClusterOriginalDstLbConfig,
    LoadBalancingPolicy,
    LoadBalancingPolicyPolicy,
)
from envoy_data_plane.envoy.config.core.v3 import (
    ApiVersion,
    ConfigSource,
    DataSource,
    HealthCheck,
    HealthCheckGrpcHealthCheck,
    Http1ProtocolOptions,
    Http2ProtocolOptions,
    HttpProtocolOptions,
    PathConfigSource,
    TransportSocket,
    WatchedDirectory,
)
from envoy_data_plane.envoy.config.endpoint.v3 import ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints
from envoy_data_plane.envoy.extensions.load_balancing_policies.override_host.v3 import (
    OverrideHost,
    OverrideHostOverrideHostSource,
)
from envoy_data_plane.envoy.extensions.load_balancing_policies.round_robin.v3 import RoundRobin
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import (
    CertificateValidationContext,
    CommonTlsContext,
    UpstreamTlsContext,
)
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import HttpProtocolOptions as UpstreamOptions
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import HttpProtocolOptionsExplicitHttpConfig
from envoy_data_plane.envoy.type.metadata.v3 import MetadataKey, MetadataKeyPathSegment
from envoy_data_plane.envoy.type.v3 import Percent
from envoy_data_plane.google.protobuf import Any

from epp.standalone.messages import address, extension
from epp.standalone.options import (
    DECISION_NAMESPACE,
    DESTINATION_HEADER,
    PICKER_CLUSTER,
    POOL_CLUSTER,
    SERVED_KEY,
    EndpointFile,
    EndpointList,
    EnvoyOptions,
    OriginalDestination,
    SocketAddress,
)

UPSTREAM_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def picker_cluster(options: EnvoyOptions) -> Cluster:
    """Return the cluster of pickers: HTTP/2, health-checked, without panic mode.

    With the default panic threshold Envoy goes on asking a single dead picker, and failing open never happens; with the default
    `no_traffic_interval` of a minute a picker that dies early is not noticed for that long.
    """
    every = timedelta(seconds=options.health_interval_s)
    health = HealthCheck(
        timeout=timedelta(seconds=1),
        interval=every,
        no_traffic_interval=every,
        unhealthy_threshold=1,
        healthy_threshold=1,
        grpc_health_check=HealthCheckGrpcHealthCheck(service_name=options.picker_health),
    )
    http2 = UpstreamOptions(
        explicit_http_config=HttpProtocolOptionsExplicitHttpConfig(http2_protocol_options=Http2ProtocolOptions())
    )
    return Cluster(
        name=PICKER_CLUSTER,
        type=ClusterDiscoveryType.STATIC,
        connect_timeout=timedelta(seconds=options.connect_timeout_s),
        lb_policy=ClusterLbPolicy.LEAST_REQUEST,
        common_lb_config=ClusterCommonLbConfig(healthy_panic_threshold=Percent(value=0.0)),
        health_checks=[health],
        circuit_breakers=_breakers(options),
        typed_extension_protocol_options={UPSTREAM_OPTIONS: Any.pack(http2)},
        transport_socket=_tls(options) if options.picker_tls else None,
        load_assignment=assignment(PICKER_CLUSTER, options.pickers),
    )


def pool_cluster(options: EnvoyOptions) -> Cluster:
    """Return the cluster of model servers, routed by what the picker decided."""
    common = Cluster(
        name=POOL_CLUSTER,
        connect_timeout=timedelta(seconds=options.connect_timeout_s),
        per_connection_buffer_limit_bytes=options.connection_buffer_bytes,
        circuit_breakers=_breakers(options),
        typed_extension_protocol_options={UPSTREAM_OPTIONS: Any.pack(_endpoint_protocol(options))},
    )
    match options.pool:
        case EndpointFile(path=path):
            source = PathConfigSource(path=str(path), watched_directory=WatchedDirectory(path=str(path.parent)))
            common.type = ClusterDiscoveryType.EDS
            common.eds_cluster_config = ClusterEdsClusterConfig(
                service_name=POOL_CLUSTER, eds_config=ConfigSource(path_config_source=source, resource_api_version=ApiVersion.V3)
            )
            common.load_balancing_policy = _follow_the_decision()
        case EndpointList(addresses=addresses):
            common.type = ClusterDiscoveryType.STATIC
            common.load_assignment = assignment(POOL_CLUSTER, addresses)
            common.load_balancing_policy = _follow_the_decision()
        case OriginalDestination():
            common.type = ClusterDiscoveryType.ORIGINAL_DST
            common.lb_policy = ClusterLbPolicy.CLUSTER_PROVIDED
            common.original_dst_lb_config = ClusterOriginalDstLbConfig(use_http_header=True, http_header_name=DESTINATION_HEADER)
        case _:
            assert_never(options.pool)
    return common


def assignment(cluster: str, addresses: Iterable[SocketAddress]) -> ClusterLoadAssignment:
    """Return the endpoints of a cluster, all in one locality."""
    members = [LbEndpoint(endpoint=Endpoint(address=address(one))) for one in addresses]
    return ClusterLoadAssignment(cluster_name=cluster, endpoints=[LocalityLbEndpoints(lb_endpoints=members)])


def _follow_the_decision() -> LoadBalancingPolicy:
    """Return the policy that goes where the metadata or else the header says, and round robin where neither does.

    A list is walked on retries. The endpoint that served in the end is written back for the picker's response phase.
    """
    policy = OverrideHost(
        override_host_sources=[
            OverrideHostOverrideHostSource(metadata=_metadata_key(DESTINATION_HEADER)),
            OverrideHostOverrideHostSource(header=DESTINATION_HEADER),
        ],
        selected_host_key=_metadata_key(SERVED_KEY),
        fallback_policy=_policy("round_robin", RoundRobin()),
    )
    return _policy("override_host", policy)


def _policy(name: str, config: Message) -> LoadBalancingPolicy:
    typed = extension(f"envoy.load_balancing_policies.{name}", config)
    return LoadBalancingPolicy(policies=[LoadBalancingPolicyPolicy(typed_extension_config=typed)])


def _metadata_key(name: str) -> MetadataKey:
    return MetadataKey(key=DECISION_NAMESPACE, path=[MetadataKeyPathSegment(key=name)])


def _endpoint_protocol(options: EnvoyOptions) -> UpstreamOptions:
    """Return HTTP/1.1 with connections dropped before the model server drops them."""
    return UpstreamOptions(
        common_http_protocol_options=HttpProtocolOptions(idle_timeout=timedelta(seconds=options.endpoint_idle_timeout_s)),
        explicit_http_config=HttpProtocolOptionsExplicitHttpConfig(http_protocol_options=Http1ProtocolOptions()),
    )


def _breakers(options: EnvoyOptions) -> CircuitBreakers:
    """Return limits far enough out never to be the reason for an error: one stream per request in flight."""
    most = options.streams_max
    threshold = CircuitBreakersThresholds(max_connections=most, max_pending_requests=most, max_requests=most, max_retries=most)
    return CircuitBreakers(thresholds=[threshold])


def _tls(options: EnvoyOptions) -> TransportSocket:
    """Return TLS towards the picker, ALPN h2; its certificate is checked when there is an authority to check it against."""
    trust = (
        CertificateValidationContext(trusted_ca=DataSource(filename=str(options.picker_ca)))
        if options.picker_ca is not None
        else None
    )
    context = UpstreamTlsContext(common_tls_context=CommonTlsContext(alpn_protocols=["h2"], validation_context=trust))
    return TransportSocket(name="envoy.transport_sockets.tls", typed_config=Any.pack(context))
