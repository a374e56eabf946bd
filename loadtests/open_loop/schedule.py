"""When requests are to be sent, and which: Poisson arrivals or an even pace, the same ones for every server.

Decides instants and paths from a seed. It must not know the clock or who sends.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

__all__ = ["arrivals", "choices", "evenly", "in_proportion", "phased"]


def arrivals(rate: float, seconds: float, seed: str) -> list[float]:
    """Return the instants of a Poisson process of `rate` per second, in seconds from its beginning, ascending."""
    if not rate:
        return []
    source = random.Random(f"arrivals {seed}")
    instants, now = [], source.expovariate(rate)
    while now < seconds:
        instants.append(now)
        now += source.expovariate(rate)
    return instants


def evenly(rate: float, seconds: float) -> list[float]:
    """Return instants as far from each other as from the beginning and the end, twice."""
    return [(number + 0.5) / rate for number in range(round(rate * seconds))]


def phased(rates: Sequence[float], phases: Sequence[float], seed: str, even: bool = False) -> list[float]:
    """Return the instants of phases that follow each other: each has its own rate, and lasts so many seconds."""
    instants: list[float] = []
    begin = 0.0
    for number, (rate, seconds) in enumerate(zip(rates, phases, strict=True)):
        own = evenly(rate, seconds) if even else arrivals(rate, seconds, f"{seed} {number}")
        instants += [begin + instant for instant in own]
        begin += seconds
    return instants


def choices(weights: Mapping[str, float], number: int, seed: str) -> list[str]:
    """Return so many of the names, each drawn on its own, as often as it weighs."""
    return random.Random(f"choices {seed}").choices([*weights], [*weights.values()], k=number)


def in_proportion(weights: Mapping[str, float], number: int = 20) -> list[str]:
    """Return about so many of the names, each as often as it weighs and spread over the list, without chance."""
    places = ((instant, name) for name, weight in weights.items() for instant in evenly(number * weight, 1.0))
    return [name for _, name in sorted(places)]
