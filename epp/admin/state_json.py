"""The pool and the strategies as JSON can hold them."""

import math
from collections.abc import Iterable
from dataclasses import asdict, fields
from typing import Any

from epp.model.snapshot import Columns, Snapshot
from epp.prefix.accurate import Accurate
from epp.prefix.chain import Chain
from epp.prefix.strategy import Strategy
from epp.telemetry.state_metrics import members

Json = dict[str, Any]


def pool_json(snapshot: Snapshot, now_s: float) -> Json:
    """Return every endpoint with its columns; the two that hold a time as ages."""
    columns = {field.name: getattr(snapshot.columns, field.name)[snapshot.slots].tolist() for field in fields(Columns)}
    for name in ("scraped", "head_since"):
        columns[f"{name}_age_s"] = [now_s - at_s for at_s in columns.pop(f"{name}_s")]
    heads = zip(columns["head_since_age_s"], columns["head_tokens"], strict=True)
    columns["head_since_age_s"] = [age if tokens else math.nan for age, tokens in heads]  # of no prefill there is no age
    rows = []
    for place, slot in enumerate(snapshot.slots.tolist()):
        endpoint = snapshot.endpoints[slot]
        if endpoint is None:
            continue
        row: Json = {"name": endpoint.name, "authority": endpoint.authority, "slot": slot, "labels": dict(endpoint.labels)}
        row |= {name: _plain(values[place]) for name, values in columns.items()}
        rows.append(row)
    return {
        "version": snapshot.version,
        "utilization_ratio": snapshot.utilization_ratio,
        "adapters": sorted(snapshot.adapters),
        "endpoints": rows,
    }


def strategies_json(strategies: Iterable[Strategy]) -> Json:
    """Return each strategy's health and size, chains with what came of asking their members."""
    configured = list(strategies)
    chains = [one for one in configured if isinstance(one, Chain)]
    return {
        "strategies": [_strategy(one) for one in members(configured)],
        "chains": [
            {
                "order": [member.name for member in one.strategies],
                "health": _health(one),
                "asked": [{"strategy": name, "verdict": verdict.value, "count": n} for (name, verdict), n in one.verdicts.items()],
            }
            for one in chains
        ],
    }


def _strategy(strategy: Strategy) -> Json:
    shown: Json = {"name": strategy.name, "health": _health(strategy), "size": asdict(strategy.size())}
    if isinstance(strategy, Accurate):
        shown["streams"] = [
            {
                "endpoint": report.endpoint.name,
                "standing": report.standing.value,
                "blocks": report.blocks,
                "block_tokens": report.block_tokens,
                "epoch": report.epoch,
                "counts": asdict(report.counts),
            }
            for report in strategy.feed.report()
        ]
    return shown


def _health(strategy: Strategy) -> Json:
    health = strategy.health()
    return {"condition": health.condition.value, "reason": health.reason}


def _plain(value: float) -> float | None:
    """Return the number; None for what JSON has none for."""
    return value if math.isfinite(value) else None
