"""The sections `objectives` and `modelRewrites`: for pools without Kubernetes, what the resources of these names say there.

A rewrite has the shape that the `spec` of an `InferenceModelRewrite` has, without its reference to a pool.
"""

from typing import Annotated, Literal

from msgspec import Meta

from epp.config.sections import OwnSection
from epp.errors import ConfigError

PRIORITY_MAX = 2**31 - 1
WEIGHT_MAX = 1_000_000


class Objective(OwnSection, frozen=True):
    """What a request that names it is worth."""

    name: Annotated[str, Meta(min_length=1, description="As requests name it in `x-llm-d-inference-objective`.")]
    priority: Annotated[
        int,
        Meta(
            ge=-PRIORITY_MAX - 1,
            le=PRIORITY_MAX,
            description="Higher matters more; below 0, requests are refused while the pool is saturated. Without an objective: 0.",
        ),
    ] = 0


class ModelMatch(OwnSection, frozen=True):
    """What a model's name is compared to."""

    value: Annotated[str, Meta(min_length=1, description="Model as the client names it.")]
    type: Annotated[Literal["Exact"], Meta(description="How: letter by letter.")] = "Exact"


class RewriteMatch(OwnSection, frozen=True):
    """One way for a request to match."""

    model: Annotated[ModelMatch, Meta(description="The `model` of the request's body.")]


class RewriteTarget(OwnSection, frozen=True):
    """A model that requests are sent on to."""

    model_rewrite: Annotated[str, Meta(min_length=1, description="Model as the model server is told.")]
    weight: Annotated[
        Annotated[int, Meta(ge=1, le=WEIGHT_MAX)] | None,
        Meta(description="Share of the requests, as a part of the sum of all weights; 1 when absent."),
    ] = None


class RewriteRule(OwnSection, frozen=True):
    """Which requests, and where to."""

    targets: Annotated[tuple[RewriteTarget, ...], Meta(min_length=1, description="Models, one of which is drawn.")]
    matches: Annotated[tuple[RewriteMatch, ...], Meta(description="Any of them; none: all requests that no other rule names.")] = ()


class ModelRewrite(OwnSection, frozen=True):
    """Rules under one name."""

    name: Annotated[str, Meta(min_length=1, description="Of the rewrite; among equals the first name counts.")]
    rules: Annotated[tuple[RewriteRule, ...], Meta(description="Rules; of several that match the first counts.")]


def check_names(objectives: tuple[Objective, ...], rewrites: tuple[ModelRewrite, ...]) -> None:
    """Raise ConfigError if two objectives or two rewrites have one name."""
    listed = {"objectives": [one.name for one in objectives], "modelRewrites": [one.name for one in rewrites]}
    for section, names in listed.items():
        seen: set[str] = set()
        for index, name in enumerate(names):
            if name in seen:
                raise ConfigError(f"there is already one named {name!r}", f"{section}[{index}].name")
            seen.add(name)
