"""How long a request may take: by its route, by what its handler asks for, and by what a proxy in front tells.

Decides from the options, the clock's times and header values that come in. It must not know whether a peer is trusted,
what a job is, or what happens to one that is late.

A proxy tells two things. How long it goes on waiting: `X-Envoy-Expected-Rq-Timeout-Ms`, a whole number of
milliseconds (Envoy's router filter; it sets none below 1, and to it 0 means no timeout), and `grpc-timeout`, at most
eight digits and one of H, M, S, m, u, n (gRPC over HTTP/2; a sender whose time is over writes 0n). And when the request
came to it: `X-Request-Start` or `X-Queue-Start`, a Unix time, with or without `t=`: nginx writes seconds with a
fraction, Heroku and others milliseconds, Apache microseconds (New Relic's examples of request queueing).

Both can only make a deadline earlier: by the first it cannot be later than the proxy waits, by the second the time
spent in front counts as the request's own. Of a field that came more than once the last value counts, which the nearest
proxy has set. What is malformed is as if it were not there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from ..options import Options
from ..route import Route

__all__ = ["OLDEST_START_SECONDS", "TimeLimits", "TimeTold", "handed_on", "time_limits", "time_told"]

OLDEST_START_SECONDS: Final = 300.0
"""A request that has waited longer in front than this is taken for a wrong clock: proxies give up much earlier."""

_EXPECTED: Final = "HTTP_X_ENVOY_EXPECTED_RQ_TIMEOUT_MS"
_GRPC: Final = "HTTP_GRPC_TIMEOUT"
_STARTS: Final = ("HTTP_X_REQUEST_START", "HTTP_X_QUEUE_START")

_IS_MILLISECONDS: Final = re.compile(r"[0-9]{1,15}").fullmatch
_GRPC_TIMEOUT: Final = re.compile(r"([0-9]{1,8})([HMSmun])").fullmatch
_GRPC_UNITS: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_START: Final = re.compile(r"(?:t=)?([0-9]{1,20}(?:\.[0-9]{0,9})?)").fullmatch
_START_UNITS: Final = (1.0, 1e3, 1e6, 1e9)

_MOST_GRPC_DIGITS: Final = 99_999_999


# What the options say.


class TimeLimits(NamedTuple):
    """What holds for the requests of a route, in seconds."""

    timeout: float
    """From its arrival to its deadline."""
    longest: float
    """From its arrival to the latest deadline that its handler can ask for; at least `timeout`."""
    stream: float | None
    """From the first part of a streamed response to its end at the latest; None if it has no such end."""
    idle: float
    """From one part of a streamed response to the next; infinity if its handler may be silent for ever."""


def time_limits(options: Options, route: Route | None = None) -> TimeLimits:
    """Return the limits for a route, or for all other paths.

    A timeout above `max_request_timeout_seconds` raises its own maximum.
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


# What a trusted proxy says.


class TimeTold(NamedTuple):
    """What a proxy in front tells of a request's time, in seconds."""

    left: float = math.inf
    """How long it goes on waiting."""
    waited: float = 0.0
    """How long ago the request came to it."""

    def seen_earlier(self, seconds: float) -> TimeTold:
        """Return what it had told so many seconds before."""
        return TimeTold(self.left, max(0.0, self.waited - seconds))


def time_told(environ: Mapping[str, Any], wall_now: float) -> TimeTold | None:
    """Return what the header fields of a trusted peer tell, or None if that is nothing.

    `wall_now` is Unix time in seconds. A start in the future, or more than `OLDEST_START_SECONDS` ago, is not believed.
    """
    told = TimeTold(
        left=min(_expected(_last(environ, _EXPECTED)), _grpc_timeout(_last(environ, _GRPC))),
        waited=max(_waited(_last(environ, name), wall_now) for name in _STARTS),
    )
    return None if told == _NOTHING else told


_NOTHING: Final = TimeTold()


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
    """Return how long ago a start was; its unit is the one by which it lies in the last minutes."""
    match = _START(text)
    waits = _in_every_unit(float(match[1]), wall_now) if match else ()
    return next((waited for waited in waits if 0.0 <= waited <= OLDEST_START_SECONDS), 0.0)


def _in_every_unit(start: float, wall_now: float) -> Iterable[float]:
    return (wall_now - start / unit for unit in _START_UNITS)


# What is handed on.


def handed_on(left: float) -> dict[str, str]:
    """Return the header fields that tell the next server how many seconds are left; at least a millisecond is.

    gRPC counts milliseconds in eight digits, which is 27 hours; what is more is told in hours.
    """
    milliseconds = max(1, math.floor(left * 1000))
    grpc = f"{milliseconds}m" if milliseconds <= _MOST_GRPC_DIGITS else f"{milliseconds // 3_600_000}H"
    return {"X-Envoy-Expected-Rq-Timeout-Ms": str(milliseconds), "grpc-timeout": grpc}
