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
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Final, NoReturn

from .arguments import SCENARIOS, parse
from .figures import Clients
from .report import Run, render
from .target import ROOT, DemoServer, LoadTestError, Target, last_lines, local_url
from .verdict import Check, verdict
from .watch import Watch

__all__ = ["main"]

_SAMPLE_SECONDS: Final = 1.0
_FINISH_SECONDS: Final = 35
"""How long users may take to finish what they are at when the time is over; longer than the demo's own deadline."""
_PATIENCE_SECONDS: Final = 30.0
"""How much longer than its time locust may take in all, to start and to end."""


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
            target = server.target() if server else _running_already(parsed)
            watch = Watch(target.admin_url)
            clients, locust_code = _load(parsed, target, watch, directory)
            watch.exit_code = server.stop() if server else None
    checks = verdict(clients, watch, parsed.allow_shed, locust_code)
    run = Run(parsed.scenario, parsed.shape, parsed.users, parsed.seconds, began, target.about, target.flags)
    _write(parsed.report, render(run, clients, watch, checks))
    return _say(checks, parsed.report)


def _running_already(parsed: argparse.Namespace) -> Target:
    host = local_url("--host", parsed.host)
    return Target(host, local_url("--admin", parsed.admin), f"the server at {host}")


def _load(parsed: argparse.Namespace, target: Target, watch: Watch, directory: pathlib.Path) -> tuple[Clients, int]:
    """Let the clients do their work while the server is watched; return what they saw, and locust's exit code."""
    record, log = directory / "clients.json", directory / "locust.log"
    watch.begin()
    with _locust(_locust_command(parsed, target, record), log) as locust:
        _watch_while(locust, watch, parsed.seconds + _FINISH_SECONDS + _PATIENCE_SECONDS)
    watch.look_until_idle(_FINISH_SECONDS)
    if not record.exists():
        raise LoadTestError(
            f"locust ended with exit code {locust.returncode} and left no record; it says:\n{last_lines(log)}"
        )
    clients = Clients.from_json(record.read_text(encoding="utf-8"))
    if locust.returncode and not clients.problems:
        print(last_lines(log), file=sys.stderr)
    return clients, locust.returncode


def _locust_command(parsed: argparse.Namespace, target: Target, record: pathlib.Path) -> list[str]:
    locustfile = pathlib.Path(__file__).parent / "locustfile.py"
    command = [sys.executable, "-m", "locust", "-f", str(locustfile), SCENARIOS[parsed.scenario], "--headless"]
    command += ["--only-summary", "--loglevel", "WARNING", "--stop-timeout", str(_FINISH_SECONDS)]
    command += ["--host", target.url, "--shape", parsed.shape, "--record", str(record)]
    command += ["--users", str(parsed.users), "--run-time", str(parsed.seconds)]
    return [*command, "--allow-shed"] if parsed.allow_shed else command


@contextlib.contextmanager
def _locust(command: Sequence[str], log: pathlib.Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run locust, and make sure that it has ended."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def _watch_while(locust: subprocess.Popen[bytes], watch: Watch, most_seconds: float) -> None:
    give_up = time.monotonic() + most_seconds
    while locust.poll() is None:
        if time.monotonic() > give_up:
            raise LoadTestError(f"locust has not ended after {most_seconds:.0f} s; its users may wait for answers")
        watch.look()
        with contextlib.suppress(subprocess.TimeoutExpired):
            locust.wait(_SAMPLE_SECONDS)


def _write(path: pathlib.Path, page: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise LoadTestError(
            f"cannot write the report {str(path)!r}: {error.strerror}; choose another --report"
        ) from None


def _say(checks: Sequence[Check], report: pathlib.Path) -> int:
    for check in checks:
        print(f"{'ok    ' if check.passed else 'FAILED'}  {check.sentence}")
    print(f"report: {report}")
    return 0 if all(check.passed for check in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
