"""What a client knows of its own requests, and whether the ledger of the application agrees.

Decides when the books balance. It must not know what was asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

__all__ = ["Book"]

_MAYBE: Final = 0
"""Nobody has told whether it was run: once at most."""
_RUN: Final = 1
_NOT_RUN: Final = 2
_SHOWN: Final = 5


class Book:
    """The requests of one client, by number."""

    def __init__(self, client: int) -> None:
        self.client = client
        self._known = bytearray()
        self.answered = 0
        """How many were answered by the application, to their end."""

    def __len__(self) -> int:
        return len(self._known)

    def next(self) -> int:
        """Enter a request, and return its number."""
        self._known.append(_MAYBE)
        return len(self._known) - 1

    def was_run(self, number: int) -> None:
        """The application has begun to answer, or the balancer has ended it while it ran."""
        self._known[number] = _RUN

    def was_answered(self, number: int) -> None:
        """The application has answered."""
        self.was_run(number)
        self.answered += 1

    def was_not_run(self, number: int) -> None:
        """The server has said that the application has not seen it."""
        self._known[number] = _NOT_RUN

    def disagreements(self, ledger: bytes) -> Iterator[str]:
        """Say what the ledger has otherwise; it is how often each number was begun."""
        if len(ledger) > len(self._known):
            yield f"the ledger has a request {self.client}.{len(ledger) - 1}, which was never sent"
        allowed = {_MAYBE: (0, 1), _RUN: (1,), _NOT_RUN: (0,)}
        runs = ledger.ljust(len(self._known), b"\0")
        wrong = [number for number, known in enumerate(self._known) if runs[number] not in allowed[known]]
        for number in wrong[:_SHOWN]:
            expected = " or ".join(map(str, allowed[self._known[number]]))
            yield f"request {self.client}.{number} was run {runs[number]} times, not {expected}"
        if len(wrong) > _SHOWN:
            yield f"so were {len(wrong) - _SHOWN} more requests of client {self.client}"
