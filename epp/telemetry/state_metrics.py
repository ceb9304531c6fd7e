"""Series that are computed when somebody scrapes: the pool, the strategies, the event streams, the configuration.

Nothing here runs on the request path. `take` reads live structures and so belongs on the event loop; what it returns is made into
families and text elsewhere.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields

import numpy as np
from prometheus_client.metrics_core import Metric

from epp.model.match import FloatColumn
from epp.model.snapshot import Snapshot
from epp.prefix.accurate import Accurate
from epp.prefix.chain import Chain
from epp.prefix.kv_feed import StreamReport
from epp.prefix.kv_stream import Standing
from epp.prefix.residency import Counts
from epp.prefix.strategy import Condition, Strategy
from epp.telemetry import series as s

STALE_S = 2.0
"""Scraped values older than this do not count; as the reference's `metrics-staleness-threshold`."""
SOURCE_TYPE = "metrics-data-source"
_EVENTS = tuple(one.name for one in fields(Counts) if one.name != "lag_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigState:
    """Which configuration is in force."""

    hash: str = ""
    generation: int = 0
    last_success_s: float = 0.0
    """Wall time at which a good configuration last came."""
    last_failure_s: float = 0.0
    """Wall time at which one last came that was not taken; 0: never."""
    failures: int = 0
    up_to_date: bool = True
    """Whether the newest configuration is in force."""
    pinned: bool = False
    on_trial: bool = False
    parked: int = 0
    """Strategies not in use that are kept warm."""
    parked_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """How a resource of the Kubernetes API is followed."""

    resource: str
    synced: bool
    failing: bool
    objects: int
    last_contact_s: float
    """Monotonic seconds; -inf for never."""
    lists: int
    errors: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidacy:
    """Our part in the election of a leader."""

    lease: str
    leads: bool
    changes: int
    errors: Mapping[str, int]
    """Attempts that failed, by reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where the facts are had from; each is called when they are wanted."""

    snapshot: Callable[[], Snapshot]
    clock: Callable[[], float]
    """Monotonic seconds; that of `Columns.scraped_s`."""
    strategies: Callable[[], Iterable[Strategy]] = tuple
    """Chains among them stand for their members."""
    config: Callable[[], ConfigState] = ConfigState
    saturation: Callable[[], float] = float
    poll_errors: Callable[[], Mapping[str, int]] = dict
    """Metrics pages not read since the start, by cause."""
    untokenized: Callable[[], Mapping[str, int]] = dict
    """Prompts that the tokenizer let go without ids, by reason; nothing where there is none."""
    bodies_held: Callable[[], int] = int
    """Bytes of request bodies."""
    watched: Callable[[], Iterable[Watched]] = tuple
    """What is followed in the Kubernetes API; nothing elsewhere."""
    candidacies: Callable[[], Iterable[Candidacy]] = tuple
    """One where a leader is elected, else none."""
    pool_name: str = ""
    build: Mapping[str, str] = field(default_factory=dict)
    """`commit` and `build_ref`."""


def members(strategies: Iterable[Strategy]) -> list[Strategy]:
    """Return the strategies, the members of a chain in its place."""
    return [member for strategy in strategies for member in (strategy.strategies if isinstance(strategy, Chain) else (strategy,))]


@dataclass(frozen=True, slots=True)
class Taken:
    """One family of the state, as it was at a moment."""

    series: s.Series
    samples: tuple[tuple[tuple[str, ...], float], ...]

    def family(self) -> Metric:
        """Return the client's form; of two samples with the same labels the last, since a page with both would be refused."""
        family = self.series.family()
        for labels, value in dict(self.samples).items():
            self.series.add(family, labels, value)
        return family


def take(sources: Sources) -> list[Taken]:
    """Return all families of the state, read from live structures. To make the client's form of them is for another thread."""
    strategies = list(sources.strategies())
    return [
        *_pool(sources),
        *_endpoints(sources),
        *_strategies(strategies),
        *_streams([report for one in members(strategies) if isinstance(one, Accurate) for report in one.feed.report()]),
        *_kubernetes(sources),
        *_election(sources),
        *_process(sources),
    ]


def _one(series: s.Series, *samples: tuple[tuple[str, ...], float]) -> Taken:
    return Taken(series, samples)


def _pool(sources: Sources) -> Iterator[Taken]:
    snapshot, name = sources.snapshot(), (sources.pool_name,)
    columns, slots = snapshot.columns, snapshot.slots
    fresh = slots[sources.clock() - columns.scraped_s[slots] <= STALE_S]
    yield _one(s.ENDPOINTS, (name, len(slots)))
    yield _one(s.READY, (name, len(fresh)))
    yield _one(s.UTILIZATION, (name, snapshot.utilization_ratio))
    yield _one(s.SATURATION, (name, sources.saturation()))
    averaged: tuple[tuple[FloatColumn, s.Series, s.Series], ...] = (
        (columns.kv_usage, s.AVERAGE_KV, s.STD_DEV_KV),
        (columns.waiting, s.AVERAGE_QUEUE, s.STD_DEV_QUEUE),
        (columns.running, s.AVERAGE_RUNNING, s.STD_DEV_RUNNING),
    )
    for column, average, std_dev in averaged:
        values = column[fresh] if len(fresh) else np.zeros(1)
        yield _one(average, (name, float(values.mean())))
        yield _one(std_dev, (name, float(values.std())))


def _endpoints(sources: Sources) -> Iterator[Taken]:
    snapshot = sources.snapshot()
    columns, slots = snapshot.columns, snapshot.slots
    labels = [(sources.pool_name, one.name) for slot in slots.tolist() if (one := snapshot.endpoints[slot]) is not None]
    shown = (
        (s.QUEUE, columns.waiting),
        (s.IN_FLIGHT, columns.requests),
        (s.IN_FLIGHT_TOKENS, columns.tokens),
        (s.BACKLOG, columns.backlog),
        (s.RATE, columns.rate),
        (s.SCRAPE_AGE, sources.clock() - columns.scraped_s),
    )
    for series, column in shown:
        yield _one(series, *zip(labels, column[slots].tolist(), strict=True))


def _strategies(strategies: list[Strategy]) -> Iterator[Taken]:
    everyone = {strategy.name: strategy for strategy in (*strategies, *members(strategies))}
    conditions = {name: strategy.health().condition for name, strategy in everyone.items()}
    yield _one(s.CONDITION, *(((name, c.value), float(c is now)) for name, now in conditions.items() for c in Condition))
    sizes = {strategy.name: strategy.size() for strategy in members(strategies)}
    yield _one(s.INDEX_ENTRIES, *(((name,), size.entries) for name, size in sizes.items()))
    yield _one(s.INDEX_BYTES, *(((name,), size.bytes) for name, size in sizes.items()))
    yield _one(s.INDEX_TOKENS, *(((name,), size.tokens) for name, size in sizes.items()))
    verdicts = (item for strategy in strategies if isinstance(strategy, Chain) for item in strategy.verdicts.items())
    yield _one(s.ASKED, *(((name, verdict.value), count) for (name, verdict), count in verdicts))


def _streams(reports: list[StreamReport]) -> Iterator[Taken]:
    events, lags = [], []
    for report in reports:
        name, counts = report.endpoint.name, report.counts
        lags.append(((name,), counts.lag_s))
        events += [((name, event), getattr(counts, event)) for event in _EVENTS]
    yield _one(s.KV_EVENTS, *events)
    yield _one(s.KV_LAG, *lags)
    yield _one(s.KV_BLOCKS, *(((report.endpoint.name,), report.blocks) for report in reports))
    yield _one(s.KV_STANDING, *(((r.endpoint.name, one.value), float(one is r.standing)) for r in reports for one in Standing))


def _kubernetes(sources: Sources) -> Iterator[Taken]:
    watched, now_s = list(sources.watched()), sources.clock()
    yield _one(s.KUBE_SYNCED, *(((one.resource,), float(one.synced)) for one in watched))
    yield _one(s.KUBE_FAILING, *(((one.resource,), float(one.failing)) for one in watched))
    yield _one(s.KUBE_OBJECTS, *(((one.resource,), one.objects) for one in watched))
    yield _one(s.KUBE_CONTACT_AGE, *(((one.resource,), now_s - one.last_contact_s) for one in watched))
    yield _one(s.KUBE_LISTS, *(((one.resource,), one.lists) for one in watched))
    yield _one(s.KUBE_ERRORS, *(((one.resource, reason), count) for one in watched for reason, count in one.errors.items()))


def _election(sources: Sources) -> Iterator[Taken]:
    candidacies = list(sources.candidacies())
    yield _one(s.LEADER, *(((one.lease,), float(one.leads)) for one in candidacies))
    yield _one(s.LEADER_CHANGES, *(((one.lease,), one.changes) for one in candidacies))
    yield _one(s.LEADER_ERRORS, *(((one.lease, reason), count) for one in candidacies for reason, count in one.errors.items()))


def _process(sources: Sources) -> Iterator[Taken]:
    config, errors = sources.config(), sources.poll_errors()
    yield _one(s.INFO, ((sources.build.get("commit", ""), sources.build.get("build_ref", "")), 1))
    yield _one(s.CONFIG_INFO, ((config.hash,), 1))
    numbers: tuple[tuple[s.Series, float], ...] = (
        (s.CONFIG_GENERATION, config.generation),
        (s.CONFIG_SUCCESS, config.last_success_s),
        (s.CONFIG_FAILURE, config.last_failure_s),
        (s.CONFIG_FAILURES, config.failures),
        (s.CONFIG_CURRENT, config.up_to_date),
        (s.CONFIG_PINNED, config.pinned),
        (s.CONFIG_TRIAL, config.on_trial),
        (s.PARKED, config.parked),
        (s.PARKED_BYTES, config.parked_bytes),
        (s.BODIES_HELD, sources.bodies_held()),
    )
    for series, value in numbers:
        yield _one(series, ((), float(value)))
    yield _one(s.POLL_ERRORS, ((SOURCE_TYPE,), sum(errors.values())))
    yield _one(s.SCRAPE_ERRORS, *(((cause,), count) for cause, count in errors.items()))
    yield _one(s.UNTOKENIZED, *(((reason,), count) for reason, count in sources.untokenized().items()))
