"""The overload with a spike of locust users: command line, server, verdict, and result page.

The verdict reports how useful the server stayed, but does not require it, because this depends on the machine.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from ..common.ours import OwnServer, Watch, with_defaults
from ..common.processes import run_command, two_cores
from ..common.report import REPORTS, add_number, as_count, as_duration, parser, say, split_flags
from ..overload.seen import SLO_SECONDS
from .demo import demo_server
from .harness import Plan, Run, conclude, run
from .page import (
    Check,
    Page,
    ServerViews,
    Table,
    Tile,
    View,
    by_name,
    compared,
    end_checks,
    on_one_scale,
    quantile,
    tiles,
    user_view,
    write,
)
from .record import GIVEN_UP, LATE, USEFUL, Phase, Phases, Record, Tally, in_phases
from .shapes import (
    CAPACITY,
    CLASSES,
    PATIENCE_SECONDS,
    PERIOD_SECONDS,
    PRIORITY_HEADER,
    QUIET_LOAD,
    most_users,
    quiet_users,
)

_TEN_SLOTS: Final = ("--max-workers=1", "--max-concurrent-per-router=10")
# The server accepts a priority only from a trusted proxy, and only in the configured field.
_ALWAYS: Final = ("--trusted-proxies=127.0.0.1", f"--priority-header={PRIORITY_HEADER}")
_MOST_CAPACITY: Final = 500
"""Maximum capacity in requests per second. A larger one would need more users than a locust process can run."""
_SHORTEST_SECONDS: Final = 5
_FINISH_SECONDS: Final = 5
"""Seconds allowed for a user to finish; longer than a user's timeout."""
_STAYED: Final = 0.9
"""Share of the possible goodput that a server must reach to count as having stayed useful."""
_COLLAPSED: Final = 0.5
_LATE_MILLISECONDS: Final = 50.0
"""Lateness in milliseconds above which locust's own delay distorts the figures."""
_CLEARLY: Final = 0.1
"""Minimum difference of the useful shares of critical and sheddable requests for priorities to count as kept."""
_CLASSES: Final = dict(zip(CLASSES, ("two", "one", "gray"), strict=True))
_TILES: Final = (
    *("jobs ended", "completed", "shed or expired", "running at most", "queued at most"),
    *("workers", "queue wait p99", "hub lag p99", "longest hub lag"),
)
_EPILOG: Final = f"""\
A user sends a request every {PERIOD_SECONDS:g} s. All users together send {QUIET_LOAD:g} times the capacity; in
the spike there are ten times as many. Flags after -- are passed to the server, for example: -- --queue-size=20

exit codes:
  0  every check has passed
  1  some check has failed; the report and the last lines say which
  2  the run could not be made
"""
_FOOTER: Final = """\
All times of users count from when the request was due. Users do not heed Retry-After: they are not a few that retry,
but many with one request each. Users and server shared this machine, and locust is Python: the precise figures are
those of python -m loadtests.overload"""


@dataclass(frozen=True)
class Workload:
    """A path that users request, and the flags for the server."""

    title: str
    about: str
    path: str
    flags: Sequence[str] = ()


WORKLOADS: Final = {
    "db": Workload(
        "ten connections of 50 ms",
        "our server with an application that waits 50 ms with one of its ten database connections",
        "/db",
        _TEN_SLOTS,
    ),
    "cpu": Workload("5 ms of Python", "our server with an application that computes for 5 ms", "/cpu"),
    "demo": Workload("the demo's slow page", "the demo", "/slow?seconds=0.05", _TEN_SLOTS),
}
"""The workloads by name. Each has a capacity of 200 requests per second: ten slots at 50 ms, or one core at 5 ms."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one overload; return its exit code."""
    return run_command("overload_locust", partial(_run, _parse(sys.argv[1:] if arguments is None else arguments)))


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    about = "Overload our server with ten times as many users for a while, and write a report of both sides."
    flags = parser("overload_locust", about, _EPILOG, "[WORKLOAD] [FLAGS] [-- FLAGS OF THE SERVER]")
    names = ", ".join(f"{name} ({workload.title})" for name, workload in WORKLOADS.items())
    flags.add_argument(
        "workload", choices=[*WORKLOADS], nargs="?", default="db", metavar="WORKLOAD", help=f"{names} [db]"
    )
    add_number(flags, "--seconds", 30, "seconds of load")
    capacity = "requests per second that the server can serve, which determines the number of users"
    add_number(flags, "--capacity", CAPACITY, capacity)
    pin = "whether server and locust have a core each [where there are two cores]"
    flags.add_argument("--pin", action=argparse.BooleanOptionalAction, help=pin)
    report = "[loadtests/reports/overload-watched-WORKLOAD.html]"
    flags.add_argument("--report", metavar="FILE", type=pathlib.Path, help=report)
    own, server_flags = split_flags(arguments)
    parsed = flags.parse_args(own)
    parsed.server_flags = server_flags
    if parsed.seconds < _SHORTEST_SECONDS:
        flags.error(f"--seconds: {parsed.seconds} is not allowed; a spike with a before and an after needs 5 or more")
    if parsed.capacity > _MOST_CAPACITY:
        flags.error(f"--capacity: {parsed.capacity} is not allowed; it must be at most {_MOST_CAPACITY}")
    can_pin = hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) > 1
    if parsed.pin and not can_pin:
        flags.error("--pin is not possible here; it needs Linux and two cores")
    parsed.pin = can_pin if parsed.pin is None else parsed.pin
    parsed.report = parsed.report or REPORTS / f"overload-watched-{parsed.workload}.html"
    parsed.most = most_users(parsed.capacity)
    parsed.quiet = quiet_users(parsed.most)
    return parsed


def server(name: str, flags: Sequence[str], directory: pathlib.Path, core: int | None = None) -> OwnServer:
    """Return a server for the given workload, not yet started."""
    workload = WORKLOADS[name]
    ours = with_defaults([*workload.flags, *_ALWAYS], flags)
    if name == "demo":
        return demo_server(directory, workload.about, ours, core)
    command = ["serve", "loadtests.overload.applications:application"]
    return OwnServer(directory, command, workload.about, ours, core=core)


def _run(parsed: argparse.Namespace) -> int:
    server_core, locust_core = two_cores() if parsed.pin else (None, None)
    arguments = ["--path", WORKLOADS[parsed.workload].path, "--users", str(parsed.most)]
    plan = Plan("overload_locust.py", arguments, parsed.seconds, _FINISH_SECONDS, locust_core)
    say(f"{parsed.seconds} s with {parsed.quiet:,} users, for a while {parsed.most:,}")
    with tempfile.TemporaryDirectory(prefix="intralb-spike-") as name:
        ended = run(plan, server(parsed.workload, parsed.server_flags, pathlib.Path(name), server_core))
    phases = in_phases(ended.record, parsed.most)
    found = verdict(phases, ended.record, ended.watch, parsed.capacity, ended.locust_code)
    write(parsed.report, _page(parsed, ended, phases, found))
    print(f"{found.headline}.")
    for sentence in found.sentences:
        print(f"        {sentence}")
    return conclude(found.checks, parsed.report)


# Computation of the verdict.


@dataclass(frozen=True)
class Verdict:
    """A headline, the figures behind it, and the invariants that must hold under any load."""

    headline: str
    style: str
    sentences: Sequence[str]
    warnings: Sequence[str]
    checks: Sequence[Check]

    @property
    def passed(self) -> bool:
        """True if all invariants hold."""
        return all(check.passed for check in self.checks)


def verdict(phases: Phases, record: Record, watch: Watch, capacity: float, locust_code: int) -> Verdict:
    """Return the verdict on a server with the given `capacity` in requests per second."""
    checks = [*_checks(record.total, watch, locust_code)]
    headline, style = _headline(phases.spike, capacity)
    return Verdict(
        headline,
        style if all(check.passed for check in checks) else "failed",
        [*_story(phases, capacity), _priorities(phases.spike)],
        [*_warnings(phases, record)],
        checks,
    )


def _headline(spike: Phase, capacity: float) -> tuple[str, str]:
    if not spike.seconds:
        return "There was no spike: locust never had all its users", "partly"
    share = spike.rate(spike.total.served[USEFUL]) / (min(capacity, spike.rate(spike.total.requests)) or capacity)
    # Round the share like the report, so that the verdict does not contradict the report.
    if round(share, 2) >= _STAYED:
        return "It stayed useful", ""
    return ("It collapsed", "failed") if share < _COLLAPSED else ("It lost a part of its usefulness", "partly")


def _story(phases: Phases, capacity: float) -> Iterator[str]:
    for phase in phases.all:
        if phase.seconds:
            yield _of_phase(phase, capacity)
    if phases.recovered_after is not None:
        later = phases.recovered_after or "less than 1"
        yield f"Nearly everything was answered in time again {later} s after the spike."
    elif phases.after.seconds:
        yield "After the spike there was no second in which nearly everything was answered in time."


def _of_phase(phase: Phase, capacity: float) -> str:
    total, p99 = phase.total, phase.total.admitted.quantile(0.99)
    sent = phase.rate(total.requests)
    load = f"{as_count(sent)} requests were sent per second ({sent / capacity:.1f} times the capacity)"
    counts = {
        "answered in time": total.served[USEFUL],
        "answered too late": total.served[LATE],
        "refused": total.refused.total(),
        "given up": total.served[GIVEN_UP],
    }
    rates = ", ".join(f"{as_count(phase.rate(count))} were {words}" for words, count in counts.items() if count)
    slow = f"; the p99 of what was admitted was {as_duration(p99)}" if p99 is not None else ""
    return f"{phase.name.capitalize()}, {load}: {rates or 'none was answered'}{slow}."


def _priorities(spike: Phase) -> str:
    if not spike.seconds:
        return "Without a spike, there is nothing to say about priorities."
    shares = {name: spike.classes[name].useful_share for name in CLASSES}
    listed = ", ".join(f"{share:.0%} of the {name}" for name, share in shares.items())
    if shares["critical"] - shares["sheddable"] > _CLEARLY:
        return f"In the spike {listed} were answered in time: the server preferred those that matter."
    return f"In the spike {listed} were answered in time: the server made no difference between them."


def _warnings(phases: Phases, record: Record) -> Iterator[str]:
    if phases.before.total.useful_share < _STAYED:
        yield (
            "Even before the spike not everything was answered in time: something else was at work on this machine, or "
            "the server can serve less than --capacity says. No figure here is of the server alone."
        )
    late = phases.spike.total.sent_late.quantile(0.99)
    if late is not None and late > _LATE_MILLISECONDS:
        yield f"In the spike locust sent late ({as_duration(late)} at its p99): the server may be better than it looks."
    if record.saturated:
        yield "Locust ran short of CPU itself: the server may be better than it looks."


def _checks(total: Tally, watch: Watch, locust_code: int) -> Iterator[Check]:
    errors = ", ".join(f"{count:,} with {name}" for name, count in total.failed.most_common())
    yield Check(bool(total.requests), f"{total.requests:,} requests were sent.")
    sentence = f"{total.failed.total():,} ended as none should under any load{f': {errors}' if errors else ''}."
    yield Check(not total.failed, sentence)
    more = "; the users of the others had left" if watch.ended > total.answers else ""
    sentence = f"The users had {total.answers:,} answers, and the server ended {watch.ended:,} jobs{more}."
    yield Check(watch.ended >= total.answers, sentence)
    yield from end_checks(watch, locust_code, bool(total.failed or total.served[GIVEN_UP]))


# Contents of the page.


def _page(parsed: argparse.Namespace, ended: Run, phases: Phases, found: Verdict) -> Page:
    record, watch = ended.record, ended.watch
    numbers = f"{parsed.quiet:,} users, for a while {parsed.most:,}, then {parsed.quiet:,} again"
    users = f"Each sends a request every {PERIOD_SECONDS:g} s and times out after {PATIENCE_SECONDS:g} s"
    core = " on a core of its own" if parsed.pin else ""
    return Page(
        f"Overload: {WORKLOADS[parsed.workload].title}",
        f"{parsed.seconds} seconds on {ended.began}: {numbers}. {users}. Watched was {ended.target.about}, started for "
        f"this run{core} with",
        ended.target.flags,
        found.headline,
        found.style,
        found.checks,
        "users",
        _tiles(phases, record.total, parsed.capacity),
        [tiles(watch)[name] for name in _TILES],
        _pairs(record, watch, phases),
        [_phase_table(phases)],
        _FOOTER,
        found.sentences,
        found.warnings,
    )


def _tiles(phases: Phases, total: Tally, capacity: float) -> list[Tile]:
    spike, refused, given_up = phases.spike, total.refused.total(), total.served[GIVEN_UP]
    useful = spike.rate(spike.total.served[USEFUL])
    return [
        Tile("sent per second in the spike", as_count(spike.rate(spike.total.requests))),
        Tile("of these answered in time", as_count(useful)),
        Tile("which is of the capacity", f"{useful / capacity:.0%}"),
        Tile("p99 before", quantile(phases.before.total.admitted)),
        Tile("p99 in the spike", quantile(spike.total.admitted)),
        Tile("p99 after", quantile(phases.after.total.admitted)),
        Tile("refused", f"{refused:,}", "shed" if refused else ""),
        Tile("gave up", f"{given_up:,}", "bad" if given_up else ""),
        Tile("sent late in the spike, p99", quantile(spike.total.sent_late)),
    ]


def _pairs(record: Record, watch: Watch, phases: Phases) -> list[tuple[View | Table, View]]:
    server, view = ServerViews(record, watch), user_view(record, watch)
    useful = [{name: each.served[USEFUL] for name, each in second.groups.items()} for second in record.seconds]
    refused = [{name: each.refused.total() for name, each in second.groups.items()} for second in record.seconds]
    notes = (
        "Each sends its requests at its own times, whatever is answered.",
        "All that were due in a second, by how they ended.",
        "Of what was answered 200 or given up, from when it was due.",
    )
    goodput = f"Goodput: status 200 within {SLO_SECONDS * 1000:.0f} ms, by priority."
    useful_view = view("Useful answers per second", "bars", series=by_name(useful, _CLASSES), note=goodput)
    note = "503 or 429 and not executed, by priority."
    refused_view = view("Refused per second", "bars", series=by_name(refused, _CLASSES), note=note)
    users, ends, latencies = compared(record, watch, notes, "errors")
    return [
        *(users, ends, (useful_view, server.hub_lag()), latencies),
        on_one_scale(refused_view, server.refused()),
        (_class_table(phases.spike), server.workers()),
    ]


def _class_table(spike: Phase) -> Table:
    rows = [[name, *_class_row(spike, ends)] for name, ends in spike.classes.items()]
    header = ("", "sent", "useful", "refused", "in time", "admitted p99")
    return Table("The priorities in the spike", header, rows, f"Per second, by {PRIORITY_HEADER}")


def _class_row(spike: Phase, ends: Tally) -> list[str]:
    rates = [ends.requests, ends.served[USEFUL], ends.refused.total()]
    return [*(as_count(spike.rate(count)) for count in rates), f"{ends.useful_share:.0%}", quantile(ends.admitted)]


def _phase_table(phases: Phases) -> Table:
    header = ("", "seconds", "sent", "useful", "too late", "refused", "gave up", "errors")
    note = "Per second, of the seconds in which the number of users did not change"
    rows = [_phase_row(phase) for phase in phases.all]
    return Table("Before, in the spike, after", (*header, "admitted p50", "p99", "refusal p99"), rows, note)


def _phase_row(phase: Phase) -> list[str]:
    total = phase.total
    counts = [total.requests, total.served[USEFUL], total.served[LATE], total.refused.total()]
    counts += [total.served[GIVEN_UP], total.failed.total()]
    latencies = [quantile(total.admitted, 0.5), quantile(total.admitted), quantile(total.refusals)]
    return [phase.name, f"{phase.seconds}", *(as_count(phase.rate(count)) for count in counts), *latencies]
