"""What a finding is. Decides the parts it has; it must not know how any is found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "some"]

_EXAMPLES = 3


@dataclass(frozen=True)
class Finding:
    """One thing that hurts an application under gevent, and what to do about it."""

    severity: Literal["warning", "hint"]
    """A warning is certain to hurt under load; a hint depends on what only the application knows."""
    title: str
    detail: str
    remedy: str


def some(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    more = f", and {len(names) - _EXAMPLES} more" if len(names) > _EXAMPLES else ""
    return ", ".join(names[:_EXAMPLES]) + more
