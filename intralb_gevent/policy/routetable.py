"""Which rule a path falls under: the first whose pattern matches.

Decides what a pattern matches. It must not know what the rules are about.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

__all__ = ["RouteTable"]

Rule = TypeVar("Rule")


class RouteTable(Generic[Rule]):
    """Patterns with a rule each, and the rule for all other paths.

    A pattern is one path, or with a * at its end all paths that begin so. It is compared with PATH_INFO, in which
    each character stands for a byte (PEP 3333), so other than ASCII characters are compared as their UTF-8. Finding
    takes one comparison for each pattern before the one that matches.
    """

    __slots__ = ("_patterns", "otherwise")

    def __init__(self, patterns: Iterable[tuple[str, Rule]], otherwise: Rule) -> None:
        self._patterns = tuple(
            (pattern.removesuffix("*").encode().decode("latin-1"), pattern.endswith("*"), rule)
            for pattern, rule in patterns
        )
        self.otherwise = otherwise
        """The rule for a path that no pattern matches."""

    def __repr__(self) -> str:
        return f"<RouteTable of {len(self._patterns)} patterns>"

    def __bool__(self) -> bool:
        """Whether there is any pattern; without one, `otherwise` holds for every path."""
        return bool(self._patterns)

    def find(self, path: str) -> Rule:
        """Return the rule for a path as PATH_INFO has it."""
        for text, begins, rule in self._patterns:
            if path.startswith(text) if begins else path == text:
                return rule
        return self.otherwise
