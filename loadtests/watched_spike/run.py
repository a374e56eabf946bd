"""One overload from start to report: `python -m loadtests.overload_locust`.

Decides the order of things: start the server on its core, run locust on another beside the watch, stop everything,
judge, write the report. It must not know what a user does or what the report looks like.
"""

from __future__ import annotations

import argparse
import contextlib
import pathlib
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Final

from ..beside import locust_beside
from ..page import write
from ..side_by_side.processes import pinned
from ..side_by_side.surroundings import end_orderly, say, two_cores
from ..target import LoadTestError, Target
from ..watch import Watch
from .arguments import parse
from .phases import parted
from .report import Run, render
from .seen import Seen
from .server import WORKLOADS, server
from .verdict import Verdict, verdict

__all__ = ["main"]

_FINISH_SECONDS: Final = 5
"""How long users may take to finish what they are at; longer than their patience."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one overload and return its exit code."""
    end_orderly()
    try:
        return _run(parse(sys.argv[1:] if arguments is None else arguments))
    except LoadTestError as error:
        print(f"overload_locust: error: {error}", file=sys.stderr)
        return 2


def _run(parsed: argparse.Namespace) -> int:
    began = time.strftime("%Y-%m-%d %H:%M:%S")
    cores = two_cores() if parsed.pin else (None, None)
    with tempfile.TemporaryDirectory(prefix="intralb-spike-") as name:
        target, watch, seen, locust_code = _watched(parsed, pathlib.Path(name), *cores)
    phases = parted(seen, parsed.most)
    found = verdict(phases, seen, watch, parsed.capacity, locust_code)
    run = Run(WORKLOADS[parsed.workload].title, parsed, began, target.about, target.flags)
    write(parsed.report, render(run, seen, phases, watch, found))
    return _say(found, parsed.report)


def _watched(
    parsed: argparse.Namespace, directory: pathlib.Path, server_core: int | None, locust_core: int | None
) -> tuple[Target, Watch, Seen, int]:
    with contextlib.ExitStack() as stack:
        started = stack.enter_context(server(WORKLOADS[parsed.workload], parsed.server_flags, directory))
        with _on(server_core):
            started.start()
        target = started.target()
        watch = Watch(target.admin_url)
        say(f"{parsed.seconds} s with {parsed.quiet:,} users, for a while {parsed.most:,}, at {target.url}")
        with _on(locust_core):
            seen, locust_code = _seen(parsed, target, watch, directory / "seen.json")
        watch.exit_code = started.stop()
    return target, watch, seen, locust_code


def _on(core: int | None) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext() if core is None else pinned(core)


def _seen(parsed: argparse.Namespace, target: Target, watch: Watch, record: pathlib.Path) -> tuple[Seen, int]:
    """Let the users come while the server is watched; return what they saw, and locust's exit code."""
    arguments = ["--host", target.url, "--path", WORKLOADS[parsed.workload].path, "--users", str(parsed.most)]
    ended = locust_beside(watch, "overload_locust.py", arguments, record, parsed.seconds, _FINISH_SECONDS)
    seen = Seen.from_json(ended.record)
    if ended.exit_code and not seen.failures:
        say(ended.last_words)
    return seen, ended.exit_code


def _say(found: Verdict, report: pathlib.Path) -> int:
    print(f"{found.headline}.")
    for sentence in found.sentences:
        print(f"        {sentence}")
    for check in found.checks:
        print(f"{'ok    ' if check.passed else 'FAILED'}  {check.sentence}")
    print(f"report: {report}")
    return 0 if found.passed else 1
