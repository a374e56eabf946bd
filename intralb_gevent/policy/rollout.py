"""Decide which process of a supervised server is started or drained next.

A replacement becomes ready before the process that it replaces is drained, and the replaced process ends before the
next replacement starts. Therefore, there is never more than one additional process, and a reload never reduces the
number of ready processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

__all__ = ["Member", "State", "Step", "next_step"]

State = Literal["starting", "ready", "draining"]


class Member(NamedTuple):
    """The part of a process's state on which the next step depends."""

    number: int
    """Number of the process; processes are numbered in the order in which they were started."""
    state: State
    outdated: bool = False
    """True if the process is to be replaced."""


class Step(NamedTuple):
    """The next step: start one process, or drain the process with the given number."""

    action: Literal["start", "drain"]
    number: int = 0


def next_step(members: Sequence[Member], wanted: int, proven: bool) -> Step | None:
    """Return the next step; None if nothing needs to change, or if a process must first become ready or end.

    Until a process of this program has been ready (`proven`), processes are started one at a time. An application that
    cannot be loaded then fails only once, and not in every process.
    """
    starting = [member for member in members if member.state == "starting"]
    ready = [member for member in members if member.state == "ready"]
    outdated = [member for member in ready if member.outdated]
    if len(starting) + len(ready) < wanted:
        return Step("start") if proven or not starting else None
    if len(ready) > wanted or (len(starting) + len(ready) > wanted and not outdated):
        return Step("drain", _superfluous(starting, ready, outdated).number)
    if outdated and len(members) == wanted:
        return Step("start")
    return None


def _superfluous(starting: Sequence[Member], ready: Sequence[Member], outdated: Sequence[Member]) -> Member:
    """Return the oldest outdated process; if there is none, the oldest starting or else the oldest ready process."""
    return min(outdated or starting or ready, key=lambda member: member.number)
