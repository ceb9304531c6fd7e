"""What can be set about the streams: bounds, and how to talk to gateways that do not say how they want it."""

from dataclasses import dataclass

from epp.extproc.events import BodyMode


@dataclass(frozen=True, slots=True, kw_only=True)
class WireOptions:
    """The settings of every stream's session and codec."""

    body_bytes_max: int = 64 << 20
    """Request body held for the decision; a longer one is answered with 413. Long prompts are a few MB, images in base64 tens."""
    usage_tail_bytes: int = 16 << 10
    """End of a response kept to find its usage in. A usage object with its details is under 1 kB; what follows it needs room."""
    usage_head_bytes: int = 2 << 10
    """Start of a response kept likewise: Anthropic's `message_start` comes first."""
    restore_bytes_max: int = 1 << 20
    """Response bytes held back to put the model name back: a line of SSE, or a whole JSON answer. Longer ones pass unchanged."""
    mode_default: BodyMode = BodyMode.FULL_DUPLEX
    """How bodies come when the gateway does not say. NGINX Gateway Fabric does not, and reads only the headers answer."""
    mode_forced: BodyMode | None = None
    """How bodies come, whatever the gateway says."""
    skip_response_body: bool = True
    """Ask not to be sent the response where both bodies are BUFFERED: else SSE is held back to its end. Costs the usage."""
    emit_endpoint_scores: bool = False
    """Publish the score of every rated endpoint as `x-gateway-destination-endpoint-scores`."""
    served_header: str = ""
    """Name of a response header that tells the client which endpoint answered, where the gateway reports it; empty for none."""
    echo_headers: bool = False
    """Set all headers again to what they were, as the reference picker does. Loses repeated headers; for comparison only."""


DEFAULTS = WireOptions()
