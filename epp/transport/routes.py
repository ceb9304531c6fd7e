"""What the transports have in common on the way to a handler: which method is whose, and what happens when a handler breaks."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from epp.model.stream import Accept

log = logging.getLogger(__name__)

PROCESS_METHOD = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Who answers the calls of one method. Unary or streaming makes no difference to gRPC's wire, nor here."""

    accept: Accept


Routes = Mapping[str, Route]
"""By path, as in `/package.Service/Method`."""


def log_failure(error: Exception) -> None:
    """Log an exception of a handler."""
    log.error("handler failed", exc_info=error)
