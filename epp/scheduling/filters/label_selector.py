"""`label-selector-filter`: keeps endpoints whose labels match a Kubernetes label selector."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from epp.errors import ConfigError
from epp.scheduling.api import Filter
from epp.scheduling.labels import LabelFilter

_OTHER_VALUE = "\0"
"""Stands for all values that nobody names."""


class Requirement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """One `matchExpressions` entry."""

    key: Annotated[str, Meta(min_length=1, description="Label name.")]
    operator: Annotated[Literal["In", "NotIn", "Exists", "DoesNotExist"], Meta(description="How the label is compared.")]
    values: Annotated[tuple[str, ...], Meta(description="Values for In and NotIn; empty for the others.")] = ()

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Return whether the labels satisfy it. As in Kubernetes, `NotIn` holds where the label is missing."""
        match self.operator:
            case "In":
                return labels.get(self.key) in self.values
            case "NotIn":
                return labels.get(self.key) not in self.values
            case "Exists":
                return self.key in labels
            case "DoesNotExist":
                return self.key not in labels


def contradiction(filters: Iterable[tuple[str, Filter]]) -> str:
    """Return a label about which the selectors among some filters want what no endpoint can have; empty when there is none."""
    requirements: dict[str, list[Requirement]] = {}
    for _, one in filters:
        if isinstance(one, LabelSelectorFilter):
            for requirement in one.requirements:
                requirements.setdefault(requirement.key, []).append(requirement)
    return next((key for key, wanted in requirements.items() if not _satisfiable(wanted)), "")


def _satisfiable(wanted: Iterable[Requirement]) -> bool:
    """Whether some value of one label, or its absence, satisfies all requirements."""
    wanted = tuple(wanted)
    values = {value for one in wanted for value in one.values} | {_OTHER_VALUE}
    return any(all(one.holds(labels) for one in wanted) for labels in ({}, *({wanted[0].key: value} for value in values)))


class LabelSelectorFilter(LabelFilter, frozen=True):
    """Keeps endpoints that have all of `matchLabels` and satisfy all of `matchExpressions`."""

    match_labels: Annotated[dict[str, str], Meta(description="Labels an endpoint must have, with these values.")] = msgspec.field(
        default_factory=dict
    )
    match_expressions: Annotated[tuple[Requirement, ...], Meta(description="Further requirements, all of which must hold.")] = ()

    def check(self) -> None:
        """Refuse a selector that keeps everybody, and operators with the wrong number of values."""
        if not self.match_labels and not self.match_expressions:
            raise ConfigError("needs matchLabels or matchExpressions")
        for index, requirement in enumerate(self.match_expressions):
            if (requirement.operator in ("In", "NotIn")) != bool(requirement.values):
                raise ConfigError(
                    "In and NotIn need values, Exists and DoesNotExist take none", f"matchExpressions[{index}].values"
                )

    @property
    def requirements(self) -> tuple[Requirement, ...]:
        """All that is required, `matchLabels` included."""
        exact = (Requirement(key=key, operator="In", values=(value,)) for key, value in self.match_labels.items())
        return (*exact, *self.match_expressions)

    def selects(self, labels: Mapping[str, str]) -> bool:
        """Return whether a set of labels matches."""
        return all(labels.get(key) == value for key, value in self.match_labels.items()) and all(
            requirement.holds(labels) for requirement in self.match_expressions
        )
