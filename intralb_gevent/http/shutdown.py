"""Run the graceful shutdown of a process, from the first signal to the exit, with one deadline for all steps.

The servers and their balancers carry out the steps.
"""

from __future__ import annotations

import contextlib
import logging
import traceback
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import gevent
from gevent.event import Event

from ..config.kinds import seconds
from ..errors import OptionError
from ..hub.log import end_writers
from ..naming import type_name
from ..pool.upgrades import upgraded_connections
from ..process.ending import END, LEAST_SECONDS
from ..process.interrupts import keep_interrupts_in_requests
from ..process.signals import SIGNALS
from ..quoting import quoted

if TYPE_CHECKING:
    from .server import WSGIServer

__all__ = ["Shutdown", "graceful_shutdown"]

_BEGIN_SECONDS: Final = 1.0
"""Seconds after the deadline within which the steps must begin, even if the event loop was blocked.

A CPU-bound handler is aborted at the deadline, so the event loop then runs again.
"""

_BLOCKED_SECONDS: Final = 2.5
"""Maximum seconds for which the event loop may be blocked after the deadline, for example by a handler's cleanup."""

_LAST_STEPS_SECONDS: Final = 12.0
"""Maximum total seconds to close sessions and write logs after the `cleanup_seconds` of the handlers."""

_BEAT_SECONDS: Final = 0.25
_STAGE: Final = "the shutdown was not over in time"


class Shutdown:
    """The shutdown of one or more servers, begun by the first signal and forced by the second."""

    def __init__(self, servers: tuple[WSGIServer, ...], timeout: float | None = None) -> None:
        options = servers[0].balancer.options
        self._servers = servers
        self._timeout = options.graceful_timeout_seconds if timeout is None else timeout
        self._delay = options.drain_delay_seconds
        self._cleanup = max(each.balancer.options.cleanup_seconds for each in servers)
        self._loop = gevent.get_hub().loop
        self._deadline: float | None = None
        self._steps: gevent.Greenlet[..., None] | None = None
        self._over = Event()
        self.ends_process = False
        """True if the process is forced to exit soon after the last step, even if Python still waits for threads."""
        self.cut = 0
        """Number of requests that were cut."""
        self.failed = False
        """True if an exception has reached the main greenlet."""

    def __repr__(self) -> str:
        state = "over" if self.over else "begun" if self.begun else "not begun"
        return f"<Shutdown {state}, {self.cut} cut>"

    @property
    def begun(self) -> bool:
        """True once the shutdown has been requested."""
        return self._deadline is not None

    @property
    def over(self) -> bool:
        """True once the last step is complete."""
        return bool(self._over.is_set())

    def plan(self) -> str:
        """Return a log text that states what a shutdown would wait for, and the time limits. Never waits."""
        intakes = {server.balancer.intake for server in self._servers}
        waits_for = _requests(sum(intake.load for intake in intakes))
        if upgraded := sum(len(intake.upgrades.holders) for intake in intakes):
            waits_for += f" and {upgraded_connections(upgraded)}"
        finishing = f"finishing {waits_for}, at most {self._timeout:g} s"
        if self._delay:
            return f"serving for another {self._delay:g} s (drain_delay_seconds), then {finishing}"
        return finishing

    def request(self) -> None:
        """Begin the shutdown; a second call sets the deadline to now, so that running requests are cut.

        This method never waits. Any thread and any signal handler may call it.
        """
        now = monotonic()
        if self._deadline is not None and now >= self._deadline:
            # The deadline has passed, so requests are already being cut.
            return
        self._deadline = now if self.begun else now + self._delay + self._timeout
        for server in self._servers:
            server.balancer.intake.end_by(self._deadline)
        self._end_by(self._deadline + _BEGIN_SECONDS, _STAGE)
        # Ignore errors, because the loop may have been destroyed.
        with contextlib.suppress(Exception):
            self._loop.run_callback_threadsafe(self._begin)

    def fail(self, error: BaseException) -> None:
        """Begin the shutdown after an exception has reached the main greenlet; the exit code will be 1."""
        if not self.failed:
            self.failed = True
            SIGNALS.log.record(logging.CRITICAL, lambda: _cause(error))
        if not self.begun:
            self.request()
            if _cannot_poll(error):
                # No running request can be finished, so do not wait for any.
                self.request()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the shutdown is over, or for `timeout` seconds; return whether it is over."""
        return bool(self._over.wait(timeout))

    def _begin(self) -> None:
        self._steps = gevent.spawn(self._take_steps, self._steps)

    def _take_steps(self, earlier: gevent.Greenlet[..., None] | None) -> None:
        if earlier is not None:
            earlier.kill()
        for server in self._servers:
            server.balancer.intake.condition = "draining"
        beat = self._loop.timer(0.0, _BEAT_SECONDS, ref=False)
        beat.start(self._beat)
        try:
            self._drain(self._deadline or 0.0)
        finally:
            beat.stop()
        self._end_by(monotonic() + self.rest, f"Python did not end within {self.rest:g} s after the shutdown")
        self._over.set()
        SIGNALS.is_over()

    def _beat(self) -> None:
        """Postpone the forced exit while the event loop runs, but not beyond the time limit of the last steps."""
        deadline = self._deadline or 0.0
        latest = deadline + self._cleanup + _LAST_STEPS_SECONDS
        self._end_by(min(max(deadline, monotonic()) + _BLOCKED_SECONDS, latest), _STAGE)

    def _drain(self, deadline: float) -> None:
        gevent.sleep(max(0.0, deadline - self._timeout - monotonic()))
        self._finish(deadline)
        if self.ends_process:
            SIGNALS.log.record(logging.INFO, self._stopped)
        SIGNALS.log.flush(_LAST_STEPS_SECONDS)
        if self.ends_process:
            end_writers()

    def _stopped(self) -> str:
        code = int(self.cut > 0 or self.failed)
        causes = [f"{_requests(self.cut)} {'was' if self.cut == 1 else 'were'} cut"] if self.cut else []
        if self.failed:
            causes.append("an exception has ended it")
        return f"stopped, exit {code}{': ' if causes else ''}{', '.join(causes)}"

    def _finish(self, deadline: float) -> None:
        finishing = [gevent.spawn(server.finish, deadline) for server in self._servers]
        try:
            gevent.joinall(finishing)
        finally:
            gevent.killall(finishing)
        # Add only the results of successful greenlets; gevent has logged the exceptions of the failed greenlets.
        self.cut += sum(greenlet.get() for greenlet in finishing if greenlet.successful())

    @property
    def rest(self) -> float:
        """Maximum seconds for which Python may wait for threads and child processes after the last step."""
        return max(self._timeout, LEAST_SECONDS)

    def _end_by(self, at: float, stage: str) -> None:
        if self.ends_process:
            END.by(at, stage)


def _requests(count: int) -> str:
    return f"{count:,} request{'' if count == 1 else 's'}"


def _cannot_poll(error: BaseException) -> bool:
    """Return whether libev has reported an error, for example after the application has closed libev's descriptors."""
    return isinstance(error, SystemError) and str(error).startswith("(libev)")


def _cause(error: BaseException) -> str:
    text = quoted("".join(traceback.format_exception(error)))
    return f"shutting down because of {type_name(error)} outside of requests:\n{text}"


def graceful_shutdown(server: WSGIServer, *more: WSGIServer, timeout: float | None = None) -> Shutdown:
    """Let SIGTERM, SIGINT and SIGQUIT stop the servers without losing a request; a second signal forces the stop.

    Readiness fails immediately. After `drain_delay_seconds`, the listeners and idle connections close. Running requests
    then have `timeout` seconds (default `graceful_timeout_seconds`) before they are cut. `serve_forever` then returns,
    or exits with code 1 if a request was cut. Call this function in the main thread, before `serve_forever`.

    After the first signal, the process ends in bounded time. After the shutdown, Python may wait for threads and child
    processes for another `timeout` seconds (at least 3). The process then lists the remaining threads and child
    processes in a line on the standard error, and exits with code 1. Another signal during this wait ends the process
    immediately.

    The application's handlers for SIGTERM and SIGINT are called, too. SIGUSR1 reopens the log files of `logging`.
    SIGHUP, SIGUSR2, SIGALRM, SIGTTIN and SIGTTOU are logged and ignored. An application's own handler for SIGQUIT,
    SIGUSR1 or one of the ignored signals stays in place. An exception that reaches `serve_forever` begins the same
    shutdown, and the exit code is 1.

    Raises `OptionError` if `timeout` is not a number of seconds, 0 or more, or if a server is not a `WSGIServer` of
    this package. Raises `ValueError` if the current thread is not the main thread.
    """
    servers = (server, *more)
    for each in servers:
        _require_ours(each)
    if timeout is not None:
        # Check the timeout now: an error when the signal arrives would be too late.
        timeout = seconds(positive=False).check("timeout", timeout)
    shutdown = Shutdown(servers, timeout)
    END.remember_main()
    keep_interrupts_in_requests()
    SIGNALS.shut_down(shutdown, {each.balancer.options.interrupt_number for each in servers})
    for each in servers:
        each.shutdown = shutdown
    return shutdown


def _require_ours(server: Any) -> None:
    if not hasattr(server, "finish"):
        raise OptionError(
            f"server: {server!r} is not allowed; it must be an intralb_gevent.WSGIServer "
            "(pass a number of seconds as timeout=10)"
        )
