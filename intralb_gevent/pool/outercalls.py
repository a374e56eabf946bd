"""Calls an outer WSGI server, and detects exceptions that the server's objects raise.

This module is not compiled, so that `call` has a frame. This frame shows the watchdog that the outer server's code is
running. No abort may be raised in the outer server's code, because an error response cannot replace a half-finished
`start_response`.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

from ..aborts.callsites import first_argument

__all__ = ["call", "raised_by", "start_answer"]


def call(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function of the outer server from a slot."""
    return function(*args)


def raised_by(error: BaseException, owner: object) -> bool:
    """Return whether the traceback of an error contains a method of `owner`, an object such as `wsgi.input`."""
    codes = _codes(type(owner))
    trace = error.__traceback__
    while trace is not None:
        # Check the code object first, because reading a frame's variables would prolong the lifetime of their values.
        if trace.tb_frame.f_code in codes and first_argument(trace.tb_frame) is owner:
            return True
        trace = trace.tb_next
    return False


def _codes(owner: type) -> set[object]:
    """Return the code objects of all methods of a class."""
    members = (member for each in owner.__mro__ for member in vars(each).values())
    return {member.__code__ for member in members if isinstance(member, FunctionType)}


def start_answer(
    start_response: Callable[..., Any], status: str, headers: list[tuple[str, str]], replaced: Exception | None
) -> None:
    """Start the balancer's own response; `replaced` is the error to pass if the application has started a response."""
    if replaced is None:
        start_response(status, headers)
    else:
        _forget_headers(start_response)
        start_response(status, headers, (type(replaced), replaced, None))


def _forget_headers(start_response: object) -> None:
    """Remove the headers from gunicorn's response, because the next call of `start_response` would only add headers."""
    response = getattr(start_response, "__self__", None)
    if type(response).__module__.startswith("gunicorn."):
        response.headers = []  # type: ignore[union-attr]  # it is gunicorn's Response
