"""A goal and what was found: reached or not.

Decides how both are said in a line. It must not know how the figure came about.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["Check"]

_WRITTEN: Final[Mapping[str, Callable[[float], str]]] = {
    "ms": lambda value: f"{value:,.0f} ms" if value >= 10 else f"{value:.1f} ms",
    "%": lambda value: f"{value:.2f} %".replace(".00 ", " "),
    "times": lambda value: f"{value:.2f} times",
    "": lambda value: f"{value:,.0f}",
}


@dataclass(frozen=True)
class Check:
    """One thing that is to be reached."""

    what: str
    figure: float | None
    """None: it was not reached at all, or there is nothing to judge by."""
    goal: float
    unit: str
    """ms, %, times or nothing, for a count."""
    at_least: bool = False
    """Whether the goal is a floor and not a bound."""
    remark: str = ""

    @property
    def reached(self) -> bool:
        """Whether it is."""
        if self.figure is None:
            return False
        return self.figure >= self.goal if self.at_least else self.figure <= self.goal

    @property
    def sentence(self) -> str:
        """The line that tells of it."""
        write = _WRITTEN[self.unit]
        figure = "never" if self.figure is None else write(self.figure)
        bound = f"at {'least' if self.at_least else 'most'} {write(self.goal)}"
        told = f"{'reached' if self.reached else 'not reached'}: {self.what}: {figure} (goal: {bound})"
        return f"{told}; {self.remark}" if self.remark else told
