"""Calls to an outer WSGI server, and which of its objects raised an error.

This module is not compiled. By the frame of `call` the watchdog sees that the outer server's code is running, in which
no abort may land: a half-done `start_response` cannot be replaced by an answer.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

from .callsites import first_argument

__all__ = ["call", "forget_headers", "raised_by"]


def call(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function of the outer server in the slot of a request."""
    return function(*args)


def raised_by(error: BaseException, owner: object) -> bool:
    """Return whether an error passed through a method of `owner`, such as `wsgi.input`, on its way here."""
    codes = _codes(type(owner))
    trace = error.__traceback__
    while trace is not None:
        # The variables of any other frame would be kept alive by looking at them.
        if trace.tb_frame.f_code in codes and first_argument(trace.tb_frame) is owner:
            return True
        trace = trace.tb_next
    return False


def _codes(owner: type) -> set[object]:
    """Return the code of all methods of a class."""
    members = (member for each in owner.__mro__ for member in vars(each).values())
    return {member.__code__ for member in members if isinstance(member, FunctionType)}


def forget_headers(start_response: object) -> None:
    """Remove the headers of the first call from gunicorn's response, which a second call would only add to."""
    response = getattr(start_response, "__self__", None)
    if type(response).__module__.startswith("gunicorn."):
        response.headers = []  # type: ignore[union-attr]  # it is gunicorn's Response
