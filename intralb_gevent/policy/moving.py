"""Decide to which other process a connection moves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["Receiving", "receiver_of"]


class Receiving(NamedTuple):
    """The state of a process that may receive connections."""

    pid: int
    generation: int
    """Number of the process's generation, which each reload increases; 0 if the generation is not known."""
    connections: int
    """Number of the process's connections, including those that are being moved to it."""
    accepts: bool = True
    """False while the process drains, is full, or has not answered for a long time."""


def receiver_of(processes: Iterable[Receiving]) -> int | None:
    """Return the id of the process that receives the next connection; None if no process accepts connections.

    Processes of the latest generation are preferred, because processes of earlier generations will be drained and would
    have to move the connection again. Among the processes of the latest generation, the one with the fewest connections
    is chosen.
    """
    possible = [each for each in processes if each.accepts]
    if not possible:
        return None
    return min(possible, key=lambda each: (-each.generation, each.connections, each.pid)).pid
