"""The settings of a balancer, each declared once.

A declaration contains a setting's name, default, kind (with its limits) and help text. `Options` checks each value
against the declaration. From each declaration, `sources.py` derives the flag, the environment variable, the TOML key
and the row in docs/reference/settings.md.
"""

# ruff: noqa: RUF009  # calls in the class body declare fields; they are not shared defaults

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import OptionError
from ..sessionsource import SessionSource
from .fields import Declaration, check_fields, declarations_in, described, option
from .kinds import (
    MOST_BYTES,
    choice,
    client_key,
    function,
    header,
    integer,
    limiter,
    path_prefix,
    peers,
    seconds,
    switch,
    wait,
)
from .route import Route, route_list
from .signals import INTERRUPT_SIGNAL, signal_number

__all__ = ["Declaration", "Options", "declarations"]

_POOL, _TIME, _SESSIONS, _LOG = "Workers and queues", "Time limits", "Database sessions", "Logs"
_DEADLINE_SECONDS = 30.0
"""Default deadline in seconds. The value equals gunicorn's default worker timeout, so that requests that are fast
enough for gunicorn are also fast enough for this server."""
_STREAM_IDLE_SECONDS = 60.0
"""Default idle limit of a stream in seconds, equal to nginx's `proxy_read_timeout`."""
_CLIENTS, _PROXIES, _ROUTES, _MONITORING = "Clients", "Proxies", "Routes", "Monitoring"


@dataclass(frozen=True, kw_only=True)
class Options:
    """The settings of one balancer; they are immutable, keyword-only, and checked at construction.

    Durations are floats, in seconds. An invalid value raises `OptionError`, which names the field, the value and what
    is allowed. A setting that also exists in the Go library IntraLB has the same name and default there.
    """

    max_concurrent_per_router: int = option(
        _POOL, 100, integer(1), "Slots of a worker: the maximum number of requests that a worker runs at the same time."
    )
    queue_size: int = option(
        _POOL, 100, integer(0), "Maximum number of requests in a worker's queue; with 0, no request is queued."
    )
    max_workers: int = option(_POOL, 10, integer(1), "Maximum number of workers.")
    min_workers: int | None = option(
        _POOL,
        None,
        integer(1),
        "Minimum number of workers, which is also the number at the start. Default: worker_group_size, or max_workers "
        "if that is lower.",
    )
    worker_group_size: int = option(
        _POOL,
        3,
        integer(1),
        "Minimum number of workers that the pool adds at a time while some slots are free. While all slots are busy, "
        "the pool adds as many workers as it needs, but at most doubles their number. Workers are removed one by one.",
    )
    worker_quiet_seconds: float = option(
        _POOL,
        30.0,
        seconds(positive=True),
        "Time for which less than a quarter of the slots must be busy before a worker is removed; each further worker "
        "is removed after another third of this time. Whenever the pool grows again soon after it has shrunk, the time "
        "is doubled, up to eight times this value.",
    )
    limiter: str | Callable[[int], Any] = option(
        _POOL,
        "hub_lag",
        limiter("hub_lag", "fixed"),
        "Concurrency limiter. While the event loop is late, hub_lag lets fewer requests run than there are slots. With "
        "fixed, a request may always run in each slot. A function receives the number of slots and returns a Limiter.",
    )
    client_key: str | Callable[[dict[str, Any]], Any] = option(
        _POOL,
        "address",
        client_key(),
        "Key that identifies a client: address, a header field, off, or a function of the environ. Under overload, "
        "fair queueing limits each client to its share.",
    )
    priority_func: Callable[[dict[str, Any]], Any] | None = option(
        _POOL,
        None,
        function(),
        "Function that receives the environ and returns the request's priority, or None for the priority of its route. "
        "The function is called in the event loop, so it must not wait.",
    )
    max_streams: int | None = option(
        _POOL,
        None,
        integer(1),
        "Maximum number of simultaneous streamed responses. Default: three quarters of the slots of max_workers "
        "workers.",
    )
    max_upgraded: int | None = option(
        _POOL,
        1000,
        integer(1),
        "Maximum number of connections that applications have taken over, such as WebSockets; a further upgrade "
        "request is answered 503. The default equals the connection limit of a gunicorn -k gevent worker.",
    )
    request_timeout_seconds: float | None = option(
        _TIME,
        None,
        seconds(positive=True),
        "Time from a request's arrival to its deadline, including its time in the queue. Of a streamed response, only "
        "the first chunk must be sent before the deadline. Default: the higher of 30 and graceful_timeout_seconds.",
    )
    max_request_timeout_seconds: float = option(
        _TIME,
        600.0,
        seconds(positive=True),
        "Latest deadline that a handler can set with extend_deadline, counted from the request's arrival. A request "
        "timeout that is longer raises this limit.",
    )
    stream_timeout_seconds: float | None = option(
        _TIME,
        None,
        seconds(positive=True),
        "Time limit of a streamed response, counted from its first chunk. Default: none.",
    )
    stream_idle_timeout_seconds: float | None = option(
        _TIME,
        None,
        wait(positive=True),
        "Maximum time between two chunks from a streamed response's handler, excluding the time for which the handler "
        "waits for a slow client. Default: the higher of 60 and request_timeout_seconds.",
    )
    max_wait_seconds: float = option(
        _TIME,
        2.0,
        wait(),
        "Maximum wait in the queue. A request that would wait longer is rejected, and the queue is kept short until "
        "the overload ends. With 0, the queue is always kept short; with off, no request is rejected because of its "
        "wait.",
    )
    graceful_timeout_seconds: float = option(
        _TIME,
        5.0,
        seconds(positive=True),
        "Time for which running requests may continue during a shutdown before they are aborted.",
    )
    drain_delay_seconds: float = option(
        _TIME,
        0.0,
        seconds(positive=False),
        "Time for which a shutdown still accepts requests while the readiness probe already fails, so that a proxy "
        "stops sending requests before the server rejects them.",
    )
    keep_alive_seconds: float = option(
        _TIME,
        75.0,
        seconds(positive=True),
        "Time for which an idle client connection stays open. Keep this time above the proxy's own idle timeout.",
    )
    cleanup_seconds: float = option(
        _TIME,
        1.0,
        seconds(positive=True),
        "Time for which an aborted handler may run its clean-up (finally blocks, __exit__) before it is aborted again.",
    )
    block_timeout_seconds: float = option(
        _TIME,
        60.0,
        seconds(positive=False),
        "Time for which the event loop may be blocked before the process exits with code 70, so that a supervisor "
        "restarts it. With 0, a blocked event loop never ends the process.",
    )
    interrupt_signal: int | str | None = option(
        _TIME,
        INTERRUPT_SIGNAL,
        signal_number(),
        "Signal that interrupts a CPU-bound handler at its deadline; with off, such a handler is not interrupted. "
        "Default: SIGRTMIN+12.",
    )
    routes: Sequence[Route] = option(
        _ROUTES,
        (),
        route_list(),
        "Settings for certain paths; the first route that matches a request's path applies. Default: none.",
    )
    max_connections: int = option(
        _CLIENTS,
        10_000,
        integer(1),
        "Maximum number of client connections; the process's limit of open files may lower this maximum. A further "
        "connection is answered 503 and closed.",
    )
    max_target_bytes: int = option(
        _CLIENTS,
        8190,
        integer(1, MOST_BYTES),
        "Maximum size of a request target (path and query) in bytes; a longer target is answered 414.",
    )
    max_headers: int = option(
        _CLIENTS, 100, integer(1), "Maximum number of header fields in a request; a request with more is answered 431."
    )
    max_header_bytes: int = option(
        _CLIENTS,
        32 * 1024,
        integer(1, MOST_BYTES),
        "Maximum total size of a request's header fields in bytes; a request with larger fields is answered 431.",
    )
    max_body_bytes: int = option(
        _CLIENTS,
        1024**3,
        integer(0, MOST_BYTES),
        "Maximum size of a request body in bytes; a larger body is answered 413.",
    )
    header_timeout_seconds: float = option(
        _CLIENTS,
        20.0,
        seconds(positive=True),
        "Maximum time to receive a request's head, counted from its first byte; then the request is answered 408. A "
        "new connection must also send its first byte within this time.",
    )
    body_timeout_seconds: float = option(
        _CLIENTS,
        30.0,
        seconds(positive=True),
        "Maximum time for which a client may send nothing of a request's body, or less than 240 bytes per second; then "
        "the request is answered 408.",
    )
    write_timeout_seconds: float = option(
        _CLIENTS,
        60.0,
        seconds(positive=True),
        "Maximum time for which a client may read nothing of a response, or less than 240 bytes per second; then the "
        "connection is closed.",
    )
    cancel_on_disconnect: bool = option(
        _CLIENTS,
        False,
        switch(),
        "Abort a request when its client disconnects. A TCP client that has only shut down its sending side counts as "
        "disconnected, too, because the server cannot tell the difference.",
    )
    trusted_proxies: Sequence[str] = option(
        _PROXIES,
        (),
        peers(),
        "Peers whose X-Forwarded-* and Forwarded headers are trusted; unix means every peer on a unix socket. "
        "Default: none.",
    )
    priority_header: str | None = option(
        _PROXIES,
        None,
        header(),
        "Header field in which a trusted proxy sets the priority of a request. The proxy must set or remove this field "
        "in every request; otherwise, clients could choose their own priority. Default: none.",
    )
    proxy_protocol: bool = option(
        _PROXIES, False, switch(), "Require a PROXY header at the start of every connection from a trusted proxy."
    )
    root_path: str | None = option(
        _PROXIES,
        None,
        path_prefix(),
        "Path prefix under which a proxy serves the application without stripping it from the path. The prefix becomes "
        "SCRIPT_NAME, and the rest of the path becomes PATH_INFO. Default: none.",
    )
    db_init_func: Callable[[int], Any] | None = option(
        _SESSIONS,
        None,
        function(),
        "Function that opens a database session, or a SessionSource. Each slot calls the function with its worker's id "
        "when the slot first needs a session.",
    )
    db_reset_func: Callable[[Any], object] | None = option(
        _SESSIONS,
        None,
        function(),
        "Function that makes a session ready for the next request. Default: the session's rollback(), if it has one.",
    )
    db_close_func: Callable[[Any], object] | None = option(
        _SESSIONS, None, function(), "Function that closes a session. Default: the session's close(), if it has one."
    )
    session_check: bool = option(
        _SESSIONS,
        True,
        switch(),
        "Before a request first uses a session, check with the SessionSource that the session is still usable.",
    )
    session_max_age_seconds: float | None = option(
        _SESSIONS,
        None,
        seconds(positive=True),
        "Maximum age of a session; an older session is closed and replaced. Default: unlimited.",
    )
    session_max_idle_seconds: float | None = option(
        _SESSIONS,
        None,
        seconds(positive=True),
        "Maximum time for which an unused session stays open. Default: unlimited.",
    )
    integrations: bool = option(
        _SESSIONS,
        True,
        switch(),
        "Protect Django, SQLAlchemy, psycopg, psycopg2 and PyMySQL if the application uses them: when a request is "
        "aborted, its statement is cancelled on the database server. This setting applies to serve; a program calls "
        "protect() instead.",
    )
    enable_logging: bool = option(_LOG, False, switch(), "Log one line for every request.")
    log_format: str = option(
        _LOG,
        "text",
        choice("text", "json", "combined"),
        "Format of the log: text; json, one object for each record; or combined, which writes requests in the Combined "
        "Log Format, and other records as text.",
    )
    on_ended: Callable[[dict[str, Any], str, str, Any], object] | None = option(
        _MONITORING,
        None,
        function(),
        "Function that is called for each request that was ended early, with its environ, outcome, reason and stack.",
    )
    orca: bool = option(
        _MONITORING,
        False,
        switch(),
        "Report the load of this server in each response, in the header endpoint-load-metrics (ORCA), from which Envoy "
        "computes the weights of its endpoints. Clients see this header unless the proxy removes it.",
    )

    def __post_init__(self) -> None:
        """Check each field on its own, and then the fields that depend on each other."""
        check_fields(self)
        if self.min_workers is not None and self.min_workers > self.max_workers:
            raise OptionError(
                f"min_workers: {self.min_workers} is not allowed; "
                f"it must be at most max_workers, which is {self.max_workers}"
            )
        if isinstance(self.db_init_func, SessionSource):
            for name in ("db_reset_func", "db_close_func"):
                if getattr(self, name) is not None:
                    raise OptionError(
                        f"{name}: not allowed beside {self.db_init_func!r}, which resets and closes its sessions itself"
                    )
        if isinstance(self.db_init_func, type) and issubclass(self.db_init_func, SessionSource):
            name = self.db_init_func.__name__
            raise OptionError(f"db_init_func: {name} is not allowed as a class; pass an instance, {name}(...)")
        for name in ("proxy_protocol", "priority_header"):
            if (value := getattr(self, name)) and not self.trusted_proxies:
                raise OptionError(
                    f"{name}: {value!r} is not allowed alone; trusted_proxies must name the senders of the header"
                )

    @property
    def first_workers(self) -> int:
        """Number of workers at the start, which is also the minimum."""
        if self.min_workers is not None:
            return self.min_workers
        return min(self.worker_group_size, self.max_workers)

    @property
    def interrupt_number(self) -> int | None:
        """The signal number of `interrupt_signal`; None if it is off."""
        return self.interrupt_signal if isinstance(self.interrupt_signal, int) else None

    @property
    def deadline_seconds(self) -> float:
        """Seconds from a request's arrival to its deadline, unless a route, a proxy or the handler sets another
        deadline."""
        if self.request_timeout_seconds is not None:
            return self.request_timeout_seconds
        return max(_DEADLINE_SECONDS, self.graceful_timeout_seconds)

    @property
    def stream_idle_seconds(self) -> float:
        """Maximum seconds between two chunks of a streamed response, unless its route sets another limit.

        Infinity means no limit.
        """
        return self.stream_idle_for(self.deadline_seconds)

    def stream_idle_for(self, timeout: float) -> float:
        """Return the idle limit, in seconds, of streams with a request timeout of `timeout` seconds."""
        if self.stream_idle_timeout_seconds is not None:
            return self.stream_idle_timeout_seconds
        return max(_STREAM_IDLE_SECONDS, timeout)


Options.__doc__ = described(Options)


def declarations() -> tuple[Declaration, ...]:
    """Return the declarations of the settings of a balancer, in their order in the class."""
    return declarations_in(Options)
