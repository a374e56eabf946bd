"""Whom a request is from, and which class it has.

Decides how the options' words and functions are asked. It must not know what follows from the answer. A function of the
application's may fail: it is called in the hub, where nothing may be raised, so its request is then taken as any other.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

from ..naming import function_name, shown_value
from ..priority import PRIORITIES, Priority
from .errortext import error_line
from .hublog import HubLog
from .loghandlers import LOGGER
from .repeats import Repeats

__all__ = ["client_key", "is_of_crowd", "priority_of"]

_Environ = dict[str, Any]

_FAILURES = Repeats(HubLog(LOGGER.log))
_NOBODY = ""
"""Stands for all that cannot be told apart, as those of a Unix socket."""
_FAILED = "{}: {} failed with {}; its request is treated as any other"


def client_key(option: str | Callable[[_Environ], Hashable]) -> Callable[[_Environ], Hashable] | None:
    """Return what tells the clients apart; None if nobody should."""
    if option == "off":
        return None
    if option == "address":
        return _address
    if isinstance(option, str):
        return partial(_header, "HTTP_" + option.upper().replace("-", "_"))
    return partial(_of_function, option)


def is_of_crowd(environ: _Environ) -> bool:
    """Say whether a request whose peer is not trusted may be one of many clients, as it came through a proxy.

    Anybody can say so. It only spares them the bound on what one client may hold, which would shut out a whole site.
    """
    return "HTTP_X_FORWARDED_FOR" in environ


def _address(environ: _Environ) -> Hashable:
    return environ.get("REMOTE_ADDR") or _NOBODY


def _header(name: str, environ: _Environ) -> Hashable:
    """Return the header's value; those that do not send it are told apart by address."""
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
    """Return the class that a function has named; ValueError where there is none of that name."""
    if value is None or isinstance(value, Priority):
        return value
    if isinstance(value, str) and value in PRIORITIES:
        return PRIORITIES[value]
    allowed = f"one of {', '.join(PRIORITIES)}, a Priority, or None"
    raise ValueError(f"{shown_value(value)} is not allowed; it must be {allowed}")


def priority_of(environ: _Environ, function: Callable[[_Environ], Any] | None, usual: Priority) -> Priority:
    """Return the class of a request: what a trusted peer says, else what the function says, else the usual one."""
    told = environ.get("intralb.priority")
    if isinstance(told, Priority):
        return told
    if told is not None:
        return PRIORITIES.get(told, usual) if isinstance(told, str) else usual
    chosen = None if function is None else _guarded("priority_func", function, environ, _class)
    return usual if chosen is None else chosen
