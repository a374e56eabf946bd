"""Apply the hints of a trusted proxy about a request.

A trusted proxy reports its client (X-Forwarded-* or Forwarded), and the id, the priority and the timing of the request.
"""

from __future__ import annotations

from typing import Any

from ...policy.deadline import proxy_timing
from ...pool.requestid import take_request_id
from ...priority import PRIORITIES
from .forwarded import forwarded, remove_claims
from .trusted import TrustedNetworks

__all__ = ["apply_proxy_hints", "apply_timing_again"]

_TIMING = "intralb.proxy_timing"


def apply_proxy_hints(
    environ: dict[str, Any], peer: str, trusted: TrustedNetworks, now: float, priority_key: str | None = None
) -> None:
    """Apply the hints of a trusted peer to the environ; remove the forwarding fields of any other peer.

    Without trusted proxies, the environ is unchanged. `now` is Unix time in seconds. `priority_key` is the environ key
    of the field in which a proxy sets the priority. Never raises: an invalid value is ignored.
    """
    if peer not in trusted:
        if trusted:
            remove_claims(environ)
        return
    take_request_id(environ)
    priority = None if priority_key is None else environ.get(priority_key)
    if priority in PRIORITIES:
        environ["intralb.priority"] = priority
    timing = proxy_timing(environ, now)
    if timing is not None:
        environ[_TIMING] = timing
    forwarded(environ, trusted)


def apply_timing_again(environ: dict[str, Any], now: float) -> None:
    """Update the proxy's timing of a request after the request's body has arrived."""
    if _TIMING in environ:
        environ[_TIMING] = proxy_timing(environ, now) or environ[_TIMING]
