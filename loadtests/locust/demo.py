"""The load test of the sample application: command line, server, checks, and result page."""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Final

from ..common.ours import OwnServer, Target, Watch, local_url, with_defaults
from ..common.processes import run_command
from ..common.report import REPORTS, add_number, as_count, parser, positive, split_flags
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
    refusals,
    tiles,
    user_view,
    write,
)
from .record import Record, Tally
from .shapes import DEFAULT_USERS, SHAPES

SCENARIOS: Final = {"browse": "Browse", "write": "Write", "slow-mix": "SlowMix"}
"""The locust user class of each scenario."""
_POOL_FLAGS: Final = (
    "--max-concurrent-per-router=4",
    "--queue-size=8",
    "--min-workers=2",
    "--max-workers=6",
    "--worker-group-size=2",
    "--worker-quiet-seconds=3",
)
"""Flags for a pool so small that a few users make it queue and shed requests, grow and shrink."""
_FINISH_SECONDS: Final = 35
"""Seconds allowed for a user to finish; longer than the demo's deadline."""
_TILES: Final = ("jobs ended", "workers", "queue wait p50", "queue wait p99", "shed", "queued at most")
_EPILOG: Final = """\
Flags after -- are passed to the demo server, for example: -- --queue-size=2 --max-workers=2

exit codes:
  0  every check has passed
  1  some check has failed; the report and the last lines say which
  2  the run could not be made
"""
_FOOTER: Final = """\
The users are a closed loop: each waits for its answer before its next request, so a server that slows down gets fewer
requests. Clients and server shared this machine. Latencies are measured by the client; queue waits by the server."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one load test; return its exit code."""
    return run_command("loadtests", partial(_run, _parse(sys.argv[1:] if arguments is None else arguments)))


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    flags = parser(
        "run", "Test the sample application under load, and write a report.", _EPILOG,
        "[SCENARIO] [FLAGS] [-- FLAGS OF THE DEMO SERVER]"
    )  # fmt: skip
    _add_load(flags)
    flags.add_argument("--report", metavar="FILE", type=pathlib.Path, help="[loadtests/reports/SCENARIO-SHAPE.html]")
    flags.add_argument("--host", metavar="URL", help="test a demo that runs on this machine already; needs --admin")
    flags.add_argument("--admin", metavar="URL", help="URL of that demo's own figures (its --admin-bind)")
    own, server_flags = split_flags(arguments)
    parsed = flags.parse_args(own)
    parsed.server_flags = server_flags
    if bool(parsed.host) != bool(parsed.admin):
        flags.error("--host and --admin go together: the report needs both sides")
    if parsed.host and parsed.server_flags:
        flags.error("flags after -- are for a server that this run starts, not for one at --host")
    parsed.users = parsed.users or DEFAULT_USERS[parsed.shape]
    parsed.report = parsed.report or REPORTS / f"{parsed.scenario}-{parsed.shape}.html"
    if parsed.allow_shed is None:
        parsed.allow_shed = parsed.shape == "spike"
    return parsed


def _add_load(flags: argparse.ArgumentParser) -> None:
    scenarios = f"what the users do: {', '.join(SCENARIOS)} [browse]"
    flags.add_argument(
        "scenario", choices=[*SCENARIOS], nargs="?", default="browse", metavar="SCENARIO", help=scenarios
    )
    flags.add_argument("--shape", choices=[*SHAPES], default="steady", help="how the number of users changes [steady]")
    users = ", ".join(f"{shape} {users}" for shape, users in DEFAULT_USERS.items())
    flags.add_argument("--users", metavar="NUMBER", type=positive, help=f"users at most [{users}]")
    add_number(flags, "--seconds", 30, "seconds of load")
    shed = "whether a refusal by the balancer (503 with its reason) is expected [only in the spike shape]"
    flags.add_argument("--allow-shed", action=argparse.BooleanOptionalAction, help=shed)


def _run(parsed: argparse.Namespace) -> int:
    arguments = [SCENARIOS[parsed.scenario], "--shape", parsed.shape, "--users", str(parsed.users)]
    arguments += ["--allow-shed"] if parsed.allow_shed else []
    plan = Plan("locustfile.py", arguments, parsed.seconds, _FINISH_SECONDS)
    with tempfile.TemporaryDirectory(prefix="intralb-demo-") as name:
        ended = run(plan, _server(parsed, pathlib.Path(name)))
    checks = [*_checks(ended, parsed.allow_shed)]
    write(parsed.report, _page(parsed, ended, checks))
    return conclude(checks, parsed.report)


def _server(parsed: argparse.Namespace, directory: pathlib.Path) -> OwnServer | Target:
    if parsed.host:
        host = local_url("--host", parsed.host)
        return Target(host, local_url("--admin", parsed.admin), f"the server at {host}")
    return demo_server(directory, "the demo", with_defaults(_POOL_FLAGS, parsed.server_flags))


def demo_server(directory: pathlib.Path, about: str, flags: Sequence[str], core: int | None = None) -> OwnServer:
    """Return a server, not yet started, that serves the sample application with a new database."""
    environ = {**os.environ, "INTRALB_DEMO_DATABASE": str(directory / "notes.sqlite3")}
    return OwnServer(directory, ["demo"], about, flags, environ, core)


def _checks(ended: Run, allow_shed: bool) -> Iterator[Check]:
    total, watch = ended.record.total, ended.watch
    if not total.requests:
        yield Check(False, "No request was made at all.")
    else:
        failed = f": {_listed(total.failed)}" if total.failed else ""
        sentence = f"{total.failed.total():,} of {total.requests:,} answers were unexpected{failed}."
        yield Check(not total.failed, sentence)
        if total.refused:
            allowed = "which this run allows" if allow_shed else "which this run does not allow (see --allow-shed)"
            yield Check(allow_shed, f"{total.refused.total():,} were refused ({_listed(total.refused)}), {allowed}.")
        else:
            yield Check(True, "None was refused.")
    sentence = f"The clients had {total.answers:,} answers, and the server ended {watch.ended:,} jobs."
    yield Check(watch.ended >= total.answers, sentence)
    yield from end_checks(watch, ended.locust_code, bool(ended.record.problems))


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} with {name}" for name, count in sorted(counts.items()))


# Contents of the page.


def _page(parsed: argparse.Namespace, ended: Run, checks: Sequence[Check]) -> Page:
    record, watch = ended.record, ended.watch
    title = f"Load test: {parsed.scenario}, {parsed.shape}"
    tested = f"Tested was {ended.target.about}" + (", started for this run with" if ended.target.flags else ".")
    pages = sorted({name for second in record.seconds for name in second.groups})
    problems = [(page, message, f"{count:,}") for (page, message), count in record.problems.most_common()]
    header = ("page", "expected", "refused", "unexpected", "p50", "p99", "longest")
    tables = [Table("Pages, as the clients saw them", header, [_page_row(name, record.group(name)) for name in pages])]
    if problems:
        tables.append(Table("What went wrong", ("page", "what the client says", "times"), problems, text=1))
    slow = "The clients ran short of CPU themselves: the server may be faster than it looks here."
    passed = all(check.passed for check in checks)
    return Page(
        title,
        f"{parsed.seconds} seconds with {parsed.users} users at most, on {ended.began}. {tested}",
        ended.target.flags,
        "Passed" if passed else "Failed",
        "" if passed else "failed",
        checks,
        "clients",
        _tiles(record),
        [tiles(watch)[name] for name in _TILES],
        _pairs(record, watch),
        tables,
        _FOOTER,
        warnings=[slow] if record.saturated else [],
    )


def _tiles(record: Record) -> list[Tile]:
    total = record.total
    refused, failed = total.refused.total(), total.failed.total()
    return [
        Tile("requests", f"{total.requests:,}"),
        Tile("a second", as_count(total.requests / max(1, len(record.seconds)))),
        Tile("latency p50", quantile(total.admitted, 0.5)),
        Tile("latency p99", quantile(total.admitted)),
        Tile("refused", f"{refused:,}", "shed" if refused else ""),
        Tile("unexpected", f"{failed:,}", "bad" if failed else ""),
    ]


def _page_row(name: str, tally: Tally) -> list[str]:
    counts = [f"{counter.total():,}" for counter in (tally.served, tally.refused, tally.failed)]
    return [name, *counts, *(quantile(tally.admitted, share) for share in (0.5, 0.99, 1.0))]


def _pairs(record: Record, watch: Watch) -> list[tuple[View | Table, View]]:
    server = ServerViews(record, watch)
    notes = (
        "Each waits for an answer, then thinks.",
        "By status, as far as it was expected.",
        "Of the expected answers of each second.",
    )
    refused = by_name([second.total.refused for second in record.seconds])
    note = "Answers of 503 with a reason, by reason."
    view = user_view(record, watch)("Refused per second", "bars", series=refused, note=note)
    last = _comparison(record, watch), server.workers()
    return [*compared(record, watch, notes, "unexpected"), on_one_scale(view, server.refused()), last]


def _comparison(record: Record, watch: Watch) -> Table:
    """Return a table of the quantities that both the users and the server counted."""
    total, outcomes = record.total, Counter(watch.outcomes)
    refused = refusals(watch.shed_reasons, outcomes)
    others = outcomes.total() - outcomes["completed"] - sum(refused.values())
    counts: list[tuple[str, float, float, str]] = [
        ("answers", total.answers, watch.ended, "jobs ended"),
        ("expected", total.served.total(), outcomes["completed"], "completed"),
        *((f"refused: {each}", total.refused[each], refused.get(each, 0), each) for each in {*total.refused, *refused}),
        ("unexpected", total.failed.total(), others, "all other outcomes"),
    ]
    rows = [(name, f"{count:,.0f}", f"{its_count:,.0f}", its_name) for name, count, its_count, its_name in counts]
    return Table("The same quantities, counted by both", ("the clients", "", "", "the server"), rows, style="compare")
