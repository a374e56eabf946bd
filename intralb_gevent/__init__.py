"""IntraLB for gevent: an intra-process load balancer for legacy WSGI applications.

The public names are imported on first use. So `import intralb_gevent` pulls in neither gevent nor anything
that must be imported after monkey-patching, and the command line can patch before all else.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import (
        Abort,
        ClientDisconnected,
        DeadlineExceeded,
        IntraLBError,
        OptionError,
        RequestBodyError,
        RequestKilled,
        SessionUnavailable,
    )
    from .http.server import WSGIServer, graceful_shutdown
    from .integrations.protection import protect
    from .options import Options
    from .pool.balancer import LoadBalancer
    from .pool.current import deadline_headers, extend_deadline
    from .pool.session import current_session
    from .priority import Priority
    from .route import Route
    from .sessionsource import SessionSource

__version__ = "0.1.0"

_HOMES = {
    "Abort": ".errors",
    "ClientDisconnected": ".errors",
    "DeadlineExceeded": ".errors",
    "IntraLBError": ".errors",
    "LoadBalancer": ".pool.balancer",
    "OptionError": ".errors",
    "Options": ".options",
    "Priority": ".priority",
    "RequestBodyError": ".errors",
    "RequestKilled": ".errors",
    "Route": ".route",
    "SessionSource": ".sessionsource",
    "SessionUnavailable": ".errors",
    "WSGIServer": ".http.server",
    "current_session": ".pool.session",
    "deadline_headers": ".pool.current",
    "extend_deadline": ".pool.current",
    "graceful_shutdown": ".http.server",
    "protect": ".integrations.protection",
}

__all__ = [
    "Abort",
    "ClientDisconnected",
    "DeadlineExceeded",
    "IntraLBError",
    "LoadBalancer",
    "OptionError",
    "Options",
    "Priority",
    "RequestBodyError",
    "RequestKilled",
    "Route",
    "SessionSource",
    "SessionUnavailable",
    "WSGIServer",
    "current_session",
    "deadline_headers",
    "extend_deadline",
    "graceful_shutdown",
    "protect",
]


def __getattr__(name: str) -> Any:
    """Import the module that a public name lives in, when the name is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name], __name__), name)
