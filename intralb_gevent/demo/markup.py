"""Fill HTML templates so that no text from a client can become markup.

All values are escaped, except HTML that this module has produced.
"""

from __future__ import annotations

import html
from collections.abc import Iterable

__all__ = ["Html", "fill", "join"]


class Html(str):
    """Text that is already HTML, because `fill` or `join` has returned it."""

    __slots__ = ()


def fill(template: str, **values: object) -> Html:
    """Return the template with each `{name}` replaced by its value, which is escaped unless it is `Html`."""
    return Html(template.format_map({name: _safe(value) for name, value in values.items()}))


def join(parts: Iterable[Html]) -> Html:
    """Return the concatenation of the parts."""
    return Html("".join(parts))


def _safe(value: object) -> Html:
    return value if isinstance(value, Html) else Html(html.escape(str(value)))
