"""Reads the stack of a slot's handler, and the application's current line, before the handler is aborted."""

from __future__ import annotations

import sys
import traceback
from itertools import islice
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from gevent import getcurrent

from ..aborts.places import Place, place_in
from ..aborts.safepoints import application_frames

if TYPE_CHECKING:
    from .slot import Slot

__all__ = ["frame_of", "place_of", "stack_of"]

_STACK_FRAMES: Final = 50


def frame_of(slot: Slot) -> FrameType | None:
    """Return the innermost frame of a slot's handler; None if the handler has ended."""
    return sys._getframe() if slot.greenlet is getcurrent() else slot.greenlet.gr_frame


def stack_of(slot: Slot) -> traceback.StackSummary | None:
    """Return the stack of a slot's handler, the innermost frame last; None if the handler has ended.

    Source lines are read when the stack is displayed.
    """
    frames = islice(application_frames(frame_of(slot)), _STACK_FRAMES)
    stack = traceback.StackSummary.from_list([_summary(frame, line) for frame, line in frames])
    stack.reverse()
    return stack or None


def place_of(slot: Slot) -> Place | None:
    """Return the line of the application at which a slot's handler waits or computes; None if the handler has ended."""
    return place_in(application_frames(frame_of(slot)))


def _summary(frame: FrameType, line: int) -> Any:
    code = frame.f_code
    return traceback.FrameSummary(code.co_filename, line, code.co_name, lookup_line=False)
