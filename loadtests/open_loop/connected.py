"""How many requests the ten connections can do: asked by those who have the next one ready, and by no server.

Decides how that is measured: in a process of its own, on the server's core, as timers are coarser than they are told,
and how much that matters depends on how long a request has its connection. It must not know servers.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Iterator, Mapping
from subprocess import TimeoutExpired
from typing import Final

from ..side_by_side import BenchmarkError
from ..side_by_side.processes import running
from ..side_by_side.servers import clean_environment
from .applications import CONNECTIONS, application
from .schedule import in_proportion
from .serving import Circumstances
from .workloads import Workload

__all__ = ["connected_capacity"]

_WARM_UP_SECONDS: Final = 0.5
"""By then no longer all of them begin and end at the same time."""
_SPARE_SECONDS: Final = 15.0


def connected_capacity(workload: Workload, around: Circumstances) -> float | None:
    """Return the requests per second of a workload, as far as the connections allow; None if none needs them.

    Raises `BenchmarkError` if it cannot be measured.
    """
    paths = workload.connected
    if not paths:
        return None
    command = [sys.executable, "-m", "gevent.monkey", "--module", __name__, json.dumps(paths), str(around.seconds)]
    log = around.directory / "connected.log"
    with running(command, around.server_core, log, clean_environment({})) as process:
        try:
            failed = process.wait(around.seconds + _SPARE_SECONDS) != 0
        except TimeoutExpired:
            failed = True
        if failed:
            raise BenchmarkError(f"the connections of {workload.name} by themselves: {process.last_words()}")
        return float(process.output()) / sum(paths.values())


def _measure(paths: Mapping[str, float], seconds: float) -> float:
    # Only in a process that is patched, and in that one only.
    import gevent

    ended: list[float] = []
    upcoming = itertools.cycle(in_proportion({path: weight / sum(paths.values()) for path, weight in paths.items()}))
    crowd = [gevent.spawn(_ask, upcoming, ended) for _ in range(CONNECTIONS)]
    begins = time.monotonic() + _WARM_UP_SECONDS
    gevent.joinall(crowd, timeout=_WARM_UP_SECONDS + seconds)
    return sum(begins <= instant < begins + seconds for instant in ended) / seconds


def _ask(upcoming: Iterator[str], ended: list[float]) -> None:
    while True:
        application({"PATH_INFO": next(upcoming)}, lambda status, headers: None)
        ended.append(time.monotonic())


if __name__ == "__main__":
    print(_measure(json.loads(sys.argv[1]), float(sys.argv[2])))
