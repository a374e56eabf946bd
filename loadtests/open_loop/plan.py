"""What a generator is to do: streams of requests, and how fast each of them comes in every phase of the run.

Decides what can be told to a generator, and its form on a command line. It must not know how requests are sent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate

__all__ = ["Plan", "Stream", "as_text", "from_text"]


@dataclass(frozen=True)
class Stream:
    """Requests of one kind, from one client."""

    name: str
    """Under which what became of them is told; streams that have it in common are told of together."""
    paths: Mapping[str, float]
    """What is asked for, each as often as it weighs."""
    rates: Sequence[float]
    """Requests per second, for each phase."""
    headers: Mapping[str, str] = field(default_factory=dict)
    even: bool = False
    """Whether the requests are evenly spaced instead of Poisson arrivals."""
    retries: int = 0
    """How often the client asks again, at once, after it was refused, gave up or met an error."""


@dataclass(frozen=True)
class Plan:
    """What is to be sent, and when."""

    port: int
    phases: Sequence[float]
    """How many seconds each lasts."""
    streams: Sequence[Stream]
    seed: str
    patience: float = 2.0
    """After how many seconds a client gives up."""
    preopened: int = 0
    """How many connections there are before the first request."""

    @property
    def seconds(self) -> float:
        """How long requests are sent."""
        return sum(self.phases)

    @property
    def requests(self) -> float:
        """How many requests are to be expected, retries included."""
        return sum(
            rate * seconds * (1 + stream.retries)
            for stream in self.streams
            for rate, seconds in zip(stream.rates, self.phases, strict=True)
        )

    @property
    def longest_patience(self) -> float:
        """After how many seconds the last client has given up for good."""
        return self.patience * (1 + max(stream.retries for stream in self.streams))

    def spans(self) -> list[tuple[float, float]]:
        """Return when each phase begins and ends, in seconds from the first one's beginning."""
        ends = list(accumulate(self.phases))
        return list(zip([0.0, *ends], ends, strict=False))


def as_text(plan: Plan) -> str:
    """Return the plan as text that `from_text` reads."""
    return json.dumps(asdict(plan))


def from_text(text: str) -> Plan:
    """Return the plan that `as_text` has written."""
    told = json.loads(text)
    return Plan(**{**told, "streams": [Stream(**stream) for stream in told["streams"]]})
