"""Computes how long a request may take, from its route's options and from the header fields of an upstream proxy.

The caller checks that the proxy is trusted. A proxy can report two times:

- How long the proxy will still wait. `X-Envoy-Expected-Rq-Timeout-Ms` is a whole number of milliseconds. Envoy's router
  filter sends no value below 1, because 0 means no timeout in Envoy. `grpc-timeout` is at most eight digits followed by
  one of H, M, S, m, u, n (gRPC over HTTP/2; a sender sends 0n when its deadline has passed).
- When the proxy received the request. `X-Request-Start` or `X-Queue-Start` is a Unix time, with or without `t=`. nginx
  writes seconds with a fraction, Heroku and others write milliseconds, and Apache writes microseconds (examples in New
  Relic's documentation of request queueing).

Both times can only make the deadline earlier. The deadline is never later than the end of the proxy's timeout, and the
request's timeout includes the time that the request has spent in the proxy. If a field occurs more than once, the last
value applies, because the nearest proxy has set it. Malformed values are ignored.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from ..config.options import Options
from ..config.route import Route

__all__ = ["OLDEST_START_SECONDS", "ProxyTiming", "TimeLimits", "handed_on", "proxy_timing", "time_limits"]

OLDEST_START_SECONDS: Final = 300.0
"""Longest credible wait in a proxy, in seconds; proxies time out much earlier, so a longer wait means that a clock is
wrong."""

_EXPECTED: Final = "HTTP_X_ENVOY_EXPECTED_RQ_TIMEOUT_MS"
_GRPC: Final = "HTTP_GRPC_TIMEOUT"
_STARTS: Final = ("HTTP_X_REQUEST_START", "HTTP_X_QUEUE_START")

_IS_MILLISECONDS: Final = re.compile(r"[0-9]{1,15}").fullmatch
_GRPC_TIMEOUT: Final = re.compile(r"([0-9]{1,8})([HMSmun])").fullmatch
_GRPC_UNITS: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_START: Final = re.compile(r"(?:t=)?([0-9]{1,20}(?:\.[0-9]{0,9})?)").fullmatch
_START_UNITS: Final = (1.0, 1e3, 1e6, 1e9)

_MOST_GRPC_DIGITS: Final = 99_999_999


# Limits from the options.


class TimeLimits(NamedTuple):
    """The time limits for the requests of a route, in seconds."""

    timeout: float
    """Time from a request's arrival to its deadline."""
    longest: float
    """Time from a request's arrival to the latest deadline that its handler can set; at least `timeout`."""
    stream: float | None
    """Longest time from the first chunk of a streamed response to its end; None if unlimited."""
    idle: float
    """Longest time between two chunks of a streamed response; infinity if unlimited."""


def time_limits(options: Options, route: Route | None = None) -> TimeLimits:
    """Return the limits for a route or, if `route` is None, the limits for all paths without a route.

    If the timeout is above `max_request_timeout_seconds`, `longest` equals the timeout.
    """
    timeout = options.deadline_seconds if route is None else route.request_timeout_seconds or options.deadline_seconds
    stream = None if route is None else route.stream_timeout_seconds
    idle = None if route is None else route.stream_idle_timeout_seconds
    return TimeLimits(
        timeout=timeout,
        longest=max(timeout, options.max_request_timeout_seconds),
        stream=options.stream_timeout_seconds if stream is None else stream,
        idle=options.stream_idle_for(timeout) if idle is None else idle,
    )


# Times from a trusted proxy.


class ProxyTiming(NamedTuple):
    """The times that an upstream proxy reports for a request, in seconds."""

    left: float = math.inf
    """Time for which the proxy will still wait."""
    waited: float = 0.0
    """Time since the proxy received the request."""

    def seen_earlier(self, seconds: float) -> ProxyTiming:
        """Return the times as they were `seconds` earlier, when the request reached this server."""
        return ProxyTiming(self.left, max(0.0, self.waited - seconds))


def proxy_timing(environ: Mapping[str, Any], wall_now: float) -> ProxyTiming | None:
    """Return the times that a trusted proxy has set in header fields; None if it has set no valid time.

    `wall_now` is the current Unix time in seconds. A start time is ignored if it is in the future, or more than
    `OLDEST_START_SECONDS` ago.
    """
    timing = ProxyTiming(
        left=min(_expected(_last(environ, _EXPECTED)), _grpc_timeout(_last(environ, _GRPC))),
        waited=max(_waited(_last(environ, name), wall_now) for name in _STARTS),
    )
    return None if timing == _NOTHING else timing


_NOTHING: Final = ProxyTiming()


def _last(environ: Mapping[str, Any], name: str) -> str:
    value: str = environ.get(name, "")
    return value.rpartition(",")[2].strip(" \t")


def _expected(text: str) -> float:
    milliseconds = int(text) if _IS_MILLISECONDS(text) else 0
    return milliseconds / 1000 if milliseconds else math.inf


def _grpc_timeout(text: str) -> float:
    match = _GRPC_TIMEOUT(text)
    return int(match[1]) * _GRPC_UNITS[match[2]] if match else math.inf


def _waited(text: str, wall_now: float) -> float:
    """Return how many seconds ago a start time was; 0 if the start time is not credible.

    The text does not state its unit. Therefore, this function tries seconds, milliseconds, microseconds and
    nanoseconds, and uses the first unit with which the start time is credible.
    """
    match = _START(text)
    waits = _in_every_unit(float(match[1]), wall_now) if match else ()
    return next((waited for waited in waits if 0.0 <= waited <= OLDEST_START_SECONDS), 0.0)


def _in_every_unit(start: float, wall_now: float) -> Iterable[float]:
    return (wall_now - start / unit for unit in _START_UNITS)


# Header fields for downstream servers.


def handed_on(left: float) -> dict[str, str]:
    """Return the header fields that pass the remaining time, at least one millisecond, to the next server.

    `left` is in seconds. gRPC allows eight digits, which suffice for 27 hours in milliseconds; a longer time is sent in
    hours.
    """
    milliseconds = max(1, math.floor(left * 1000))
    grpc = f"{milliseconds}m" if milliseconds <= _MOST_GRPC_DIGITS else f"{milliseconds // 3_600_000}H"
    return {"X-Envoy-Expected-Rq-Timeout-Ms": str(milliseconds), "grpc-timeout": grpc}
