"""The course of a scenario with one server, as it is kept: figures of each phase, a timeline, and the goals.

Decides what is kept, and its form on disk. It must not know how it was found or how it is shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..check import Check
from ..seen import Seen
from .observed import Span, Workers
from .timeline import Timeline

__all__ = ["Course", "Play", "course_from"]


@dataclass(frozen=True)
class Course:
    """What happened."""

    phases: Mapping[str, Span]
    seen: Mapping[str, Mapping[str, Seen]]
    """By phase and name of stream; of requests as their clients saw them."""
    attempts: Seen
    """Of everything that was sent, with what was asked again; for the generator's own figures."""
    timelines: Mapping[str, Timeline]
    """By name of stream, a value for each tenth of a second."""
    workers: Sequence[Workers]
    checks: Sequence[Check]
    server_busy: float
    """How much of its core the server used: 1 is all of it."""
    others_busy: float
    """How much of the server's core others used."""


@dataclass
class Play:
    """One scenario with one server: its course, or why there is none."""

    course: Course | None = None
    failure: str = ""


def course_from(stored: Mapping[str, Any]) -> Course:
    """Return the course that `dataclasses.asdict` has made plain."""
    return Course(
        {name: Span(*span) for name, span in stored["phases"].items()},
        {phase: {name: Seen(**seen) for name, seen in each.items()} for phase, each in stored["seen"].items()},
        Seen(**stored["attempts"]),
        {name: Timeline(**each) for name, each in stored["timelines"].items()},
        [Workers(*each) for each in stored["workers"]],
        [Check(**each) for each in stored["checks"]],
        stored["server_busy"],
        stored["others_busy"],
    )
