"""All that a generator has seen: how every request ended, and how hard it was for the generator itself.

Decides the form in which it is handed over. It must not know what follows from it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final, NamedTuple

from .seen import End

__all__ = ["Record", "as_text", "from_text"]

_DIGITS: Final = 6
"""Of the times: to the microsecond."""


class Record(NamedTuple):
    """What a generator has seen."""

    ends: Sequence[End]
    """Of every request, in the order in which they were sent."""
    busy: float
    """How much of its core the generator used while it sent: 1 is all of it."""
    connections: int
    """How many there were at most at the same time."""


def as_text(record: Record) -> str:
    """Return the record as a line of text that `from_text` reads."""
    rounded = (
        end._replace(late=round(end.late, _DIGITS), after=round(end.after, _DIGITS), due=round(end.due, _DIGITS))
        for end in record.ends
    )
    return json.dumps([[*rounded], record.busy, record.connections])


def from_text(text: str) -> Record:
    """Return the record that `as_text` has written."""
    ends, busy, connections = json.loads(text)
    return Record([End(*end) for end in ends], busy, connections)
