"""Watches the health of processes: detects those that are stuck, do not end as requested, or have reached a limit."""

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
"""Seconds for a process to report that it already drains, because systemd may have signalled all processes at once."""

AGAIN_SECONDS: Final = 1.0
"""Seconds after which a second SIGTERM is sent even if the process has not reported the first one."""


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
    """Make the process write its stacks and end; it is killed later if it has not ended."""
    process.aborted = now
    process.state = "draining"
    process.send(signal.SIGABRT)
    # A stopped process would not receive the signal that makes it write its stacks.
    process.send(signal.SIGCONT)


def push(process: Process, now: float, forced: bool) -> None:
    """Send the next signal to a process that has not ended after a request to drain, or after SIGABRT, if it is due."""
    if process.aborted is not None and now - process.aborted >= ABORT_SECONDS:
        process.send(signal.SIGKILL)
    elif forced and not process.forced and process.asked is not None and _may_ask_again(process, now):
        process.forced = True
        process.send(signal.SIGTERM)


def _may_ask_again(process: Process, now: float) -> bool:
    # A second signal that arrives before the first one is handled would be lost.
    return process.stopping or now - (process.asked or now) >= AGAIN_SECONDS


def is_pending(process: Process) -> bool:
    """Return whether the supervisor may soon have to act on this process."""
    return process.aborted is not None or process.asked is not None


def to_recycle(processes: Sequence[Process], now: float) -> tuple[Process, str] | None:
    """Return the first process that has reached a limit, and that limit; None if one is already being replaced."""
    for each in processes:
        each.sample(now)
    if any(each.outdated or each.state == "starting" for each in processes):
        return None
    reasons = ((each, each.reason_to_replace(now)) for each in processes if each.state == "ready")
    return next(((each, reason) for each, reason in reasons if reason is not None), None)
