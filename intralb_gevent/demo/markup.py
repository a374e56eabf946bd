"""Fills templates of HTML so that nothing from outside can become markup.

Decides what is escaped: everything that was not made here. It must not know any page.
"""

from __future__ import annotations

import html
from collections.abc import Iterable

__all__ = ["Html", "fill", "join"]


class Html(str):
    """Text that is HTML already, because `fill` or `join` has made it."""

    __slots__ = ()


def fill(template: str, **values: object) -> Html:
    """Return the template with each `{name}` replaced by the value: escaped, unless it is `Html`."""
    return Html(template.format_map({name: _safe(value) for name, value in values.items()}))


def join(parts: Iterable[Html]) -> Html:
    """Return the parts one after the other."""
    return Html("".join(parts))


def _safe(value: object) -> Html:
    return value if isinstance(value, Html) else Html(html.escape(str(value)))
