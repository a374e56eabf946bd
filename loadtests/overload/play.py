"""Runs scenarios: starts a server, sends the load of each phase, triggers events, and checks the goals."""

from __future__ import annotations

import argparse
import itertools
import pathlib
import select
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final

from ..common import LoadTestError
from ..common.ours import accepting, snapshot
from ..common.processes import free_port
from ..common.report import or_failure, say
from ..common.servers import Server, filled
from .applications import PIN
from .generator import Plan, Record
from .results import Course, Keep, Play, Results
from .scenarios import SCENARIOS, Observed, Scenario, Span, Workers
from .seen import End, Seen, firsthand, summed_up, timeline
from .serving import CONTENDERS, Circumstances, Meter, Usage, check_answers, drive, held, is_ours

Beside = Callable[[float], list[Workers]]
"""A function that runs during the load. Its argument is the start time on the monotonic clock; its result is a list
of samples of the number of workers."""
_LOOK_SECONDS: Final = 0.05
_SHORT_OF_THE_END: Final = 0.5
"""Seconds before the end of its phase at which a pinned job is allowed to end, because it starts a little late."""


def stalling(span: Span, file: pathlib.Path) -> Beside:
    """Return a function that stalls the application's database during `span`."""

    def beside(began: float) -> list[Workers]:
        _wait_until(began + span.begin)
        file.touch()
        try:
            _wait_until(began + span.end)
        finally:
            file.unlink()
        return []

    return beside


def pinning(span: Span, port: int) -> Beside:
    """Return a function that pins a job during `span`, and raises `LoadTestError` if the job ends early."""

    def beside(began: float) -> list[Workers]:
        _wait_until(began + span.begin)
        with held(PIN, port) as holder:
            left = began + span.end - _SHORT_OF_THE_END - time.monotonic()
            if select.select((holder,), (), (), max(0.0, left))[0]:
                raise LoadTestError(f"the pinned job ended early: {holder.recv(100)!r}")
        return []

    return beside


def watching(end: float, admin_port: int) -> Beside:
    """Return a function that samples the server's number of workers many times a second, until `end`."""

    def beside(began: float) -> list[Workers]:
        seen = []
        while (at := time.monotonic() - began) < end:
            seen.append(Workers(round(at, 3), accepting(snapshot(f"http://127.0.0.1:{admin_port}"))))
            time.sleep(_LOOK_SECONDS)
        return seen

    return beside


def _wait_until(instant: float) -> None:
    time.sleep(max(0.0, instant - time.monotonic()))


def play(server: Server, scenario: Scenario, shortened: float, around: Circumstances) -> Course:
    """Run a scenario with its phases shortened by the factor `shortened`. Raises `LoadTestError` if the run fails."""
    admin_port = free_port()
    with around.serving(server, _flags(server, scenario, admin_port)) as (process, port):
        check_answers({path for stream in scenario.streams for path in stream.paths}, port)
        seconds = [length / shortened for length in scenario.phases.values()]
        plan = Plan(port, seconds, scenario.streams, f"{around.seed} {scenario.name}")
        phases = {name: Span(*span) for name, span in zip(scenario.phases, plan.spans(), strict=True)}
        beside: Beside = lambda began: []  # noqa: E731
        if scenario.stalled:
            beside = stalling(phases[scenario.stalled], around.stall)
        elif scenario.pinned:
            beside = pinning(phases[scenario.pinned], port)
        elif scenario.watched:
            beside = watching(plan.seconds, admin_port)
        meter = Meter(process, around.server_core)
        record, workers = drive(plan, around.generator_core, around.generator_log, beside)
        used = meter.used()
    return _course(scenario, plan, record, Observed(phases, _named(plan, firsthand(record.ends)), workers), used)


def _flags(server: Server, scenario: Scenario, admin_port: int) -> Sequence[str]:
    flags = filled(server.slots, number=scenario.slots) if scenario.slots else []
    flags += scenario.flags if is_ours(server.name) else ()
    return [*flags, "--admin-bind", f"127.0.0.1:{admin_port}"] if scenario.watched else flags


def _course(scenario: Scenario, plan: Plan, record: Record, observed: Observed, used: Usage) -> Course:
    attempts = _named(plan, record.ends)

    def summed(ends: Iterable[End]) -> Seen:
        return summed_up(ends, record.busy, record.connections)

    return Course(
        phases=observed.phases,
        seen={
            phase: {name: summed(observed.during(name, phase)) for name in observed.ends} for phase in observed.phases
        },
        attempts=summed(record.ends),
        timelines={name: timeline(ends, attempts[name], plan.seconds) for name, ends in observed.ends.items()},
        workers=observed.workers,
        checks=[*scenario.judge(observed)],
        server_busy=used.server,
        others_busy=used.others,
    )


def _named(plan: Plan, ends: Sequence[End]) -> dict[str, list[End]]:
    """Group the results of requests by stream name."""
    by_name: dict[str, list[End]] = {stream.name: [] for stream in plan.streams}
    for end in ends:
        by_name[plan.streams[end.stream].name].append(end)
    return by_name


def play_all(
    results: Results, parsed: argparse.Namespace, servers: Sequence[str], around: Circumstances, keep: Keep
) -> None:
    """Run the scenarios one after the other; store the results after each run."""
    for name, server in itertools.product(parsed.scenarios, servers):
        if not SCENARIOS[name].watched or is_ours(server):
            say(f"{name}: {server}")
            found = results.plays.setdefault(name, {})[server] = Play()
            with or_failure(partial(setattr, found, "failure")):
                found.course = play(CONTENDERS[server], SCENARIOS[name], parsed.shorten, around)
                for check in found.course.checks:
                    say(f"  {check.sentence}")
            keep()
