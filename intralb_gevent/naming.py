"""Names for values of the application in logs and messages, without calling any of its code.

`repr()` and `str()` of such a value may fail, wait, compute for ever, or return 50 MB.
"""

from __future__ import annotations

from typing import Any

__all__ = ["function_name", "shown_value", "type_name"]

_LONGEST = 200
"""Characters of a text that are shown."""


def type_name(value: object) -> str:
    """Return the qualified name of a value's type, as a traceback has it: `ValueError`, `shop.errors.NoStock`."""
    kind = type(value)
    prefix = "" if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}."
    return prefix + kind.__qualname__


def function_name(function: Any) -> str:
    """Return the qualified name of a function, or the type's name of another callable."""
    name = getattr(function, "__qualname__", None)
    return f"{function.__module__}.{name}" if isinstance(name, str) else f"a {type_name(function)}"


def shown_value(value: Any) -> str:
    """Return a text or number as a literal, shortened, and of every other value its type."""
    if type(value) is str and len(value) > _LONGEST:
        return f"{value[:_LONGEST]!r}..."
    if value is None or type(value) in (str, int, float, bool):
        return repr(value)
    if type(value) is bytes:
        return f"{value[:_LONGEST]!r}"
    return f"a value of type {type_name(value)}"
