"""Measures all steady loads: first the cost of requests, then every server at every load.

All servers are measured at one load before the next load, so that disturbances of the machine affect all of them.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Final

from ..common import LoadTestError
from ..common.client import WaitingClient, all_at_once
from ..common.report import or_failure, say
from ..common.servers import ANSWER_SECONDS, OURS, SERVERS, Server
from .applications import HOLD
from .connected import connected_capacity
from .generator import Plan, Stream, in_proportion
from .results import Keep, Point, Results
from .seen import REFUSED, summed_up
from .serving import CONTENDERS, WORKLOADS, Circumstances, Costs, Usage, Workload, check_answers, drive, held, usage

_REFUSED_PER_SECOND: Final = 2000.0
_PREOPENED: Final = 50
"""Number of connections opened before the start, because opening them under load would delay the generator."""
# Flags for one slot and no queue: once a request holds the slot, the server rejects all others.
_REFUSE_ALL: Final = (
    *("--max-workers=1", "--max-concurrent-per-router=1", "--queue-size=0"),
    *("--request-timeout-seconds=300", "--graceful-timeout-seconds=0.1"),
)


def request_costs(workload: Workload, refusal: float, around: Circumstances) -> Costs:
    """Measure the cost of a workload's requests, with clients that wait for each response. Raises `LoadTestError`.

    The clients keep the server as busy as possible without a queue, because wake-ups of an idle server add to the cost.
    """
    server = SERVERS[OURS]
    with around.serving(server, workload.flags(server)) as (process, port):
        check_answers(workload.paths, port)
        before = process.busy_seconds()
        statuses = _statuses(workload, port, around.seconds)
        spent = process.busy_seconds() - before
    refused = statuses["503"] + statuses["429"]
    if not statuses["200"] or statuses["200"] + refused < statuses.total():
        raise LoadTestError(f"requests of {workload.name} within the capacity were not answered: {statuses}")
    costs = Costs((spent - refused * refusal) / statuses["200"], refusal)
    if costs.refusal >= costs.request:
        raise LoadTestError(f"k of {workload.name} cannot be measured; measure for more --seconds")
    return costs


def refusal_seconds(around: Circumstances) -> float:
    """Measure the cost of a rejection, with a server that rejects all requests. Raises `LoadTestError`."""
    stream = Stream("refused", {"/": 1.0}, (_REFUSED_PER_SECOND,))
    with around.serving(SERVERS[OURS], _REFUSE_ALL) as (process, port), held(HOLD, port):
        plan = Plan(port, (around.seconds,), (stream,), f"{around.seed} refusals")
        record, before = drive(plan, around.generator_core, around.generator_log, lambda began: process.busy_seconds())
        spent = process.busy_seconds() - before
    if any(end.kind != REFUSED for end in record.ends):
        raise LoadTestError("not everything was refused by a server whose only slot is held")
    return spent / len(record.ends)


def _statuses(workload: Workload, port: int, seconds: float) -> Counter[str]:
    """Send requests for `seconds` with clients that wait for each response; count the responses by status."""
    paths = itertools.cycle(in_proportion(workload.paths))
    ended: list[str] = []
    until = time.monotonic() + seconds

    def ask() -> None:
        with contextlib.closing(WaitingClient(port, ANSWER_SECONDS)) as client:
            while time.monotonic() < until:
                ended.append(client.ask(next(paths)).split()[0])

    all_at_once([ask] * workload.clients)
    return Counter(ended)


def measure(server: Server, workload: Workload, load: float, capacity: float, around: Circumstances) -> Point:
    """Measure a server at `load` times the capacity. The first phase is a warm-up; only the second phase counts.

    Raises `LoadTestError` with the reason if the measurement fails.
    """
    with around.serving(server, workload.flags(server)) as (process, port):
        check_answers(workload.paths, port)
        stream = Stream("all", workload.paths, [capacity * load] * 2)
        phases, seed = (around.warm_up, around.seconds), f"{around.seed} {workload.name} {load:g}"
        plan = Plan(port, phases, (stream,), seed, preopened=_PREOPENED)
        (_, (begins, ends)) = plan.spans()

        def used(began: float) -> Usage:
            return usage(process, around.server_core, began + begins, began + ends)

        record, found = drive(plan, around.generator_core, around.generator_log, used)
    seen = summed_up((end for end in record.ends if end.due >= begins), record.busy, record.connections)
    if not seen.sent:
        raise LoadTestError("not one request fell into the time; measure for more --seconds")
    return Point(load, around.seconds, seen, found.server, found.others)


def measure_costs(results: Results, workloads: Sequence[str], around: Circumstances) -> None:
    """Measure the costs for each workload; after a failure, the report has no ceiling for that workload."""
    say("the cost of a refusal")
    with or_failure(lambda _: say("  so there is no ceiling")):
        refusal = refusal_seconds(around)
        for name in workloads:
            say(f"{name}: the cost of a request")
            with or_failure(lambda _: say("  so there is no ceiling")):
                results.costs[name] = request_costs(WORKLOADS[name], refusal, around)


def measure_connections(results: Results, workloads: Sequence[str], around: Circumstances) -> None:
    """Measure the maximum throughput of the ten connections; after a failure, the computed value is used."""
    for name in workloads:
        say(f"{name}: what its connections allow")
        with or_failure(lambda _: say("  so the capacity is what it is called")):
            if (capacity := connected_capacity(WORKLOADS[name], around)) is not None:
                results.connected[name] = capacity


def measure_points(
    results: Results, parsed: argparse.Namespace, servers: Sequence[str], around: Circumstances, keep: Keep
) -> None:
    """Measure every server under every load; store the results after each measurement."""
    for name, times, server in itertools.product(parsed.workloads, parsed.loads, servers):
        say(f"{name}, {times:g} times its capacity: {server}")
        entry = results.entry(name, server)
        with or_failure(partial(entry.failures.__setitem__, f"{times:g}")):
            point = measure(CONTENDERS[server], WORKLOADS[name], times, results.capacity(name), around)
            say(f"  {point.goodput:.0f}/s useful of {point.offered:.0f}/s")
            entry.points.append(point)
        keep()
