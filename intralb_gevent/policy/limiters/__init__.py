"""Limiters set how many jobs of a pool may run at the same time; the option `limiter` selects the limiter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ...errors import OptionError
from .fixed import FixedLimiter, all_slots
from .hub_lag import HubLagLimiter
from .window import Limiter, Window

__all__ = [
    "LIMITERS",
    "FixedLimiter",
    "HubLagLimiter",
    "Limiter",
    "Window",
    "all_slots",
    "limiter_named",
]

LIMITERS: Final[dict[str, Callable[[int], Limiter]]] = {
    "hub_lag": HubLagLimiter,
    "fixed": all_slots,
}
"""Functions that create a limiter, by the limiter's name. Each function has one argument, the pool's number of slots
(at least 1). `hub_lag` is the default."""


def limiter_named(option: str | Callable[[int], Limiter], most: int) -> Limiter:
    """Return a limiter for a pool with `most` slots; `option` is the name of a limiter, or a factory function."""
    if isinstance(option, str):
        return LIMITERS[option](most)
    made = option(most)
    if missing := [name for name in ("limit", "observe", "resize") if not hasattr(made, name)]:
        raise OptionError(
            f"limiter: {option!r} returned {made!r}, which has no {missing[0]!r}; it must return a Limiter"
        )
    return made
