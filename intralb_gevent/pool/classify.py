"""Determines the client and the priority of a request, according to `client_key` and `priority_func`.

The application can set a function for each of these options. The functions are called in the hub, which no exception
may reach. So if a function fails, the exception is logged, and a default replaces the function's result.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

from ..hub.log import HubLog
from ..hub.loghandlers import LOGGER
from ..hub.repeats import Repeats
from ..naming import function_name, shown_value
from ..priority import PRIORITIES, Priority
from .errortext import error_line

__all__ = ["client_key", "environ_key", "is_of_crowd", "priority_of"]

_Environ = dict[str, Any]

_FAILURES = Repeats(HubLog(LOGGER.log))
_NOBODY = ""
"""Key of all clients that cannot be distinguished, such as those that connect to a Unix socket."""
_FAILED = "{}: {} failed with {}; its request is treated as any other"


def client_key(option: str | Callable[[_Environ], Hashable]) -> Callable[[_Environ], Hashable] | None:
    """Return the function that computes a request's client key; None if clients are not distinguished."""
    if option == "off":
        return None
    if option == "address":
        return _address
    if isinstance(option, str):
        return partial(_header, environ_key(option))
    return partial(_of_function, option)


def environ_key(header: str) -> str:
    """Return the environ key for a header field (PEP 3333)."""
    return "HTTP_" + header.upper().replace("-", "_")


def is_of_crowd(environ: _Environ) -> bool:
    """Return whether an untrusted peer has sent X-Forwarded-For, and so claims to be a proxy for many clients.

    Any client can send this field. Therefore, the field has only one effect: the limit on the jobs of one client does
    not apply to the peer. If the peer is a real proxy, that limit would reject the requests of a whole site.
    """
    return "HTTP_X_FORWARDED_FOR" in environ


def _address(environ: _Environ) -> Hashable:
    return environ.get("REMOTE_ADDR") or _NOBODY


def _header(name: str, environ: _Environ) -> Hashable:
    """Return the header's value, or the client's address if the header is missing."""
    return environ.get(name) or _address(environ)


def _of_function(function: Callable[[_Environ], Hashable], environ: _Environ) -> Hashable:
    client = _guarded("client_key", function, environ, _hashable)
    return _NOBODY if client is None else client


def _guarded(name: str, function: Callable[[_Environ], Any], environ: _Environ, read: Callable[[Any], Any]) -> Any:
    try:
        return read(function(environ))
    except Exception as error:
        _FAILURES.record((name, type(error)), logging.ERROR, partial(_failed, name, function, error))
        return None


def _failed(name: str, function: Callable[[_Environ], Any], error: Exception) -> str:
    return _FAILED.format(name, function_name(function), error_line(error))


def _hashable(value: Any) -> Any:
    hash(value)
    return value


def _class(value: Any) -> Priority | None:
    """Return the priority for a result of `priority_func`; raises ValueError if the result is not allowed."""
    if value is None or isinstance(value, Priority):
        return value
    if isinstance(value, str) and value in PRIORITIES:
        return PRIORITIES[value]
    allowed = f"one of {', '.join(PRIORITIES)}, a Priority, or None"
    raise ValueError(f"{shown_value(value)} is not allowed; it must be {allowed}")


def priority_of(environ: _Environ, function: Callable[[_Environ], Any] | None, usual: Priority) -> Priority:
    """Return the priority that a trusted peer has set, otherwise the result of `function`, otherwise `usual`."""
    declared = environ.get("intralb.priority")
    if isinstance(declared, Priority):
        return declared
    if declared is not None:
        return PRIORITIES.get(declared, usual) if isinstance(declared, str) else usual
    chosen = None if function is None else _guarded("priority_func", function, environ, _class)
    return usual if chosen is None else chosen
