"""Read the variables of frames without creating reference cycles.

Up to Python 3.12, `frame.f_locals` is a dictionary that the frame caches. If a value in this dictionary, such as a list
of errors, refers to an exception whose traceback contains the frame, frame and exception form a reference cycle. The
cycle keeps the variables of all frames in the traceback alive. An aborted request's database connection would then stay
open, and hold its locks, until the next full garbage collection.

In addition, once `f_locals` has been read, Python assumes that a debugger may have changed the dictionary: at the next
call of a trace function, Python copies the values back, and deletes each variable that the dictionary does not contain.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping
from functools import lru_cache
from inspect import CO_OPTIMIZED
from types import CodeType
from typing import Any, Final, cast

__all__ = ["has_variable", "variables"]

_STAYS: Final = sys.version_info < (3, 13)
_UNSHARED: Final = 4
"""Number of references to a frame's dictionary if the application has none: from the frame, from two functions of this
module and from `getrefcount`."""

_NOTHING: Final[Mapping[str, Any]] = {}


def variables(frame: Any) -> Mapping[str, Any]:
    """Return the variables of a frame; the caller must not change the returned mapping.

    Up to Python 3.12, the result is a copy, and the variables are removed from the dictionary that the frame caches,
    unless the application holds this dictionary, as the result of `locals()`. Therefore, two threads must not call this
    function for the same frame at the same time.
    """
    # Declare the frame as Any: the stubs declare `f_locals` as a dictionary, which is wrong from Python 3.13 on.
    known: Any = frame.f_locals
    if not frame.f_code.co_flags & CO_OPTIMIZED:
        # The variables of a class body may be in an object of the application, whose methods must not be called here.
        return cast("Mapping[str, Any]", known) if type(known) is dict else _NOTHING
    return _taken_from(frame, known) if _STAYS else cast("Mapping[str, Any]", known)


def has_variable(code: CodeType, name: str) -> bool:
    """Return whether a function has a variable of this name; for a module or class body, the result is always True."""
    return not code.co_flags & CO_OPTIMIZED or name in _names(code)


@lru_cache(maxsize=1024)
def _names(code: CodeType) -> frozenset[str]:
    """Return the names of a function's variables; the attributes of `code` are new tuples each time."""
    return frozenset((*code.co_varnames, *code.co_cellvars, *code.co_freevars))


def _taken_from(frame: Any, known: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of a frame's dictionary, and remove the frame's variables from an unshared dictionary.

    Also remove the dictionary from itself: a variable that holds the result of `locals()` has become a value in it.
    """
    is_shared = sys.getrefcount(known) > _UNSHARED
    found = dict(known)
    names = _names(frame.f_code)
    for name, value in found.items():
        if value is known or (not is_shared and name in names):
            del known[name]
    _forget_reading(frame)
    return found


def _forget_reading(frame: Any) -> None:
    """Prevent Python from copying the dictionary back into the variables later; it does so now, with equal values."""
    copy_back = getattr(ctypes.pythonapi, "PyFrame_LocalsToFast", None)
    if copy_back is not None:
        copy_back(ctypes.py_object(frame), ctypes.c_int(0))
