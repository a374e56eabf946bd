"""Counts the connections that moved between processes, and the connections that could not move."""

from __future__ import annotations

from collections import Counter

__all__ = ["Moves"]


class Moves:
    """The counts of one process, since its start."""

    def __init__(self) -> None:
        self.moved: Counter[str] = Counter()
        """Number of connections that moved to other processes, by kind (`idle` or `request`)."""
        self.received: Counter[str] = Counter()
        """Number of connections that moved here from other processes, by kind."""
        self.returned: Counter[str] = Counter()
        """Number of failed attempts to move a connection, by reason; the connection can still move later."""
        self.not_moved: Counter[str] = Counter()
        """Number of connections that were closed because they could not move, by reason."""

    def __repr__(self) -> str:
        return f"<Moves {dict(self.moved)} moved, {dict(self.received)} received, {dict(self.not_moved)} not moved>"
