"""Where the application has control, so that an abort may land there.

Decides by the frames of a greenlet. An abort that comes by a signal must not land in code of ours that the application
has called, such as `start_response` or the opening of a session: it would leave a half-done step behind. Nor in modules
of Python and gevent that keep the state of the whole process and do not expect an exception between any two steps:
locks, logging, starting a process, importing. Nor where Python drops whatever is raised: an abort would end a finalizer
halfway, and not the application. It must not know what an abort is.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from types import CodeType, FrameType, FunctionType
from typing import Any, Final, TypeVar

__all__ = ["application_frames", "calls_application", "in_application"]

_Function = TypeVar("_Function", bound=Callable[..., Any])

_OURS: Final = __name__.partition(".")[0] + "."
_APPLICATIONS: Final = (_OURS + "demo.", _OURS + "integrations.", _OURS + "sessionsource")
"""What of ours is an application, or runs on behalf of one."""

_CLEANS_UP: Final = _OURS + "integrations.drivers"
"""But this ends what an aborted statement does on its server."""

_DELICATE: Final = frozenset(
    {
        *("gevent", "greenlet", "threading", "queue", "selectors", "socket", "ssl", "weakref", "_weakrefset"),
        *("logging", "subprocess", "multiprocessing", "concurrent"),
        *("importlib", "_frozen_importlib", "_frozen_importlib_external"),
    }
)
"""Packages in which an exception out of nowhere leaves a lock held, a program running, or a module half imported."""

_CALLERS: set[CodeType] = set()


def calls_application(function: _Function) -> _Function:
    """Mark a function of ours that calls the application, and is in order wherever that is ended.

    One that is compiled has no frame and needs none: its nearest caller that is not compiled stands for it.
    """
    if isinstance(function, FunctionType):
        _CALLERS.add(function.__code__)
    return function


def application_frames(frame: FrameType | None) -> Iterator[tuple[FrameType, int]]:
    """Yield the frames of a greenlet from its innermost one outwards, each with its line, without ours."""
    while frame is not None:
        if not _is_ours(frame):
            yield frame, frame.f_lineno
        frame = frame.f_back


def in_application(frame: FrameType | None) -> bool:
    """Say whether an abort may land at the innermost frame of a greenlet.

    The first frame of ours on the way outwards tells: it is one that calls the application, or one that it has called.
    """
    innermost = frame
    while frame is not None:
        if _is_ours(frame):
            return frame is not innermost and frame.f_code in _CALLERS
        if _package(frame) in _DELICATE or _drops_errors(frame):
            return False
        frame = frame.f_back
    return False


def _drops_errors(frame: FrameType) -> bool:
    """Say whether Python itself has called this between two steps of another function, and drops what it raises."""
    code = frame.f_code
    return code.co_name == "__del__" or any(getattr(called, "__code__", None) is code for called in gc.callbacks)


def _package(frame: FrameType) -> str:
    module: str = frame.f_globals.get("__name__") or ""
    return module.partition(".")[0]


def _is_ours(frame: FrameType) -> bool:
    module: str = frame.f_globals.get("__name__") or ""
    return module.startswith(_OURS) and (not module.startswith(_APPLICATIONS) or module == _CLEANS_UP)
