"""Finds the rule for a path: the rule of the first pattern that matches the path."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

__all__ = ["RouteTable"]

Rule = TypeVar("Rule")


class RouteTable(Generic[Rule]):
    """A list of patterns, each with a rule, and the rule for all other paths.

    A pattern is one path, or a prefix of paths if it ends with *. A pattern is compared with PATH_INFO. In PATH_INFO,
    each character represents a byte (PEP 3333), so non-ASCII characters are compared as their UTF-8 bytes. A lookup
    compares the path with one pattern after another, up to the first pattern that matches.
    """

    __slots__ = ("_patterns", "otherwise")

    def __init__(self, patterns: Iterable[tuple[str, Rule]], otherwise: Rule) -> None:
        self._patterns = tuple(
            (pattern.removesuffix("*").encode().decode("latin-1"), pattern.endswith("*"), rule)
            for pattern, rule in patterns
        )
        self.otherwise = otherwise
        """The rule for paths that no pattern matches."""

    def __repr__(self) -> str:
        return f"<RouteTable of {len(self._patterns)} patterns>"

    def find(self, path: str) -> Rule:
        """Return the rule for a path in the encoding of PATH_INFO."""
        for text, begins, rule in self._patterns:
            if path.startswith(text) if begins else path == text:
                return rule
        return self.otherwise
