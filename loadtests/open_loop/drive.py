"""Runs a generator, and something beside it from the moment when it begins.

Decides how the generator is started, how long it may take, and what is said when it fails. It must not know which
server it asks, or what is done beside it.
"""

from __future__ import annotations

import json
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from subprocess import TimeoutExpired
from typing import Final, TypeVar

from ..side_by_side import BenchmarkError
from ..side_by_side.processes import Process, running
from ..side_by_side.servers import clean_environment
from .plan import Plan, as_text
from .record import Record, from_text

__all__ = ["drive"]

_START_SECONDS: Final = 15.0
_SPARE_SECONDS: Final = 20.0
"""How much longer than its time a generator may take."""
_LOOK_SECONDS: Final = 0.01
_Found = TypeVar("_Found")


def drive(plan: Plan, core: int, log: pathlib.Path, beside: Callable[[float], _Found]) -> tuple[Record, _Found]:
    """Carry out the plan from a core; return what was seen, and what `beside` has returned.

    `beside` is called with the instant of the beginning, by the system's monotonic clock. Raises `BenchmarkError` when
    the generator does not do its work.
    """
    command = [sys.executable, "-m", "loadtests.open_loop.generator", as_text(plan)]
    with running(command, core, log, clean_environment({})) as generator:
        found = beside(_began(generator))
        return _ended(generator, plan.seconds + plan.longest_patience + _SPARE_SECONDS), found


def _began(generator: Process) -> float:
    give_up = time.monotonic() + _START_SECONDS
    while not (lines := _lines(generator)):
        if generator.exit_code is not None or time.monotonic() > give_up:
            raise BenchmarkError(f"the generator has not started; its last words: {generator.last_words()}")
        time.sleep(_LOOK_SECONDS)
    return float(json.loads(lines[0])["began"])


def _ended(generator: Process, patience: float) -> Record:
    try:
        exit_code = generator.wait(patience)
    except TimeoutExpired:
        raise BenchmarkError(f"the generator has not ended in {patience:.0f} s") from None
    if exit_code:
        raise BenchmarkError(f"the generator ended with exit code {exit_code}: {generator.last_words()}")
    return from_text(_lines(generator)[1])


def _lines(generator: Process) -> Sequence[str]:
    """Return the lines that it has finished."""
    return [line for line in generator.output().splitlines(keepends=True) if line.endswith("\n")]
