"""Serves requests in a worker process: runs the balancer, one server for each listener, and the shutdown.

A timer of the event loop notifies the arbiter regularly. If the event loop is blocked, the timer does not run, and the
arbiter kills the worker after `timeout`.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Final

import gevent
from gevent import getcurrent
from gevent.exceptions import LoopExit
from gevent.monkey import get_original
from gunicorn.http.wsgi import base_environ
from gunicorn.sock import ssl_context

from .. import __version__
from ..aborts.blockedloop import stacks, write_report
from ..cli import check
from ..cli.repatching import replace_ssl_context
from ..cli.serving import keep_freed_memory
from ..config.sources import Settings, unknown_variables
from ..http.openfiles import OPEN_FILES
from ..http.shutdown import Shutdown
from ..integrations.protection import protect
from ..integrations.push import MetricsPush
from ..observe.admin import AdminServer
from ..observe.siterow import SiteRow
from ..pool.balancer import LoadBalancer
from ..pool.itimers import stop_timers_of_requests
from ..process.ending import END
from ..process.freedmemory import FreedMemory
from ..process.interrupts import keep_interrupts_in_requests
from ..process.signals import SIGNALS
from ..process.standardstreams import protect_standard_streams
from ..process.strays import Strays
from .listeners import Listener, shared_listener
from .logs import configure_logging
from .requests import RequestLog, called
from .settings import admin_address, graceful_seconds, settings_of, without_effect

__all__ = ["Serving"]

_ident: Callable[[], int] = get_original("_thread", "get_ident")

_BEAT_SECONDS: Final = 1.0
"""Maximum number of seconds between two notifications of the arbiter."""

_WRITE_SECONDS: Final = 0.5
"""Time limit, in seconds, for writing a blocked worker's stacks; the arbiter sends SIGKILL a second after SIGABRT."""


class Serving:
    """The balancer, servers and shutdown of one worker process."""

    def __init__(self, worker: Any, early: Collection[str]) -> None:
        self._worker = worker
        self._cfg = worker.cfg
        self._log = worker.log
        self._early = early
        self._settings: Settings | None = None
        self._shutdown: Shutdown | None = None
        self._left = False
        self.site: SiteRow | None = None
        """This worker's row in the table of all workers; None before the worker serves."""
        self._protected: tuple[str, ...] = ()
        self._main: Any = getcurrent()
        self._hub = gevent.get_hub()
        if not faulthandler.is_enabled():
            faulthandler.enable(2)
        _keep_streams(self._log)
        # Replace these functions before the application is imported, because the application may store the originals.
        stop_timers_of_requests()
        keep_interrupts_in_requests()
        self._replaced = replace_ssl_context(early)

    def __repr__(self) -> str:
        return f"<Serving {self._worker}: {self._shutdown!r}>"

    def has_signals(self) -> None:
        """Reinstall gevent's handler for SIGCHLD, because gunicorn's `init_signals` has just reset the signal."""
        self._hub.loop.install_sigchld()

    def read_settings(self, environ: Mapping[str, str]) -> None:
        """Read the settings before the application is loaded; raises `OptionError` or `LoadError`."""
        self._settings = settings_of(self._cfg, environ)
        for warning in (*unknown_variables(environ), *without_effect(self._settings)):
            self._log.warning("%s", warning)

    # Serving.

    def run(self) -> None:
        """Serve until the shutdown is complete; raises SystemExit(1) if requests were cut, or if serving has failed."""
        settings = self._settings
        if settings is None:
            return
        configure_logging(self._log, settings)
        keep_freed_memory()
        balancer = self._balancer(settings)
        servers = self._servers(balancer)
        # `server.start()` waits for a name lookup. A signal that arrives during this lookup only clears `alive`; the
        # first beat below then begins the shutdown. If the signal itself began the shutdown, the shutdown would close a
        # listener that `start` is about to use.
        for server in servers:
            server.start()
        self._shutdown = shutdown = Shutdown(servers, graceful_seconds(self._cfg, settings))
        for server in servers:
            server.shutdown = shutdown
        self._handle_signals(shutdown, settings)
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._joined_site(balancer, servers))
            if (address := admin_address(settings)) is not None:
                stack.enter_context(self._observed(balancer, address))
            if (target := settings.serving.push_metrics) is not None:
                push = MetricsPush(balancer, target, process=None if self.site is None else str(self.site.number))
                push.start()
                stack.callback(push.stop)
            stack.enter_context(self._heart())
            stack.enter_context(FreedMemory())
            if self._worker.alive:
                self._announce(settings)
            self._wait(shutdown)
        if shutdown.cut:
            cut = "1 request was cut" if shutdown.cut == 1 else f"{shutdown.cut} requests were cut"
            self._log.warning("Worker graceful timeout (pid:%s): %s", os.getpid(), cut)
        if shutdown.cut or shutdown.failed:
            raise SystemExit(1)

    def _balancer(self, settings: Settings) -> LoadBalancer:
        """Return a balancer for the application; if the application is a `LoadBalancer`, use its options."""
        worker = self._worker
        application, options = worker.wsgi, settings.options
        if isinstance(worker.wsgi, LoadBalancer):
            application, options = worker.wsgi.application, worker.wsgi.options
        if options.integrations:
            self._protected = tuple(protect())
        balancer = LoadBalancer(_called(application, worker, settings), options)
        context = balancer.intake.context
        context.job_log = RequestLog(worker, context.job_log, self.stop)
        return balancer

    def _servers(self, balancer: LoadBalancer) -> tuple[Listener, ...]:
        worker, cfg = self._worker, self._cfg
        OPEN_FILES.raise_limit(balancer.options, len(worker.sockets))
        tls = {"ssl_context": _tls_context(cfg)} if cfg.is_ssl else {}
        environ = {"wsgi.multiprocess": cfg.workers > 1}
        if cfg.errorlog != "-":
            environ["wsgi.errors"] = base_environ(cfg)["wsgi.errors"]
        servers = (Listener(each, balancer, log=None, environ=environ, **tls) for each in worker.sockets)
        return tuple(server.of(worker.ppid) for server in servers)

    def _handle_signals(self, shutdown: Shutdown, settings: Settings) -> None:
        END.remember_main()
        # Count SIGTERM only once, because the arbiter repeats SIGTERM every second until the worker has exited.
        SIGNALS.shut_down(shutdown, {settings.options.interrupt_number}, once={signal.SIGTERM})

    @contextlib.contextmanager
    def _heart(self) -> Iterator[None]:
        """Notify the arbiter while the event loop runs, and shut the worker down when the arbiter has died."""
        seconds = min(_BEAT_SECONDS, self._worker.timeout / 2 or _BEAT_SECONDS)
        timer = self._hub.loop.timer(0.0, seconds, ref=False)
        timer.start(self._beat)
        try:
            yield
        finally:
            timer.stop()
            timer.close()

    @contextlib.contextmanager
    def _joined_site(self, balancer: LoadBalancer, servers: Sequence[Listener]) -> Iterator[None]:
        """Publish this worker in the table of all workers."""
        table = self._worker.site_table
        row = None if table is None else table.claim()
        if row is not None:
            self.site = SiteRow(row, balancer, servers)
            self.site.start()
        try:
            yield
        finally:
            if self.site is not None:
                self.site.stop()

    @contextlib.contextmanager
    def _observed(self, balancer: LoadBalancer, address: tuple[str, int]) -> Iterator[None]:
        """Serve the admin pages at an address that all workers share; each worker reports on the whole site."""
        with contextlib.ExitStack() as stack:
            try:
                listener = stack.enter_context(shared_listener(address))
            except OSError as error:
                self._log.error("admin_bind: cannot listen on %s:%d: %s", *address, error.strerror)
            else:
                admin = AdminServer(listener, balancer)
                if self.site is not None:
                    admin.site = self.site
                stack.callback(admin.close)
                admin.start()
            yield

    def _beat(self) -> None:
        worker = self._worker
        with contextlib.suppress(OSError):
            worker.notify()
        if worker.ppid != os.getppid() and worker.alive:
            worker.alive = False
            SIGNALS.say(logging.INFO, f"Parent changed, shutting down: {worker}")
        if not worker.alive:
            self.stop()

    def _wait(self, shutdown: Shutdown) -> None:
        SIGNALS.watch()
        SIGNALS.serving += 1
        try:
            with Strays(self._hub, shutdown.fail):
                while not shutdown.over:
                    self._wait_once(shutdown)
        finally:
            SIGNALS.serving -= 1

    def _wait_once(self, shutdown: Shutdown) -> None:
        try:
            shutdown.wait()
        except BaseException as error:
            # Another exception must not end the shutdown early, unless the event loop can no longer run.
            if self._left or (isinstance(error, LoopExit) and shutdown.failed):
                raise
            shutdown.fail(error)

    # Shutdown.

    def stop(self) -> None:
        """Begin the shutdown, unless the shutdown has begun already; never waits, and may be called in any thread."""
        self._worker.alive = False
        if self.site is not None:
            self.site.drain()
        if self._shutdown is not None and not self._shutdown.begun:
            self._shutdown.request()

    def force(self) -> None:
        """Begin the shutdown if it has not begun, and cut running requests immediately."""
        self.stop()
        if self._shutdown is not None:
            self._shutdown.request()

    def leave(self, code: int) -> None:
        """Raise SystemExit in the main greenlet; if that is the current greenlet, leave the exit to the caller."""
        self._left = True
        if getcurrent() is not self._main:
            self._main.throw(SystemExit(code))

    # Logs.

    def reopen_logs(self) -> None:
        """Reopen gunicorn's log files in a new greenlet, because a signal handler must not wait for their locks."""
        with contextlib.suppress(Exception):
            self._hub.loop.run_callback_threadsafe(gevent.spawn, self._log.reopen_files)

    def write_stacks(self) -> None:
        """Write the stacks of a blocked worker to standard error."""
        lines = stacks(_ident())
        if not self._worker.booted and self._main.gr_frame is not None:
            frames = traceback.format_stack(self._main.gr_frame)
            lines += ["the import of the application is waiting at (most recent call last):", "".join(frames).rstrip()]
        write_report(_WRITE_SECONDS, f"gunicorn ends worker {os.getpid()} after its timeout; the worker is at:", lines)

    def _announce(self, settings: Settings) -> None:
        options = settings.options
        if self._replaced:
            self._log.info("ssl.SSLContext was replaced with gevent's patched class in %s", check.some(self._replaced))
        for finding in check.at_start(self._early):
            self._log.warning("%s; %s", finding.title, finding.remedy)
        sizes = "-".join(map(str, sorted({options.first_workers, options.max_workers})))
        self._log.info(
            f"intralb_gevent {__version__} serves (pid: {os.getpid()}): {sizes} workers x "
            f"{options.max_concurrent_per_router} slots, queue {options.queue_size} each, deadline "
            f"{options.deadline_seconds:g} s{', protecting ' if self._protected else ''}{', '.join(self._protected)}"
        )


def _called(application: Any, worker: Any, settings: Settings) -> Any:
    """Return the application that the slots call, or a mapping of paths to mounted applications."""
    if isinstance(application, Mapping):
        return {path: called(each, worker, settings) for path, each in application.items()}
    return called(application, worker, settings)


def _tls_context(cfg: Any) -> Any:
    """Return the SSL context that gunicorn builds from its settings, without HTTP/2 in its ALPN protocols."""
    context = ssl_context(cfg)
    context.set_alpn_protocols(["http/1.1"])
    return context


def _keep_streams(log: Any) -> None:
    """Prevent output to gunicorn's log and to the standard streams from blocking the worker."""
    earlier = sys.stdout, sys.stderr
    protect_standard_streams()
    later = sys.stdout, sys.stderr
    for name in ("error_log", "access_log"):
        for handler in getattr(getattr(log, name, None), "handlers", ()):
            for before, after in zip(earlier, later, strict=True):
                if type(handler) is logging.StreamHandler and handler.stream is before:
                    handler.setStream(after)
