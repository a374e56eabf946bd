"""Runs the benchmark of our server against others: parses the command line, measures, and writes the results.

Each round measures every server once, so that disturbances of the machine affect all of them.
"""

from __future__ import annotations

import argparse
import itertools
import pathlib
import shutil
import tempfile
from collections.abc import Collection, Container, Iterator, Sequence
from functools import partial
from typing import Final

from ..common import LoadTestError, charts
from ..common.processes import allow_connections, machine, pinned, require_pinning, run_command, two_cores
from ..common.report import add_choices, add_files, add_number, as_json, load, or_failure, output_of, parser, say, write
from ..common.servers import SERVERS, left_out, versions
from .measure import Plan, measure
from .results import CASES, IDLE, Results, as_markdown, draw, from_json

_EPILOG: Final = """\
exit codes:
  0  everything was measured
  1  something could not be measured; the table says what and why
  2  nothing could be measured
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write everything; return the exit code."""
    return run_command("peers", partial(_run, _parse(arguments)))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    about = "Measure our server beside the other servers that are installed, and print tables."
    flags = parser("peers", about, _EPILOG)
    add_choices(flags, "--cases", [*CASES])
    add_choices(flags, "--servers", [*SERVERS])
    add_number(flags, "--rounds", 3, "how often each server is measured in each case, in rotation with the others")
    add_number(flags, "--seconds", 3, "how long a measurement lasts")
    add_number(flags, "--connections", 64, "how many connections wrk has")
    add_number(flags, "--idle-connections", 8000, "how many the idle case has")
    stored = "print the tables and draw the chart of an earlier run's peers.json, and put them beside it"
    add_files(flags, "peers.json, peers.md and peers.svg", stored)
    return flags.parse_args(arguments)


def _run(parsed: argparse.Namespace) -> int:
    results = load(parsed.stored, from_json) if parsed.stored else _measure_all(parsed)
    directory, tables = output_of(parsed), as_markdown(results)
    write(directory, "peers.md", tables)
    where = charts.write_all(directory, lambda: {"peers.svg": draw(results)})
    print(tables)
    say(f"the tables are in {directory / 'peers.md'}; {where}")
    return int(results.failed)


def _measure_all(parsed: argparse.Namespace) -> Results:
    _require_tools(parsed)
    servers = {name: SERVERS[name] for name in parsed.servers}
    missing = left_out(servers, {name: CASES[name].package for name in parsed.cases})
    measurements = list(_in_order(parsed, missing))
    if not measurements:
        raise LoadTestError("there is nothing to measure; install what is missing, or choose other --cases, --servers")
    plan = Plan(parsed.seconds, parsed.connections, parsed.idle_connections, *two_cores())
    results = Results(_about(parsed, plan, missing))
    with tempfile.TemporaryDirectory(prefix="intralb-peers-") as name, pinned(plan.generator_core):
        for case, number, server in measurements:
            say(f"{case}, round {number} of {parsed.rounds}: {server}")
            entry = results.entry(case, server)
            with or_failure(entry.failures.append):
                entry.measurements.append(measure(SERVERS[server], CASES[case], plan, pathlib.Path(name)))
            # Write the file after each measurement, so that an interrupted run keeps its results.
            write(output_of(parsed), "peers.json", as_json(results))
    return results


def _in_order(parsed: argparse.Namespace, missing: Container[str]) -> Iterator[tuple[str, int, str]]:
    """Yield the case, the round and the server of each measurement, in order."""
    for case, number, server in itertools.product(parsed.cases, range(1, parsed.rounds + 1), parsed.servers):
        if case not in missing and server not in missing and case not in SERVERS[server].lacks:
            yield case, number, server


def _require_tools(parsed: argparse.Namespace) -> None:
    require_pinning()
    if not shutil.which("wrk") and {*parsed.cases} != {IDLE}:
        raise LoadTestError("wrk is not installed; install it (apt install wrk), or measure only --cases idle")
    if IDLE in parsed.cases:
        allow_connections(parsed.idle_connections)


def _about(parsed: argparse.Namespace, plan: Plan, missing: Collection[str]) -> dict[str, str]:
    amounts = f"{parsed.rounds} rounds of {parsed.seconds} s over {parsed.connections} connections"
    return {
        **machine(plan.server_core, plan.generator_core),
        "rounds": f"each server was measured in {amounts}; `idle` used {parsed.idle_connections} connections",
        "versions": versions(),
        "servers that were not installed": ", ".join(missing) or "none",
    }
