"""Everything that no other parser claims: the body is not looked at, and the request is routed by load alone."""

from epp.model.request import Api, InferenceRequest, RequestHead


def parse(head: RequestHead, _body: bytes) -> InferenceRequest:
    """Return a request without model and prompt. Never fails; the body may be anything, or nothing (GET)."""
    return InferenceRequest(head=head, api=Api.PASSTHROUGH)
