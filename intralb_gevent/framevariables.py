"""Reads the variables of frames, and leaves no exception in a frame.

Up to Python 3.12, `frame.f_locals` is a dictionary that stays in the frame. If an exception is in it whose traceback
contains the frame, the two keep each other alive, with the variables of all frames in between. The connection of an
aborted request then stays open, with its locks, until the next full garbage collection.
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
    """Return a copy of the variables of a frame; of a module or class body, the variables themselves.

    The other variables stay in the dictionary, because it is also the result of `locals()` in that frame, which the
    application may use later.
    """
    # Do not declare the frame: the stubs declare `f_locals` as a dictionary, which is wrong from Python 3.13 on.
    known: Any = frame.f_locals
    if not _STAYS or not frame.f_code.co_flags & CO_OPTIMIZED:
        return cast("Mapping[str, Any]", known)
    found: dict[str, Any] = dict(known)
    for name, value in found.items():
        if issubclass(type(value), _REFER_TO_FRAMES):
            del known[name]
    return found
