"""Pools and requests in one line, for tests of plugins: yours and ours."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from epp.model.endpoint import Endpoint
from epp.model.match import FloatColumn, Match
from epp.model.request import Api, InferenceRequest, RequestHead
from epp.model.snapshot import Columns, Snapshot
from epp.scheduling.api import View

INTEGER_COLUMNS = {"role", "block_tokens", "requests", "backlog_count", "decoding"}
NOW_S = 1000.0


def build_endpoint(index: int, labels: Mapping[str, str] | None = None, address: str = "") -> Endpoint:
    """Return endpoint number `index` of a made-up pool."""
    return Endpoint(
        name=f"default/server-{index}",
        address=address or f"10.0.{(index + 1) >> 8}.{(index + 1) & 255}",
        port=8000,
        labels=labels or {},
    )


def build_snapshot(
    endpoints: int | Sequence[Endpoint | None],
    *,
    adapters: Mapping[str, tuple[int, int]] | None = None,
    **columns: Sequence[float] | float,
) -> Snapshot:
    """Return a snapshot of a pool with the given columns; those not named hold what an idle, freshly scraped pool would.

    Args:
        endpoints: how many, or which (None for an empty slot).
        adapters: as in `Snapshot.adapters`.
        columns: fields of `Columns`, one value per slot; `adapter_room` and `utilization_ratio` are taken as the snapshot's.
    """
    members = [build_endpoint(index) for index in range(endpoints)] if isinstance(endpoints, int) else list(endpoints)
    extra: dict[str, Any] = {name: columns.pop(name) for name in ("adapter_room", "utilization_ratio") if name in columns}
    values: dict[str, Any] = {
        field.name: np.zeros(len(members), dtype=np.int64 if field.name in INTEGER_COLUMNS else np.float64)
        for field in fields(Columns)
    }
    values["live"] = np.array([member is not None for member in members])
    values["role"] = np.array([0 if member is None else int(member.role) for member in members], dtype=np.int64)
    values["scraped_s"] = np.full(len(members), NOW_S)
    values["rate"] = np.full(len(members), 8000.0)
    values["speed"] = np.full(len(members), 8000.0)
    for name, column in columns.items():
        values[name] = np.array(column, dtype=values[name].dtype)
    live = [(slot, member) for slot, member in enumerate(members) if member is not None]
    by_address: dict[str, tuple[int, ...]] = {}
    for slot, member in live:
        by_address[member.address] = (*by_address.get(member.address, ()), slot)
    return Snapshot(
        version=1,
        endpoints=tuple(members),
        slots=np.array([slot for slot, _ in live], dtype=np.int64),
        columns=Columns(**values),
        by_authority={member.authority: slot for slot, member in live},
        by_address=by_address,
        adapters=adapters or {},
        adapter_room=int(extra.pop("adapter_room", 0)),
        **extra,
    )


def build_view(snapshot: Snapshot, match: Match | None = None, slots: Sequence[int] | None = None, now_s: float = NOW_S) -> View:
    """Return a view of the snapshot's live endpoints, or of the given slots, with `match` as what the default producer found."""
    chosen = snapshot.slots if slots is None else np.array(slots, dtype=np.int64)
    return View(snapshot, chosen, {"": match}, now_s)


def build_match(tokens: Sequence[float], total: int) -> Match:
    """Return a match in which slot i holds `tokens[i]` of a prompt of `total` tokens."""
    column: FloatColumn = np.array(tokens, dtype=np.float64)
    return Match(source="test", tokens=column, total=total)


def build_request(prompt: bytes | int = b"", *, model: str = "tiny", headers: Mapping[str, str] | None = None) -> InferenceRequest:
    """Return a chat request for a prompt, or for one of that many estimated tokens."""
    text = b"word" * prompt if isinstance(prompt, int) else prompt
    head = RequestHead(path="/v1/chat/completions", headers=headers or {})
    return InferenceRequest(head=head, api=Api.CHAT, model=model, target_model=model, prompt=text)
