"""The run in three parts: before the spike, in it, after it.

Decides which seconds belong to which, by how many users there really were: locust needs a moment to make them. It must
not know what is made of the parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from .load import CLASSES, quiet_users
from .seen import Ends, Second, Seen

__all__ = ["Phase", "Phases", "parted"]

_RECOVERED: Final = 0.99
"""The share of useful answers from which on a second counts as one like before the spike."""


@dataclass(frozen=True)
class Phase:
    """Some seconds in which the number of users did not change, all together."""

    name: str
    seconds: int
    classes: dict[str, Ends]

    @property
    def total(self) -> Ends:
        """All classes together."""
        return Ends.all_of(self.classes.values())

    def rate(self, count: float) -> float:
        """Return how many a second that is."""
        return count / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Phases:
    """The three parts, and what came after the spike."""

    before: Phase
    spike: Phase
    after: Phase
    recovered_after: int | None
    """How many seconds after the spike began one in which nearly all was useful; None: none did, or none was left."""

    @property
    def all(self) -> Sequence[Phase]:
        """The parts in their order."""
        return self.before, self.spike, self.after


def parted(seen: Seen, most: int) -> Phases:
    """Return the parts of a run with `most` users in the spike."""
    quiet = quiet_users(most)
    # The last one is not whole.
    whole = seen.seconds[:-1]
    more = [index for index, second in enumerate(whole) if second.most_users > quiet] if most > quiet else []
    first, end = (more[0], more[-1] + 1) if more else (len(whole), len(whole))
    return Phases(
        _phase("before", whole[:first], quiet),
        _phase("in the spike", whole[first:end], most),
        _phase("after", whole[end:], quiet),
        _recovered(whole[end:]),
    )


def _phase(name: str, seconds: Sequence[Second], users: int) -> Phase:
    level = [second for second in seconds if second.fewest_users == second.most_users == users]
    ends = {each: Ends.all_of(second.classes.get(each, Ends()) for second in level) for each in CLASSES}
    return Phase(name, len(level), ends)


def _recovered(seconds: Sequence[Second]) -> int | None:
    return next((index for index, second in enumerate(seconds) if second.total.useful_share >= _RECOVERED), None)
