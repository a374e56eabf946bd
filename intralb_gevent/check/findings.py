"""What a finding is. Decides the parts it has; it must not know how any is found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding"]


@dataclass(frozen=True)
class Finding:
    """One thing that hurts an application under gevent, and what to do about it."""

    severity: Literal["warning", "hint"]
    """A warning is certain to hurt under load; a hint depends on what only the application knows."""
    title: str
    detail: str
    remedy: str
