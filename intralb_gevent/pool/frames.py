"""Frees what the variables of an application held when an error has left it.

The frames of an error hold all variables of the functions that it has left, and whoever holds the error holds the
frames. The hub holds what it has raised in a greenlet, such as the timeout of a socket, until its next callback. Then
finalizers would be called there, where they cannot wait.

This module is not compiled, so that the watchdog finds a frame of it below a finalizer that computes.
"""

from __future__ import annotations

import inspect
from types import FrameType
from typing import Final

from .safepoints import calls_application

__all__ = ["clear_frames"]

_MAY_BE_SUSPENDED: Final = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
"""Flags of the code of functions whose frames may go on after an error has been raised in them."""


@calls_application
def clear_frames(error: BaseException) -> None:
    """Free the variables in all frames of an error, and of those in whose handling it was raised.

    Finalizers may wait here. Where somebody keeps the error, its traceback stays as it is but for the variables.
    """
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        trace = following.__traceback__
        while trace is not None:
            _clear(trace.tb_frame)
            trace = trace.tb_next
        following = following.__context__


@calls_application
def _clear(frame: FrameType) -> None:
    if frame.f_code.co_flags & _MAY_BE_SUSPENDED:
        # Up to Python 3.12 that would close a generator that has caught the error, if another greenlet runs it.
        return
    # Not by `traceback.clear_frames` or `suppress`: the next abort may land in functions of the standard library.
    try:
        frame.clear()
    except RuntimeError:
        # It still runs, so it is ours, or another greenlet's that was given the same error.
        return
