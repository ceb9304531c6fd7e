"""How what is followed in the API server stands: for the series, and in words for whoever asks whether we are ready."""

from typing import Any

from epp.kube.reflector import Reflector
from epp.telemetry.state_metrics import Watched


def standing(one: Reflector[Any]) -> Watched:
    """Return how a collection is followed."""
    return Watched(
        resource=one.resource,
        synced=one.synced,
        failing=bool(one.failing),
        objects=len(one.objects),
        last_contact_s=one.last_contact_s,
        lists=one.lists,
        errors=one.errors,
    )


def remark(one: Reflector[Any], now_s: float) -> str:
    """Return what is amiss with a collection, and since when; empty when nothing is."""
    if not one.failing:
        return ""
    known = f"as they were {now_s - one.last_contact_s:.0f} s ago" if one.synced else "not known at all"
    return f"the API server cannot be followed ({one.failing}): {one.resource} are {known}"
