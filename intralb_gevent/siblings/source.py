"""Finds the other processes that accept from a server's listener."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from .sockets import bound_pids

__all__ = ["BoundSiblings", "Sibling", "Siblings"]


class Sibling(NamedTuple):
    """Another process that accepts from the same listener."""

    pid: int
    generation: int = 0
    """Generation of the process, a number that increases with each reload; 0 if the generation is unknown."""


class Siblings(Protocol):
    """The other processes that accept from the same listener."""

    def known(self) -> Sequence[Sibling]:
        """Return the processes that may be able to receive connections. This method never waits."""

    def starting(self) -> bool:
        """Return whether a process that will replace this one is starting, and will be ready within seconds."""


class BoundSiblings:
    """Finds processes by the addresses on which they receive connections, no matter which program has started them."""

    def __init__(self, listener: int) -> None:
        self._listener = listener

    def __repr__(self) -> str:
        return f"<BoundSiblings of listener {self._listener}>"

    def known(self) -> Sequence[Sibling]:
        """Return the processes that receive connections of the listener."""
        return [Sibling(pid) for pid in bound_pids(self._listener) if pid != os.getpid()]

    def starting(self) -> bool:
        """Return False, because a process that is still starting has no address and cannot be found."""
        return False
