"""Measures all kinds of handlers, one after the other, and writes the tables."""

from __future__ import annotations

import argparse
import os
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

from ..common import LoadTestError
from ..common.processes import machine, pinned, require_pinning, run_command, two_cores
from ..common.report import (
    add_choices,
    add_limited,
    add_number,
    add_output,
    as_json,
    or_failure,
    parser,
    positive,
    say,
    write,
)
from ..common.servers import versions
from .applications import LONG_SECONDS
from .measure import KINDS, Plan, measure, missing
from .results import Results, as_markdown

_DEADLINES: Final = (0.1, 1.0, 5.0)
_LONGEST: Final = LONG_SECONDS / 5
_EPILOG: Final = """\
exit codes:
  0  every goal is reached
  1  a goal is missed, or something ended otherwise or could not be measured;
     the table says what
  2  nothing could be measured
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write everything; return the exit code."""
    return run_command("deadlines", partial(_run, _parse(arguments)))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    about = "Measure by how much deadlines are missed, for handlers that wait, compute, or do not end."
    flags = parser("deadlines", about, _EPILOG)
    add_choices(flags, "--kinds", [*KINDS])
    deadlines = f"the deadlines, up to {_LONGEST:g} [{' '.join(f'{each:g}' for each in _DEADLINES)}]"
    more = {"nargs": "+", "default": _DEADLINES, "metavar": "SECONDS", "help": deadlines}
    add_limited(flags, "--deadlines", float, (0, _LONGEST), **more)
    repetitions = "requests for each kind and deadline [as many as take about 3 minutes, fewer of longer ones]"
    flags.add_argument("--repetitions", type=positive, metavar="NUMBER", help=repetitions)
    add_number(
        flags, "--at-once", 20, "concurrent requests of a kind that waits; those that compute are made one by one"
    )
    add_output(flags, "deadlines.md and deadlines.json")
    return flags.parse_args(arguments)


def _run(parsed: argparse.Namespace) -> int:
    results = _measure_all(parsed)
    tables = as_markdown(results)
    write(parsed.output, "deadlines.json", as_json(results))
    write(parsed.output, "deadlines.md", tables)
    print(tables)
    say(f"the tables are in {parsed.output / 'deadlines.md'}")
    return int(results.missed) if results.measured else 2


def _measure_all(parsed: argparse.Namespace) -> Results:
    require_pinning()
    left_out = {name: what for name in parsed.kinds if (what := missing(KINDS[name]))}
    for name, what in left_out.items():
        say(f"{name} is left out: there is no {what}")
    kinds = [name for name in KINDS if name in parsed.kinds and name not in left_out]
    if not kinds:
        raise LoadTestError("there is nothing to measure; install or start what is missing, or choose other --kinds")
    plan = Plan(sorted(set(parsed.deadlines)), parsed.repetitions, parsed.at_once, *two_cores())
    results = Results(_about(kinds, plan, left_out))
    with tempfile.TemporaryDirectory(prefix="intralb-deadlines-") as name, pinned(plan.client_core):
        for kind in kinds:
            say(kind)
            with or_failure(partial(results.failures.__setitem__, kind)):
                for deadline, seen in measure(KINDS[kind], plan, pathlib.Path(name)):
                    results.entry(kind, deadline).add(KINDS[kind], deadline, seen)
    results.about["load average after"] = f"{os.getloadavg()[0]:.2f}"
    return results


def _about(kinds: Sequence[str], plan: Plan, left_out: Mapping[str, str]) -> dict[str, str]:
    return {
        **machine(plan.server_core, plan.client_core),
        "concurrent requests": f"at most {plan.at_once} to a handler that waits, and 1 to a handler that computes",
        "versions": versions([KINDS[name].package for name in kinds if KINDS[name].package]),
        "handlers not measured": "; ".join(f"{name} (no {what})" for name, what in left_out.items()) or "none",
    }
