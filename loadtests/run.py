"""One load test from start to report: `python -m loadtests.run SCENARIO --shape SHAPE`.

Decides the order of things: start the server, start locust in a process of its own (it patches the process that it is
imported in), look at the server every second, stop everything, judge, write the report. It must not know what a user
does or what a page of the report looks like.
"""

from __future__ import annotations

import argparse
import contextlib
import pathlib
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Final, NoReturn

from .arguments import SCENARIOS, parse
from .beside import locust_beside
from .figures import Clients
from .page import write
from .report import Run, render
from .target import DemoServer, LoadTestError, Target, local_url
from .verdict import Check, verdict
from .watch import Watch

__all__ = ["main"]

_FINISH_SECONDS: Final = 35
"""How long users may take to finish what they are at when the time is over; longer than the demo's own deadline."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one load test and return its exit code."""
    # Ended by a signal, it still has to stop what it has started.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    try:
        return _run(parse(sys.argv[1:] if arguments is None else arguments))
    except LoadTestError as error:
        print(f"loadtests: error: {error}", file=sys.stderr)
        return 2


def _end(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def _run(parsed: argparse.Namespace) -> int:
    began = time.strftime("%Y-%m-%d %H:%M:%S")
    with tempfile.TemporaryDirectory(prefix="intralb-loadtest-") as name:
        directory = pathlib.Path(name)
        with contextlib.ExitStack() as stack:
            server = None if parsed.host else stack.enter_context(DemoServer(directory, parsed.server_flags))
            target = _started(server) if server else _running_already(parsed)
            watch = Watch(target.admin_url)
            clients, locust_code = _load(parsed, target, watch, directory)
            watch.exit_code = server.stop() if server else None
    checks = verdict(clients, watch, parsed.allow_shed, locust_code)
    run = Run(parsed.scenario, parsed.shape, parsed.users, parsed.seconds, began, target.about, target.flags)
    write(parsed.report, render(run, clients, watch, checks))
    return _say(checks, parsed.report)


def _started(server: DemoServer) -> Target:
    server.start()
    return server.target()


def _running_already(parsed: argparse.Namespace) -> Target:
    host = local_url("--host", parsed.host)
    return Target(host, local_url("--admin", parsed.admin), f"the server at {host}")


def _load(parsed: argparse.Namespace, target: Target, watch: Watch, directory: pathlib.Path) -> tuple[Clients, int]:
    """Let the clients do their work while the server is watched; return what they saw, and locust's exit code."""
    record = directory / "clients.json"
    arguments = _locust_arguments(parsed, target)
    ended = locust_beside(watch, "locustfile.py", arguments, record, parsed.seconds, _FINISH_SECONDS)
    clients = Clients.from_json(ended.record)
    if ended.exit_code and not clients.problems:
        print(ended.last_words, file=sys.stderr)
    return clients, ended.exit_code


def _locust_arguments(parsed: argparse.Namespace, target: Target) -> list[str]:
    scenario, users = SCENARIOS[parsed.scenario], str(parsed.users)
    arguments = [scenario, "--host", target.url, "--shape", parsed.shape, "--users", users]
    return [*arguments, "--allow-shed"] if parsed.allow_shed else arguments


def _say(checks: Sequence[Check], report: pathlib.Path) -> int:
    for check in checks:
        print(f"{'ok    ' if check.passed else 'FAILED'}  {check.sentence}")
    print(f"report: {report}")
    return 0 if all(check.passed for check in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
