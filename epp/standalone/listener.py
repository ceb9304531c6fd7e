"""The listening side of the bootstrap: one HTTP listener, one catch-all route, the picker's filter before the router."""

from collections.abc import Mapping
from datetime import timedelta

from betterproto2 import Message
from envoy_data_plane.envoy.config.accesslog.v3 import AccessLog
from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutation as Mutation
from envoy_data_plane.envoy.config.core.v3 import (
    GrpcService,
    GrpcServiceEnvoyGrpc,
    Http1ProtocolOptions,
    RetryPolicyRetryHostPredicate,
    TypedExtensionConfig,
)
from envoy_data_plane.envoy.config.core.v3 import RetryPolicy as StreamRetryPolicy
from envoy_data_plane.envoy.config.listener.v3 import Filter, FilterChain, Listener
from envoy_data_plane.envoy.config.route.v3 import (
    HeaderMatcher,
    RetryPolicy,
    Route,
    RouteAction,
    RouteConfiguration,
    RouteMatch,
    VirtualHost,
)
from envoy_data_plane.envoy.extensions.access_loggers.stream.v3 import StdoutAccessLog
from envoy_data_plane.envoy.extensions.filters.http.ext_proc.v3 import (
    ExternalProcessor,
    MetadataOptions,
    MetadataOptionsMetadataNamespaces,
    ProcessingMode,
    ProcessingModeBodySendMode,
    ProcessingModeHeaderSendMode,
)
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.http.set_metadata.v3 import Config as SetMetadata
from envoy_data_plane.envoy.extensions.filters.http.set_metadata.v3 import Metadata as MetadataEntry
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpFilter,
)
from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation.v3 import HeaderMutation
from envoy_data_plane.envoy.extensions.retry.host.previous_hosts.v3 import PreviousHostsPredicate
from envoy_data_plane.google.protobuf import Any, Struct

from epp.standalone.messages import address, extension
from epp.standalone.options import DECISION_NAMESPACE, PICKER_CLUSTER, POOL_CLUSTER, SUBSET_NAMESPACE, EnvoyOptions, Mode

_Body = ProcessingModeBodySendMode
_SEND = ProcessingModeHeaderSendMode.SEND
_SKIP = ProcessingModeHeaderSendMode.SKIP

MAX_REQUEST_HEADERS_KB = 96
"""Of the request headers that clients may send; Envoy's default is 60."""
ANOTHER_PICKER_DRAWS = 50
"""How often Envoy draws a picker before it takes one again that has failed. A draw compares two at random and takes the one with
fewer streams, which the dead one has: of two pickers it finds the living one once in four draws, and five are too few."""

# Full duplex wants trailers sent in the same direction (Envoy refuses the configuration otherwise), and request trailers may end a
# body in every mode.
PROCESSING: Mapping[Mode, tuple[ProcessingModeBodySendMode, ProcessingModeBodySendMode, ProcessingModeHeaderSendMode]] = {
    Mode.FULL_DUPLEX: (_Body.FULL_DUPLEX_STREAMED, _Body.FULL_DUPLEX_STREAMED, _SEND),
    Mode.LEAN: (_Body.FULL_DUPLEX_STREAMED, _Body.NONE, _SKIP),
    Mode.BUFFERED: (_Body.BUFFERED, _Body.NONE, _SKIP),
    Mode.BUFFERED_BOTH: (_Body.BUFFERED, _Body.BUFFERED, _SKIP),
    Mode.STREAMED: (_Body.STREAMED, _Body.STREAMED, _SEND),
}


def listener(options: EnvoyOptions) -> Listener:
    """Return the listener that clients connect to."""
    manager = HttpConnectionManager(
        stat_prefix="llm",
        # What Envoy refuses by itself while it reads a request, it cannot answer past ext_proc: the client waits, and gets nothing.
        http_protocol_options=Http1ProtocolOptions(accept_http_10=True, default_host_for_http_10="epp"),
        max_request_headers_kb=MAX_REQUEST_HEADERS_KB,
        stream_idle_timeout=timedelta(seconds=options.stream_idle_timeout_s),
        early_header_mutation_extensions=_early_mutations(options),
        route_config=RouteConfiguration(virtual_hosts=[VirtualHost(name="all", domains=["*"], routes=_routes(options))]),
        http_filters=_http_filters(options),
        access_log=[AccessLog(name="stdout", typed_config=Any.pack(StdoutAccessLog()))] if options.access_log else [],
    )
    return Listener(
        name="llm",
        address=address(options.listener),
        per_connection_buffer_limit_bytes=options.connection_buffer_bytes,
        enable_reuse_port=False,  # with it a second Envoy on our port would start, and silently take half of the connections
        filter_chains=[FilterChain(filters=[Filter(name="http_connection_manager", typed_config=Any.pack(manager))])],
    )


def _early_mutations(options: EnvoyOptions) -> list[TypedExtensionConfig]:
    """Return what happens to request headers before routing: what clients may not send is removed."""
    if not options.client_may_not_send:
        return []
    removals = [Mutation(remove=name) for name in options.client_may_not_send]
    return [extension("envoy.http.early_header_mutation.header_mutation", HeaderMutation(mutations=removals))]


def _routes(options: EnvoyOptions) -> list[Route]:
    """Return the routes, all to the pool; `EnvoyOptions.retries` tells why there are two.

    No timeout: a generation takes as long as it takes; `stream_idle_timeout_s` catches what hangs.
    """
    once = RouteAction(cluster=POOL_CLUSTER, timeout=timedelta(0))
    if not options.retries:
        return [Route(match=RouteMatch(prefix="/"), route=once)]
    retries = RetryPolicy(retry_on="connect-failure,refused-stream", num_retries=options.retries)
    again = RouteAction(cluster=POOL_CLUSTER, timeout=timedelta(0), retry_policy=retries)
    announced = HeaderMatcher(name="trailer", present_match=True)
    return [
        Route(match=RouteMatch(prefix="/", headers=[announced]), route=once),
        Route(match=RouteMatch(prefix="/"), route=again),
    ]


def _http_filters(options: EnvoyOptions) -> list[HttpFilter]:
    """Return the filter chain: metadata (when there is any), the picker, the router."""
    chain: list[tuple[str, Message]] = []
    if options.request_metadata:
        chain.append(("set_metadata", _set_metadata(options.request_metadata)))
    chain += [("ext_proc", picker_filter(options)), ("router", Router())]
    return [HttpFilter(name=f"envoy.filters.http.{name}", typed_config=Any.pack(config)) for name, config in chain]


def _set_metadata(metadata: Mapping[str, Mapping[str, object]]) -> SetMetadata:
    """Return the filter that puts fixed metadata on every request."""
    return SetMetadata(
        metadata=[
            MetadataEntry(metadata_namespace=namespace, allow_overwrite=True, value=Struct.from_dict(dict(values)))
            for namespace, values in metadata.items()
        ]
    )


def picker_filter(options: EnvoyOptions) -> ExternalProcessor:
    """Return the ext_proc filter.

    Without `receiving_namespaces` Envoy drops the decision's metadata; without `forwarding_namespaces` the picker sees neither
    the subset hint nor, in the response, which endpoint really served.
    """
    request_body, response_body, response_trailers = PROCESSING[options.mode]
    return ExternalProcessor(
        grpc_service=_picker_service(options),
        failure_mode_allow=options.fail_open,
        message_timeout=timedelta(seconds=options.message_timeout_s),
        allow_mode_override=options.mode is Mode.BUFFERED_BOTH,
        processing_mode=ProcessingMode(
            request_header_mode=_SEND,
            request_body_mode=request_body,
            request_trailer_mode=_SEND,
            response_header_mode=_SEND,
            response_body_mode=response_body,
            response_trailer_mode=response_trailers,
        ),
        metadata_options=MetadataOptions(
            receiving_namespaces=MetadataOptionsMetadataNamespaces(untyped=[DECISION_NAMESPACE]),
            forwarding_namespaces=MetadataOptionsMetadataNamespaces(untyped=[DECISION_NAMESPACE, SUBSET_NAMESPACE]),
        ),
    )


def _picker_service(options: EnvoyOptions) -> GrpcService:
    """Return where the picker is, and what is done when no stream can be opened there: another picker is asked.

    Only where the picker cannot have seen the request: a decision is never asked for twice.
    """
    retries = StreamRetryPolicy(
        retry_on="connect-failure,refused-stream,reset-before-request",
        num_retries=options.picker_retries,
        retry_host_predicate=[
            RetryPolicyRetryHostPredicate(
                name="envoy.retry_host_predicates.previous_hosts", typed_config=Any.pack(PreviousHostsPredicate())
            )
        ],
        host_selection_retry_max_attempts=ANOTHER_PICKER_DRAWS,
    )
    return GrpcService(
        envoy_grpc=GrpcServiceEnvoyGrpc(cluster_name=PICKER_CLUSTER, authority=PICKER_CLUSTER),
        retry_policy=retries if options.picker_retries else None,
    )
