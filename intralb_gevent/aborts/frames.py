"""Frees the application's local variables after an exception has propagated out of the application.

The traceback of an exception refers to all local variables of the functions that the exception has unwound. If the hub
has raised the exception in a greenlet, as with a socket timeout, the hub keeps a reference to it until its next
callback. The variables would then be finalized in the hub, where finalizers cannot wait.

This module is not compiled, so that the watchdog finds a frame of this module among the callers of a CPU-bound
finalizer.
"""

from __future__ import annotations

import inspect
from types import FrameType
from typing import Final

from .safepoints import calls_application

__all__ = ["clear_frames"]

_MAY_BE_SUSPENDED: Final = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
"""Code flags of generators and coroutines: their frames may continue after an exception was raised in them."""


@calls_application
def clear_frames(error: BaseException) -> None:
    """Free the local variables in all frames of an exception's traceback, and of the exceptions in its context.

    Finalizers may wait during this call. If the application keeps the exception, its traceback remains, but without
    variables.
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
        # Up to Python 3.12, `clear` would close a generator that has caught the exception, if another greenlet runs it.
        return
    # Do not use `traceback.clear_frames` or `suppress`, because the watchdog may raise an abort in standard library
    # code.
    try:
        frame.clear()
    except RuntimeError:
        # The frame is still running. Such a frame belongs to this package, or to another greenlet that has the same
        # exception.
        return
