"""Takes configurations as they come, and decides what is in force: checked, prepared, swapped in, tried, taken back.

Sources (`sources`, `config_map`) call `offer`, the admin port the others; one at a time, whatever comes from where. What is bad
changes nothing but the status, which says what is wrong with it. Everything that happens is a log line, and an `Event` for those
who were given as `told` (Kubernetes).
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from epp.config import EndpointPickerConfig, load
from epp.errors import ConfigError
from epp.live.assembly import Assembly, prepare
from epp.live.generations import Answer, Candidate, Generation, Generations, candidate
from epp.live.measure import Baseline, Witness
from epp.live.swap import check_swap
from epp.live.trial import Outcome, Tally, Trial
from epp.scheduling.build import Plan, build
from epp.scheduling.registry import Registry
from epp.telemetry.metrics import Metrics
from epp.telemetry.observers import Observers
from epp.telemetry.sheets import DecisionRing

TICK_S = 1.0
"""How often a trial is judged and parked strategies are looked at."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened to the configuration."""

    reason: str
    """One word, in CamelCase, as Kubernetes wants it."""
    note: str
    """A sentence."""
    warning: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a configuration was not taken."""

    error: ConfigError
    source: str
    at_s: float
    """Wall time."""
    hash: str = ""
    """Of the configuration; empty when it did not get so far as to have one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the controller works on."""

    assembly: Assembly
    registry: Registry
    metrics: Metrics
    ring: DecisionRing
    observers: Observers


@dataclass(slots=True, kw_only=True)
class _OnTrial:
    """A trial that runs."""

    trial: Trial
    witness: Witness
    back: Candidate
    """What to go back to."""


@contextmanager
def _as_config_error() -> Iterator[None]:
    """Make a ConfigError of whatever a stranger's plugin raises when it is made: a configuration must not end the process."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"a plugin failed: {type(error).__name__}: {error}") from error


class Controller:
    """One process's configuration.

    Args:
        on: what it works on.
        source: where the first configuration came from.
        wall: seconds since the epoch.
    """

    def __init__(self, on: Parts, source: str, *, wall: Callable[[], float] = time.time) -> None:
        self._on = on
        self._clock = on.assembly.clock
        self._wall = wall
        self._told: list[Callable[[Event], None]] = []
        self._lock = asyncio.Lock()
        plan = on.assembly.plan
        self.generations = Generations(candidate(plan.config, source), wall())
        self.warnings: tuple[str, ...] = plan.warnings
        self.failure: Failure | None = None
        """What is wrong with the newest configuration; None when it is good."""
        self.failures = 0
        self.last_success_s, self.last_failure_s = wall(), 0.0
        self._baseline = Baseline(on.metrics, on.ring)
        self._on_trial: _OnTrial | None = None

    @property
    def trial(self) -> Trial | None:
        """The trial that runs."""
        return self._on_trial.trial if self._on_trial is not None else None

    def tell(self, told: Callable[[Event], None]) -> None:
        """Tell `told` as well of what happens from now on; it must be quick."""
        self._told.append(told)

    async def run(self) -> None:
        """Judge trials and give up what was parked long enough, until cancelled."""
        while True:
            await asyncio.sleep(TICK_S)
            await self.tick()

    async def tick(self) -> None:
        """Do once what `run` does again and again."""
        now_s = self._clock()
        self._on.assembly.expire(now_s)
        self._baseline.sample(now_s)
        async with self._lock:
            await self._judge(now_s)

    async def offer(self, text: str, source: str) -> None:
        """Take a configuration that a source brings: swap it in if it may be and can be. Never raises for what is wrong with it."""
        async with self._lock:
            try:
                plan, new = await asyncio.to_thread(self._read, text, source)
            except ConfigError as error:
                self._refuse(error, source)
                return
            answer = self.generations.offer(new)
            try:
                if answer is Answer.APPLY:
                    await self._apply(plan, new, "changed")
            except ConfigError as error:
                self._refuse(error, source, new)
                return
            self.failure, self.last_success_s = None, self._wall()
            if answer in {Answer.PINNED, Answer.CONDEMNED}:
                self._say("ConfigHeld", f"{new.hash} from {source} stays out: {answer.value}")

    def lost(self, error: ConfigError, source: str) -> None:
        """A source has nothing any more, or what it has cannot be read. What is in force stays."""
        self._refuse(error, source)

    async def rollback(self, number: int | None = None) -> Generation:
        """Go back to a generation (the latest with another configuration) and pin it, so that nothing undoes it.

        Raises:
            ConfigError: there is no such generation, or it cannot be used any more.
        """
        async with self._lock:
            wanted = self.generations.before() if number is None else self.generations.find(number)
            if wanted.candidate.hash != self.generations.current.candidate.hash:
                plan = await asyncio.to_thread(self._build, wanted.candidate.config)
                await self._apply(plan, wanted.candidate, f"rollback to generation {wanted.number}", on_trial=False)
                self.generations.pardon()
            self._end_trial()
            self.generations.pin()
            self._say("ConfigPinned", f"{self._in_force()} is pinned until it is unpinned")
            return self.generations.current

    async def pin(self) -> Generation:
        """Keep what is in force, whatever comes; a trial that runs is passed by that."""
        async with self._lock:
            self._end_trial()
            self.generations.pin()
            self._say("ConfigPinned", f"{self._in_force()} is pinned until it is unpinned")
            return self.generations.current

    async def unpin(self) -> Generation:
        """Follow the sources again, beginning with the newest that they brought.

        Raises:
            ConfigError: the newest cannot be put in force; it is unpinned all the same.
        """
        async with self._lock:
            newest = self.generations.unpin()
            self._say("ConfigUnpinned", "the newest configuration is followed again")
            if newest is not None:
                try:
                    plan = await asyncio.to_thread(self._build, newest.config)
                    await self._apply(plan, newest, "unpinned")
                except ConfigError as error:
                    self._refuse(error, newest.source, newest)
                    raise
            return self.generations.current

    def _read(self, text: str, source: str) -> tuple[Plan, Candidate]:
        """Return what a text comes to. Blocks for as long as parsing takes."""
        with _as_config_error():
            plan = self._build(load(text))
            return plan, candidate(plan.config, source)

    def _build(self, config: EndpointPickerConfig) -> Plan:
        with _as_config_error():
            plan = build(config, self._on.registry)
            check_swap(self._on.assembly.plan, plan)
            return plan

    async def _apply(self, plan: Plan, new: Candidate, cause: str, *, on_trial: bool = True) -> None:
        """Put a configuration in force, on trial if it asks for that.

        Raises:
            ConfigError: it cannot be; what was in force still is.
        """
        assembly, before = self._on.assembly, self.generations.current.candidate
        with _as_config_error():
            prepared = await asyncio.to_thread(prepare, plan, assembly.prepared)
            doubts = assembly.rehearse(plan)
            tally = self._baseline.tally()
            assembly.install(prepared)
        self.generations.enter(new, cause, self._wall())
        self._absolve(new)
        self.warnings = plan.warnings + doubts
        for warning in self.warnings:
            log.warning("configuration", extra={"doubt": warning})
        self._say("ConfigApplied", f"{self._in_force()} is in force: {cause}, from {new.source}")
        back, baseline = (before, tally) if self._on_trial is None else (self._on_trial.back, self._on_trial.trial.baseline)
        self._end_trial()
        if on_trial and plan.config.trial is not None and back.hash != new.hash:
            self._begin_trial(plan, back, baseline)
        self._baseline.restart(self._wall())
        await assembly.retire()

    def _begin_trial(self, plan: Plan, back: Candidate, baseline: Tally) -> None:
        settings = plan.config.trial
        assert settings is not None
        trial = Trial(settings.for_s, settings.revert_on, baseline, self._clock())
        self._on_trial = _OnTrial(trial=trial, witness=Witness(trial), back=back)
        self._on.observers.add(self._on_trial.witness)
        self._say("TrialStarted", f"{self._in_force()} is on trial for {settings.for_}")

    def _end_trial(self) -> None:
        if self._on_trial is not None:
            self._on.observers.remove(self._on_trial.witness)
            self._on_trial = None

    async def _judge(self, now_s: float) -> None:
        """Look at the trial, if there is one, and take the configuration back if it failed."""
        running = self._on_trial
        if running is None:
            return
        verdict = running.trial.verdict(now_s)
        if verdict.outcome is Outcome.PASSED:
            self._end_trial()
            self._say("TrialPassed", f"{self._in_force()} has passed its trial: {verdict.reason}")
        elif verdict.outcome is Outcome.FAILED:
            self._end_trial()
            failed, why = self.generations.current, f"failed its trial: {verdict.reason}"
            self._say("TrialFailed", f"{self._in_force()} {why}", warning=True)
            try:
                plan = await asyncio.to_thread(self._build, running.back.config)
                await self._apply(plan, running.back, f"generation {failed.number} {why}", on_trial=False)
            except ConfigError as error:
                self._refuse(error, running.back.source, running.back)
                return
            self.generations.condemn(failed.candidate)

    def _absolve(self, taken: Candidate) -> None:
        """Take back what was said against a configuration that is taken after all; what is wrong with a later one stands."""
        if self.failure is not None and self.failure.hash == taken.hash:
            self.failure, self.last_success_s = None, self._wall()

    def _refuse(self, error: ConfigError, source: str, refused: Candidate | None = None) -> None:
        """Take note of a configuration that is not taken; None: there is none, or it cannot be read."""
        again = self.failure is not None and str(self.failure.error) == str(error) and self.failure.source == source
        self.failures += 1
        self.last_failure_s = self._wall()
        self.failure = Failure(error=error, source=source, at_s=self.last_failure_s, hash="" if refused is None else refused.hash)
        if not again:
            self._say("ConfigRefused", f"{error}; from {source}. {self._in_force()} stays in force", warning=True)

    def _in_force(self) -> str:
        current = self.generations.current
        return f"generation {current.number} ({current.candidate.hash})"

    def _say(self, reason: str, note: str, *, warning: bool = False) -> None:
        facts = {"event": reason, "note": note, "generation": self.generations.current.number}
        log.log(logging.ERROR if warning else logging.INFO, "configuration", extra=facts)
        event = Event(reason=reason, note=note, warning=warning)
        for told in self._told:
            told(event)
