"""How much useful work is possible past capacity, if everything beyond it is refused at once.

Decides by what a refusal costs beside a request. It must not know how either was measured.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Costs", "ceiling"]


def ceiling(load: float, k: float) -> float:
    """Return the useful share of capacity, from 0 to 1, when `load` times the capacity arrives.

    `k` is the cost of a refusal over the cost of a request. With g done and load - g refused, g + (load - g) * k = 1;
    so g = (1 - load * k) / (1 - k). Below capacity everything can be done. Raises `ValueError` unless 0 <= k < 1.
    """
    if not 0 <= k < 1:
        raise ValueError(f"k: {k} is not allowed; a refusal must cost less than a request, and not less than nothing")
    return max(0.0, min(load, 1.0, (1 - load * k) / (1 - k)))


@dataclass(frozen=True)
class Costs:
    """What a request and a refusal cost the server, in seconds of its core."""

    request: float
    refusal: float

    @property
    def k(self) -> float:
        """The cost of a refusal over the cost of a request."""
        return self.refusal / self.request

    def ceiling(self, offered: float, capacity: float) -> float:
        """Return the requests per second that can be done, by the core and by `capacity`, which else is needed."""
        return min(offered, capacity, ceiling(offered * self.request, min(self.k, 0.999)) / self.request)
