"""`cache-aware-filter`: keeps the best match if it is good enough and the pool is in balance, as the SGLang router does."""

from typing import Annotated

import numpy as np
from msgspec import Meta

from epp.model.match import BoolColumn
from epp.model.request import InferenceRequest
from epp.scheduling.api import Filter, View


class CacheAwareFilter(Filter, frozen=True):
    """Keeps the candidates with the longest match, if that is more than `cacheThreshold` of the prompt; else everybody.

    Keeps everybody as well while the pool is out of balance: the busiest candidate has over `balanceAbsThreshold` requests more
    than the least busy one, and over `balanceRelThreshold` times as many. A scorer on requests in flight behind it then chooses the
    shortest queue. Requests are our own ledger's.
    Source: SGLang router, policy `cache_aware`, with its defaults.
    """

    cache_threshold: Annotated[float, Meta(ge=0, le=1, description="Share of the prompt from which a match counts.")] = 0.3
    balance_abs_threshold: Annotated[int, Meta(ge=0, description="Requests between busiest and least busy that are too many.")] = 64
    balance_rel_threshold: Annotated[float, Meta(ge=1, description="Ratio of the two that is too much.")] = 1.5
    prefix_match_info_producer_name: Annotated[str, Meta(description="Which prefix producer to believe; empty: the default.")] = ""

    def keep(self, request: InferenceRequest, view: View) -> BoolColumn:
        """Return the best holders, or everybody."""
        everybody = np.ones(len(view), dtype=np.bool_)
        found = view.match(self.prefix_match_info_producer_name)
        if found is None:
            return everybody
        most, least = view.requests.max(), view.requests.min()
        if most - least > self.balance_abs_threshold and most > self.balance_rel_threshold * least:
            return everybody
        matched = view.take(found.tokens)
        best = matched.max()
        return matched >= best if best > self.cache_threshold * max(found.total, 1) else everybody
