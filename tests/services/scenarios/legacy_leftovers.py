"""Storm scenario in which finished requests leave timeouts, kills and throws, which must not hit other requests."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

__all__ = ["APPLICATION", "PLACES", "STAGES", "clean", "left", "prepare", "question"]

APPLICATION = "legacy.with_leftovers:application"
STAGES = ("look",)
PLACES: set[str] = set()


def question(question: Any, generator: Random) -> Any:
    """Change a request that would be cut, so that it instead returns in time, and leaves a timeout or timer behind."""
    if not question.how:
        return question
    return replace(question, page="leave", how="", at="", leaves=False, expected=200)


def prepare(run: str) -> dict[str, str]:
    return {}


def clean(run: str) -> None:
    """Do nothing, because no server other than the application was used."""


def left(server: Any) -> list[str]:
    return []
