"""Collects stacks for the two flame graphs of the status page: where handlers wait, and what computes.

Stacks are collected only while a viewer asks for the graphs. The stacks of waiting handlers are read once a second, in
slices, from greenlets that do not run. The stacks of computing handlers come from the watchdog, which sees a handler
only after it has kept the event loop for 10 ms.
"""

from __future__ import annotations

import random
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import accumulate
from time import monotonic
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, Final

import gevent

from ..aborts.slotgreenlet import slot_of
from .places import called_in_c, is_application, shown_file, stack_of
from .requests import key_of, keys_running, path_of

if TYPE_CHECKING:
    import traceback

    from ..pool.balancer import LoadBalancer
    from ..pool.job import Job

__all__ = ["Flames"]

KEPT_SECONDS: Final = 60.0
"""Age in seconds from which on a stack is dropped."""

WANTED_SECONDS: Final = 10.0
"""Seconds after the last request for the graphs until the collection ends."""

PERIOD_SECONDS: Final = 5.0
"""Seconds over which equal stacks are summed up."""

MOST_STACKS: Final = 300
"""Number of different stacks that are kept for each period."""

MOST_READ: Final = 200
"""Number of greenlets whose stacks are read in one second; with more, a random selection."""

SLICE: Final = 50
"""Number of stacks that are read before the event loop runs other code."""

LEAST_SHARE: Final = 0.004
"""Share of all stacks below which a part of the graph is left out, because it would be too narrow to see."""

MOST_REQUESTS: Final = 10
"""Number of requests that are kept of each stack in each period, the newest."""

MOST_LISTED: Final = 50
"""Number of requests that are listed of one part of a graph."""

_Frame = tuple[str, str]
_Stack = tuple[_Frame, ...]
"""A stack as names and files of functions, the outermost first."""


class _Same:
    """Equal stacks: their code, the innermost function first, the compiled function that it calls, and their number."""

    __slots__ = ("called", "codes", "count", "requests")

    def __init__(self, codes: tuple[CodeType, ...], called: str) -> None:
        self.codes = codes
        self.called = called
        self.count = 0
        self.requests: dict[str, dict[str, str]] = {}
        """The newest requests that had this stack, by their keys."""

    def add(self, job: Job | None) -> None:
        """Count a stack of this job."""
        self.count += 1
        if job is None:
            return
        key = key_of(job)
        if key not in self.requests:
            if len(self.requests) >= MOST_REQUESTS:
                del self.requests[next(iter(self.requests))]
            self.requests[key] = _described(job)

    @property
    def names(self) -> _Stack:
        """Names and files of the functions, the outermost first."""
        named = tuple((code.co_qualname, code.co_filename) for code in reversed(self.codes))
        return (*named, (self.called, "")) if self.called else named


class _Kept:
    """The stacks of one graph, summed up over periods of some seconds."""

    def __init__(self) -> None:
        self._periods: deque[tuple[float, dict[Any, _Same]]] = deque(maxlen=round(KEPT_SECONDS / PERIOD_SECONDS))

    def __repr__(self) -> str:
        return f"<_Kept {len(self._periods)} periods>"

    def add(self, codes: tuple[CodeType, ...], called: str, job: Job | None) -> None:
        """Count a stack of a job, the innermost function first, and the compiled function that it calls."""
        now = monotonic()
        if not self._periods or now - self._periods[-1][0] >= PERIOD_SECONDS:
            self._periods.append((now, {}))
        stacks = self._periods[-1][1]
        # Identify code by its address, because the hash of a code object takes long.
        key = (*map(id, codes), called)
        same = stacks.get(key)
        if same is None and len(stacks) < MOST_STACKS:
            same = stacks[key] = _Same(codes, called)
        if same is not None:
            same.add(job)

    def _all(self) -> Iterator[_Same]:
        """Yield the different stacks of the last `KEPT_SECONDS`; forget older ones."""
        while self._periods and monotonic() - self._periods[0][0] > KEPT_SECONDS:
            self._periods.popleft()
        for _, stacks in list(self._periods):
            yield from list(stacks.values())

    def newest(self) -> Iterator[tuple[_Stack, int]]:
        """Yield the different stacks with their numbers."""
        yield from ((same.names, same.count) for same in self._all())

    def requests(self, part: int) -> dict[str, dict[str, str]]:
        """Return the requests whose stacks are in a part of the graph, by their keys, the oldest first."""
        found: dict[str, dict[str, str]] = {}
        for same in self._all():
            if part in _parts(same.names):
                found.update(list(same.requests.items()))
        return found


class Flames:
    """The stacks of one balancer's handlers."""

    def __init__(self, balancer: LoadBalancer) -> None:
        self._balancer = balancer
        self._until = 0.0
        self._began = 0.0
        self._collector: gevent.Greenlet[..., None] | None = None
        self._waiting, self._computing = _Kept(), _Kept()

    def __repr__(self) -> str:
        return f"<Flames {self._waiting!r} waiting, {self._computing!r} computing>"

    def graphs(self) -> dict[str, Any]:
        """Return both graphs for JSON, and have stacks collected from now on for a while."""
        now = monotonic()
        self._until = now + WANTED_SECONDS
        if self._collector is None or self._collector.dead:
            self._began = now
            self._collector = gevent.spawn(self._collect)
        return {
            "seconds": round(min(KEPT_SECONDS, now - self._began), 1),
            "waiting": tree(self._waiting.newest()),
            "computing": tree(self._computing.newest()),
        }

    def requests(self, graph: str, part: int) -> list[dict[str, Any]]:
        """Return the requests in a part of a graph, "waiting" or "computing"; the newest first, for JSON."""
        kept = self._computing if graph == "computing" else self._waiting
        runs = keys_running(self._balancer)
        found = [{**each, "running": key in runs} for key, each in kept.requests(part).items()]
        return found[: -MOST_LISTED - 1 : -1]

    def _collect(self) -> None:
        runtime = self._balancer.intake.context.runtime
        watchdog = None if runtime is None else runtime.watchdog
        try:
            while monotonic() < self._until:
                if watchdog is not None:
                    watchdog.sampler = self._computes
                self._read_waiting()
                gevent.sleep(1.0)
        finally:
            if watchdog is not None:
                watchdog.sampler = None

    def _read_waiting(self) -> None:
        slots = [slot for lane in self._balancer.intake.lanes for slot in lane.pool.slots if slot.job is not None]
        if len(slots) > MOST_READ:
            slots = random.sample(slots, MOST_READ)
        for number, slot in enumerate(slots, 1):
            frame: FrameType | None = slot.greenlet.gr_frame
            codes = tuple(code for code, _ in stack_of(frame))
            if codes:
                self._waiting.add(codes, called_in_c(frame), slot.job)
            if not number % SLICE:
                gevent.sleep(0)

    def _computes(self, frame: FrameType | None, in_c: traceback.StackSummary | None) -> None:
        """Keep the stack of the running handler; the watchdog calls this in the middle of the handler.

        A call of compiled code that has just returned is in `in_c`, but its innermost function also is at `frame`.
        """
        codes = tuple(code for code, _ in stack_of(frame))
        if codes:
            slot = slot_of(gevent.getcurrent())
            self._computing.add(codes, "" if in_c is None else called_in_c(frame), None if slot is None else slot.job)


def _described(job: Job) -> dict[str, str]:
    environ = job.environ
    method = str(environ.get("REQUEST_METHOD", ""))[:16]
    return {"request": f"{method} {path_of(environ)}", "id": str(environ.get("intralb.request_id", ""))}


def tree(stacks: Iterable[tuple[_Stack, int]]) -> dict[str, Any]:
    """Return stacks with their numbers as a tree of functions with counts; its root stands for all stacks."""
    root: dict[str, Any] = {"count": 0, "children": {}}
    for stack, count in stacks:
        node = root
        node["count"] += count
        for frame in stack:
            node = node["children"].setdefault(frame, {"count": 0, "children": {}})
            node["count"] += count
    return _shown(("all", ""), root, root["count"] * LEAST_SHARE, 0)


def _shown(frame: _Frame, node: dict[str, Any], least: float, part: int) -> dict[str, Any]:
    children = sorted(node["children"].items(), key=lambda each: -each[1]["count"])
    return {
        "name": _name(frame),
        "own": bool(frame[1]) and is_application(frame[1]),
        "part": part,
        "count": node["count"],
        "children": [_shown(key, child, least, _part(part, key)) for key, child in children if child["count"] > least],
    }


def _name(frame: _Frame) -> str:
    name, file = frame
    return f"{name} ({shown_file(file)})" if file else name


def _part(parent: int, frame: _Frame) -> int:
    """Return the number of a part of a graph, which follows from the names of its functions; that of the root is 0."""
    return zlib.crc32(_name(frame).encode("utf-8", "backslashreplace"), parent)


def _parts(stack: _Stack) -> list[int]:
    """Return the parts of the graph to which a stack belongs, beginning with the root."""
    return list(accumulate(stack, _part, initial=0))
