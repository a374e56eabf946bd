"""Frees the application's local variables after an exception has propagated out of the application.

The traceback of an exception refers to all local variables of the functions that the exception has unwound. If the hub
has raised the exception in a greenlet, as with a socket timeout, the hub keeps a reference to the exception until the
hub runs its next callback. Without this module, the variables would then be finalized in the hub, where finalizers
cannot wait.

This module is not compiled, because compiled functions have no frames. The watchdog must find a frame of this module
among the callers of a CPU-bound finalizer.
"""

from __future__ import annotations

import gc
import inspect
from types import FrameType
from typing import Final

from .safepoints import calls_application

__all__ = ["clear_frames"]

_MAY_BE_SUSPENDED: Final = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
"""Code flags of generators and coroutines, which may have caught the exception, and may continue later."""


@calls_application
def clear_frames(error: BaseException) -> None:
    """Free the local variables in all frames of the tracebacks of an exception and of the exceptions that led to it.

    Finalizers may wait during this call. If the application keeps the exception, the traceback is also kept, but the
    frames in it have lost their local variables.
    """
    seen: set[int] = set()
    following: list[BaseException | None] = [error]
    while following:
        each = following.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        following += (*_parts(each), each.__cause__, each.__context__)
        trace = each.__traceback__
        while trace is not None:
            _clear(trace.tb_frame)
            trace = trace.tb_next


def _parts(error: BaseException) -> tuple[BaseException, ...]:
    """Return the exceptions of a group, without calling code of its class."""
    return BaseExceptionGroup.exceptions.__get__(error) if issubclass(type(error), BaseExceptionGroup) else ()


@calls_application
def _clear(frame: FrameType) -> None:
    if frame.f_code.co_flags & _MAY_BE_SUSPENDED and not _has_ended(frame):
        # Up to Python 3.12, `frame.clear()` would close a suspended generator, which another greenlet may continue
        # later.
        return
    # Do not use `traceback.clear_frames` or `suppress`, because the watchdog may raise an abort in standard library
    # code.
    try:
        frame.clear()
    except RuntimeError:
        # The frame is still running: it belongs to this package, or to another greenlet that has received the same
        # exception.
        return


def _has_ended(frame: FrameType) -> bool:
    """Return whether the generator or coroutine of a frame has ended; the frame then owns its variables and code."""
    return any(each is frame.f_code for each in gc.get_referents(frame))
