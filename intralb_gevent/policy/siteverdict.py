"""The verdict on a site: the most important of the verdicts on its processes, and the process that it concerns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, Final, NamedTuple

from .sentences import Verdict, number_of, span
from .verdict import rank_of

__all__ = ["OfProcess", "SiteLoad", "received", "silent", "site_verdict"]

_OF_SITE: Final = frozenset({"reload_failed", "few_processes", "reloading"})
"""Kinds of findings that concern the whole site; each process reports them."""

_MOST_FURTHER: Final = 6
"""Maximum number of further problems that the verdict lists."""


class OfProcess(NamedTuple):
    """The verdict of one process."""

    pid: int
    verdict: Verdict


class SiteLoad(NamedTuple):
    """The load of all processes together."""

    processes: int
    requests_per_second: float
    running: int
    slots: int


def received(pid: int, published: Mapping[str, Any]) -> OfProcess | None:
    """Return the verdict that a process has published as JSON; None if another version has used another format."""
    known = {field.name for field in fields(Verdict)}
    try:
        verdict = Verdict(**{name: value for name, value in published.items() if name in known})
    except TypeError:
        return None
    return OfProcess(pid, replace(verdict, further=tuple(verdict.further)))


def silent(pid: int, seconds: float, ended: float = 0.0) -> OfProcess:
    """Return the verdict on a process that publishes no verdict, because its event loop has not run for `seconds`.

    If the loop runs again, `ended` is the time, in seconds, since then.
    """
    text = f"Blocked: the event loop {'did not run' if ended else 'has not run'} for {span(seconds)}."
    advice = "The log has the stacks. Unless the process was stopped, its code computes or waits without yielding."
    return OfProcess(pid, Verdict("alarm", "blocked", seconds + ended, text, advice=advice))


def site_verdict(own: OfProcess, others: Sequence[OfProcess], load: SiteLoad) -> Verdict:
    """Return the verdict on the site, from the verdict on this process (`own`) and the verdicts on other processes.

    `others` need not contain processes that are well.
    """
    if load.processes <= 1 and not others:
        return own.verdict
    problems = sorted((each for each in (own, *others) if each.verdict.kind != "well"), key=_rank)
    if not problems:
        return replace(own.verdict, text=_well(load))
    first, kind = problems[0], problems[0].verdict.kind
    if kind in _OF_SITE:
        return first.verdict
    same = [each for each in problems if each.verdict.kind == kind]
    where = f"process {first.pid}" if len(same) == 1 else f"{len(same)} of {load.processes} processes"
    worst = f"The numbers are those of process {first.pid}." if len(same) > 1 else ""
    return replace(
        first.verdict,
        text=_located(first.verdict.text, where),
        place=_joined(first.verdict.place, worst),
        unaffected=_joined(first.verdict.unaffected, _others_are_well(load.processes - len(problems))),
        further=(*first.verdict.further, *_further(problems, kind))[:_MOST_FURTHER],
    )


def _rank(each: OfProcess) -> tuple[int, int, float]:
    return (*rank_of(each.verdict.level, each.verdict.kind), -each.verdict.seconds)


def _further(problems: Sequence[OfProcess], kind: str) -> list[str]:
    return [_located(each.verdict.text, f"process {each.pid}") for each in problems if each.verdict.kind != kind]


def _located(text: str, where: str) -> str:
    """Insert `where`, the process that has the problem, into a sentence of the form "Problem: details"."""
    head, colon, details = text.partition(":")
    return f"{head} in {where}:{details}" if colon else f"{text} ({where})"


def _others_are_well(number: int) -> str:
    if number < 1:
        return ""
    return "The other process is well." if number == 1 else f"The other {number} processes are well."


def _joined(*sentences: str) -> str:
    return " ".join(filter(None, sentences))


def _well(load: SiteLoad) -> str:
    served = number_of(load.requests_per_second)
    return (
        f"All is well: {served} request{'' if served == '1' else 's'} a second, {load.running} of {load.slots} slots "
        f"busy, in {load.processes} processes."
    )
