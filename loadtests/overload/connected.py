"""Measures the maximum throughput of the ten database connections, with callers that never pause and no server.

The measurement runs in a separate process on the server's core. Timers fire late, so the throughput cannot be
computed: the effect depends on how long a request holds its connection.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Iterator, Mapping
from subprocess import TimeoutExpired
from typing import Final

from ..common import LoadTestError
from ..common.processes import running
from ..common.servers import clean_environment
from .applications import CONNECTIONS, application
from .generator import in_proportion
from .serving import Circumstances, Workload

_WARM_UP_SECONDS: Final = 0.5
"""Seconds after which the callers no longer hold and return connections at the same times."""
_SPARE_SECONDS: Final = 15.0


def connected_capacity(workload: Workload, around: Circumstances) -> float | None:
    """Return the requests per second that the connections allow; None for a workload without database requests.

    Raises `LoadTestError` if the measurement fails.
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
            raise LoadTestError(f"the connections of {workload.name} by themselves: {process.last_words()}")
        return float(process.output()) / sum(paths.values())


def _measure(paths: Mapping[str, float], seconds: float) -> float:
    # Import gevent only in this patched process.
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
