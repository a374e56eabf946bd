"""What a balancer can be told: every setting, declared once.

A declaration holds the name, the default, the kind of value with its limits, and the help. From it come
the check at construction, and (in `settings.py`) the flag, the environment variable, the TOML key and the
table in docs/settings.md. This module decides what is a valid value; it must not know who reads the values
or what they do.
"""

# ruff: noqa: RUF009  # the calls in the class body declare fields, they are not shared defaults

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .declaring import Declaration, check_fields, declarations_in, option
from .errors import OptionError
from .kinds import choice, client_key, function, header, integer, limiter, path_prefix, peers, seconds, switch, wait
from .route import Route, route_list
from .sessionsource import SessionSource
from .signals import INTERRUPT_SIGNAL, signal_number

__all__ = ["Declaration", "Options", "declarations"]

_POOL, _TIME, _SESSIONS, _LOG = "Workers and queues", "Time limits", "Database sessions", "Job log"
_DEADLINE_SECONDS = 30.0
"""As long as gunicorn lets a worker of its default kind be silent, so what is served there is served here."""
_STREAM_IDLE_SECONDS = 60.0
"""As long as nginx waits for the next bytes of a server behind it (proxy_read_timeout)."""
_CLIENTS, _PROXIES, _ROUTES, _MONITORING = "Clients", "Proxies", "Routes", "Monitoring"


@dataclass(frozen=True, kw_only=True)
class Options:
    """The settings of one balancer: frozen, keyword-only, checked at construction.

    Seconds are floats. A value that is not allowed raises `OptionError` naming the field, the value and what
    is allowed. The fields that the Go library IntraLB has keep its names and defaults.
    """

    max_concurrent_per_router: int = option(
        _POOL, 100, integer(1), "Slots of a worker: the requests it runs at the same time."
    )
    queue_size: int = option(_POOL, 100, integer(0), "Requests that may wait in a worker's queue; with 0, none waits.")
    max_workers: int = option(_POOL, 10, integer(1), "Workers at most.")
    min_workers: int | None = option(
        _POOL,
        None,
        integer(1),
        "Workers at least, and at the start. Default: one group, or max_workers if fewer.",
    )
    worker_group_size: int = option(
        _POOL,
        3,
        integer(1),
        "Workers that are added at a time, at least, while slots are free; with all busy, as many as are needed, "
        "at most doubling the pool. They are removed one by one.",
    )
    worker_quiet_seconds: float = option(
        _POOL,
        30.0,
        seconds(positive=True),
        "How long less than a quarter of the slots must have been busy before a worker is removed; each further one "
        "follows after a third of it. Up to eight times as long for a pool that soon grew again.",
    )
    limiter: str | Callable[[int], Any] = option(
        _POOL,
        "hub_lag",
        limiter("hub_lag", "fixed"),
        "What decides how many requests may run, up to the slots: hub_lag lets fewer while the event loop is late; "
        "fixed lets all. Or a function from a number of slots to a Limiter.",
    )
    client_key: str | Callable[[dict[str, Any]], Any] = option(
        _POOL,
        "address",
        client_key(),
        "What tells clients apart, so that none takes more than its share while more arrives than can be answered: "
        "address, a header field, off, or a function of the environ.",
    )
    priority_func: Callable[[dict[str, Any]], Any] | None = option(
        _POOL,
        None,
        function(),
        "Says which class a request has: a function from the environ to one of the classes, or None for its route's. "
        "It is called in the event loop, so it must not wait.",
    )
    max_streams: int | None = option(
        _POOL,
        None,
        integer(1),
        "Streamed responses at the same time, at most. Default: three quarters of the slots that a pool may have.",
    )
    max_upgraded: int | None = option(
        _POOL,
        1000,
        integer(1),
        "Connections that applications have taken over, such as WebSockets, at the same time, at most; one more is "
        "answered 503. By default as many as a worker of gunicorn -k gevent has connections.",
    )
    request_timeout_seconds: float | None = option(
        _TIME,
        None,
        seconds(positive=True),
        "Deadline of a request: its wait and the application together; of a stream, until its first part. "
        "Default: 30, or graceful_timeout_seconds if that is more.",
    )
    max_request_timeout_seconds: float = option(
        _TIME,
        600.0,
        seconds(positive=True),
        "How far a handler may extend its deadline, counted from arrival; a longer timeout of its own counts instead.",
    )
    stream_timeout_seconds: float | None = option(
        _TIME,
        None,
        seconds(positive=True),
        "End of a streamed response, counted from its first part. Default: none.",
    )
    stream_idle_timeout_seconds: float | None = option(
        _TIME,
        None,
        wait(positive=True),
        "How long the handler of a streamed response may be silent; the time in which its client is slow does not "
        "count. Default: 60, or request_timeout_seconds if that is more.",
    )
    max_wait_seconds: float = option(
        _TIME,
        2.0,
        wait(),
        "How long a request may have to wait for its turn. One that would wait longer is refused, and the queue is "
        "kept short until what arrives can be served again. With 0 it always is; with off none is refused for a wait.",
    )
    graceful_timeout_seconds: float = option(
        _TIME,
        5.0,
        seconds(positive=True),
        "How long a shutdown lets running requests go on before it ends them.",
    )
    drain_delay_seconds: float = option(
        _TIME,
        0.0,
        seconds(positive=False),
        "How long a shutdown goes on accepting after readiness has failed, so that a proxy notices first.",
    )
    keep_alive_seconds: float = option(
        _TIME,
        75.0,
        seconds(positive=True),
        "How long an idle client connection stays open. Keep it above the proxy's own idle time.",
    )
    cleanup_seconds: float = option(
        _TIME,
        1.0,
        seconds(positive=True),
        "How long the clean-up of an interrupted handler (finally blocks, __exit__) may take before it is interrupted "
        "again.",
    )
    block_timeout_seconds: float = option(
        _TIME,
        60.0,
        seconds(positive=False),
        "How long the event loop may be blocked before the process exits with code 70, so that a supervisor restarts "
        "it; with 0, it never does.",
    )
    interrupt_signal: int | str | None = option(
        _TIME,
        INTERRUPT_SIGNAL,
        signal_number(),
        "By which a handler that never waits is interrupted; off lets it go on. Default: SIGRTMIN+12.",
    )
    routes: Sequence[Route] = option(
        _ROUTES,
        (),
        route_list(),
        "Settings for some paths only; of those that match, the first counts. Default: none.",
    )
    max_connections: int = option(
        _CLIENTS,
        10_000,
        integer(1),
        "Client connections at the same time, as far as the limit of open files allows; one more is answered 503 and "
        "closed.",
    )
    max_target_bytes: int = option(_CLIENTS, 8190, integer(1), "Of a request's target (path and query); beyond it 414.")
    max_headers: int = option(_CLIENTS, 100, integer(1), "Header fields of a request; beyond it 431.")
    max_header_bytes: int = option(
        _CLIENTS, 32 * 1024, integer(1), "Of a request's header fields together; beyond it 431."
    )
    max_body_bytes: int = option(_CLIENTS, 1024**3, integer(0), "Of a request's body; beyond it 413.")
    header_timeout_seconds: float = option(
        _CLIENTS,
        20.0,
        seconds(positive=True),
        "For the head of a request, from its first byte or a connection's beginning; then 408.",
    )
    body_timeout_seconds: float = option(
        _CLIENTS,
        30.0,
        seconds(positive=True),
        "Without a byte of a request's body, or with less than 240 a second; then 408.",
    )
    write_timeout_seconds: float = option(
        _CLIENTS,
        60.0,
        seconds(positive=True),
        "Without a byte of an answer taken by the client, or with less than 240 a second; then the connection is cut.",
    )
    cancel_on_disconnect: bool = option(
        _CLIENTS,
        False,
        switch(),
        "End a request whose client has left. Over TCP a client that has only finished sending looks the same, and "
        "counts as one that has left.",
    )
    trusted_proxies: Sequence[str] = option(
        _PROXIES,
        (),
        peers(),
        "Peers whose X-Forwarded-* or Forwarded is believed; unix is every peer on a unix socket. Default: nobody.",
    )
    priority_header: str | None = option(
        _PROXIES,
        None,
        header(),
        "Header field in which a trusted proxy sets the class of a request. The proxy must set or remove it in every "
        "request, or clients choose their class themselves. Default: none.",
    )
    proxy_protocol: bool = option(
        _PROXIES, False, switch(), "Every connection from a trusted proxy must begin with a PROXY header."
    )
    root_path: str | None = option(
        _PROXIES,
        None,
        path_prefix(),
        "Path below which the proxy has the application, and which it does not take off: it becomes SCRIPT_NAME, and "
        "the rest PATH_INFO. Default: none.",
    )
    db_init_func: Callable[[int], Any] | None = option(
        _SESSIONS,
        None,
        function(),
        "Opens a database session: called with the worker's id, once per slot, on first use. Or a SessionSource.",
    )
    db_reset_func: Callable[[Any], object] | None = option(
        _SESSIONS,
        None,
        function(),
        "Makes a session ready for the next request. Default: its rollback(), if it has one.",
    )
    db_close_func: Callable[[Any], object] | None = option(
        _SESSIONS, None, function(), "Closes a session for good. Default: its close(), if it has one."
    )
    session_check: bool = option(
        _SESSIONS,
        True,
        switch(),
        "Ask the SessionSource whether a session is still good before its first use in a request.",
    )
    session_max_age_seconds: float | None = option(
        _SESSIONS,
        None,
        seconds(positive=True),
        "How long a session is used before it is closed and another is opened. Default: for ever.",
    )
    session_max_idle_seconds: float | None = option(
        _SESSIONS, None, seconds(positive=True), "How long a session is kept without being used. Default: for ever."
    )
    integrations: bool = option(
        _SESSIONS,
        True,
        switch(),
        "With serve: find Django, SQLAlchemy, psycopg, psycopg2 and PyMySQL in the application, and end what an "
        "interrupted request was doing with them on the server. A program calls protect() instead.",
    )
    enable_logging: bool = option(_LOG, False, switch(), "Log one line for every request.")
    log_format: str = option(_LOG, "text", choice("text", "json"), "How those lines are written.")
    on_ended: Callable[[dict[str, Any], str, str, Any], object] | None = option(
        _MONITORING,
        None,
        function(),
        "Called for each request that was ended before its time, with its environ, outcome, reason and stack.",
    )

    def __post_init__(self) -> None:
        """Check every field, then the fields that limit each other."""
        check_fields(self)
        if self.min_workers is not None and self.min_workers > self.max_workers:
            raise OptionError(
                f"min_workers: {self.min_workers} is not allowed; "
                f"it must be at most max_workers, which is {self.max_workers}"
            )
        if isinstance(self.db_init_func, SessionSource):
            for name in ("db_reset_func", "db_close_func"):
                if getattr(self, name) is not None:
                    raise OptionError(f"{name}: not allowed beside {self.db_init_func!r}, which does that itself")
        if isinstance(self.db_init_func, type) and issubclass(self.db_init_func, SessionSource):
            name = self.db_init_func.__name__
            raise OptionError(f"db_init_func: {name} is not allowed as a class; make one of it, {name}(...)")
        for name in ("proxy_protocol", "priority_header"):
            if (value := getattr(self, name)) and not self.trusted_proxies:
                raise OptionError(
                    f"{name}: {value!r} is not allowed alone; trusted_proxies must name who sends the header"
                )

    @property
    def first_workers(self) -> int:
        """How many workers a balancer starts with and never goes below."""
        if self.min_workers is not None:
            return self.min_workers
        return min(self.worker_group_size, self.max_workers)

    @property
    def interrupt_number(self) -> int | None:
        """The number of `interrupt_signal`, as which its name is kept; None if it is off."""
        return self.interrupt_signal if isinstance(self.interrupt_signal, int) else None

    @property
    def deadline_seconds(self) -> float:
        """The deadline of a request that is given no other, in seconds from its arrival."""
        if self.request_timeout_seconds is not None:
            return self.request_timeout_seconds
        return max(_DEADLINE_SECONDS, self.graceful_timeout_seconds)

    @property
    def stream_idle_seconds(self) -> float:
        """How long a streamed response that is given no other limit may be silent, in seconds; infinity if for ever."""
        return self.stream_idle_for(self.deadline_seconds)

    def stream_idle_for(self, timeout: float) -> float:
        """Return the same where the deadline of a request is `timeout` seconds."""
        if self.stream_idle_timeout_seconds is not None:
            return self.stream_idle_timeout_seconds
        return max(_STREAM_IDLE_SECONDS, timeout)


def declarations() -> tuple[Declaration, ...]:
    """Every setting, in the order of declaration."""
    return declarations_in(Options)
