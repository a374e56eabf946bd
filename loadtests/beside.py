"""Runs locust in a process of its own, and looks at the server every second meanwhile.

Decides when it looks and how long locust may take. It must not know what locust does, or what is seen.
"""

from __future__ import annotations

import contextlib
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from .installed import ROOT
from .interruption import uninterrupted
from .target import LoadTestError, last_lines
from .watch import Watch

__all__ = ["Ended", "locust_beside"]

_SAMPLE_SECONDS: Final = 1.0
_PATIENCE_SECONDS: Final = 30.0
"""How much longer than its time locust may take in all, to start and to end."""


class Ended(NamedTuple):
    """How locust ended, and what it left."""

    record: str
    exit_code: int
    last_words: str


def locust_beside(
    watch: Watch, locustfile: str, arguments: Sequence[str], record: pathlib.Path, seconds: int, finish_seconds: int
) -> Ended:
    """Run a locust file of ours headless for so many seconds, and return what it has written to `record`.

    Users may take `finish_seconds` to finish what they are at. Raises `LoadTestError` when there is no record.
    """
    log = record.with_suffix(".log")
    watch.begin()
    with _locust(_command(locustfile, arguments, record, seconds, finish_seconds), log) as locust:
        _watch_while(locust, watch, seconds + finish_seconds + _PATIENCE_SECONDS)
    watch.look_until_idle(finish_seconds)
    if not record.exists():
        raise LoadTestError(
            f"locust ended with exit code {locust.returncode} and left no record; it says:\n{last_lines(log)}"
        )
    return Ended(record.read_text(encoding="utf-8"), locust.returncode, last_lines(log))


def _command(
    locustfile: str, arguments: Sequence[str], record: pathlib.Path, seconds: int, finish_seconds: int
) -> list[str]:
    command = [sys.executable, "-m", "locust", "-f", str(pathlib.Path(__file__).parent / locustfile), "--headless"]
    command += ["--only-summary", "--loglevel", "WARNING", "--stop-timeout", str(finish_seconds)]
    return [*command, "--record", str(record), "--run-time", str(seconds), *arguments]


@contextlib.contextmanager
def _locust(command: Sequence[str], log: pathlib.Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run locust, and make sure that it has ended."""
    process = None
    try:
        with uninterrupted(), log.open("wb") as output:
            process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        yield process
    finally:
        if process is not None:
            with uninterrupted():
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
