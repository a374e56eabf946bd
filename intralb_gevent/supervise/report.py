"""Reports the supervisor's state: to systemd in notifications, to processes and admin pages through the state file."""

from __future__ import annotations

import os
from time import CLOCK_MONOTONIC, clock_gettime_ns, monotonic
from typing import TYPE_CHECKING, Any

from .. import __version__
from .notify import Notifier, status
from .statefile import StateFile

if TYPE_CHECKING:
    from .supervisor import Supervisor

__all__ = ["Report"]


class Report:
    """Sends and writes the parts of the supervisor's state that have changed."""

    def __init__(self, notifier: Notifier, state: StateFile, watchdog_seconds: float | None) -> None:
        self.notifier = notifier
        self.watchdog_seconds = watchdog_seconds
        self._state = state
        self._written: dict[str, Any] = {}
        self._status = ""
        self._alive_at = 0.0

    def __repr__(self) -> str:
        return f"<Report to {self.notifier!r}: {self._status}>"

    def publish(self, supervisor: Supervisor) -> None:
        """Write the state to the file if the state has changed; send the description of the state if the description
        has changed."""
        state = _state(supervisor)
        if state != self._written:
            self._state.write(state)
            self._written = state
        self._describe(supervisor)
        self._show_life(supervisor)

    def ready(self, supervisor: Supervisor) -> None:
        """Report that the site serves requests: once after the start, and after each reload."""
        self._describe(supervisor, "READY=1")

    def reloading(self, supervisor: Supervisor) -> None:
        """Report that a reload begins."""
        microseconds = clock_gettime_ns(CLOCK_MONOTONIC) // 1000
        self._describe(supervisor, "RELOADING=1", f"MONOTONIC_USEC={microseconds}")

    def stopping(self, supervisor: Supervisor) -> None:
        """Report the shutdown. Call this method before any process is asked to drain, because a draining process reads
        the state."""
        self._describe(supervisor, "STOPPING=1")
        self.publish(supervisor)

    def _describe(self, supervisor: Supervisor, *fields: str) -> None:
        text = _description(supervisor)
        if fields or text != self._status:
            self._status = text
            self.notifier.send(*fields, status(text))

    def _show_life(self, supervisor: Supervisor) -> None:
        """Send WATCHDOG=1 if it is due, but only while a process runs or starts, or while the site shuts down."""
        now = monotonic()
        if self.watchdog_seconds is None or now - self._alive_at < self.watchdog_seconds / 4:
            return
        crew, timeout = supervisor.crew, supervisor.options.process_timeout_seconds
        runs = [each for each in crew.in_state("ready", "draining") if now - each.seen < timeout]
        if runs or crew.in_state("starting") or supervisor.stopping:
            self._alive_at = now
            self.notifier.send("WATCHDOG=1")


def _state(supervisor: Supervisor) -> dict[str, Any]:
    return {
        "supervisor": os.getpid(),
        "version": __version__,
        "generation": supervisor.generation,
        "wanted": supervisor.wanted,
        "proven": supervisor.proven,
        "complete": supervisor.complete,
        "stopping": supervisor.stopping,
        "lent": supervisor.site.lends,
        "last": supervisor.stopping and not supervisor.site.lends,
        "reload": supervisor.reload.as_dict(),
        "failure": supervisor.failure,
        "counts": {kind: dict(counts) for kind, counts in supervisor.counts.items()},
        "started": supervisor.crew.started,
        "processes": [each.as_dict() for each in supervisor.crew.all],
    }


def _description(supervisor: Supervisor) -> str:
    crew, reload = supervisor.crew, supervisor.reload
    counts = {state: len(crew.in_state(state)) for state in ("starting", "draining")}
    parts = [f"{len(crew.in_state('ready'))} of {supervisor.wanted} processes serve"]
    parts += [f"{count} {state}" for state, count in counts.items() if count]
    if reload.running:
        parts.append("reload running")
    elif reload.result == "failed":
        parts.append(f"reload failed: {reload.cause}")
    elif supervisor.failure and not supervisor.complete:
        parts.append(supervisor.failure)
    return "; ".join(parts)
