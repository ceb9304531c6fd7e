"""What a plugin is, and what it sees.

A filter, scorer or picker is a frozen struct: its fields are its YAML parameters (camelCase there), its one method a function of
columns. It sees the candidates of one request through a `View`: every attribute is an array with *one element per candidate*, so
that a scorer is one line of numpy. There is no loop over endpoints in Python, no state and no I/O in a plugin.

A scorer of your own:

    class ShortQueueScorer(Scorer, frozen=True):
        '''1.0 for an empty queue, 0.0 from `depthMax` waiting requests on.'''

        depth_max: Annotated[int, Meta(ge=1, description="Waiting requests that rate 0.0.")] = 128

        def score(self, request: InferenceRequest, view: View) -> FloatColumn:
            return 1.0 - np.minimum(view.waiting / self.depth_max, 1.0)

registered in your package's pyproject.toml, under `[project.entry-points."epp.plugins"]`, as
`short-queue-scorer = "mine:ShortQueueScorer"`.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any, ClassVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from epp.model.endpoint import Endpoint
from epp.model.match import BoolColumn, FloatColumn, IntColumn, Match
from epp.model.request import InferenceRequest
from epp.model.snapshot import Snapshot
from epp.prefix.strategy import Strategy


class View:
    """The candidates of one request, as columns with one element per candidate.

    Args:
        snapshot: the pool.
        slots: the candidates' slots, ascending.
        matches: what each prefix producer found, by plugin name; `""` is the default one.
        now_s: monotonic seconds, for ages.

    Cost: an attribute is a part of the pool's column (0.1 us) when the candidates are its first slots, as they are until endpoints
    leave or filters narrow; else a gather (0.7 us for 1000).
    """

    __slots__ = ("_leading", "matches", "now_s", "slots", "snapshot")

    def __init__(self, snapshot: Snapshot, slots: IntColumn, matches: Mapping[str, Match | None], now_s: float) -> None:
        self.snapshot = snapshot
        self.slots = slots
        self.matches = matches
        self.now_s = now_s
        self._leading = not len(slots) or slots[-1] == len(slots) - 1  # ascending, so these are the first ones

    def __len__(self) -> int:
        return len(self.slots)

    def take(self, column: NDArray[Any]) -> NDArray[Any]:
        """Return the candidates' elements of a column over slots."""
        return column[: len(self.slots)] if self._leading else column[self.slots]

    def narrow(self, keep: BoolColumn) -> View:
        """Return the view of those candidates for which `keep` is true."""
        return self if keep.all() else View(self.snapshot, self.slots[keep], self.matches, self.now_s)

    @property
    def waiting(self) -> FloatColumn:
        """Requests queued in the engine, scraped."""
        return self.take(self.snapshot.columns.waiting)

    @property
    def running(self) -> FloatColumn:
        """Requests the engine works on, scraped."""
        return self.take(self.snapshot.columns.running)

    @property
    def kv_usage(self) -> FloatColumn:
        """Share of the KV cache in use, 0..1, scraped."""
        return self.take(self.snapshot.columns.kv_usage)

    @property
    def age_s(self) -> FloatColumn:
        """Seconds since the scraped values were read; inf where they never were."""
        return self.now_s - self.take(self.snapshot.columns.scraped_s)

    @property
    def requests(self) -> IntColumn:
        """Requests we sent there that are not over."""
        return self.take(self.snapshot.columns.requests)

    @property
    def tokens(self) -> FloatColumn:
        """Uncached prompt tokens of those requests."""
        return self.take(self.snapshot.columns.tokens)

    @property
    def backlog(self) -> FloatColumn:
        """Prefill tokens still ahead of a request sent there now: ours, less what the head has drained, plus what others sent."""
        columns = self.snapshot.columns
        drained = np.minimum(columns.head_tokens, columns.rate * (self.now_s - columns.head_since_s))
        return self.take(columns.backlog - drained + columns.foreign)

    @property
    def decoding(self) -> FloatColumn:
        """Requests that generate there: those whose first token we saw, and what else was running at the last scrape."""
        columns = self.snapshot.columns
        return self.take(columns.decoding + columns.foreign_decoding)

    @property
    def rate(self) -> FloatColumn:
        """Learned prefill rate, tokens per second, never 0."""
        return self.take(self.snapshot.columns.rate)

    @property
    def speed(self) -> FloatColumn:
        """Learned prefill rate with the fixed cost of a request counted in, to compare endpoints by; 0 while unknown."""
        return self.take(self.snapshot.columns.speed)

    @property
    def role(self) -> IntColumn:
        """Bits of `model.endpoint.Role`."""
        return self.take(self.snapshot.columns.role)

    @property
    def endpoints(self) -> list[Endpoint]:
        """The candidates themselves; for labels, outside the request path or behind a cache per snapshot version."""
        return [endpoint for slot in self.slots.tolist() if (endpoint := self.snapshot.endpoints[slot]) is not None]

    def match(self, producer: str = "") -> Match | None:
        """Return what a prefix producer found, its columns over *slots*; None when it knows nothing or does not exist."""
        return self.matches.get(producer)

    def matched_tokens(self, producer: str = "") -> FloatColumn:
        """Return the prompt tokens each candidate is believed to hold; zeros when nothing is known."""
        found = self.matches.get(producer)
        return np.zeros(len(self.slots)) if found is None else self.take(found.tokens)


class Plugin(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Base of all plugins: parameters as fields, strict, camelCase in YAML."""

    experimental: ClassVar[bool] = False
    """Needs `--allow-experimental-plugins`."""

    def check(self) -> None:
        """Raise ConfigError when parameters contradict each other; called once, at load."""


class Filter(Plugin, frozen=True):
    """Narrows the candidates."""

    def keep(self, request: InferenceRequest, view: View) -> BoolColumn:
        """Return, for each candidate, whether it stays.

        Also asked before the prompt is matched, to find out who can take the request at all: one that prefers keeps everybody then.
        """
        raise NotImplementedError


class Scorer(Plugin, frozen=True):
    """Rates the candidates."""

    def score(self, request: InferenceRequest, view: View) -> FloatColumn:
        """Return, for each candidate, a value between 0 (worst) and 1 (best). Values outside are clamped."""
        raise NotImplementedError


class Picker(Plugin, frozen=True):
    """Chooses among the rated candidates."""

    def pick(self, totals: FloatColumn, random: Random) -> IntColumn:
        """Return indexes into `totals` (never empty), the choice first, then the fallbacks in order."""
        raise NotImplementedError


class ProfileHandler(Plugin, frozen=True):
    """Chooses the profile a request runs through."""

    def choose(self, request: InferenceRequest, profiles: tuple[str, ...]) -> str:
        """Return one of `profiles` (never empty)."""
        raise NotImplementedError


class Producer(Plugin, frozen=True):
    """Makes a prefix strategy. The struct is its parameters; the strategy it builds holds the state.

    Two producers that compare equal make interchangeable strategies: a new configuration keeps the old one, warm.
    """

    def build(self) -> Strategy:
        """Return a new, empty strategy."""
        raise NotImplementedError


class Detector(Plugin, frozen=True):
    """Says how full the pool is. Asked only for requests that may be shed."""

    def saturation(self, view: View) -> float:
        """Return how full the candidates (never none) are together: 0 for idle, 1 and more for full."""
        raise NotImplementedError
