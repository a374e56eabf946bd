"""What went wrong in a run, and how the run ends for it.

Decides how many faults are shown, and the exit code. It must not know what a fault is.
"""

from __future__ import annotations

import argparse
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Final

from ..side_by_side.surroundings import say
from .arguments import repeat_with

__all__ = ["Faults"]

_SHOWN: Final = 30


class Faults:
    """The invariants that did not hold; threads may add to them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._found)

    def __iter__(self) -> Iterator[str]:
        return iter([*self._found])

    @property
    def total(self) -> int:
        """How many there were, the same ones counted again."""
        return self._found.total()

    def add(self, text: str) -> None:
        """Add one; the same text is shown once, with its number."""
        with self._lock:
            self._found[text] += 1

    def require(self, holds: bool, text: str) -> None:
        """Add one unless the invariant holds."""
        if not holds:
            self.add(text)

    def conclude(self, command: str, parsed: argparse.Namespace, server_log: str) -> int:
        """Print the verdict, and return the exit code."""
        if not self._found:
            print(f"{command}: every invariant held")
            return 0
        for text, count in self._found.most_common(_SHOWN):
            print(f"{command}: broken: {text}" + (f" ({count} times)" if count > 1 else ""))
        if len(self._found) > _SHOWN:
            print(f"{command}: and {len(self._found) - _SHOWN} more")
        say(f"The server's last words:\n{server_log}")
        print(f"repeat it with: {repeat_with(command, parsed)}")
        return 1
