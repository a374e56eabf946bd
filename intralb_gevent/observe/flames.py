"""Collects stacks for the two flame graphs of the status page: stacks of waiting and of computing handlers.

Stacks are collected only while a viewer requests the graphs. The stacks of waiting handlers are read once a second, in
slices, from greenlets that are not running. The stacks of computing handlers come from the watchdog, which samples a
handler only after the handler has occupied the event loop for 10 ms.
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
"""Age in seconds at which a stack is dropped."""

WANTED_SECONDS: Final = 10.0
"""The collection of stacks ends this many seconds after the last request for the graphs."""

PERIOD_SECONDS: Final = 5.0
"""Length in seconds of a period; equal stacks of one period are counted together."""

MOST_STACKS: Final = 300
"""Maximum number of different stacks that are recorded in one period."""

MOST_READ: Final = 200
"""Maximum number of greenlets whose stacks are read per second; if there are more, a random sample is read."""

SLICE: Final = 50
"""Number of stacks that are read before other greenlets run."""

LEAST_SHARE: Final = 0.004
"""Share of all stacks below which a part of the graph is left out, because it would be too narrow to see."""

MOST_REQUESTS: Final = 10
"""Maximum number of requests that are recorded for each stack in each period; the newest requests are retained."""

MOST_LISTED: Final = 50
"""Maximum number of requests that are listed for one part of a graph."""

_Frame = tuple[str, str]
_Stack = tuple[_Frame, ...]
"""The names and files of the functions in a stack, the outermost function first."""


class _Same:
    """A stack, and the number of times that it was seen.

    `codes` are the code objects of the functions in the stack, the innermost first. `called` is the compiled function
    that the innermost function has called; empty if there is none.
    """

    __slots__ = ("called", "codes", "count", "requests")

    def __init__(self, codes: tuple[CodeType, ...], called: str) -> None:
        self.codes = codes
        self.called = called
        self.count = 0
        self.requests: dict[str, dict[str, str]] = {}
        """The newest requests that had this stack, by the keys of their jobs."""

    def add(self, job: Job | None) -> None:
        """Count one more occurrence of the stack, in a handler of this job."""
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
        """Names and files of the functions in the stack, the outermost function first."""
        named = tuple((code.co_qualname, code.co_filename) for code in reversed(self.codes))
        return (*named, (self.called, "")) if self.called else named


class _Kept:
    """The stacks of one graph, counted for each period of `PERIOD_SECONDS`."""

    def __init__(self) -> None:
        self._periods: deque[tuple[float, dict[Any, _Same]]] = deque(maxlen=round(KEPT_SECONDS / PERIOD_SECONDS))

    def __repr__(self) -> str:
        return f"<_Kept {len(self._periods)} periods>"

    def add(self, codes: tuple[CodeType, ...], called: str, job: Job | None) -> None:
        """Count a stack of a job; `codes` and `called` describe the stack as in `_Same`."""
        now = monotonic()
        if not self._periods or now - self._periods[-1][0] >= PERIOD_SECONDS:
            self._periods.append((now, {}))
        stacks = self._periods[-1][1]
        # Identify each code object by its address, because hashing a code object is slow.
        key = (*map(id, codes), called)
        same = stacks.get(key)
        if same is None and len(stacks) < MOST_STACKS:
            same = stacks[key] = _Same(codes, called)
        if same is not None:
            same.add(job)

    def _all(self) -> Iterator[_Same]:
        """Yield the different stacks of each period in the last `KEPT_SECONDS`, and drop older periods."""
        while self._periods and monotonic() - self._periods[0][0] > KEPT_SECONDS:
            self._periods.popleft()
        for _, stacks in list(self._periods):
            yield from list(stacks.values())

    def newest(self) -> Iterator[tuple[_Stack, int]]:
        """Yield the different stacks of each period, each with the number of times that it was seen."""
        yield from ((same.names, same.count) for same in self._all())

    def requests(self, part: int) -> dict[str, dict[str, str]]:
        """Return the requests whose stacks belong to a part of the graph, by the keys of their jobs, the oldest
        first."""
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
        """Return both graphs for JSON, and collect stacks for the next `WANTED_SECONDS`."""
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
        """Return the requests in a part of the graph "waiting" or "computing", for JSON, the newest request first."""
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
        """Count the stack of the running handler; the watchdog calls this method in the middle of the handler.

        `in_c` is not None if the watchdog found the handler in a call of compiled code. The call has returned since
        then, and `frame` is the frame that made the call.
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
    """Return a tree of functions; each function has the number of stacks that contain its path from the root."""
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
    """Return the id of a part of a graph: a checksum of the functions from the root to the part. The root's id is 0."""
    return zlib.crc32(_name(frame).encode("utf-8", "backslashreplace"), parent)


def _parts(stack: _Stack) -> list[int]:
    """Return the ids of the parts of the graph to which a stack belongs, beginning with the root."""
    return list(accumulate(stack, _part, initial=0))
