"""Storm scenario with Python locks around short critical sections."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

__all__ = ["APPLICATION", "PLACES", "STAGES", "clean", "left", "prepare", "question"]

APPLICATION = "legacy.with_locks:application"
STAGES = ("look", "loop")
PLACES = {"driver"}


def question(question: Any, generator: Random) -> Any:
    """Change a request that will be cut, so that it only acquires locks; this activity counts as "driver"."""
    return replace(question, how="driver", leaves=False) if question.how else question


def prepare(run: str) -> dict[str, str]:
    return {}


def clean(run: str) -> None:
    """Do nothing, because no server other than the application was used."""


def left(server: Any) -> list[str]:
    held = server.get("/held?number=0&user=0", server.port)["held"]
    return [f"a lock that is held: {name}" for name in held]
