"""IntraLB for gevent: an intra-process load balancer for legacy WSGI applications.

Each public name is imported on first use. `import intralb_gevent` therefore imports neither gevent nor any module that
must be imported after monkey-patching. So the command line can import this package before it patches the process.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config.options import Options
    from .config.route import Route
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
    from .pool.balancer import LoadBalancer
    from .pool.requestcontext import deadline_headers, extend_deadline
    from .pool.session import current_session
    from .priority import Priority
    from .sessionsource import SessionSource

__version__ = "0.1.0"

_HOMES = {
    "Abort": ".errors",
    "ClientDisconnected": ".errors",
    "DeadlineExceeded": ".errors",
    "IntraLBError": ".errors",
    "LoadBalancer": ".pool.balancer",
    "OptionError": ".errors",
    "Options": ".config.options",
    "Priority": ".priority",
    "RequestBodyError": ".errors",
    "RequestKilled": ".errors",
    "Route": ".config.route",
    "SessionSource": ".sessionsource",
    "SessionUnavailable": ".errors",
    "WSGIServer": ".http.server",
    "current_session": ".pool.session",
    "deadline_headers": ".pool.requestcontext",
    "extend_deadline": ".pool.requestcontext",
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
    """Return the object with a public name; import the module that defines the object, if necessary."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name], __name__), name)


def __dir__() -> list[str]:
    """Return all public names, including those that are not imported yet."""
    return [*__all__, "__version__"]
