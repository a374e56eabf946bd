"""The connection of a serving process to systemd or to our supervisor, which use the same protocol.

The process takes over inherited listeners, and reports that it is ready, that its event loop runs, and that it drains.
A supervisor, unlike systemd, also shares its state with the process. The state shows whether other processes accept
from the same listeners, and whether the supervisor has ended.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import gevent
from gevent.monkey import get_original
from greenlet import getcurrent

from ..config.processes import ProcessOptions
from ..errors import LoadError, OptionError
from ..process.leftovers import place
from ..process.logline import LINES
from ..process.signals import SIGNALS
from ..siblings.source import Sibling
from ..supervise.descriptors import ADMIN, AGENT, OWN, STATE, TABLE, Descriptor, check_listener, take
from ..supervise.notify import REQUESTS, Notifier, status, traceback_field, watchdog_seconds
from ..supervise.statefile import StateFile
from ..supervise.table import OwnRow, Table
from .binding import InheritedAddress, inherited

if TYPE_CHECKING:
    from ..http.server import WSGIServer
    from ..http.shutdown import Shutdown
    from ..observe.siterow import SiteRow
    from ..pool.balancer import LoadBalancer

__all__ = ["Membership", "Standing"]

_BEAT_SECONDS: Final = 1.0
"""Maximum seconds between two reports that the event loop runs."""

_PRIVATE: Final = ("last", "lent", "proven", "started")
"""Keys of the supervisor's state that the admin pages do not show."""

_SLOW_SHARE: Final = 0.5
"""Fraction of `start_seconds` after which a process that is still starting reports the line that it is executing."""

_RETRY_SECONDS: Final = 0.5
_REPEAT_SECONDS: Final = 10.0
"""Seconds after which the same response from the ready path is logged again."""

_ORPHANED: Final = "the supervisor has ended during the start of this process"

_sleep: Callable[[float], None] = get_original("time", "sleep")
_start_thread: Callable[..., int] = get_original("_thread", "start_new_thread")
_ident: Callable[[], int] = get_original("_thread", "get_ident")


class Standing(NamedTuple):
    """The position of a process among the processes of its supervisor."""

    words: str
    """A description of the process; '' without a supervisor."""
    processes: int
    """The number of processes that the supervisor wants to run."""
    is_first: bool
    """True if this is the first process of its generation."""
    generation: int


class Membership:
    """This process's connection to systemd or to a supervisor, if one of them started the process."""

    def __init__(self) -> None:
        """Take over the protocol's descriptors and variables, so that this process's children do not inherit them."""
        self.options = ProcessOptions()
        self._state: StateFile | None = None
        self._row: OwnRow | None = None
        self._no_table = ""
        """Reason why this process cannot use the supervisor's table; "" if there is no such reason."""
        self.site: SiteRow | None = None
        """This process's row in the site's table; None before this process serves, and without a table."""
        self.addresses: list[InheritedAddress] = []
        self.admin: InheritedAddress | None = None
        self.agent: InheritedAddress | None = None
        for each in take(os.environ, os.getpid()):
            self._take(each)
        self._watchdog_seconds = watchdog_seconds(os.environ, os.getpid())
        self._notifier = Notifier.taken_from(os.environ)
        self._loaded = False
        self._balancer: LoadBalancer | None = None
        self._shutdown: Shutdown | None = None
        self._beat: Any = None

    def _take(self, descriptor: Descriptor) -> None:
        if descriptor.name == STATE:
            self._state = StateFile(descriptor.number)
        elif descriptor.name == TABLE:
            self._claim_row(descriptor.number)
        elif descriptor.name.startswith(OWN):
            # Close a descriptor that this version does not know; a supervisor of another version has passed it.
            os.close(descriptor.number)
        else:
            check_listener(descriptor)
            if descriptor.name == ADMIN:
                self.admin = inherited(descriptor.number)
            elif descriptor.name == AGENT:
                self.agent = inherited(descriptor.number)
            else:
                self.addresses.append(inherited(descriptor.number))

    def _claim_row(self, descriptor: int) -> None:
        try:
            self._row = Table(descriptor).claim()
        except OptionError as error:
            self._no_table = str(error)

    def __repr__(self) -> str:
        return f"<Membership {'supervised' if self.supervised else ''} {self._notifier!r}>"

    @property
    def supervised(self) -> bool:
        """True if our supervisor has started this process."""
        return self._state is not None

    def processes(self) -> dict[str, Any]:
        """Return the supervisor's state, for the admin pages."""
        state = {} if self._state is None else self._state.read()
        now = monotonic()
        state.get("reload", {}).pop("wanted", None)
        rows = {} if self.site is None else {row.pid: row.as_dict(now) for row in self.site.processes()}
        state["processes"] = [rows.get(each["pid"], {}) | _shown(each, now) for each in state.get("processes", ())]
        return {name: value for name, value in state.items() if name not in _PRIVATE}

    def siblings_listen(self) -> bool:
        """Return whether another process keeps the inherited listeners open after this process has closed them."""
        if self._state is None:
            return True
        state = self._state.read()
        # If the supervisor has ended, all its processes drain, so none of them keeps the listeners open.
        return bool(state.get("lent")) or not (state.get("last") or self._orphaned())

    # The siblings of this process, with which it exchanges connections.

    def known(self) -> Sequence[Sibling]:
        """Return the other processes that are ready."""
        return [Sibling(each["pid"], each["generation"]) for each in self._others("ready")]

    def starting(self) -> bool:
        """Return True if another process is starting while no other process is ready."""
        return bool(self._others("starting")) and not self._others("ready")

    def _others(self, state: str) -> list[dict[str, Any]]:
        known = [] if self._state is None or self._orphaned() else self._state.read().get("processes", [])
        return [each for each in known if each["state"] == state and each["pid"] != os.getpid()]

    # Methods for the start of the process.

    @contextlib.contextmanager
    def reporting_failures(self) -> Iterator[None]:
        """Report a `LoadError` or `OptionError` that the block raises, as the reason why the process cannot start."""
        try:
            yield
        except (LoadError, OptionError) as error:
            self._report(error)
            raise

    def watch_start(self) -> None:
        """If the start takes long, report the executed line; the supervisor logs this line if the start fails.

        If the supervisor ends during the start, exit, because this process would otherwise keep the listeners open.
        """
        if self.supervised:
            _start_thread(self._watch_start, (getcurrent(), _ident(), _SLOW_SHARE * self.options.start_seconds))

    def _is_starting(self) -> bool:
        return self._balancer is None

    def _watch_start(self, main: Any, ident: int, seconds: float) -> None:
        """Watch the start of this process in a native thread, until the process serves."""
        report_at = monotonic() + seconds
        while self._is_starting():
            _sleep(min(_BEAT_SECONDS, max(0.0, report_at - monotonic())))
            if monotonic() >= report_at:
                report_at = math.inf
                if not self._loaded:
                    self._notifier.send(status(f"starting, at {place(main, ident)}"))
            if self._is_starting() and self._orphaned():
                with contextlib.suppress(OSError):
                    os.write(2, f"{LINES.line('ERROR', _ORPHANED)}\n".encode())
                os._exit(1)

    def _orphaned(self) -> bool:
        """Return whether the supervisor has ended."""
        # The state may still be empty, because the supervisor starts the first process before it writes its state.
        return self._state is not None and self._state.read().get("supervisor") not in (None, os.getppid())

    def _report(self, error: Exception) -> None:
        fields = [status(str(error))]
        # An error without a cause is about a setting; its message says all, unlike the stack of this package.
        if self.supervised and error.__cause__ is not None:
            fields.append(traceback_field("".join(traceback.format_exception(error.__cause__))))
        self._notifier.send(*fields)

    def wait_for_ready_path(self, balancer: LoadBalancer) -> None:
        """Request the ready path until the application responds with a 2xx status."""
        from .readypath import answer_of

        self._loaded = True
        path = self.options.ready_path
        last, said_at = "", 0.0
        while path is not None and not (answer := answer_of(balancer, path)).startswith("2"):
            text = f"not ready: {path} is answered {answer}"
            if text != last or monotonic() - said_at > _REPEAT_SECONDS:
                last, said_at = text, monotonic()
                SIGNALS.log.record(logging.WARNING, partial(str, text))
                self._notifier.send(status(text))
            gevent.sleep(_RETRY_SECONDS)

    def prepare(self, server: WSGIServer, address: object) -> None:
        """Connect a server to the other processes of the site; call this before the server starts."""
        if isinstance(address, InheritedAddress):
            server.siblings_listen = self.siblings_listen
        if self.supervised:
            server.environ["wsgi.multiprocess"] = True
            server.set_max_accept()
            if address in self.addresses:
                server.siblings = lambda listener: self
        if self.supervised and hasattr(server, "processes"):
            server.processes = self.processes

    def serving(
        self,
        balancer: LoadBalancer,
        servers: Sequence[WSGIServer],
        shutdown: Shutdown,
        probed: Sequence[WSGIServer],
    ) -> None:
        """Report that the process is ready; from now on, report that its event loop runs, and later that it drains.

        `servers` are the servers for clients; `probed` are the servers for operators and for HAProxy's agent checks.
        """
        self._balancer, self._shutdown = balancer, shutdown
        self._join_site(balancer, servers, probed)
        if self._notifier.address is None and not self.supervised:
            return
        SIGNALS.shut_down(_Draining(self, shutdown, self._notifier, lambda: self._leave(probed)))
        self._notifier.send("READY=1", status("serving"))
        seconds = _BEAT_SECONDS if self._watchdog_seconds is None else min(_BEAT_SECONDS, self._watchdog_seconds / 4)
        self._beat = gevent.get_hub().loop.timer(0.0, seconds, ref=False)
        self._beat.start(self._live)

    def _join_site(self, balancer: LoadBalancer, servers: Sequence[WSGIServer], probed: Sequence[WSGIServer]) -> None:
        from ..observe.siterow import SiteRow

        if self._no_table:
            SIGNALS.log.record(logging.WARNING, lambda: self._no_table)
        if self._row is None:
            return
        own = [each for each in self.processes()["processes"] if each["pid"] == os.getpid()]
        self._row.belongs_to(own[0]["generation"] if own else 0)
        self.site = SiteRow(self._row, balancer, servers)
        self.site.start()
        for server in probed:
            if hasattr(server, "site"):
                server.site = self.site

    def leave(self) -> None:
        """Release this process's row in the site's table, because the process has stopped serving."""
        if self.site is not None:
            self.site.stop()

    # The hub calls these methods while the process serves.

    def _live(self) -> None:
        if self._watchdog_seconds is not None:
            self._notifier.send("WATCHDOG=1", *self._requests())
        if self._orphaned():
            self._drain_without_supervisor()

    def _requests(self) -> Sequence[str]:
        if not self.supervised or self.options.process_max_requests is None or self._balancer is None:
            return ()
        return (f"{REQUESTS}={self._balancer.snapshot().submitted}",)

    def _drain_without_supervisor(self) -> None:
        if self._shutdown is not None and not self._shutdown.begun:
            SIGNALS.say(logging.ERROR, "the supervisor has ended; shutting down")
            os.kill(os.getpid(), signal.SIGTERM)

    def _leave(self, probed: Sequence[WSGIServer]) -> None:
        """Stop accepting probes if other processes accept them, so that no probe of the site reaches this process."""
        if self.supervised and self.siblings_listen():
            for server in probed:
                server.stop_accepting()

    # The description of this process in the start line.

    def describe(self) -> Standing:
        """Return the position of this process among the supervisor's processes."""
        state = self.processes()
        known = {each["pid"]: each for each in state["processes"]}
        own = known.get(os.getpid())
        if own is None:
            return Standing("", int(state.get("wanted", 1)), False, 1)
        generation = int(own["generation"])
        same = [each["number"] for each in known.values() if each["generation"] == generation]
        words = f"process {os.getpid()} of generation {generation}"
        return Standing(words, int(state["wanted"]), own["number"] == min(same), generation)


def _shown(process: dict[str, Any], now: float) -> dict[str, Any]:
    """Return the data about a process that the admin pages show."""
    shown = {name: process[name] for name in ("pid", "number", "generation", "state", "outdated", "status", "rss")}
    ready = process["ready"]
    return {
        **shown,
        "age_seconds": round(now - process["started"], 3),
        "ready_seconds": None if ready is None else round(now - ready, 3),
        "silent_seconds": None if ready is None else round(now - process["seen"], 3),
    }


class _Draining:
    """Reports a shutdown as soon as a signal begins the shutdown."""

    ends_process = True

    def __init__(
        self, membership: Membership, shutdown: Shutdown, notifier: Notifier, leave: Callable[[], None]
    ) -> None:
        self._membership = membership
        self._shutdown, self._notifier, self._leave = shutdown, notifier, leave
        self._loop = gevent.get_hub().loop
        self._reported = False

    def __repr__(self) -> str:
        return f"<_Draining {'reported' if self._reported else 'not begun'}>"

    @property
    def over(self) -> bool:
        """True once the shutdown is over."""
        return self._shutdown.over

    def plan(self) -> str:
        """Return an empty text, because the shutdown itself describes its plan."""
        return ""

    def request(self) -> None:
        """Report the shutdown; later calls do nothing. Never waits; any thread or signal handler may call this
        method."""
        if not self._reported:
            self._reported = True
            if self._membership.site is not None:
                self._membership.site.drain()
            self._notifier.send("STOPPING=1", status("draining"))
            self._loop.run_callback_threadsafe(self._leave)
