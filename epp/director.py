"""One request's life above the wire: rank, parse, admit, match, schedule, reserve, account.

The pump of a stream calls it: `schedule` once the request is whole, `first_token` when the first byte of the answer's body passes,
`finish` exactly once whatever way the stream ended. Nothing here knows protobuf, gRPC or Envoy's phases.

Everything from the match to the reservation happens in one synchronous stretch: two requests that arrive together cannot both see
the endpoint idle. The only thing that is ever waited for is a tokenizer.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from epp.config.sections import SlowStart
from epp.errors import NoEndpoint, Overloaded, RequestError
from epp.model.decision import Decision, Outcome
from epp.model.match import Match
from epp.model.request import Api, InferenceRequest, RequestHead, prompt_tokens
from epp.model.snapshot import Snapshot
from epp.objectives.objectives import Objectives
from epp.parsers.model_span import find_model_span
from epp.parsers.select import Parsers
from epp.pool.outliers import Outliers, is_hung
from epp.pool.state import PoolState
from epp.prefix.strategy import Strategy
from epp.scheduling.api import Detector, ProfileHandler, View
from epp.scheduling.detectors.utilization import UtilizationDetector
from epp.scheduling.profile import Profile

SHED_RETRY_AFTER_S = 1
"""When a request that was shed may come again: some ten readings of the endpoints later."""

_log = logging.getLogger(__name__)

Answer = Callable[[Decision | RequestError], None]
Cancel = Callable[[], None]
Tokens = tuple[int, ...] | None


class Tokenizer(Protocol):
    """Turns a prompt into token ids off the event loop."""

    def encode(self, request: InferenceRequest, done: Callable[[Tokens], None]) -> Cancel:
        """Call `done` later, on the event loop, with the ids, or with None when they could not be had in time; unless cancelled."""


class Observer(Protocol):
    """Who is told what happens, for series, logs and the ring of decisions. Called on the request path: must be quick."""

    def decided(self, decision: Decision, *, duration_s: float, body_bytes: int) -> None:
        """A request was given an endpoint."""

    def rejected(self, request: InferenceRequest, error: RequestError) -> None:
        """A request was answered by the picker itself; of one that could not be read no more is known than its head."""

    def finished(self, decision: Decision, outcome: Outcome, *, ttft_s: float | None, duration_s: float) -> None:
        """A request is over. `ttft_s` is None when no first token was seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """What a configuration comes to: how requests are scheduled, and by what knowledge. Replaced as a whole."""

    profiles: Mapping[str, Profile]
    handler: ProfileHandler
    strategies: Mapping[str, Strategy]
    """By producer name. All of them learn from every request."""
    default: str = ""
    """Name of the producer that scorers mean when they name none; empty when there is none."""
    asked: Mapping[str, Strategy] = field(default_factory=dict)
    """Members of a chain that some plugin asks by name. They are matched here as well; the chain has them learn."""
    detector: Detector = field(default_factory=UtilizationDetector)
    """Says when the pool is saturated, asked for requests of negative priority."""
    slow_start: SlowStart = field(default_factory=SlowStart)
    """How endpoints that have just come are held back."""
    tokenizer: Tokenizer | None = None
    """Asked when a strategy needs token ids and the request does not carry them."""

    def profile(self, request: InferenceRequest) -> Profile:
        """Return the profile that a request runs through."""
        return self.profiles[self.handler.choose(request, tuple(self.profiles))]


class _Flight(Struct, kw_only=True):
    """A request on its way."""

    decision: Decision
    strategies: Mapping[str, Strategy]
    """Those that were told, by producer name. A configuration that came meanwhile may have others under the same names."""
    keys: Mapping[str, object]
    first_token_s: float | None = None


class Director:
    """Decides where requests go, and keeps account of what became of them.

    Args:
        routing: the configuration in force; assign `routing` to swap it between two requests. Those in flight end on the old one.
        pool: who the endpoints are, and what is on its way to them.
        parsers: body to request; may be assigned like `routing`.
        observer: who is told.
        clock: monotonic seconds.
        random: for ties and draws.
        ignore_subset: pick from the whole pool, whatever the gateway allows.
        objectives: what requests are worth, and which models they go on to; none when absent.
    """

    def __init__(
        self,
        *,
        routing: Routing,
        pool: PoolState,
        parsers: Parsers,
        observer: Observer,
        clock: Callable[[], float],
        random: Random,
        ignore_subset: bool = False,
        objectives: Objectives | None = None,
    ) -> None:
        self.routing = routing
        self._pool = pool
        self._ledger = pool.ledger
        self._outliers = Outliers()
        self.parsers = parsers
        self.objectives = objectives or Objectives()
        self._observer = observer
        self._clock = clock
        self._random = random
        self._ignore_subset = ignore_subset
        self._flights: dict[int, _Flight] = {}
        """By reservation; bounded by the ledger, which refuses to book more than its `requests_max`."""
        pool.on_forget(self._forget)

    @property
    def in_flight(self) -> int:
        """Requests that were given an endpoint and are not over."""
        return len(self._flights)

    def saturation(self) -> float:
        """Return how full the whole pool is: 1 and more for full. Cost: 10 us."""
        now_s = self._clock()
        snapshot = self._pool.snapshot(now_s)
        return self.routing.detector.saturation(View(snapshot, snapshot.slots, {}, now_s)) if len(snapshot.slots) else 1.0

    def schedule(self, head: RequestHead, body: bytes | None, answer: Answer) -> Cancel | None:
        """Decide where a request goes.

        Args:
            head: what came before the body.
            body: the whole body; None when the request has none (GET, end of stream on the headers).
            answer: called exactly once with the decision or the error, unless cancelled: before this call returns when nothing
                has to be waited for (the usual case), later otherwise.

        Returns:
            A function that gives up the wait, or None when `answer` has already been called.
        """
        start_s = self._clock()
        size = len(body) if body is not None else 0
        if self.objectives.priorities:
            head = self.objectives.rank(head)
        try:
            request = self._read(head, body)
        except RequestError as error:
            self._refuse(InferenceRequest(head=head, api=Api.PASSTHROUGH), error, answer)
            return None
        try:
            if head.priority < 0:
                self._admit(request, start_s)
        except Exception as error:  # noqa: BLE001 - of a plugin, as below
            self._refuse(request, error, answer)
            return None
        tokenizer = self.routing.tokenizer
        if tokenizer is None or request.token_ids is not None or not request.prompt:
            self._answer(request, start_s, size, answer)
            return None

        def go_on(tokens: Tokens) -> None:
            self._answer(request if tokens is None else replace(request, token_ids=tokens), start_s, size, answer)

        return tokenizer.encode(request, go_on)

    def first_token(self, decision: Decision) -> None:
        """Note that the first byte of the response body has come."""
        flight = self._flights.get(decision.reservation)
        if flight is not None and flight.first_token_s is None:
            flight.first_token_s = self._clock()
            self._ledger.first_token(decision.reservation, flight.first_token_s)
            if self._outliers and not decision.fallbacks and self._pool.snapshot().has(decision.slot, decision.endpoint):
                self._outliers.answered(decision.slot, decision.at_s)  # of fallbacks, another may have given it

    def finish(self, decision: Decision, outcome: Outcome) -> None:
        """Account for the end of a request. Safe to call twice: the second call does nothing."""
        flight = self._flights.pop(decision.reservation, None)
        if flight is None:
            return
        now_s = self._clock()
        if outcome.end == "released":
            self._ledger.released(decision.reservation, now_s)
        else:
            self._ledger.release(decision.reservation, now_s)
        try:
            self._learn(flight, outcome, now_s)
        except Exception:  # noqa: BLE001 - of a plugin; the request is over, and its account goes on
            _log.exception("a strategy could not learn")
        ttft_s = None if flight.first_token_s is None else flight.first_token_s - decision.at_s
        self._observer.finished(decision, outcome, ttft_s=ttft_s, duration_s=now_s - decision.at_s)

    def _read(self, head: RequestHead, body: bytes | None) -> InferenceRequest:
        """Return the parsed request, with the model that it goes on with."""
        if body is None:
            return InferenceRequest(head=head, api=Api.PASSTHROUGH)
        request = self.parsers.parse(head, body)
        if not request.model and request.api is Api.PASSTHROUGH:
            return request
        target, rewrite = self.objectives.target(request, self._random)
        if target == request.model and not rewrite:
            return request
        span = find_model_span(body) if target != request.model else None
        return replace(request, target_model=target, rewrite=rewrite, model_span=span)

    def _admit(self, request: InferenceRequest, now_s: float) -> None:
        """Refuse a request that may be shed while who can take it is saturated, before a tokenizer or a strategy works for it."""
        routing = self.routing
        self._ledger.advance(now_s)
        profile = routing.profile(request)
        view = profile.usable(request, self._candidates(request, profile, now_s))
        if len(view) and routing.detector.saturation(view) >= 1.0:  # nobody at all: the profile says so, and by which filter
            message = "system saturated, sheddable request dropped"
            raise Overloaded(message, reason="rejected-saturated", retry_after_s=SHED_RETRY_AFTER_S)

    def _candidates(self, request: InferenceRequest, profile: Profile, now_s: float) -> View:
        """Return the candidates of a request, at least one: without suspects, unless they alone are usable by its profile."""
        snapshot = self._pool.snapshot()
        slots = self._pool.candidates(snapshot, None if self._ignore_subset else request.head.subset)
        if not len(slots):
            raise NoEndpoint("failed to find endpoint candidates for serving the request", reason="rejected-no-endpoints")
        trusted = self._outliers.narrow(slots, now_s, snapshot.columns.scraped_s)
        return profile.narrow(request, View(snapshot, slots, {}, now_s), to=trusted)

    def _answer(self, request: InferenceRequest, start_s: float, size: int, answer: Answer) -> None:
        try:
            decision = self._decide(request)
        except Exception as error:  # noqa: BLE001 - of a plugin, which may be a stranger's: it costs this request its endpoint
            self._refuse(request, error, answer)
            return
        self._observer.decided(decision, duration_s=self._clock() - start_s, body_bytes=size)
        answer(decision)

    def _refuse(self, request: InferenceRequest, error: Exception, answer: Answer) -> None:
        """Answer with the error; with one that tells the client nothing, where it is not of ours."""
        if not isinstance(error, RequestError):
            _log.error("a request could not be scheduled", exc_info=error)
            error = RequestError("internal error")
        self._observer.rejected(request, error)
        answer(error)

    def _decide(self, request: InferenceRequest) -> Decision:
        """Match, schedule and reserve, with nothing in between that could let another request in."""
        routing, now_s = self.routing, self._clock()
        self._ledger.advance(now_s)
        profile = routing.profile(request)
        view = self._candidates(request, profile, now_s)
        if routing.slow_start.window_ms:
            rest = self._pool.newcomers.narrow(view.slots, now_s, routing.slow_start, self._random.random())
            view = profile.narrow(request, view, to=rest)
        snapshot, slots = view.snapshot, view.slots
        keys: dict[str, object] = {}
        matches: dict[str, Match | None] = {}
        for name, strategy in routing.strategies.items():
            keys[name] = strategy.prepare(request)
            matches[name] = strategy.match(keys[name], request, snapshot, slots)
        for name, strategy in routing.asked.items():
            matches[name] = strategy.match(strategy.prepare(request), request, snapshot, slots)
        matches[""] = found = matches.get(routing.default)
        chosen, sheet = profile.run(request, View(snapshot, slots, matches, now_s), self._random)
        picked: list[int] = chosen.tolist()
        slot = picked[0]
        total = prompt_tokens(request)
        matched = 0.0 if found is None else min(float(found.tokens[slot]), total)
        reservation = self._ledger.reserve(slot, max(1.0, total - matched), now_s)
        try:
            for name, strategy in routing.strategies.items():
                strategy.record(keys[name], request, snapshot, slot, now_s)
        except BaseException:
            self._ledger.release(reservation, now_s)
            raise
        endpoint, *fallbacks = [one for index in picked if (one := snapshot.endpoints[index]) is not None]
        decision = Decision(
            request=request,
            endpoint=endpoint,
            slot=slot,
            fallbacks=tuple(fallbacks),
            sheet=sheet,
            strategy="" if found is None else found.source,
            matched_tokens=matched,
            prompt_tokens=total,
            reservation=reservation,
            at_s=now_s,
        )
        self._outliers.tried(slot, now_s)
        self._flights[reservation] = _Flight(decision=decision, strategies=routing.strategies, keys=keys)
        return decision

    def _learn(self, flight: _Flight, outcome: Outcome, now_s: float) -> None:
        """Tell the strategies who really answered, what was really cached, and the pool who did not answer at all."""
        decision, snapshot = flight.decision, self._pool.snapshot()
        if not snapshot.has(decision.slot, decision.endpoint):
            return  # it has left the pool; the slot may be another's by now
        slot = self._served_slot(decision, outcome, snapshot)
        silent_s = now_s - float(snapshot.columns.scraped_s[decision.slot])
        if outcome.end == "local-reply" or is_hung(outcome, silent_s):
            self._outliers.failed(decision.slot, now_s)
            return
        self._outliers.heard(slot, outcome.status, sent_s=decision.at_s, now_s=now_s)
        for name, strategy in flight.strategies.items():
            if slot != decision.slot:
                strategy.record(flight.keys[name], decision.request, snapshot, slot, now_s)
            elif outcome.usage is not None and outcome.usage.cached_tokens is not None:
                strategy.learn(decision, outcome.usage)

    def _forget(self, slot: int) -> None:
        """The owner of a slot has gone or lost its cache: nobody may take the next one for it."""
        self._outliers.forget(slot)
        for strategy in self.routing.strategies.values():
            strategy.forget(slot)

    @staticmethod
    def _served_slot(decision: Decision, outcome: Outcome, snapshot: Snapshot) -> int:
        """Return the slot that answered, as the gateway reports it, else the one that was picked."""
        return snapshot.by_authority.get(outcome.served, decision.slot) if outcome.served else decision.slot
