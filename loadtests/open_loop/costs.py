"""What a request and a refusal cost our server: the processor time of a server that does nothing else.

Decides how each is measured. It must not know what follows from them.
"""

from __future__ import annotations

import http.client
import itertools
import threading
import time
from collections import Counter
from typing import Final

from ..side_by_side import BenchmarkError
from ..side_by_side.servers import OURS, SERVERS
from ..side_by_side.starting import ANSWER_SECONDS
from .applications import HOLD
from .ceiling import Costs
from .drive import drive
from .holding import held
from .plan import Plan, Stream
from .schedule import in_proportion
from .seen import REFUSED, kind
from .serving import Circumstances, check_answers, serving
from .workloads import Workload

__all__ = ["refusal_seconds", "request_costs"]

_REFUSED_PER_SECOND: Final = 2000.0
# One slot, and nobody may wait for it; whoever holds it does so until the server is stopped.
_REFUSE_ALL: Final = (
    *("--max-workers=1", "--max-concurrent-per-router=1", "--queue-size=0"),
    *("--request-timeout-seconds=300", "--graceful-timeout-seconds=0.1"),
)


def request_costs(workload: Workload, refusal: float, around: Circumstances) -> Costs:
    """Measure a request of the workload, by clients that ask one after the other. Raises `BenchmarkError`.

    It is measured while the server is as busy as it gets without a queue, for a server that often waits wakes up often.
    """
    server = SERVERS[OURS]
    with serving(server, workload.flags(server), around) as (process, port):
        check_answers(workload.paths, port)
        before = process.busy_seconds()
        statuses = _Clients(workload, port).run(workload.clients, around.seconds)
        spent = process.busy_seconds() - before
    refused = sum(count for status, count in statuses.items() if kind(status) == REFUSED)
    if not statuses[200] or statuses[200] + refused < statuses.total():
        raise BenchmarkError(f"requests of {workload.name} for which there was room were not answered: {statuses}")
    costs = Costs((spent - refused * refusal) / statuses[200], refusal)
    if costs.refusal >= costs.request:
        raise BenchmarkError(f"k of {workload.name} cannot be told; measure for more --seconds")
    return costs


def refusal_seconds(around: Circumstances) -> float:
    """Measure a refusal, by a server that refuses all. Raises `BenchmarkError`."""
    stream = Stream("refused", {"/": 1.0}, (_REFUSED_PER_SECOND,))
    with serving(SERVERS[OURS], _REFUSE_ALL, around) as (process, port), held(HOLD, port):
        plan = Plan(port, (around.seconds,), (stream,), f"{around.seed} refusals")
        record, before = drive(plan, around.generator_core, around.generator_log, lambda began: process.busy_seconds())
        spent = process.busy_seconds() - before
    if any(end.kind != REFUSED for end in record.ends):
        raise BenchmarkError("not everything was refused by a server whose only slot is held")
    return spent / len(record.ends)


class _Clients:
    """Clients that wait for each answer."""

    def __init__(self, workload: Workload, port: int) -> None:
        self._port = port
        self._paths = itertools.cycle(in_proportion(workload.paths))
        self._ended: list[int] = []

    def run(self, number: int, seconds: float) -> Counter[int]:
        """Ask for so long; return how often each status was the answer, 0 for what was none."""
        until = time.monotonic() + seconds
        threads = [threading.Thread(target=self._ask, args=(until,)) for _ in range(number)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return Counter(self._ended)

    def _ask(self, until: float) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_SECONDS)
        try:
            while time.monotonic() < until:
                connection.request("GET", next(self._paths))
                with connection.getresponse() as response:
                    response.read()
                self._ended.append(response.status)
        except (OSError, http.client.HTTPException):
            self._ended.append(0)
        finally:
            connection.close()
