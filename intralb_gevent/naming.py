"""Describe the application's values in logs and messages, without calling the application's code.

`repr()` or `str()` of an application's value could raise an exception, block, never return, or return 50 MB of text.
"""

from __future__ import annotations

from typing import Any

from .quoting import escaped

__all__ = ["function_name", "shown_value", "type_name"]

_LONGEST = 200
"""Maximum number of characters of a value that are shown."""


def type_name(value: object) -> str:
    """Return the qualified name of a value's type, as in a traceback: `ValueError`, `shop.errors.NoStock`.

    Line breaks and control characters are escaped, because a type that the application creates at run time can have any
    text as its name.
    """
    kind = type(value)
    prefix = "" if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}."
    return escaped(prefix + kind.__qualname__)


def function_name(function: Any) -> str:
    """Return the qualified name of a function, or the type name of any other callable."""
    name = getattr(function, "__qualname__", None)
    return f"{function.__module__}.{name}" if isinstance(name, str) else f"a {type_name(function)}"


def shown_value(value: Any) -> str:
    """Return a str, bytes or number as a literal, shortened if necessary; for any other value, return only its type."""
    if type(value) is str and len(value) > _LONGEST:
        return f"{value[:_LONGEST]!r}..."
    if value is None or type(value) in (str, int, float, bool):
        return repr(value)
    if type(value) is bytes:
        return f"{value[:_LONGEST]!r}"
    return f"a value of type {type_name(value)}"
