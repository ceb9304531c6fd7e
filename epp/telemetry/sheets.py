"""Why a request went where it went: the last decisions, kept as references and rendered when somebody asks.

The director tells the ring of every decision and its end; the admin port and the demo read it. What is kept of a
request is its names and numbers and a short hash of the prompt, never the prompt: neither people nor memory should have it.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import xxhash
from msgspec import Struct

from epp.errors import RequestError
from epp.model.decision import Decision, Outcome, ScoreSheet
from epp.model.endpoint import Endpoint
from epp.model.match import IntColumn
from epp.model.request import InferenceRequest

RECORDS_MAX = 1000
BYTES_MAX = 64 << 20
"""Of the arrays that the records hold on to; reached only with thousands of endpoints."""
BYTES_PER_ELEMENT = 8
ROWS_MAX = 20
"""Endpoints of a rendered sheet, best first, unless told otherwise."""
ID_CHARS_MAX = 128
PROMPT_HASH_CHARS = 12

Json = dict[str, Any]


class Record(Struct, kw_only=True):
    """A decision without the content of its request, and what became of it."""

    id: str
    """The request id; made up where the gateway sent none."""
    at_s: float
    """Wall time."""
    path: str
    model: str
    target_model: str
    rewrite: str
    """Which rewrite chose the target model; empty when no rule did."""
    priority: int
    prompt_hash: str
    prompt_bytes: int
    prompt_tokens: int
    endpoint: Endpoint
    slot: int
    fallbacks: tuple[Endpoint, ...]
    sheet: ScoreSheet
    strategy: str
    matched_tokens: float
    duration_s: float
    """What deciding took."""
    array_bytes: int
    """Memory of the arrays that belong to this record alone, roughly."""
    outcome: Outcome | None = None
    ttft_s: float | None = None
    total_s: float | None = None


def record(decision: Decision, *, at_s: float, duration_s: float = 0.0) -> Record:
    """Return what is kept of a decision. Cost: 3 us, and 5 us for each 100 kB of prompt, to hash it."""
    request, head, sheet = decision.request, decision.request.head, decision.sheet
    width = len(sheet.match.tokens) if sheet.match is not None else 0
    return Record(
        id=head.request_id[:ID_CHARS_MAX] or f"reservation-{decision.reservation}",
        at_s=at_s,
        path=head.path.partition("?")[0],
        model=request.model,
        target_model=request.target_model,
        rewrite=request.rewrite,
        priority=request.priority,
        prompt_hash=prompt_hash(request),
        prompt_bytes=len(request.prompt),
        prompt_tokens=decision.prompt_tokens,
        endpoint=decision.endpoint,
        slot=decision.slot,
        fallbacks=decision.fallbacks,
        sheet=sheet,
        strategy=decision.strategy,
        matched_tokens=decision.matched_tokens,
        duration_s=duration_s,
        array_bytes=BYTES_PER_ELEMENT * ((len(sheet.scores) + 2) * len(sheet.totals) + width),
    )


def prompt_hash(request: InferenceRequest) -> str:
    """Return what stands for a prompt wherever people look: equal prompts have equal hashes, and nothing leads back."""
    content = request.prompt or np.array(request.token_ids or (), dtype=np.uint64).tobytes()
    return xxhash.xxh3_64_hexdigest(content)[:PROMPT_HASH_CHARS]


class DecisionRing:
    """The last decisions, newest last. An `Observer` of the director.

    Args:
        wall: seconds since the epoch.
        records_max: most decisions kept.
        bytes_max: most bytes of their arrays.
    """

    def __init__(self, wall: Callable[[], float], *, records_max: int = RECORDS_MAX, bytes_max: int = BYTES_MAX) -> None:
        self._wall = wall
        self._records_max = records_max
        self._bytes_max = bytes_max
        self._bytes = 0
        self._records: deque[Record] = deque()
        self._by_id: dict[str, Record] = {}

    def __len__(self) -> int:
        return len(self._records)

    def keep(self, records_max: int) -> None:
        """Keep so many from the next decision on."""
        self._records_max = records_max

    def decided(self, decision: Decision, *, duration_s: float, body_bytes: int) -> None:  # noqa: ARG002
        """Keep a decision, in the place of the oldest when there is no room."""
        new = record(decision, at_s=self._wall(), duration_s=duration_s)
        self._records.append(new)
        self._by_id[new.id] = new
        self._bytes += new.array_bytes
        while len(self._records) > self._records_max or (self._bytes > self._bytes_max and len(self._records) > 1):
            old = self._records.popleft()
            self._bytes -= old.array_bytes
            if self._by_id.get(old.id) is old:
                del self._by_id[old.id]

    def rejected(self, request: InferenceRequest, error: RequestError) -> None:
        """Nothing: there was no decision."""

    def finished(self, decision: Decision, outcome: Outcome, *, ttft_s: float | None, duration_s: float) -> None:
        """Add the end to the record, if it is still there."""
        kept = self._by_id.get(decision.request.head.request_id[:ID_CHARS_MAX] or f"reservation-{decision.reservation}")
        if kept is not None and kept.sheet is decision.sheet:
            kept.outcome, kept.ttft_s, kept.total_s = outcome, ttft_s, duration_s

    def get(self, request_id: str) -> Record | None:
        """Return the latest decision of a request id, None when it is not kept any more."""
        return self._by_id.get(request_id[:ID_CHARS_MAX])

    def recent(self, limit: int, *, model: str | None = None, endpoint: str | None = None) -> list[Record]:
        """Return the latest decisions, newest first, of one model or endpoint (name or `address:port`) if given."""
        found: list[Record] = []
        for one in reversed(self._records):
            if len(found) >= limit:
                break
            here = endpoint is None or endpoint in {one.endpoint.name, one.endpoint.authority}
            if here and model in {None, one.model}:
                found.append(one)
        return found


def runner_up(sheet: ScoreSheet, slot: int) -> tuple[float, int | None]:
    """Return by how much `slot` beat the best of the others, and who that is; (0, None) when there was no other.

    Negative when the picker drew at random and did not take the best.
    """
    if len(sheet.slots) < 2:
        return 0.0, None
    own = int(sheet.slots.searchsorted(slot))
    others = sheet.totals.copy()
    others[own] = -np.inf
    best = int(others.argmax())
    return sheet.totals.item(own) - others.item(best), sheet.slots.item(best)


def why(one: Record) -> str:
    """Return one line for people: who was chosen, over whom, and what tipped the scale."""
    sheet, name = one.sheet, one.endpoint.name
    known = f"{one.strategy} holds {one.matched_tokens:.0f} of its {one.prompt_tokens} tokens there" if one.strategy else ""
    known = known or f"nobody is known to hold any of its {one.prompt_tokens} tokens"
    margin, second = runner_up(sheet, one.slot)
    if second is None:
        verdict = f"the only one left of {len(sheet.candidates)}"
    elif not margin:
        verdict = f"tied with {_name(sheet, second)} among {len(sheet.slots)}"
    else:
        scorer, ahead = _decisive(sheet, one.slot, second)
        verdict = f"{margin:+.3f} over {_name(sheet, second)} among {len(sheet.slots)}, most by {scorer} ({ahead:+.3f})"
    return f"prompt {one.prompt_hash} -> {name}: {known}; {verdict}"


def _decisive(sheet: ScoreSheet, slot: int, second: int) -> tuple[str, float]:
    """Return the scorer that set the two furthest apart, and by how much."""
    leads = [
        (step.name, step.weight * (_at(step.slots, step.values, slot) - _at(step.slots, step.values, second)))
        for step in sheet.scores
    ]
    return max(leads, key=lambda lead: abs(lead[1]), default=("no scorer", 0.0))


def render(one: Record, *, rows_max: int | None = ROWS_MAX) -> Json:
    """Return a record as JSON can hold it: who there was, what each filter removed, each scorer's value and weight, the margin.

    Args:
        one: the record.
        rows_max: most endpoints shown, the chosen one always among them; None: all.
    """
    sheet, match = one.sheet, one.sheet.match
    margin, second = runner_up(sheet, one.slot)
    return {
        "request_id": one.id,
        "at": datetime.fromtimestamp(one.at_s, UTC).isoformat(timespec="milliseconds"),
        "why": why(one),
        "path": one.path,
        "model": one.model,
        "target_model": one.target_model,
        "rewrite": one.rewrite,
        "priority": one.priority,
        "prompt": {"hash": one.prompt_hash, "bytes": one.prompt_bytes, "tokens": one.prompt_tokens},
        "endpoint": _endpoint(one.endpoint),
        "fallbacks": [_endpoint(fallback) for fallback in one.fallbacks],
        "duration_us": round(one.duration_s * 1e6, 1),
        "profile": sheet.profile,
        "strategy": {
            "name": one.strategy,
            "matched_tokens": one.matched_tokens,
            "certainty": match.certainty if match is not None else None,
            "reason": match.reason if match is not None else "",
            "passed_over": list(match.passed_over) if match is not None else [],
        },
        "margin": margin,
        "second": _name(sheet, second) if second is not None else None,
        "candidates": len(sheet.candidates),
        "filters": [
            {"name": step.name, "removed": _names(sheet, np.setdiff1d(step.before, step.after), rows_max)} for step in sheet.filters
        ],
        "rows": _rows(one, rows_max),
        "outcome": _outcome(one),
    }


def _rows(one: Record, rows_max: int | None) -> list[Json]:
    """Return the scored endpoints, best first, the chosen one always among them."""
    sheet = one.sheet
    order = np.argsort(-sheet.totals, kind="stable").tolist()
    shown = order[:rows_max]
    shown += [index for index in order[len(shown) :] if sheet.slots[index] == one.slot]
    return [_row(sheet, index, chosen=int(sheet.slots[index]) == one.slot) for index in shown]


def _row(sheet: ScoreSheet, index: int, *, chosen: bool) -> Json:
    slot = int(sheet.slots[index])
    tokens = sheet.match.tokens if sheet.match is not None else ()
    return {
        "endpoint": _name(sheet, slot),
        "chosen": chosen,
        "total": _number(sheet.totals[index]),
        "matched_tokens": _number(tokens[slot]) if slot < len(tokens) else 0.0,
        "age_ms": _number(sheet.ages_s[index] * 1e3) if sheet.ages_s is not None else None,
        "scores": {
            step.name: {"value": _number(_at(step.slots, step.values, slot)), "weight": step.weight} for step in sheet.scores
        },
    }


def _outcome(one: Record) -> Json | None:
    outcome = one.outcome
    if outcome is None:
        return None
    usage = outcome.usage
    return {
        "end": outcome.end,
        "status": outcome.status,
        "served": outcome.served,
        "ttft_ms": _milliseconds(one.ttft_s),
        "duration_ms": _milliseconds(one.total_s),
        "response_bytes": outcome.response_bytes,
        "prompt_tokens": usage.prompt_tokens if usage is not None else None,
        "completion_tokens": usage.completion_tokens if usage is not None else None,
        "cached_tokens": usage.cached_tokens if usage is not None else None,
    }


def _endpoint(endpoint: Endpoint) -> Json:
    return {"name": endpoint.name, "authority": endpoint.authority}


def _name(sheet: ScoreSheet, slot: int) -> str:
    endpoint = sheet.endpoints[slot] if slot < len(sheet.endpoints) else None
    return endpoint.name if endpoint is not None else f"slot-{slot}"


def _names(sheet: ScoreSheet, slots: IntColumn, rows_max: int | None) -> list[str]:
    names = [_name(sheet, slot) for slot in slots[:rows_max].tolist()]
    return [*names, f"and {len(slots) - len(names)} more"] if len(names) < len(slots) else names


def _at(slots: IntColumn, values: Sequence[float] | np.ndarray[Any, Any], slot: int) -> float:
    """Return the value of `slot`; 0 when it was not among `slots`."""
    place = np.flatnonzero(slots == slot)
    return float(values[int(place[0])]) if len(place) else 0.0


def _number(value: float) -> float | None:
    """Return a plain float; None for what JSON has no number for."""
    return round(float(value), 6) if math.isfinite(value) else None


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 3)
