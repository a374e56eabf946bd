"""Metrics of client connections: their number by state, the causes of their ends, and the transferred bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

from .metric import Metric
from .source import Labelled, Source

__all__ = ["CONNECTIONS"]

_CONNECTION_STATES: Final = ("answering", "sending", "reading", "idle")
_END_CAUSES: Final = (
    *("keep_alive", "header_timeout", "body_timeout", "write_timeout", "linger", "limit", "shutdown", "upgraded"),
    *("tls", "bug", "other"),
)
_CODES: Final = ("400", "408", "413", "414", "417", "431", "501", "505", "507")


def _connections(source: Source) -> Labelled:
    # Do not inspect each connection: with 10,000 connections, this would take 30 ms of the event loop's time.
    servers = source.servers
    left = sum(len(server.connections) for server in servers)
    states = {
        "answering": sum(lane.pool.load for lane in source.lanes),
        "sending": sum(len(server.shared.sending) for server in servers),
        "reading": sum(server.shared.count_reading() for server in servers),
    }
    for state, count in states.items():
        counted = min(left, count)
        left -= counted
        yield (state,), counted
    yield ("idle",), left


def _connection_ends(source: Source) -> Labelled:
    stats = source.balancer.intake.context.connections
    for cause, count in stats.ends.items():
        yield (cause,), count
    yield ("other",), stats.closed - sum(stats.ends.values())


def _moves(name: str) -> Callable[[Source], Labelled]:
    def read(source: Source) -> Labelled:
        counts: Counter[str] = getattr(source.balancer.intake.context.moves, name)
        for value, count in counts.items():
            yield (value,), count

    return read


def _invalid(source: Source) -> Labelled:
    for code, count in source.balancer.intake.context.connections.invalid.items():
        yield (code,), count


def _unsent(source: Source) -> Labelled:
    budgets = [server.shared.budget for server in source.servers]
    yield ("memory",), sum(budget.in_memory for budget in budgets)
    yield ("file",), sum(budget.in_files for budget in budgets)


CONNECTIONS: Final = (
    Metric(
        name="intralb_connections",
        kind="gauge",
        help="Number of open client connections, by state: answering (a request is queued or running), sending "
        "(response bytes are unsent), reading (a request is arriving), or idle",
        labels=("state",),
        values={"state": _CONNECTION_STATES},
        read=_connections,
    ),
    Metric(
        name="intralb_connections_max",
        kind="gauge",
        help="Maximum number of client connections",
        read=lambda source: [((), source.balancer.options.max_connections * len(source.servers))],
    ),
    Metric(
        name="intralb_connections_accepted_total",
        kind="counter",
        help="Client connections that were accepted",
        read=lambda source: [((), source.balancer.intake.context.connections.accepted)],
    ),
    Metric(
        name="intralb_connections_closed_total",
        kind="counter",
        help="Client connections that were closed, by cause; the cause `tls` is a failed TLS handshake, and `other` "
        "means that the client closed the connection, or that a last response ended it",
        labels=("cause",),
        values={"cause": _END_CAUSES},
        read=_connection_ends,
    ),
    Metric(
        name="intralb_connections_moved_total",
        kind="counter",
        help="Client connections that have moved to another process, either idle or with a waiting request",
        labels=("kind",),
        values={"kind": ("idle", "request")},
        read=_moves("moved"),
    ),
    Metric(
        name="intralb_connections_returned_total",
        kind="counter",
        help="Failed attempts to move a client connection to another process, by reason",
        labels=("reason",),
        read=_moves("returned"),
    ),
    Metric(
        name="intralb_connections_not_moved_total",
        kind="counter",
        help="Client connections that a draining process closed because they could not move, by reason",
        labels=("reason",),
        read=_moves("not_moved"),
    ),
    Metric(
        name="intralb_invalid_requests_total",
        kind="counter",
        help="Requests that were rejected because they were malformed, too large or too slow, by status code",
        labels=("code",),
        values={"code": _CODES},
        read=_invalid,
    ),
    Metric(
        name="intralb_received_bytes_total",
        kind="counter",
        help="Bytes received from clients",
        read=lambda source: [((), source.balancer.intake.context.connections.received_bytes)],
    ),
    Metric(
        name="intralb_sent_bytes_total",
        kind="counter",
        help="Bytes of responses that the kernel has accepted",
        read=lambda source: [((), source.balancer.intake.context.connections.sent_bytes)],
    ),
    Metric(
        name="intralb_unsent_bytes",
        kind="gauge",
        help="Number of unsent response bytes, which wait for slow clients in memory or in temporary files",
        labels=("place",),
        values={"place": ("memory", "file")},
        read=_unsent,
    ),
)
