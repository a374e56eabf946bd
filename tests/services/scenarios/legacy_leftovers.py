"""Timeouts, kills and throws that finished requests have left; here no request is cut, and none may be hit."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

__all__ = ["APPLICATION", "PLACES", "STAGES", "clean", "left", "prepare", "question"]

APPLICATION = "legacy.with_leftovers:application"
STAGES = ("look",)
PLACES: set[str] = set()


def question(question: Any, generator: Random) -> Any:
    """Have what would be cut return in time, and leave something."""
    if not question.how:
        return question
    return replace(question, page="leave", how="", at="", leaves=False, expected=200)


def prepare(run: str) -> dict[str, str]:
    return {}


def clean(run: str) -> None:
    """There is nothing but the application."""


def left(server: Any) -> list[str]:
    return []
