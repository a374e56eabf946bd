"""Whether a job runs at once, waits, or is refused.

Decides from the load of the chosen worker. Because the chosen worker is a least busy one, a full one means that all
are full. It must not know what a worker or a job is.
"""

from __future__ import annotations

from typing import Literal

__all__ = ["Placement", "place"]

Placement = Literal["run", "wait", "refuse"]


def place(load: int, slots: int, queue_size: int) -> Placement:
    """Say what happens to a job whose least busy worker has `load` jobs in `slots` slots and a queue."""
    if load < slots:
        return "run"
    if load < slots + queue_size:
        return "wait"
    return "refuse"
