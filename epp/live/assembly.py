"""What a configuration comes to in a running picker, and how the next one takes its place.

In three steps, so that a swap happens as a whole or not at all: `prepare` does what takes time or can fail, off the loop, and
touches nothing; `rehearse` has the new plugins rate the pool as it is, for a made-up request; `install` assigns, between two
requests. What the new configuration does not use is parked (`parking`), and closed when its time there is over.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from random import Random

from epp import parts
from epp.director import Director, Routing
from epp.errors import ConfigError, Overloaded
from epp.flags import ServeOptions
from epp.live.parking import Holding, Parking
from epp.live.subscriptions import Subscriptions
from epp.live.swap import Inheritance
from epp.model.request import Api, InferenceRequest, RequestHead
from epp.parsers.select import Parsers
from epp.pool.engines import Engines
from epp.pool.state import PoolState
from epp.prefix.accurate import Accurate
from epp.scheduling.api import View
from epp.scheduling.build import Plan
from epp.scheduling.producers.precise_prefix_cache import PrecisePrefixCacheProducer
from epp.scrape.poller import Poller, Target
from epp.telemetry.observers import Observers
from epp.telemetry.sheets import DecisionRing
from epp.tokenizer import Tokenizer

REHEARSED = InferenceRequest(head=RequestHead(path="/v1/chat/completions"), api=Api.CHAT, model="rehearsal", prompt=b"x" * 64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A plan, and what was made of the files that it names."""

    plan: Plan
    engines: Engines
    target: Target
    tokenizer: Tokenizer | None


def prepare(plan: Plan, old: Prepared | None = None) -> Prepared:
    """Return what a plan needs before it can be installed; blocks for as long as it takes to read a tokenizer.

    Args:
        plan: the new configuration.
        old: what is in force: what it has and the plan wants alike is taken over.

    Raises:
        ConfigError: a file cannot be used; carries the path of the field that names it.
    """
    same_page = old is not None and old.plan.metrics_source == plan.metrics_source
    same_engines = old is not None and old.plan.metrics_extractor == plan.metrics_extractor
    try:
        target = old.target if old is not None and same_page else parts.target(plan.metrics_source)
    except ConfigError as error:
        raise ConfigError(error.message, plan.path_of(plan.metrics_source)) from None
    return Prepared(
        plan=plan,
        engines=old.engines if old is not None and same_engines else plan.metrics_extractor.engines(),
        target=target,
        tokenizer=_tokenizer(plan, old),
    )


def _tokenizer(plan: Plan, old: Prepared | None) -> Tokenizer | None:
    """Return the tokenizer, if one is configured and some strategy would use the ids."""
    if plan.tokenizer is None or not any(isinstance(one, PrecisePrefixCacheProducer) for one in plan.producers.values()):
        return None
    if old is not None and old.tokenizer is not None and old.plan.tokenizer == plan.tokenizer:
        return old.tokenizer
    try:
        return Tokenizer.load(plan.tokenizer)
    except ConfigError as error:
        raise ConfigError(error.message, plan.path_of(plan.tokenizer)) from None


class Assembly:
    """The parts that a configuration decides, in force.

    Args:
        options: the flags.
        first: the configuration to begin with.
        pool: the endpoints.
        ring: the latest decisions.
        observers: who is told of requests.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        options: ServeOptions,
        first: Prepared,
        *,
        pool: PoolState,
        ring: DecisionRing,
        observers: Observers,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.clock = clock
        self.prepared = first
        self.parking = Parking(pool.snapshot)
        self.subscriptions = Subscriptions(pool)
        self._options = options
        self._pool = pool
        self._ring = ring
        self._observers = observers
        inheritance = Inheritance((), ())
        self.strategies = parts.build_strategies(first.plan, inheritance.take)
        self._used = tuple(inheritance.used)
        self._retired: list[Tokenizer] = []
        self.wire = parts.wire_options(first.plan.config, options)
        """Of streams that begin now."""
        self.director = Director(
            routing=self._routing(first, self.strategies),
            pool=pool,
            parsers=Parsers(first.plan.parsers),
            observer=observers,
            clock=clock,
            random=Random(),
            ignore_subset=options.disable_endpoint_subset_filter,
        )
        self.director.objectives.configure(first.plan.config.objectives, first.plan.config.model_rewrites)
        pace = parts.pace(first.plan.config.scrape, options)
        self.poller = Poller(pool, first.engines, clock=clock, random=Random(), pace=pace, target=first.target)
        pool.on_forget(self.parking.forget)
        self._subscribe()

    @property
    def plan(self) -> Plan:
        """What is in force."""
        return self.prepared.plan

    @property
    def untokenized(self) -> Mapping[str, int]:
        """Prompts that the tokenizer in force let go without ids, by reason; empty where there is none."""
        return self.prepared.tokenizer.counts.without if self.prepared.tokenizer is not None else {}

    def rehearse(self, plan: Plan) -> tuple[str, ...]:
        """Have every profile rate the pool as it is, and return what is doubtful about the outcome.

        Raises:
            ConfigError: a plugin fails at it.
        """
        snapshot, now_s = self._pool.snapshot(), self.clock()
        doubts = []
        for index, (name, profile) in enumerate(plan.profiles.items()):
            if not len(snapshot.slots):
                break
            try:
                profile.run(REHEARSED, View(snapshot, snapshot.slots, {}, now_s), Random(0))
            except Overloaded as error:
                doubts.append(f"schedulingProfiles[{index}]: of the {len(snapshot.slots)} endpoints there are now, {error.message}")
            except Exception as error:  # whatever a stranger's plugin raises
                message = f"{name!r} cannot rate the endpoints there are now: {type(error).__name__}: {error}"
                raise ConfigError(message, f"schedulingProfiles[{index}]") from error
        return tuple(doubts)

    def install(self, new: Prepared) -> None:
        """Put a configuration in force, between two requests.

        Raises:
            Exception: whatever a stranger's producer raises when it builds its strategy; nothing has changed then.
        """
        old, inheritance = self.prepared, Inheritance(self._used, self.parking.holdings)
        strategies = parts.build_strategies(new.plan, inheritance.take)
        routing, parsers = self._routing(new, strategies), Parsers(new.plan.parsers)
        wire, pace = parts.wire_options(new.plan.config, self._options), parts.pace(new.plan.config.scrape, self._options)
        # Nothing below can fail.
        self.director.routing, self.director.parsers, self.wire = routing, parsers, wire
        self.director.objectives.configure(new.plan.config.objectives, new.plan.config.model_rewrites)
        self.poller.configure(new.engines, pace=pace, target=new.target)
        self._ring.keep(new.plan.config.limits.decisions_kept)
        self._pool.snapshot().memo.clear()  # columns that plugins keep there belong to the old ones
        self.prepared, self.strategies, self._used = new, strategies, tuple(inheritance.used)
        self.parking.take_out(self._used)
        self._close(self.parking.park(inheritance.left, self.clock()))
        self._subscribe()
        self._observe()
        if old.tokenizer is not None and old.tokenizer is not new.tokenizer:
            self._retired.append(old.tokenizer)

    async def retire(self) -> None:
        """Close the tokenizers that are no longer asked, once they have answered those who still wait for them."""
        while self._retired:
            await asyncio.to_thread(self._retired.pop().retire)

    def expire(self, now_s: float) -> None:
        """Close what has been parked long enough."""
        self._close(self.parking.expire(now_s))
        self._observe()

    def close(self) -> None:
        """Let go of what is not a background task."""
        if self.prepared.tokenizer is not None:
            self.prepared.tokenizer.close()

    @staticmethod
    def _routing(prepared: Prepared, strategies: parts.Strategies) -> Routing:
        plan = prepared.plan
        names = {getattr(plugin, "prefix_match_info_producer_name", "") for plugin in plan.plugins.values()}
        return Routing(
            profiles=plan.profiles,
            handler=plan.handler,
            strategies=strategies.driven,
            asked={name: strategies.all[name] for name in names if name and name not in strategies.driven},
            default=plan.default_producer,
            detector=plan.detector,
            slow_start=plan.config.slow_start,
            tokenizer=prepared.tokenizer,
        )

    def _subscribe(self) -> None:
        for one in self._used:
            if isinstance(one.producer, PrecisePrefixCacheProducer) and isinstance(one.strategy, Accurate):
                self.subscriptions.follow(one.strategy, one.producer.ports)

    def _close(self, holdings: Iterable[Holding]) -> None:
        for one in holdings:
            if isinstance(one.strategy, Accurate):
                self.subscriptions.drop(one.strategy)

    def _observe(self) -> None:
        """Tell those that are parked of requests, while there are any."""
        self._observers.remove(self.parking)
        if len(self.parking):
            self._observers.add(self.parking)
