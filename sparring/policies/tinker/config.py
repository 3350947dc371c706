"""How a server that speaks the Tinker API is reached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from sparring.core.convert import check_values
from sparring.core.ranges import ADJUSTABLE, ADJUSTABLE_WITH_NOTE, Deadline, Name, Range
from sparring.policies.transport import check_address

KEY_VARIABLE = "TINKER_API_KEY"
"""Environment variable with the service's API key."""
ALPHA = 32.0
"""What servers that speak the API scale adapters by, over the rank. It can't be chosen."""
Requests = Annotated[int, Range(at_least=1, at_most=1024), ADJUSTABLE]
Tolerance = Annotated[float, Range(above=0, at_most=100), ADJUSTABLE_WITH_NOTE]


@dataclass(frozen=True, kw_only=True)
class TinkerConfig:
    """How the server is reached, and how patiently it is asked."""

    base_url: Annotated[str, ADJUSTABLE_WITH_NOTE] = ""
    """Address of a server (SkyRL's, for instance); empty: the hosted service. On the command line alone."""
    base_model: Annotated[Name | None, ADJUSTABLE_WITH_NOTE] = None
    """What the server calls `model.path`; none: the same, or the server's one model where it is that folder."""
    timeout_s: Annotated[Deadline, ADJUSTABLE] = 1800.0
    """Seconds within which a request must be answered. A server may compile for minutes first."""
    lost_after_s: Annotated[Deadline, ADJUSTABLE] = 60.0
    """Seconds without any sign of life after which the server counts as lost. Until then requests are sent again."""
    num_concurrent: Requests = 8
    """Requests for log-probabilities and gradients that are under way at once."""
    download: Annotated[bool, ADJUSTABLE_WITH_NOTE] = True
    """Save each trained adapter as a PEFT folder, too, where the service gives it out."""
    tolerance: Tolerance = 0.05
    """Largest mean difference in nats between the sampler's log-probabilities and the learner's that the probe after
    each publish lets pass."""

    def __post_init__(self) -> None:
        """Refuse an address that is none."""
        check_values(self)
        if self.base_url:
            check_address(self.base_url, "base_url")
