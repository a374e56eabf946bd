"""Metrics of the process: its event loop, its use of resources, and the other processes of its site."""

from __future__ import annotations

import os
import platform
import resource
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import gevent

from ... import __version__
from ...hub.log import all_dropped
from ...policy.saturation import RESOURCES
from ..stats import Histogram
from .metric import Metric
from .readings import from_histogram
from .source import Labelled, Source, lane_label

__all__ = ["PROCESS_METRICS"]

_PAGE: Final = os.sysconf("SC_PAGESIZE")
_FILES: Final = "/proc/self/fd"
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_IS_COMPILED: Final = not hasattr(Histogram.add, "__code__")


# Metrics of the event loop.


def _blocked(source: Source) -> Labelled:
    watchdog = source.watchdog
    outside = 0 if watchdog is None else watchdog.blocked
    for lane in source.lanes:
        outside -= lane.stats.hub_blocked
        yield (lane_label(lane.name),), lane.stats.hub_blocked
    yield ("outside",), max(0, outside)


def _busy(source: Source) -> Labelled:
    watchdog = source.watchdog
    yield (), 0.0 if watchdog is None else watchdog.busy(source.now)


def _saturation(source: Source) -> Labelled:
    for name, ratio in source.balancer.intake.context.load.saturation.by_resource.items():
        yield (name,), ratio


# Metrics of the process's resources, with the names that all Prometheus clients use.


def _resident(source: Source) -> Labelled:
    yield (), int(_proc("statm").split()[1]) * _PAGE


def _cpu(source: Source) -> Labelled:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    yield (), usage.ru_utime + usage.ru_stime


def _open_files(source: Source) -> Labelled:
    # Since Linux 6.2, the size of this directory is the number of open files. Before Linux 6.2, the size was 0, so the
    # directory must be listed. Listing the directory takes a millisecond for each 1,000 files, and opens one more file,
    # which is subtracted.
    yield (), os.stat(_FILES).st_size or len(os.listdir(_FILES)) - 1


def _max_files(source: Source) -> Labelled:
    yield (), resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _started(source: Source) -> Labelled:
    booted = next(int(line.split()[1]) for line in Path("/proc/stat").read_text().splitlines() if "btime" in line)
    # The second field, the program's name, may contain spaces and parentheses.
    yield (), booted + int(_proc("stat").rpartition(")")[2].split()[19]) / _TICKS


def _proc(name: str) -> str:
    return Path(f"/proc/self/{name}").read_text()


def _where_proc_exists(read: Any) -> Any:
    """Return the given function on a system with /proc; otherwise, return a function that reads nothing."""
    return read if Path("/proc/self/statm").exists() else lambda source: ()


# Metrics of the site's processes, as the supervisor reports them.


def _processes(source: Source) -> Labelled:
    states = Counter(each["state"] for each in source.supervisor.get("processes", ()))
    if not source.supervisor:
        states["ready" if source.balancer.condition == "serving" else "draining"] = 1
    for state in ("starting", "ready", "draining"):
        yield (state,), states[state]


def _counts(kind: str, values: tuple[str, ...]) -> Any:
    def read(source: Source) -> Labelled:
        counts: Mapping[str, int] = source.supervisor.get("counts", {}).get(kind, {})
        for value in values if source.supervisor else ():
            yield (value,), counts.get(value, 0)

    return read


def _info(source: Source) -> Labelled:
    yield (__version__, platform.python_version(), gevent.__version__, str(_IS_COMPILED).lower()), 1


_RESTARTS: Final = ("exit", "signal", "stuck", "requests", "seconds", "rss", "reload")
_RELOADS: Final = ("done", "failed")

PROCESS_METRICS: Final = (
    Metric(
        name="intralb_saturation_ratio",
        kind="gauge",
        help="Demand divided by capacity of a resource; 1 means full, and above 1, requests wait or are rejected",
        labels=("resource",),
        values={"resource": RESOURCES},
        read=_saturation,
        merge="mean",
    ),
    Metric(
        name="intralb_hub_busy_seconds_total",
        kind="counter",
        help="Time for which the event loop was busy; the rate of this counter is the share of time with a busy loop",
        read=_busy,
        merge="each",
    ),
    Metric(
        name="intralb_hub_busy_period_seconds",
        kind="histogram",
        help="Time for which the event loop was busy between two polls of its sockets and timers",
        read=lambda source: [((), from_histogram(source.lag))],
    ),
    Metric(
        name="intralb_hub_blocked_total",
        kind="counter",
        help="Number of times that code blocked the event loop for 0.1 s or more, by the lane of the blocking request; "
        "`outside` means that the code belonged to no request",
        labels=("lane",),
        read=_blocked,
    ),
    Metric(
        name="intralb_ready",
        kind="gauge",
        help="Number of processes that accept requests",
        read=lambda source: [((), float(source.balancer.condition == "serving"))],
    ),
    Metric(
        name="intralb_processes",
        kind="gauge",
        help="Number of processes, by state",
        labels=("state",),
        values={"state": ("starting", "ready", "draining")},
        read=_processes,
        merge="max",
    ),
    Metric(
        name="intralb_processes_wanted",
        kind="gauge",
        help="Number of processes that should be ready",
        read=lambda source: [((), source.supervisor.get("wanted", 1))],
        merge="max",
    ),
    Metric(
        name="intralb_process_restarts_total",
        kind="counter",
        help="Processes that the supervisor has replaced, by cause",
        labels=("cause",),
        values={"cause": _RESTARTS},
        read=_counts("restarts", _RESTARTS),
        merge="max",
    ),
    Metric(
        name="intralb_reloads_total",
        kind="counter",
        help="Reloads of the application, by result",
        labels=("result",),
        values={"result": _RELOADS},
        read=_counts("reloads", _RELOADS),
        merge="max",
    ),
    Metric(
        name="intralb_generation",
        kind="gauge",
        help="Number of the current generation, which each reload increases",
        read=lambda source: [((), source.supervisor.get("generation", 1))],
        merge="max",
    ),
    Metric(
        name="intralb_log_records_dropped_total",
        kind="counter",
        help="Log records that were dropped because writing them failed or was too slow",
        read=lambda source: [((), all_dropped())],
    ),
    Metric(
        name="intralb_endings_dropped_total",
        kind="counter",
        help="Requests that were ended early but not reported to on_ended, because on_ended could not keep up",
        read=lambda source: [((), source.balancer.intake.context.endings.dropped)],
    ),
    Metric(
        name="intralb_info",
        kind="gauge",
        help="Always 1; the labels are the versions of the package, Python and gevent, and whether the package is "
        "compiled",
        labels=("version", "python", "gevent", "compiled"),
        read=_info,
        merge="max",
    ),
    Metric(
        name="process_resident_memory_bytes",
        kind="gauge",
        help="Resident memory size",
        read=_where_proc_exists(_resident),
        merge="each",
    ),
    Metric(
        name="process_cpu_seconds_total",
        kind="counter",
        help="Total user and system CPU time spent",
        read=_cpu,
        merge="each",
    ),
    Metric(
        name="process_open_fds",
        kind="gauge",
        help="Number of open file descriptors",
        read=_where_proc_exists(_open_files),
        merge="each",
    ),
    Metric(
        name="process_max_fds",
        kind="gauge",
        help="Maximum number of open file descriptors",
        read=_max_files,
        merge="each",
    ),
    Metric(
        name="process_start_time_seconds",
        kind="gauge",
        help="Start time of the process since the Unix epoch",
        read=_where_proc_exists(_started),
        merge="each",
    ),
)
