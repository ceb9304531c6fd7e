"""`by-label`: keeps endpoints by the value of one label; `label-selector-filter` says the same and more."""

from collections.abc import Mapping
from typing import Annotated

from msgspec import Meta

from epp.errors import ConfigError
from epp.scheduling.labels import LabelFilter


class ByLabelFilter(LabelFilter, frozen=True):
    """Keeps endpoints whose `label` has one of `validValues`, and those without it if `allowsNoLabel`.

    Source: the reference's filter of this name, which it has given up for `label-selector-filter`.
    """

    label: Annotated[str, Meta(min_length=1, description="Label name.")]
    valid_values: Annotated[tuple[str, ...], Meta(description="Values that keep an endpoint.")] = ()
    allows_no_label: Annotated[bool, Meta(description="Keep endpoints without the label, too.")] = False

    def check(self) -> None:
        """Refuse a filter that keeps nobody."""
        if not self.valid_values and not self.allows_no_label:
            raise ConfigError("give validValues, or allowsNoLabel", "validValues")

    def selects(self, labels: Mapping[str, str]) -> bool:
        """Return whether a set of labels is let through. As in the reference, a missing label has the empty value."""
        return (self.allows_no_label and self.label not in labels) or labels.get(self.label, "") in self.valid_values
