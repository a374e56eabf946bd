"""The table of all workers of one arbiter, in shared memory.

The arbiter creates the table when it creates its first worker; each worker inherits the table at the fork.
"""

from __future__ import annotations

import os

from ..supervise.table import Table

__all__ = ["table_of"]

_tables: dict[int, Table] = {}


def table_of(arbiter: int) -> Table | None:
    """Return the table of the arbiter with this process id; None if the operating system has no `memfd_create`.

    This function must be called in the arbiter.
    """
    if not hasattr(os, "memfd_create"):
        return None
    if arbiter not in _tables:
        _tables[arbiter] = Table()
    return _tables[arbiter]
