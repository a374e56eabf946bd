"""The shutdown of a process: the steps between the first signal and the end, and the one deadline that they share.

The servers and their balancers take the steps; nothing here knows connections or jobs.
"""

from __future__ import annotations

import contextlib
import logging
import traceback
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import gevent
from gevent.event import Event

from ..errors import OptionError
from ..kinds import seconds
from ..process.ending import END, LEAST_SECONDS
from ..process.interrupts import keep_interrupts_in_requests
from ..process.signals import SIGNALS
from ..quoting import quoted

if TYPE_CHECKING:
    from .server import WSGIServer

__all__ = ["Shutdown", "graceful_shutdown"]

_BEGIN_SECONDS: Final = 1.0
"""How long after the deadline a blocked event loop may begin with the steps: a handler that computes is interrupted at
the deadline, and then the loop runs again."""

_BLOCKED_SECONDS: Final = 2.5
"""How long the event loop may be blocked after the deadline, as by a handler that cleans up."""

_LAST_STEPS_SECONDS: Final = 12.0
"""How long sessions may close and logs be written, all in all, once handlers have had `cleanup_seconds`."""

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
        """Whether the process ends soon after the last step, whatever Python waits for."""
        self.cut = 0
        """How many requests were ended before their time."""
        self.failed = False
        """Whether an exception has begun it."""

    def __repr__(self) -> str:
        state = "over" if self.over else "begun" if self.begun else "not begun"
        return f"<Shutdown {state}, {self.cut} cut>"

    @property
    def begun(self) -> bool:
        """Whether it has been requested."""
        return self._deadline is not None

    @property
    def over(self) -> bool:
        """Whether the last step has been taken."""
        return bool(self._over.is_set())

    def request(self) -> None:
        """Begin; when requested again, give running requests no more time.

        Never waits, and may be called in any thread and in signal handlers.
        """
        now = monotonic()
        if self._deadline is not None and now >= self._deadline:
            # Requests are being cut already.
            return
        self._deadline = now if self.begun else now + self._delay + self._timeout
        for server in self._servers:
            server.balancer.end_by(self._deadline)
        self._end_by(self._deadline + _BEGIN_SECONDS, _STAGE)
        # The loop may have been destroyed.
        with contextlib.suppress(Exception):
            self._loop.run_callback_threadsafe(self._begin)

    def fail(self, error: BaseException) -> None:
        """Begin because of an exception that has reached the main greenlet; the exit code will be 1."""
        if not self.failed:
            self.failed = True
            SIGNALS.log.record(logging.CRITICAL, lambda: _cause(error))
        if not self.begun:
            self.request()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is over; return whether it is."""
        return bool(self._over.wait(timeout))

    def _begin(self) -> None:
        self._steps = gevent.spawn(self._take_steps, self._steps)

    def _take_steps(self, earlier: gevent.Greenlet[..., None] | None) -> None:
        if earlier is not None:
            earlier.kill()
        for server in self._servers:
            server.balancer.condition = "draining"
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
        """Put off the end of the process as long as the event loop runs, until the last steps have had their time."""
        deadline = self._deadline or 0.0
        latest = deadline + self._cleanup + _LAST_STEPS_SECONDS
        self._end_by(min(max(deadline, monotonic()) + _BLOCKED_SECONDS, latest), _STAGE)

    def _drain(self, deadline: float) -> None:
        gevent.sleep(max(0.0, deadline - self._timeout - monotonic()))
        self._finish(deadline)
        SIGNALS.log.flush(_LAST_STEPS_SECONDS)

    def _finish(self, deadline: float) -> None:
        finishing = [gevent.spawn(server.finish, deadline) for server in self._servers]
        try:
            gevent.joinall(finishing)
        finally:
            gevent.killall(finishing)
        # gevent has logged what another one has raised.
        self.cut += sum(greenlet.get() for greenlet in finishing if greenlet.successful())

    @property
    def rest(self) -> float:
        """For how many seconds Python may wait, after the last step, for threads and others."""
        return max(self._timeout, LEAST_SECONDS)

    def _end_by(self, at: float, stage: str) -> None:
        if self.ends_process:
            END.by(at, stage)


def _cause(error: BaseException) -> str:
    text = quoted("".join(traceback.format_exception(error)))
    return f"shutting down because of {type(error).__name__} outside of requests:\n{text}"


def graceful_shutdown(server: WSGIServer, *more: WSGIServer, timeout: float | None = None) -> Shutdown:
    """Let SIGTERM, SIGINT and SIGQUIT end the servers without losing a request; a second signal ends them at once.

    Readiness fails at once; after `drain_delay_seconds` the listeners close, idle connections close, and running
    requests have `timeout` seconds (default `graceful_timeout_seconds`) before they are cut. `serve_forever` then
    returns, or exits with code 1 if something was cut. Call it in the main thread, before `serve_forever`.

    From the first signal on the process ends in bounded time: within another `timeout` (3 seconds at least) after the
    shutdown it exits with code 1, whatever Python still waits for, with a line on the standard error that names the
    threads and child processes that are left. Another signal in that time ends the process at once.

    Handlers that the application has installed for these signals are called too. SIGUSR1 reopens the log files of
    `logging`. SIGHUP, SIGUSR2, SIGALRM, SIGTTIN and SIGTTOU are ignored, with a line in the log. A handler that is
    installed for one of these, or for SIGQUIT or SIGUSR1, stays alone. An exception that reaches `serve_forever` begins
    the same shutdown, and the exit code is 1.

    Raises `OptionError` when `timeout` is no number of seconds, 0 or more, or a server is not one of ours, and
    `ValueError` in a thread that is not the main one.
    """
    servers = (server, *more)
    for each in servers:
        _require_ours(each)
    if timeout is not None:
        # Not when the signal arrives, which would be too late to say so.
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
            "(and a number of seconds is given as timeout=10)"
        )
