"""Decide to which other process a connection moves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["Receiving", "receiver_of"]


class Receiving(NamedTuple):
    """The state of a process that may receive connections."""

    pid: int
    generation: int
    """Number of the reload since which the process has run; 0 if that is not known."""
    connections: int
    """Number of its connections, including those that are on their way to it."""
    accepts: bool = True
    """False while it drains, is full, or has not answered for long."""


def receiver_of(processes: Iterable[Receiving]) -> int | None:
    """Return the id of the process that receives the next connection; None if none accepts any.

    The latest generation is preferred, because earlier ones will have to move their connections again. Within it, the
    process with the fewest connections is chosen.
    """
    possible = [each for each in processes if each.accepts]
    if not possible:
        return None
    return min(possible, key=lambda each: (-each.generation, each.connections, each.pid)).pid
