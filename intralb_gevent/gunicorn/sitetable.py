"""The table in shared memory of all workers of one arbiter.

The arbiter creates the table with its first worker, and each worker inherits it at the fork.
"""

from __future__ import annotations

import os

from ..supervise.table import Table

__all__ = ["table_of"]

_tables: dict[int, Table] = {}


def table_of(arbiter: int) -> Table | None:
    """Return the table of the arbiter with this process id; None if the system has no memory files, as outside Linux.

    Call this in the arbiter.
    """
    if not hasattr(os, "memfd_create"):
        return None
    if arbiter not in _tables:
        _tables[arbiter] = Table()
    return _tables[arbiter]
