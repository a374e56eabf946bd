"""Read the variables of frames without creating reference cycles.

Up to Python 3.12, `frame.f_locals` is a dictionary that the frame caches. If this dictionary contains an exception
whose traceback contains the frame, frame and exception form a reference cycle. The cycle keeps the variables of all
frames in the traceback alive until the next full garbage collection. Until this collection, an aborted request's
database connection would stay open, and hold its locks.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from inspect import CO_OPTIMIZED
from types import FrameType, TracebackType
from typing import Any, Final, cast

__all__ = ["variables"]

_STAYS: Final = sys.version_info < (3, 13)
_REFER_TO_FRAMES: Final = (BaseException, TracebackType, FrameType)


def variables(frame: Any) -> Mapping[str, Any]:
    """Return the variables of a frame; the caller must not change the returned mapping.

    Up to Python 3.12, this function removes exceptions, tracebacks and frames from the dictionary that the frame
    caches, and returns a copy that still contains these variables. All other variables stay in the cached dictionary,
    because the application may have received this dictionary from `locals()`.
    """
    # Declare the frame as Any: the stubs declare `f_locals` as a dictionary, which is wrong from Python 3.13 on.
    known: Any = frame.f_locals
    if not _STAYS or not frame.f_code.co_flags & CO_OPTIMIZED:
        return cast("Mapping[str, Any]", known)
    found: dict[str, Any] = dict(known)
    for name, value in found.items():
        if issubclass(type(value), _REFER_TO_FRAMES):
            del known[name]
    return found
