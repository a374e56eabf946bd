"""Makes one run: starts the server and locust, samples the server, stops both, and prints the checks.

Locust runs in a separate process, because it patches the process that imports it.
"""

from __future__ import annotations

import contextlib
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ..common import LoadTestError
from ..common.ours import OwnServer, Target, Watch
from ..common.processes import ROOT, Process, pinned
from ..common.report import say
from .page import Check
from .record import Record

_SAMPLE_SECONDS: Final = 1.0
_PATIENCE_SECONDS: Final = 30.0
"""Seconds allowed for locust to start and to stop, in addition to the run."""


@dataclass(frozen=True)
class Plan:
    """The parameters of a headless locust run: a locust file from this package, its arguments, and the duration."""

    locustfile: str
    arguments: Sequence[str]
    seconds: int
    finish_seconds: int
    """Seconds for users to finish their current task after the end of the run."""
    core: int | None = None

    def command(self, host: str, record: pathlib.Path) -> list[str]:
        """Return the command line of locust."""
        command = [sys.executable, "-m", "locust", "-f", str(ROOT / "loadtests" / self.locustfile), "--headless"]
        command += ["--only-summary", "--loglevel", "WARNING", "--stop-timeout", str(self.finish_seconds)]
        command += ["--record", str(record), "--run-time", str(self.seconds), "--host", host]
        return [*command, *self.arguments]


@dataclass(frozen=True)
class Run:
    """The results of a run."""

    began: str
    target: Target
    watch: Watch
    record: Record
    locust_code: int


class _Locust(Process):
    stop_seconds = 0.0


def run(plan: Plan, server: OwnServer | Target) -> Run:
    """Run the plan against a running target, or start and stop an `OwnServer` for it. Raises `LoadTestError`."""
    began = time.strftime("%Y-%m-%d %H:%M:%S")
    with contextlib.ExitStack() as stack:
        directory = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="intralb-loadtest-")))
        own = stack.enter_context(server) if isinstance(server, OwnServer) else None
        if own is not None:
            own.start()
        target = server.target() if isinstance(server, OwnServer) else server
        watch = Watch(target.admin_url)
        with pinned(plan.core):
            record, code = _run_locust(plan, target, watch, directory)
        if own is not None:
            watch.exit_code = own.stop()
    return Run(began, target, watch, record, code)


def _run_locust(plan: Plan, target: Target, watch: Watch, directory: pathlib.Path) -> tuple[Record, int]:
    """Run locust while sampling the server; return the users' record and locust's exit code."""
    path = directory / "record.json"
    watch.begin()
    with _Locust(plan.command(target.url, path), directory / "locust.log") as locust:
        locust.start()
        give_up = time.monotonic() + plan.seconds + plan.finish_seconds + _PATIENCE_SECONDS
        while (code := locust.exit_code) is None:
            if time.monotonic() > give_up:
                raise LoadTestError("locust has not ended in time; its users may wait for answers")
            watch.look()
            with contextlib.suppress(subprocess.TimeoutExpired):
                locust.wait(_SAMPLE_SECONDS)
        watch.look_until_idle(plan.finish_seconds)
        if not path.exists():
            raise LoadTestError(
                f"locust ended with exit code {code} and left no record; it says:\n{locust.last_lines()}"
            )
        record = Record.from_json(path.read_text(encoding="utf-8"))
        total = record.total
        if code and total.answers == total.requests and not total.failed:
            say(locust.last_lines())
    return record, code


def conclude(checks: Sequence[Check], report: pathlib.Path) -> int:
    """Print the checks; return the exit code."""
    for check in checks:
        print(f"{'ok    ' if check.passed else 'FAILED'}  {check.sentence}")
    print(f"report: {report}")
    return 0 if all(check.passed for check in checks) else 1
