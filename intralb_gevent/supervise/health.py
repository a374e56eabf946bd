"""Watches the health of processes: detects processes that are stuck, do not exit on request, or have reached a limit.

A stuck process is ended with SIGABRT, and then with SIGKILL.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Final

from ..config.processes import ProcessOptions
from .member import Process

__all__ = ["end_stuck", "is_pending", "push", "to_recycle", "why_stuck"]

ABORT_SECONDS: Final = 2.0
"""Seconds from SIGABRT, which makes a process write its stacks, to SIGKILL."""

ASK_SECONDS: Final = 0.1
"""Seconds for which a shutdown waits before it sends SIGTERM to a process that has not reported that it drains. systemd
may already have sent SIGTERM to all processes."""

AGAIN_SECONDS: Final = 1.0
"""Seconds after which a second SIGTERM is sent even if the process has not reported that it drains."""


def why_stuck(process: Process, now: float, options: ProcessOptions) -> str | None:
    """Return why the process is stuck; None if it is not stuck, or has been aborted already."""
    if process.aborted is not None:
        return None
    if process.state == "starting" and process.asked is None:
        if now - process.started < options.start_seconds:
            return None
        reported = f"; it reported: {process.status}" if process.status else ""
        return f"was not ready within {options.start_seconds:g} s{reported}"
    since = max(process.seen, process.asked or process.started)
    if now - since < options.process_timeout_seconds:
        return None
    return f"had no iteration of its event loop for {options.process_timeout_seconds:g} s"


def end_stuck(process: Process, now: float) -> None:
    """Make the process write its stacks and exit; `push` kills a process that has not exited 2 seconds later."""
    process.aborted = now
    process.state = "draining"
    process.send(signal.SIGABRT)
    # Also send SIGCONT, because a process that SIGSTOP has stopped does not handle SIGABRT.
    process.send(signal.SIGCONT)


def push(process: Process, now: float, forced: bool) -> None:
    """Send the next signal, if it is due, to a process that has not exited after a request to drain or a SIGABRT."""
    if process.aborted is not None and now - process.aborted >= ABORT_SECONDS:
        process.send(signal.SIGKILL)
    elif forced and not process.forced and process.asked is not None and _may_ask_again(process, now):
        process.forced = True
        process.send(signal.SIGTERM)


def _may_ask_again(process: Process, now: float) -> bool:
    # A second signal that arrives before the process has handled the first one would be lost.
    return process.stopping or now - (process.asked or now) >= AGAIN_SECONDS


def is_pending(process: Process) -> bool:
    """Return whether the supervisor may soon have to send a signal to this process."""
    return process.aborted is not None or process.asked is not None


def to_recycle(processes: Sequence[Process], now: float) -> tuple[Process, str] | None:
    """Return the first process that has reached a limit, and the limit's name.

    Return None if no process has reached a limit, or if a process is already being replaced.
    """
    for each in processes:
        each.sample(now)
    if any(each.outdated or each.state == "starting" for each in processes):
        return None
    reasons = ((each, each.reason_to_replace(now)) for each in processes if each.state == "ready")
    return next(((each, reason) for each, reason in reasons if reason is not None), None)
