"""One measurement of a steady load: start a server afresh, see that it answers, send what the load comes to, stop it.

Decides the order of these. It must not know of other servers or other loads.
"""

from __future__ import annotations

from typing import Final

from ..side_by_side import BenchmarkError
from ..side_by_side.servers import Server
from .drive import drive
from .plan import Plan, Stream
from .results import Point
from .seen import summed_up
from .serving import Circumstances, check_answers, serving
from .usage import usage
from .workloads import Workload

__all__ = ["PREOPENED", "measure", "steady"]

PREOPENED: Final = 50
"""How many connections there are from the beginning: opening them costs the generator time when it has least of it."""


def measure(server: Server, workload: Workload, load: float, capacity: float, around: Circumstances) -> Point:
    """Measure a server under so many times the capacity. Raises `BenchmarkError` with the reason why it cannot be."""
    with serving(server, workload.flags(server), around) as (process, port):
        check_answers(workload.paths, port)
        plan = steady(port, workload, load, capacity, around)
        (_, (begins, ends)) = plan.spans()
        record, used = drive(
            plan,
            around.generator_core,
            around.generator_log,
            lambda began: usage(process, around.server_core, began + begins, began + ends),
        )
    seen = summed_up((end for end in record.ends if end.due >= begins), record.busy, record.connections)
    if not seen.sent:
        raise BenchmarkError("not one request fell into the time; measure for more --seconds")
    return Point(load, around.seconds, seen, used.server, used.others)


def steady(port: int, workload: Workload, load: float, capacity: float, around: Circumstances) -> Plan:
    """Return a plan that sends the same all the time; only its second phase counts."""
    stream = Stream("all", workload.paths, [capacity * load] * 2)
    seed = f"{around.seed} {workload.name} {load:g}"
    return Plan(port, (around.warm_up, around.seconds), (stream,), seed, preopened=PREOPENED)
