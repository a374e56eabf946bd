"""Puts the findings of `policy/verdict.py` into words: what is wrong, where in the application, and what to do.

The sentences name lanes, numbers and lines of the application's code. The only data of requests in these sentences is
the address of a client that floods a lane.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from .verdict import BUSY_LOOP, Facts, Finding, Kind, LaneFacts, Level, unaffected

__all__ = ["Verdict", "lane_name", "number_of", "span", "verdict"]


@dataclass(frozen=True)
class Verdict:
    """The state of a process in words: what is wrong, at which place, which lanes are not affected, and what to do."""

    level: Level
    kind: str
    """Kind of the most important finding; "well" if there is none."""
    seconds: float
    """Time for which the most important finding has existed."""
    text: str
    place: str = ""
    unaffected: str = ""
    advice: str = ""
    further: tuple[str, ...] = ()
    """The other findings, each in one sentence."""

    def as_dict(self) -> dict[str, Any]:
        """Return the verdict as a dictionary for JSON."""
        return {**vars(self), "seconds": round(self.seconds, 1), "further": list(self.further)}


def verdict(facts: Facts, found: Sequence[Finding], places: Mapping[tuple[Kind, str | None], str]) -> Verdict:
    """Return the verdict; `places` maps the key of a finding to a sentence that names the place in the application."""
    if not found:
        return Verdict("well", "well", 0.0, _well(facts))
    first, *others = found
    place = places.get(first.key, "")
    return Verdict(
        first.level,
        first.kind,
        first.seconds,
        _SENTENCES[first.kind](first, facts),
        place,
        _unaffected(unaffected(facts, found), facts),
        _ADVICE[first.kind](first, facts, place),
        tuple(_SENTENCES[each.kind](each, facts) for each in others),
    )


def lane_name(name: str) -> str:
    """Return the name by which sentences refer to a lane."""
    return f"lane {name}" if name else "the general lane"


def span(seconds: float) -> str:
    """Return a duration as text with a unit, rounded to one decimal or a whole number."""
    if seconds < 1:
        return f"{max(1, round(seconds * 1000))} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def number_of(number: float) -> str:
    """Return a number or a rate as text: with one decimal below 10, otherwise rounded to a whole number."""
    number = round(number, 1)
    return f"{number:,.0f}" if number >= 10 or number == round(number) else f"{number:.1f}"


def _count(number: float, name: str, plural: str = "") -> str:
    shown = number_of(number)
    return f"{shown} {name if shown == '1' else plural or name + 's'}"


def _well(facts: Facts) -> str:
    running, limit = sum(lane.running for lane in facts.lanes), sum(lane.limit for lane in facts.lanes)
    served = sum(lane.ended for lane in facts.lanes) / 10
    return f"All is well: {_count(served, 'request')} a second, {running} of {_count(limit, 'slot')} busy."


def _unaffected(names: Sequence[str], facts: Facts) -> str:
    if not names or len(facts.lanes) < 2:
        return ""
    if len(names) == 1:
        return f"{_first_upper(lane_name(names[0]))} is not affected."
    return f"The other {len(names)} lanes are not affected."


def _first_upper(text: str) -> str:
    return text[:1].upper() + text[1:]


# Sentences that say what is wrong.


def _lane(finding: Finding) -> LaneFacts:
    return finding.lane or LaneFacts()


def _name(finding: Finding) -> str:
    return lane_name(_lane(finding).name)


def _slots(lane: LaneFacts) -> str:
    return "its only slot" if lane.limit == 1 else f"all {lane.limit} slots"


def _draining(finding: Finding, facts: Facts) -> str:
    running = sum(lane.running + lane.queued for lane in facts.lanes)
    if facts.condition == "stopped":
        return "Stopped: this process serves no more requests."
    return f"Shutting down: {_count(running, 'request')} left to finish; no new connections are accepted."


def _blocked(finding: Finding, facts: Facts) -> str:
    times = "once" if facts.blockages == 1 else f"{facts.blockages} times"
    longest = span(facts.longest_blocked_seconds)
    return f"Blocked: code kept the event loop from all other work {times} in the last 30 s, for up to {longest}."


def _leaking(finding: Finding, facts: Facts) -> str:
    lane = _lane(finding)
    slots = _count(lane.abandoned, "slot of ", "slots of ") + _name(finding)
    were = "was" if lane.abandoned == 1 else "were"
    return f"Leaking slots: {slots} {were} abandoned in the last 10 min, because handlers swallow every abort."


def _stuck(finding: Finding, facts: Facts) -> str:
    lane = _lane(finding)
    return f"Stuck: {_name(finding)} has completed nothing for {span(finding.seconds)}, with {_slots(lane)} busy."


def _no_session(finding: Finding, facts: Facts) -> str:
    number = _count(_lane(finding).no_session, "request")
    return f"No sessions: {_name(finding)} answered {number} with 503 in the last 10 s, because db_init_func failed."


def _flooded(finding: Finding, facts: Facts) -> str:
    lane = _lane(finding)
    share = f"{100 * lane.client_share:.0f} %"
    return (
        f"Flooded: client {lane.client} has sent {share} of the {number_of(lane.refused_per_second)} requests a second "
        f"that {_name(finding)} rejects; the other clients keep their shares."
    )


def _overloaded(finding: Finding, facts: Facts) -> str:
    lane = _lane(finding)
    busy = f"has had {_slots(lane)} busy for {span(finding.seconds)}" if lane.full_seconds >= 1 else "is over capacity"
    rate = number_of(lane.refused_per_second)
    return f"Overloaded: {_name(finding)} {busy}; {rate}/s are rejected (reason: {lane.reason})."


def _failing(finding: Finding, facts: Facts) -> str:
    lane = _lane(finding)
    return f"Failing: {lane.failed} of {_count(lane.ended, 'request')} of {_name(finding)} failed in the last 10 s."


def _late(finding: Finding, facts: Facts) -> str:
    number = _count(_lane(finding).late, "request")
    return f"Late: {number} of {_name(finding)} reached the deadline in the last 10 s."


def _streaming(finding: Finding, facts: Facts) -> str:
    lane = _lane(finding)
    return f"Streams: {lane.streams} of {_count(lane.limit, 'slot')} of {_name(finding)} are occupied by streams."


def _reload_failed(finding: Finding, facts: Facts) -> str:
    return f"The reload failed: {facts.cause or 'the reason is in the log'}. The earlier processes continue to serve."


def _few_processes(finding: Finding, facts: Facts) -> str:
    cause = f": {facts.cause}" if facts.cause else ""
    return f"{facts.processes_ready} of {facts.processes_wanted} processes serve{cause}."


def _reloading(finding: Finding, facts: Facts) -> str:
    return f"Reloading: {_count(facts.processes_ready, 'process', 'processes')} serve while others start and drain."


def _computing(finding: Finding, facts: Facts) -> str:
    return f"The event loop is busy {100 * facts.loop_busy:.0f} % of the time: one core is almost used up."


def _busy(finding: Finding, facts: Facts) -> str:
    lane = _lane(finding)
    waits = f"{_count(lane.queued, 'request waits', 'requests wait')} for up to {span(lane.oldest_seconds)}"
    return f"Busy: {_name(finding)} has had {_slots(lane)} busy for {span(finding.seconds)}; {waits}. None is rejected."


_SENTENCES: Final[dict[Kind, Callable[[Finding, Facts], str]]] = {
    "draining": _draining,
    "blocked": _blocked,
    "leaking": _leaking,
    "stuck": _stuck,
    "no_session": _no_session,
    "flooded": _flooded,
    "overloaded": _overloaded,
    "failing": _failing,
    "late": _late,
    "streaming": _streaming,
    "reload_failed": _reload_failed,
    "few_processes": _few_processes,
    "reloading": _reloading,
    "computing": _computing,
    "busy": _busy,
}


# Sentences that advise what to do.


def _slow_code(place: str) -> str:
    return "the code at the place above" if place else "the slow handlers"


def _relieve(finding: Finding, facts: Facts, place: str) -> str:
    """Return the advice for a lane with more requests than it can serve."""
    if facts.loop_busy >= BUSY_LOOP:
        return "The event loop is the bottleneck: use more processes (--processes), or make the handlers compute less."
    if _lane(finding).may_grow:
        return f"The pool is still growing. If the problem lasts, make {_slow_code(place)} faster."
    return (
        f"Make {_slow_code(place)} faster. If the code waits for a service that can handle more requests at "
        "the same time, allow more slots (max_workers, max_concurrent_per_router)."
    )


def _speed_up(finding: Finding, facts: Facts, place: str) -> str:
    return f"Make {_slow_code(place)} faster, or give its route a longer request_timeout_seconds."


def _unstick(finding: Finding, facts: Facts, place: str) -> str:
    deadline = f"The deadline ends each request after {span(_lane(finding).timeout_seconds)}. "
    known = deadline if _lane(finding).timeout_seconds < 86400 else ""
    call = "the call above waits" if place else "the handlers wait"
    return f"{known}Find out what {call} for, such as a lock or a server that does not answer."


def _fixed(text: str) -> Callable[[Finding, Facts, str], str]:
    return lambda finding, facts, place: text


_ADVICE: Final[dict[Kind, Callable[[Finding, Facts, str], str]]] = {
    "draining": _fixed(""),
    "blocked": _fixed("Move this computation to another process, or split it: no other request runs at the same time."),
    "leaking": _fixed("Let BaseException pass in these handlers: catch Exception instead, or re-raise BaseException."),
    "stuck": _unstick,
    "no_session": _fixed("Check the database server, its address, and its connection limit."),
    "flooded": _fixed("Limit this client's requests in front of the server; the server only enforces fair shares."),
    "overloaded": _relieve,
    "failing": _fixed("The tracebacks are in the log, or where the framework writes them."),
    "late": _speed_up,
    "streaming": _fixed("Set max_streams, use a route with max_workers for streams, or end idle streams sooner."),
    "reload_failed": _fixed("Fix the cause of the failure, then send SIGHUP again."),
    "few_processes": _fixed("The log of the supervisor says why the other processes do not serve."),
    "reloading": _fixed(""),
    "computing": _fixed("Use more processes (--processes) before requests are rejected."),
    "busy": _relieve,
}
