"""The metrics page: numbers taken on the event loop, rendered off it.

A page of a busy pool has tens of thousands of lines, and rendering those takes longer than a request may wait. So what reads live
structures is taken on the loop; families and text are made of it in a thread.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric

from epp.telemetry.metrics import Metrics
from epp.telemetry.state_metrics import Sources, Taken, take


@dataclass(frozen=True, slots=True)
class _Families:
    """What the client's encoders take for a registry."""

    state: list[Taken]
    metrics: Metrics
    process: CollectorRegistry

    def collect(self) -> Iterator[Metric]:
        return chain(self.metrics.collect(), (one.family() for one in self.state), self.process.collect())


class MetricsPage:
    """Renders everything that is exported; one page at a time, since the next scrape can wait and requests cannot."""

    def __init__(self, metrics: Metrics, sources: Sources) -> None:
        self._metrics = metrics
        self._sources = sources
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)
        PlatformCollector(registry=self._process)
        self._rendering = asyncio.Lock()

    async def render(self, accept: str) -> tuple[bytes, str]:
        """Return the page and its content type, in the format an `Accept` header asks for."""
        try:
            encode, content_type = choose_encoder(accept)
        except (ValueError, TypeError):  # a version that is no number; such a client gets what one without wishes does
            encode, content_type = choose_encoder("")
        async with self._rendering:
            families = _Families(take(self._sources), self._metrics, self._process)
            return await asyncio.to_thread(encode, families), content_type
