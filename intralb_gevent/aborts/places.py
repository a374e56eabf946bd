"""Finds the source line at which a handler waits or computes, and formats this line for log records."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterable
from functools import lru_cache
from types import FrameType
from typing import Final

__all__ = ["Place", "is_library", "line_of", "place_in", "shown_place", "working_directory"]

Place = tuple[str, int]
"""A file name and a line number."""

_INSTALLED: Final = ("/site-packages/", "/dist-packages/")
_STANDARD: Final = tuple(
    os.path.join(path, "") for path in {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")} if path
)


@lru_cache(maxsize=1024)
def is_library(name: str) -> bool:
    """Return whether a file belongs to the standard library or to an installed package."""
    return name.startswith(("<", *_STANDARD)) or any(part in name for part in _INSTALLED)


def line_of(frame: FrameType) -> int:
    """Return a frame's line number, also at an instruction without a line number.

    The jump at the end of a loop has no line number if the last statement of the loop is a conditional expression, for
    example. The result is then the line of the closest instruction before it that has a line number.
    """
    code, line = frame.f_code, frame.f_lineno
    if line is not None:
        return line
    before = [each for start, _, each in code.co_lines() if each is not None and start <= frame.f_lasti]
    return before[-1] if before else code.co_firstlineno


def place_in(frames: Iterable[tuple[FrameType, int]]) -> Place | None:
    """Return the innermost place outside of libraries; if all frames are in libraries, return the innermost place.

    `frames` begins with the innermost frame; each frame is paired with its line number. Without frames, the result is
    None.
    """
    innermost: Place | None = None
    for frame, line in frames:
        place = (frame.f_code.co_filename, line)
        if not is_library(place[0]):
            return place
        innermost = innermost or place
    return innermost


def working_directory() -> str:
    """Return the path of the current directory; "" if a deploy, for example, has removed this directory."""
    try:
        return os.getcwd()
    except OSError:
        return ""


def shown_place(place: Place) -> str:
    """Return a place as FILE:LINE; a file below the current directory has a relative path."""
    name, line = place
    below = os.path.join(working_directory(), "")
    return f"{name.removeprefix(below)}:{line}"
