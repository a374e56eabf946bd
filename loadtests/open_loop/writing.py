"""How the benchmark's figures and servers are written.

Decides digits and names. It must not know what the figures mean.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..side_by_side.servers import OURS
from .contenders import CONTENDERS

__all__ = ["counted", "milliseconds", "rate", "titled"]


def rate(value: float) -> str:
    """Write something per second."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def milliseconds(value: float | None) -> str:
    """Write a time; nothing, where there is none."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def counted(counts: Mapping[str, int]) -> str:
    """Write what there was, and how often."""
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items())) or "0"


def titled(server: str) -> str:
    """Return a server's name, ours in bold."""
    return f"**{CONTENDERS[server].title}**" if server == OURS else CONTENDERS[server].title
