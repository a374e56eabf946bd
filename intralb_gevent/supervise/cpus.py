"""The number of CPUs that this process may use, for `--processes auto`."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path
from typing import Final

__all__ = ["usable_cpus"]

_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")


def usable_cpus() -> int:
    """Return the number of CPUs to which this process is bound, or fewer if its container has a CPU quota."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = _QUOTA.read_text().split()
        return max(1, min(bound, math.ceil(int(quota) / int(period))))
    return bound
