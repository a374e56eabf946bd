"""Decide when a process has run long enough and must be replaced by a new one.

Each process has its own limits on requests and seconds, which are lowered by a random share. Otherwise, processes that
started at the same time would be replaced at the same time.
"""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["JITTER", "RSS_SAMPLES", "Limits", "Use", "limits_with", "reason_to_replace"]

JITTER: Final = 0.2
"""Maximum share by which a limit is lowered."""

RSS_SAMPLES: Final = 2
"""Number of consecutive samples above the memory limit after which a process is replaced, so that a brief peak has no
effect."""


class Limits(NamedTuple):
    """The limits for one process; None means no limit."""

    requests: float | None = None
    seconds: float | None = None
    rss: int | None = None


class Use(NamedTuple):
    """The resources that one process has used."""

    requests: int = 0
    seconds: float = 0.0
    """Seconds since the process became ready."""
    rss_samples_above: int = 0
    """Number of consecutive samples, up to the latest one, in which the memory of the process was above the limit."""


def limits_with(limits: Limits, share: float) -> Limits:
    """Return the limits for one process, with the limits on requests and seconds lowered by `JITTER * share`.

    `share` is a random number from 0 to 1.
    """
    left = 1 - JITTER * share
    requests, seconds, rss = limits
    return Limits(requests and requests * left, seconds and seconds * left, rss)


def reason_to_replace(use: Use, limits: Limits) -> str | None:
    """Return which limit a process has reached: requests, seconds or rss; None if it has reached none."""
    if limits.requests is not None and use.requests >= limits.requests:
        return "requests"
    if limits.seconds is not None and use.seconds >= limits.seconds:
        return "seconds"
    if limits.rss is not None and use.rss_samples_above >= RSS_SAMPLES:
        return "rss"
    return None
