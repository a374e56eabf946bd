"""Plays a scenario on a server: starts it, sends what the phases say, lets happen what is to happen, and judges.

Decides the order of these. It must not know of other scenarios or other servers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...side_by_side.servers import Server
from ...side_by_side.starting import free_port
from ..contenders import is_ours
from ..drive import drive
from ..plan import Plan
from ..record import Record
from ..seen import End, Seen, firsthand, summed_up
from ..serving import Circumstances, check_answers, serving
from ..usage import Meter, Usage
from .beside import Beside, nothing, pinning, stalling, watching
from .catalogue import Scenario
from .course import Course
from .observed import Observed, Span
from .timeline import timeline

__all__ = ["play"]


def play(server: Server, scenario: Scenario, shortened: float, around: Circumstances) -> Course:
    """Play a scenario, `shortened` times as fast. Raises `BenchmarkError` with the reason why it cannot be."""
    admin_port = free_port()
    with serving(server, _flags(server, scenario, admin_port), around) as (process, port):
        check_answers({path for stream in scenario.streams for path in stream.paths}, port)
        plan = _plan(scenario, port, shortened, around)
        phases = _phases(scenario, plan)
        beside = _beside(scenario, phases, port, admin_port, around)
        meter = Meter(process, around.server_core)
        record, workers = drive(plan, around.generator_core, around.generator_log, beside)
        used = meter.used()
    return _course(scenario, plan, record, Observed(phases, _named(plan, firsthand(record.ends)), workers), used)


def _flags(server: Server, scenario: Scenario, admin_port: int) -> Sequence[str]:
    flags = [*server.slots(scenario.slots)] if scenario.slots else []
    if is_ours(server.name):
        flags += scenario.flags
    if scenario.watched:
        flags += ("--admin-bind", f"127.0.0.1:{admin_port}")
    return flags


def _plan(scenario: Scenario, port: int, shortened: float, around: Circumstances) -> Plan:
    seconds = [length / shortened for length in scenario.phases.values()]
    return Plan(port, seconds, scenario.streams, f"{around.seed} {scenario.name}")


def _phases(scenario: Scenario, plan: Plan) -> dict[str, Span]:
    return {name: Span(*span) for name, span in zip(scenario.phases, plan.spans(), strict=True)}


def _beside(
    scenario: Scenario, phases: Mapping[str, Span], port: int, admin_port: int, around: Circumstances
) -> Beside:
    if scenario.stalled:
        return stalling(phases[scenario.stalled], around.stall)
    if scenario.pinned:
        return pinning(phases[scenario.pinned], port)
    if scenario.watched:
        return watching(max(span.end for span in phases.values()), admin_port)
    return nothing


def _course(scenario: Scenario, plan: Plan, record: Record, observed: Observed, used: Usage) -> Course:
    attempts = _named(plan, record.ends)
    return Course(
        phases=observed.phases,
        seen={phase: _seen(observed, phase, record) for phase in observed.phases},
        attempts=summed_up(record.ends, record.busy, record.connections),
        timelines={name: timeline(ends, attempts[name], plan.seconds) for name, ends in observed.ends.items()},
        workers=observed.workers,
        checks=[*scenario.judge(observed)],
        server_busy=used.server,
        others_busy=used.others,
    )


def _named(plan: Plan, ends: Sequence[End]) -> dict[str, list[End]]:
    """Return them by the names of their streams."""
    by_name: dict[str, list[End]] = {stream.name: [] for stream in plan.streams}
    for end in ends:
        by_name[plan.streams[end.stream].name].append(end)
    return by_name


def _seen(observed: Observed, phase: str, record: Record) -> dict[str, Seen]:
    return {name: summed_up(observed.during(name, phase), record.busy, record.connections) for name in observed.ends}
