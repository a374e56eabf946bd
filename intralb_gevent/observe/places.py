"""Finds the place in the application at which a greenlet waits, such as `psycopg.Cursor.execute at shop/reports.py:88`.

The frames of a greenlet that is not running can be read without interrupting the greenlet.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from functools import lru_cache
from types import CodeType, FrameType
from typing import Any, Final, NamedTuple

from ..aborts.callsites import call_site
from ..aborts.places import is_library, working_directory
from ..aborts.safepoints import application_frames

__all__ = ["Place", "called_in_c", "is_application", "place_in", "place_of", "shown_file", "shown_stack", "stack_of"]

STACK_FRAMES: Final = 60
"""Maximum number of frames of a stack that are shown; of a deeper stack, only the innermost frames are shown."""

_DEMO: Final = f"{os.sep}intralb_gevent{os.sep}demo{os.sep}"
_OWN: Final = f"{os.sep}intralb_gevent{os.sep}"


class Place(NamedTuple):
    """A line of the application's code, and the function that this line has called."""

    file: str
    line: int
    function: str
    """Name of the application's function."""
    called: str
    """Package and name of the called function; empty if the line is not calling a function."""

    def __str__(self) -> str:
        return f"{self.called} at {self.file}:{self.line}" if self.called else f"{self.file}:{self.line}"


def _is_own(file: str) -> bool:
    return _OWN in file and _DEMO not in file


@lru_cache(maxsize=4096)
def is_application(file: str) -> bool:
    """Return whether a source file belongs to the application, and not to Python or an installed package."""
    if _is_own(file):
        return False
    return _DEMO in file or not is_library(file)


@lru_cache(maxsize=4096)
def shown_file(file: str) -> str:
    """Return a file's path relative to the working directory or to the directory of its top-level package."""
    here = working_directory()
    roots = sorted({os.path.normpath(os.path.join(here, each)) for each in (*sys.path, here)}, key=len, reverse=True)
    for root in roots:
        if file.startswith(root.rstrip(os.sep) + os.sep):
            return file[len(root.rstrip(os.sep)) + 1 :]
    return file


def _called(code: CodeType, package: str) -> str:
    name = code.co_qualname.removesuffix(".__init__").rpartition("<locals>.")[2]
    return f"{package}.{name}" if package else name


def called_in_c(frame: FrameType | None) -> str:
    """Return the name by which a frame calls a compiled function, which has no Python frame; empty if it calls none."""
    if frame is None:
        return ""
    site = call_site(frame.f_code, frame.f_lasti)
    return ".".join(site.path) or site.name


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__") or "").partition(".")[0]


def place_of(frame: FrameType | None) -> Place | None:
    """Return the innermost place in application code; if there is none, the outermost place in other code, or None."""
    called, place = "", None
    for each, line in application_frames(frame):
        code = each.f_code
        if _is_own(code.co_filename):
            continue
        called = called or called_in_c(each)
        place = Place(shown_file(code.co_filename), line, code.co_qualname, called)
        if is_application(code.co_filename):
            return place
        called = _called(code, _package(each))
    return place


def place_in(stack: Iterable[Any]) -> Place | None:
    """Return the same place as `place_of`, but for a recorded stack (`traceback.StackSummary`)."""
    called, place = "", None
    for each in reversed(list(stack)):
        place = Place(shown_file(each.filename), each.lineno or 0, each.name, called)
        if is_application(each.filename):
            return place
        called = each.name
    return place


def stack_of(frame: FrameType | None) -> Iterator[tuple[CodeType, int]]:
    """Yield the code and line of each frame outside of this package, the innermost frame first."""
    for (each, line), _ in zip(application_frames(frame), range(STACK_FRAMES), strict=False):
        yield each.f_code, line


def shown_stack(frame: FrameType | None) -> list[dict[str, Any]]:
    """Return the frames of a stack for JSON, the outermost frame first."""
    shown = [
        {
            "file": shown_file(code.co_filename),
            "line": line,
            "function": code.co_qualname,
            "own": is_application(code.co_filename),
        }
        for code, line in stack_of(frame)
    ]
    return shown[::-1]
