"""What was seen of each server with each crowd, and what is to be reached.

Decides the goals. It must not know how anything is measured or shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from ..side_by_side.servers import OURS
from .clients import Seen
from .crowds import Crowd
from .flood import SHEDDABLE, Flooded

__all__ = ["PEER", "Results"]

PEER: Final = "gunicorn"
"""Whom ours is compared with: what its users have today."""
BEARABLE_SECONDS: Final = 2.0
"""`max_wait_seconds` of ours by default: with a crowd that would wait longer, some may be refused."""
_AS_MANY: Final = 0.98
"""Of the peer's answers per second; less is chance."""
_AS_LONG: Final = 1.5
_LEAST_SERVED: Final = 0.5
_AGAIN_SECONDS: Final = 5.0
"""After a flood, until clients are served as before."""


@dataclass
class Results:
    """All of it, and the circumstances."""

    about: dict[str, str] = field(default_factory=dict)
    seen: dict[Crowd, dict[str, Seen]] = field(default_factory=dict)
    """By crowd, then by the server's name."""
    floods: dict[str, Flooded] = field(default_factory=dict)
    """By what is told of the flood."""
    failures: list[str] = field(default_factory=list)

    def misses(self) -> Iterator[str]:
        """Yield a sentence for each goal that ours has not reached."""
        for crowd, by_server in self.seen.items():
            ours, peer = by_server.get(OURS), by_server.get(PEER)
            if ours is not None and crowd.longest_wait < BEARABLE_SECONDS:
                yield from _misses(crowd, ours, peer)
        for flood, flooded in self.floods.items():
            yield from _flood_misses(flood, flooded)


def _misses(crowd: Crowd, ours: Seen, peer: Seen | None) -> Iterator[str]:
    if ours.refused:
        yield f"{crowd.kind} {crowd.name}: {ours.refused} were not answered 200: {dict(ours.answers)}"
    if ours.served and min(ours.served) < _LEAST_SERVED * max(ours.served):
        yield f"{crowd.kind} {crowd.name}: one client had {min(ours.served)} answers, another {max(ours.served)}"
    if peer is None or peer.refused:
        return
    if ours.per_second < _AS_MANY * peer.per_second:
        yield f"{crowd.kind} {crowd.name}: {ours.per_second:.1f} answers per second, {PEER} {peer.per_second:.1f}"
    if ours.percentile(1) > _AS_LONG * peer.percentile(1):
        longest = f"the longest wait is {ours.percentile(1):.2f} s, {PEER}'s {peer.percentile(1):.2f}"
        yield f"{crowd.kind} {crowd.name}: {longest}"


def _flood_misses(flood: str, flooded: Flooded) -> Iterator[str]:
    if flooded.refused_before:
        yield f"flood, {flood}: {flooded.refused_before} clients were refused before it"
    if flood == SHEDDABLE and flooded.refused_during:
        yield f"flood, {flood}: {flooded.refused_during} clients were refused during it"
    if flooded.refused_until > _AGAIN_SECONDS:
        yield f"flood, {flood}: clients were refused until {flooded.refused_until:.1f} s after its end"
