"""The greenlet that runs a slot's jobs, the frame by which the watchdog finds it, and what it must not pass on.

A slot keeps its greenlet from job to job, so that thread-locals such as database connections last. But a request can
leave something behind that acts on the greenlet later: a timeout that was never cancelled, a timer that kills it. The
next job then needs another greenlet; this module detects that. It also keeps the ids of greenlets whose requests were
aborted from being given out again.

This module is not compiled, because compiled functions have no frames: where all other modules are compiled, the frame
of `_run` shows that the code above it belongs to the application.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from weakref import getweakrefs, ref

from gevent import Greenlet
from gevent.local import all_local_dicts_for_greenlet  # type: ignore[attr-defined]  # not in its stubs

from .safepoints import calls_application

if TYPE_CHECKING:
    from .slot import Slot

__all__ = ["Request", "SlotGreenlet", "is_watched", "keep_ident", "request_of", "slot_at"]

IDENTS_KEPT: Final = 10_000
"""How many greenlets of aborted requests are kept; an ended one takes about 1.3 KB."""

_HOUSEKEEPING: Final = frozenset({"gevent.local", "gevent._gevent_clocal", "gevent.threading"})
"""Modules that link to the end of each greenlet that has used thread-locals or `current_thread()`."""

_KEY_OF_LOCAL: Final = "_gevent_local"
"""How the names of those attributes of a greenlet begin that gevent needs when a thread-local is freed."""


_INHERITED: Final[Any] = Greenlet.__dict__.get("spawn_tree_locals")

_REQUEST: Final = "intralb_gevent.request"


class Request(NamedTuple):
    """A request that runs or has run, without a reference to anything of it."""

    slot: Slot
    started: float | None
    """When it began to run, in `time.monotonic()` seconds; no other request of its slot began at that moment."""


class SlotGreenlet(Greenlet):  # type: ignore[type-arg]  # generic in its stubs only
    """A greenlet that belongs to a slot until the slot takes a fresh one."""

    intralb_slot: Slot | None = None

    def __init__(self, slot: Slot | None) -> None:
        super().__init__()
        self.intralb_slot = slot
        self._tree: dict[str, Any] = {}
        # gevent has set its own attribute to that of the maker of this greenlet, which may be an aborted request.
        if hasattr(_INHERITED, "__set__"):
            _INHERITED.__set__(self, None)

    @property
    def spawn_tree_locals(self) -> dict[str, Any]:
        """What gevent hands on to the greenlets that a request starts, and to those that they start."""
        job = None if self.intralb_slot is None else self.intralb_slot.job
        if self.intralb_slot is not None and job is not None:
            request = Request(self.intralb_slot, job.started)
            if self._tree.get(_REQUEST) != request:
                # A new one, as greenlets of an earlier request may still use the other.
                self._tree = {_REQUEST: request}
        return self._tree

    @spawn_tree_locals.setter
    def spawn_tree_locals(self, inherited: object) -> None:
        """Ignore what the maker of this greenlet has: it is another request, or none."""

    def rawlink(self, callback: Callable[[Any], object]) -> None:
        """Call `callback` when this greenlet ends; the slot ends it after the present job."""
        super().rawlink(callback)
        # gevent links a function for `current_thread()`, and an object for each thread-local.
        modules = {getattr(callback, "__module__", None), type(callback).__module__}
        if self.intralb_slot is not None and modules.isdisjoint(_HOUSEKEEPING):
            self.intralb_slot.linked = True

    def _run(self) -> None:
        slot = self.intralb_slot
        if slot is not None:
            _run_jobs(slot)
        self._drop_locals()

    def _drop_locals(self) -> None:
        """Drop thread-locals and attributes here rather than in the hub, where their finalizers could not wait."""
        self.intralb_slot = None
        for _, values in all_local_dicts_for_greenlet(self):
            with suppress(BaseException):
                values.clear()
        for name in [name for name in vars(self) if not name.startswith(_KEY_OF_LOCAL)]:
            with suppress(BaseException):
                delattr(self, name)
        # The other one is not cleared: greenlets that the application has spawned may still use it.
        self._tree = {}


@calls_application
def _run_jobs(slot: Slot) -> None:
    # Not a method: the local variables of this frame are looked at, and the copy of them that Python keeps with the
    # frame then would count as a leftover if the greenlet were one of them.
    slot.run()


def is_watched(greenlet: SlotGreenlet) -> bool:
    """Return whether the application keeps weak references to a greenlet, such as in a `WeakKeyDictionary`.

    Those without a callback are one object for all, which thread-locals use.
    """
    return any(map(_watches, getweakrefs(greenlet)))


def _watches(reference: Any) -> bool:
    kind = type(reference)
    if not issubclass(kind, ref):
        # A `weakref.proxy`, which has no callback that could be asked for.
        return True
    return reference.__callback__ is not None and not kind.__module__.startswith("gevent.")


_aborted: Final[deque[SlotGreenlet]] = deque(maxlen=IDENTS_KEPT)


def keep_ident(greenlet: SlotGreenlet) -> None:
    """Keep `threading.get_ident()` of an aborted request's greenlet from being another's: its address is in use.

    An application may find the connection of its thread by this number, with half a transaction in it.
    """
    # What a `WeakKeyDictionary` holds for the greenlet must be freed when it ends.
    if not is_watched(greenlet):
        _aborted.append(greenlet)


def slot_at(frame: Any) -> Slot | None:
    """Return the slot whose job runs at this frame, which may be another thread's; None for any other code."""
    while frame is not None:
        if frame.f_code is _run_jobs.__code__:
            slot: Slot = frame.f_locals["slot"]
            return slot
        frame = frame.f_back
    return None


def request_of(greenlet: Any) -> Request | None:
    """Return the request that a greenlet runs or was started by; None if there was none or gevent keeps no record."""
    request: Request | None = (getattr(greenlet, "spawn_tree_locals", None) or {}).get(_REQUEST)
    return request
