"""Every exception of the project, drawn as a tree. No other module defines one.

    EppError
    ├── RequestError            the request gets an HTTP answer instead of an endpoint
    │   ├── BadRequest          400  the body or a header cannot be understood
    │   ├── BodyTooLarge        413  the body is over its cap
    │   ├── Overloaded          429  shed: try again later, says Retry-After
    │   └── NoEndpoint          503  nobody can serve it
    ├── ConfigError             a file or flag is wrong; carries the path of the offending field
    ├── ProtocolError           the peer broke the ext_proc contract
    ├── WireError               bytes that are not the message they claim to be
    ├── Http2Error              the peer broke HTTP/2 or one of our limits; ends a stream or the connection
    ├── StatusError             a call cannot be carried on; ends with a gRPC status
    ├── ApiError                the Kubernetes API server said no, or could not be asked
    ├── LaunchError             a process we start beside ours did not come up, or died
    └── TokenizeError           no tokens for this prompt; the strategy falls through

`RequestError` is translated to an HTTP answer once, in the session; `ConfigError` to an exit code once, in the command line.
"""

from typing import ClassVar


class EppError(Exception):
    """Base of everything this project raises on purpose."""


class RequestError(EppError):
    """The request is answered by the picker itself.

    Args:
        message: one sentence for the client; never holds text of the prompt.
        reason: value of the `x-llm-d-request-dropped-reason` header, if any.
        retry_after_s: value of the `Retry-After` header, if any.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "Internal"

    def __init__(self, message: str, *, reason: str | None = None, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.retry_after_s = retry_after_s


class BadRequest(RequestError):
    """400: what the client sent cannot be understood."""

    status = 400
    code = "BadRequest"


class BodyTooLarge(RequestError):
    """413: the body is over its cap."""

    status = 413
    code = "PayloadTooLarge"


class Overloaded(RequestError):
    """429: the request is shed."""

    status = 429
    code = "ResourceExhausted"


class NoEndpoint(RequestError):
    """503: no endpoint can take the request."""

    status = 503
    code = "ServiceUnavailable"


class ConfigError(EppError):
    """A configuration that cannot be used.

    Args:
        message: what is wrong and, where it helps, what is allowed.
        path: where, as in `plugins[2].parameters.depthMax`; empty for the whole file.
    """

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.message = message
        self.path = path


class ProtocolError(EppError):
    """The peer sent a message its side of the contract does not allow now."""


class WireError(EppError):
    """Bytes that do not decode to the message they claim to be."""


class Http2Error(EppError):
    """What a peer did that HTTP/2 or one of our limits does not allow.

    Args:
        message: what, for the log and for GOAWAY; never holds what was sent.
        code: the error code of RFC 9113 section 7.
        stream_id: the stream that it costs; 0 when it costs the connection.
    """

    def __init__(self, message: str, code: int, stream_id: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.stream_id = stream_id


class StatusError(EppError):
    """A call that the transport itself ends.

    Args:
        code: the gRPC status.
        message: `grpc-message`.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class ApiError(EppError):
    """What the Kubernetes API server refused, or why it could not be asked.

    Args:
        status: of the HTTP answer; 0 when there was none that could be used.
        reason: one word, the server's own (`NotFound`, `Forbidden`, `Expired`, `Conflict`, ...) or, with status 0, one of
            `epp.kube.client`.
        message: a sentence for the log.
        retry_after_s: how long the server asks to be left alone.
    """

    def __init__(self, status: int, reason: str, message: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(f"{reason}: {message}" if message else reason)
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after_s = retry_after_s


class LaunchError(EppError):
    """A process that should run beside ours did not start, did not get ready in time, or ended; carries the last of its output."""


class TokenizeError(EppError):
    """The prompt could not be turned into token ids in time or at all."""
