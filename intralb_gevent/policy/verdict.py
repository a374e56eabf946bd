"""The verdict on a process: from measured numbers, rules derive its problems, their places, and their durations.

Each rule compares the numbers of one lane, or of the whole process, with fixed limits, and returns a finding or none.
The findings are ordered: a problem comes before the problems that it causes. For example, a blocked event loop fills
the slots of every lane, so the finding "blocked" comes before "overloaded". `policy/sentences.py` puts the findings
into words.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

__all__ = ["Facts", "Finding", "Judge", "Kind", "LaneFacts", "Level", "findings", "rank_of"]

Level = Literal["well", "notice", "warning", "alarm"]

Kind = Literal[
    "draining",
    "blocked",
    "leaking",
    "stuck",
    "no_session",
    "flooded",
    "overloaded",
    "failing",
    "late",
    "streaming",
    "reload_failed",
    "few_processes",
    "reloading",
    "computing",
    "busy",
]
"""The kinds of findings, in order: a cause comes before its effects."""

_ORDER: Final[tuple[Kind, ...]] = (
    *("draining", "blocked", "leaking", "stuck", "no_session", "flooded", "overloaded", "failing", "late"),
    *("streaming", "reload_failed", "few_processes", "reloading", "computing", "busy"),
)

_EXCLUSIVE: Final[tuple[tuple[Kind, ...], ...]] = (
    ("stuck", "flooded", "overloaded", "busy"),
    ("reload_failed", "few_processes", "reloading"),
)
"""Kinds of findings of which a lane, or the process, has at most one at a time."""

_LEVELS: Final[tuple[Level, ...]] = ("well", "notice", "warning", "alarm")

FULL_SECONDS: Final = 3.0
"""Seconds for which all slots of a lane must be in use before the lane counts as full."""

STALLED_SECONDS: Final = 3.0
"""A full lane counts as stuck if it has completed no request for this many seconds."""

STALLED_RUN_TIMES: Final = 3
"""If this multiple of the lane's mean run time is longer than `STALLED_SECONDS`, the multiple applies instead."""

BLOCKED_SECONDS: Final = 0.5
"""Blockages of the event loop are a finding if they add up to at least this many seconds in the last half minute."""

BLOCKED_ALARM_SECONDS: Final = 3.0
"""Blockages of the event loop are an alarm if they add up to at least this many seconds in the last half minute."""

BUSY_LOOP: Final = 0.9
"""The event loop counts as the bottleneck if it is busy for at least this share of the time."""

FLOOD_SHARE: Final = 0.6
"""One of several clients counts as the cause of a lane's rejections if it sent at least this share of the rejected
requests."""

FLOOD_REFUSALS: Final = 20
"""Minimum number of rejections in the window for a client's share to be significant."""

STREAMED_SHARE: Final = 0.75
"""Streamed responses are a finding if they occupy at least this share of a lane's slots."""

FAILED_SHARE: Final = 0.05
FAILED_LEAST: Final = 5
"""Failed requests are a finding if at least this share, and at least this number, of the requests in the window have
failed."""

HOLD_SECONDS: Final = 5.0
"""Seconds for which a finding is retained after its rule last applied, so that the verdict does not flicker."""


@dataclass(frozen=True)
class LaneFacts:
    """The numbers of one lane. Each count covers the last ten seconds, unless its description says otherwise."""

    name: str = ""
    """Path of the lane's route or mounted application; "" for the general lane."""
    running: int = 0
    limit: int = 1
    """Number of requests that may currently run at the same time."""
    streams: int = 0
    """Number of running requests whose responses have been streamed for more than a moment."""
    queued: int = 0
    oldest_seconds: float = 0.0
    """Time for which the oldest queued request has waited."""
    full_seconds: float = 0.0
    """Time for which all slots have been in use without interruption."""
    stalled_seconds: float = 0.0
    """Time since a request was last completed or failed, or since the lane became busy."""
    run_seconds: float = 0.0
    """Mean run time of the requests."""
    timeout_seconds: float = math.inf
    """Time from a request's arrival to its deadline, unless a route, a proxy or the handler sets another deadline."""
    ended: int = 0
    """Number of requests that the application has answered, with success or not."""
    failed: int = 0
    late: int = 0
    """Number of requests that reached their deadline, in the queue or in a slot."""
    refused: int = 0
    refused_per_second: float = 0.0
    """Rate of the rejections in the last three seconds; 0 if there were none."""
    reason: str = ""
    """The most frequent reason for the rejections."""
    clients: int = 0
    """Number of clients with queued or running requests; 0 if the lane has not counted requests by client."""
    client: str = ""
    """Address of the client with the most rejections; `client_share` is its share of all rejections."""
    client_share: float = 0.0
    no_session: int = 0
    """Number of requests that were answered 503 because no session could be opened."""
    abandoned: int = 0
    """Number of slots that were abandoned in the last ten minutes."""
    may_grow: bool = False
    """True if the lane has fewer workers than its maximum."""


@dataclass(frozen=True)
class Facts:
    """The numbers of one process, and of its site if there are several processes."""

    lanes: tuple[LaneFacts, ...] = ()
    condition: str = "serving"
    loop_busy: float = 0.0
    """Share of the last ten seconds in which the event loop was busy."""
    blockages: int = 0
    blocked_seconds: float = 0.0
    longest_blocked_seconds: float = 0.0
    """Number, total duration and longest duration of the event loop's blockages in the last half minute."""
    first_blocked_seconds: float = 0.0
    """Time since the first of these blockages began."""
    reload: str = ""
    """Result of the latest reload: none, running, done or failed; empty without a supervisor."""
    cause: str = ""
    """Reason why the latest reload failed, or why a process cannot be started."""
    processes_ready: int = 1
    processes_wanted: int = 1


@dataclass(frozen=True)
class Finding:
    """One problem: its kind and level, the lane that has the problem (None for the whole process), and its duration."""

    kind: Kind
    level: Level
    lane: LaneFacts | None = None
    seconds: float = 0.0
    """Time for which the problem has existed, as far as the numbers show."""

    @property
    def key(self) -> tuple[Kind, str | None]:
        """Key that identifies the problem from one review to the next."""
        return self.kind, None if self.lane is None else self.lane.name

    @property
    def rank(self) -> tuple[int, int]:
        """Sort key of findings: the most severe findings come first, and causes come before their effects."""
        return rank_of(self.level, self.kind)


def rank_of(level: str, kind: str) -> tuple[int, int]:
    """Return the sort key for a level and a kind of findings; an unknown kind comes last within its level."""
    severity = _LEVELS.index(level) if level in _LEVELS else 0
    return -severity, _ORDER.index(kind) if kind in _ORDER else len(_ORDER)


def findings(facts: Facts) -> list[Finding]:
    """Return all findings, the most important first."""
    found = [*_of_process(facts), *(each for lane in facts.lanes for each in _of_lane(lane, facts))]
    return sorted(found, key=lambda finding: finding.rank)


# Findings about the whole process.


def _of_process(facts: Facts) -> Iterator[Finding]:
    if facts.condition != "serving":
        yield Finding("draining", "notice")
    if facts.blocked_seconds >= BLOCKED_SECONDS:
        level: Level = "alarm" if facts.blocked_seconds >= BLOCKED_ALARM_SECONDS else "warning"
        yield Finding("blocked", level, seconds=facts.first_blocked_seconds)
    elif facts.loop_busy >= BUSY_LOOP:
        yield Finding("computing", "notice")
    yield from _of_site(facts)


def _of_site(facts: Facts) -> Iterator[Finding]:
    if facts.reload == "running":
        yield Finding("reloading", "notice")
    elif facts.reload == "failed":
        yield Finding("reload_failed", "warning")
    elif facts.processes_ready < facts.processes_wanted and facts.condition == "serving":
        yield Finding("few_processes", "warning")


# Findings about one lane.


def _of_lane(lane: LaneFacts, facts: Facts) -> Iterator[Finding]:
    if lane.abandoned:
        yield Finding("leaking", "alarm" if 2 * lane.abandoned >= lane.limit else "warning", lane)
    if lane.no_session:
        yield Finding("no_session", "alarm", lane)
    pressing = _pressure(lane)
    if pressing is not None:
        yield pressing
    if lane.failed >= max(FAILED_LEAST, FAILED_SHARE * lane.ended):
        yield Finding("failing", "warning", lane)
    if lane.late and (pressing is None or pressing.kind != "stuck"):
        yield Finding("late", "warning", lane)
    if lane.streams >= STREAMED_SHARE * lane.limit and lane.limit > 1:
        yield Finding("streaming", "warning", lane)


def _pressure(lane: LaneFacts) -> Finding | None:
    """Return the most specific finding if the lane has more requests than it can serve; otherwise None."""
    if _is_stuck(lane):
        return Finding("stuck", "alarm", lane, min(lane.full_seconds, lane.stalled_seconds))
    if lane.refused_per_second and _is_flooded(lane):
        return Finding("flooded", "warning", lane)
    if lane.refused_per_second:
        return Finding("overloaded", "alarm", lane, lane.full_seconds)
    if lane.full_seconds >= FULL_SECONDS and lane.queued:
        return Finding("busy", "notice", lane, lane.full_seconds)
    return None


def _is_stuck(lane: LaneFacts) -> bool:
    patience = max(STALLED_SECONDS, STALLED_RUN_TIMES * lane.run_seconds)
    waits = lane.running - lane.streams >= max(1, lane.limit / 2)
    return waits and lane.full_seconds >= FULL_SECONDS and lane.stalled_seconds >= patience


def _is_flooded(lane: LaneFacts) -> bool:
    return lane.refused >= FLOOD_REFUSALS and lane.clients > 1 and lane.client_share >= FLOOD_SHARE


# Findings over time.


@dataclass
class _Known:
    """A finding of an earlier review, with the monotonic times at which the problem began and the rule last applied."""

    since: float
    seen: float
    finding: Finding


@dataclass
class Judge:
    """Reviews the facts once a second, records when each problem began, and retains findings for `HOLD_SECONDS`."""

    _known: dict[tuple[Kind, str | None], _Known] = field(default_factory=dict)

    def review(self, facts: Facts, now: float) -> list[Finding]:
        """Return the findings, the most important first, each with the time for which the problem has existed."""
        self._forget(now)
        for finding in findings(facts):
            known = self._known.get(finding.key)
            since = now - finding.seconds if known is None else min(known.since, now - finding.seconds)
            self._known[finding.key] = _Known(since, now, finding)
        kept = [replace(each.finding, seconds=now - each.since) for each in self._known.values()]
        return _consistent(sorted(kept, key=lambda finding: finding.rank))

    def _forget(self, now: float) -> None:
        over = [key for key, each in self._known.items() if now - each.seen > HOLD_SECONDS]
        for key in over:
            del self._known[key]


def _consistent(found: Sequence[Finding]) -> list[Finding]:
    """Drop each finding that contradicts an earlier one, as a retained finding and its successor do."""
    kept: dict[tuple[object, str | None], Finding] = {}
    for finding in found:
        kind, lane = finding.key
        group = next((kinds for kinds in _EXCLUSIVE if kind in kinds), kind)
        kept.setdefault((group, lane), finding)
    return list(kept.values())


def unaffected(facts: Facts, found: Sequence[Finding]) -> list[str]:
    """Return the names of the lanes that no finding concerns; a blocked or draining process affects all lanes."""
    if any(finding.kind in ("blocked", "draining") for finding in found):
        return []
    affected = {finding.lane.name for finding in found if finding.lane is not None}
    return [lane.name for lane in facts.lanes if lane.name not in affected]
