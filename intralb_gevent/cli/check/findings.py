"""The data type for findings of `intralb-gevent check`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "some"]

_EXAMPLES = 3


@dataclass(frozen=True)
class Finding:
    """One problem of an application under gevent, and its remedy."""

    severity: Literal["warning", "hint"]
    """A warning certainly causes problems under load; only the application's author knows whether a hint applies."""
    title: str
    detail: str
    remedy: str


def some(names: Sequence[str]) -> str:
    """Return a text with the first few names, and the number of the other names."""
    more = f", and {len(names) - _EXAMPLES} more" if len(names) > _EXAMPLES else ""
    return ", ".join(names[:_EXAMPLES]) + more
