"""`single-profile-handler`: there is one profile, and every request runs through it."""

from epp.model.request import InferenceRequest
from epp.scheduling.api import ProfileHandler


class SingleProfileHandler(ProfileHandler, frozen=True):
    """Chooses the first profile of the configuration."""

    def choose(self, request: InferenceRequest, profiles: tuple[str, ...]) -> str:
        """Return the only profile."""
        return profiles[0]
