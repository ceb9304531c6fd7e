"""Decisions and outcomes as the director would hand them over, for tests of those who are told."""

import numpy as np
from msgspec.structs import replace

from epp.model.decision import Decision, FilterStep, Outcome, ScoreSheet, ScoreStep, Usage
from epp.model.request import InferenceRequest
from epp.testing.builders import build_match, build_request, build_snapshot

SECRET = b"You are a helpful AI writer. This text must not be seen."


def build_decision(
    *, model: str = "tiny", chosen: int = 1, request_id: str = "r-1", match: bool = True, endpoints: int = 4, **changes
) -> Decision:
    """Return a decision among `endpoints`, of which a filter removed the last, and which two scorers rated."""
    snapshot = build_snapshot(endpoints)
    slots = np.arange(max(1, endpoints - 1))
    prefix = np.where(slots == 1, 0.75, 0.0)
    queue = np.linspace(1.0, 0.8, len(slots))
    headers, priority = changes.pop("headers", {}), changes.pop("priority", 0)
    request = build_request(SECRET, model=model, headers=headers)
    request = replace(request, head=replace(request.head, request_id=request_id, priority=priority), **changes.pop("request", {}))
    found = build_match([768.0 if slot == 1 else 0.0 for slot in range(endpoints)], 1024) if match else None
    sheet = ScoreSheet(
        profile="default",
        slots=slots,
        totals=3 * prefix + queue,
        endpoints=snapshot.endpoints,
        candidates=np.arange(endpoints),
        filters=[FilterStep(name="decode-filter", before=np.arange(endpoints), after=slots)],
        scores=[
            ScoreStep(name="prefix-cache-scorer", weight=3.0, slots=slots, values=prefix),
            ScoreStep(name="queue-scorer", weight=1.0, slots=slots, values=queue),
        ],
        match=found,
        ages_s=np.where(slots == 0, np.inf, 0.05),
    )
    facts = {
        "request": request,
        "endpoint": snapshot.endpoints[chosen],
        "slot": chosen,
        "fallbacks": (snapshot.endpoints[0],) if endpoints > 1 else (),
        "sheet": sheet,
        "strategy": "approximate" if match else "",
        "matched_tokens": 768.0 if match and chosen == 1 else 0.0,
        "prompt_tokens": 1024,
        "reservation": 7,
        "at_s": 99.9,
    }
    return Decision(**(facts | changes))


def build_rejected(**head) -> InferenceRequest:
    """Return a request that was not given an endpoint."""
    request = build_request(SECRET)
    return replace(request, head=replace(request.head, **head))


def build_outcome(**changes) -> Outcome:
    """Return the end of a request that was answered, with a report of its tokens."""
    usage = Usage(prompt_tokens=1000, completion_tokens=11, cached_tokens=700)
    return Outcome(**({"end": "complete", "status": 200, "usage": usage, "response_bytes": 5000} | changes))
