"""A profile: filters in order, scorers with weights, one picker. Runs in one synchronous stretch and leaves its evidence behind."""

from dataclasses import dataclass
from random import Random

import numpy as np

from epp.errors import Overloaded
from epp.model.decision import FilterStep, ScoreSheet, ScoreStep
from epp.model.match import FloatColumn, IntColumn
from epp.model.request import InferenceRequest
from epp.scheduling.api import Filter, Picker, Scorer, View
from epp.scheduling.columns import ONE, ZERO


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """How one kind of request is scheduled.

    Scores are clamped to 0..1, multiplied by their weight and added; the sum is not divided by the weights, as in the reference.
    A score that is no number counts as 0.
    """

    name: str
    filters: tuple[tuple[str, Filter], ...] = ()
    scorers: tuple[tuple[str, float, Scorer], ...] = ()
    picker: Picker

    def run(self, request: InferenceRequest, view: View, random: Random) -> tuple[IntColumn, ScoreSheet]:
        """Return the picked slots, the choice first and then the fallbacks, and the sheet that explains them.

        Raises:
            Overloaded: a filter left nobody.

        Cost: a few microseconds per plugin, whatever the number of candidates.
        """
        left, steps = self._filter(request, view)
        if not len(left):
            message = f"no endpoints available for the given request ({steps[-1].name} left none)"
            raise Overloaded(message, reason="rejected-saturated")
        scores: list[ScoreStep] = []
        totals: FloatColumn | None = None
        for name, weight, scorer in self.scorers:
            # fmax and fmin take the number where the other is NaN; np.clip would keep the NaN, and costs three times as much.
            values = np.fmin(np.fmax(scorer.score(request, left), ZERO), ONE)
            weighted = values if weight == 1.0 else weight * values
            totals = weighted if totals is None else totals + weighted
            scores.append(ScoreStep(name=name, weight=weight, slots=left.slots, values=values))
        if totals is None:
            totals = np.zeros(len(left))
        picked = left.slots[self.picker.pick(totals, random)]
        sheet = ScoreSheet(
            profile=self.name,
            slots=left.slots,
            totals=totals,
            endpoints=view.snapshot.endpoints,
            candidates=view.slots,
            filters=steps,
            scores=scores,
            match=view.match(),
            ages_s=left.age_s,
        )
        return picked, sheet

    def usable(self, request: InferenceRequest, view: View) -> View:
        """Return the candidates that the filters leave, perhaps nobody. Cost: what the filters cost.

        Before the prompt is matched, filters that prefer who holds it keep everybody, and what is left is who can take the request.
        """
        return self._filter(request, view)[0]

    def narrow(self, request: InferenceRequest, view: View, *, to: IntColumn) -> View:
        """Return the view of the slots `to`, or the view as it is when none of those is usable. Free when they are its own."""
        if to is view.slots:
            return view
        fewer = View(view.snapshot, to, view.matches, view.now_s)
        return fewer if len(self.usable(request, fewer)) else view

    def _filter(self, request: InferenceRequest, view: View) -> tuple[View, list[FilterStep]]:
        """Return who is left, and the steps up to the filter that left nobody, if one did."""
        steps: list[FilterStep] = []
        for name, plugin in self.filters:
            before = view.slots
            view = view.narrow(plugin.keep(request, view))
            steps.append(FilterStep(name=name, before=before, after=view.slots))
            if not len(view):
                break
        return view, steps
