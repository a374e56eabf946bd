"""The greenlet that runs a slot's jobs, and the frame by which the watchdog finds the slot.

A slot runs one job after another in the same greenlet, so that thread-locals such as database connections stay open.
But a request can leave behind an object that affects the greenlet later, such as a timeout that was never cancelled, or
a timer that kills the greenlet. If a request has left an object behind that may affect the greenlet, the slot needs a
new greenlet. This module detects objects that a request has left behind. The module also prevents the reuse of the ids
of greenlets whose requests were aborted.

This module is not compiled, because compiled functions have no frames. Even if all other modules are compiled, the
frame of `_run_jobs` shows that the frames inside it belong to the application.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from weakref import getweakrefs, ref

from gevent import Greenlet, getcurrent
from gevent.local import all_local_dicts_for_greenlet  # type: ignore[attr-defined]  # missing in gevent's stubs

from .safepoints import calls_application

if TYPE_CHECKING:
    from ..pool.slot import Slot

__all__ = ["Request", "SlotGreenlet", "current_slot", "is_watched", "keep_ident", "request_of", "slot_at", "slot_of"]

IDENTS_KEPT: Final = 10_000
"""Maximum number of aborted requests whose greenlets are kept in memory; a finished greenlet takes about 1.3 KB."""

_HOUSEKEEPING: Final = frozenset({"gevent.local", "gevent._gevent_clocal", "gevent.threading"})
"""gevent's modules that link a callback to each greenlet that uses thread-locals or `current_thread()`."""

_KEY_OF_LOCAL: Final = "_gevent_local"
"""Prefix of the greenlet attributes that gevent needs when it frees a thread-local."""


_INHERITED: Final[Any] = Greenlet.__dict__.get("spawn_tree_locals")

_REQUEST: Final = "intralb_gevent.request"


class Request(NamedTuple):
    """Identifies a request that is running or has run, without a reference to the request's objects."""

    slot: Slot
    started: float | None
    """Time at which the request was started, in `time.monotonic()` seconds; unique among the requests of its slot."""


class SlotGreenlet(Greenlet):  # type: ignore[type-arg]  # generic only in gevent's stubs
    """A greenlet that belongs to a slot until the slot replaces it with a new one."""

    intralb_slot: Slot | None = None

    def __init__(self, slot: Slot | None) -> None:
        super().__init__()
        self.intralb_slot = slot
        self._tree: dict[str, Any] = {}
        # Clear this attribute: gevent has copied its value from the creating greenlet, which may be running a request
        # that has been aborted.
        if hasattr(_INHERITED, "__set__"):
            _INHERITED.__set__(self, None)

    @property
    def spawn_tree_locals(self) -> dict[str, Any]:
        """The dictionary that gevent passes on to all greenlets that a request spawns, directly or indirectly."""
        job = None if self.intralb_slot is None else self.intralb_slot.job
        if self.intralb_slot is not None and job is not None:
            request = Request(self.intralb_slot, job.started)
            if self._tree.get(_REQUEST) != request:
                # Create a new dictionary, because greenlets of an earlier request may still use the old one.
                self._tree = {_REQUEST: request}
        return self._tree

    @spawn_tree_locals.setter
    def spawn_tree_locals(self, inherited: object) -> None:
        """Ignore the creating greenlet's value, because that greenlet runs another request or no request."""

    @property
    def has_spawned(self) -> bool:
        """Whether the running job has spawned greenlets."""
        slot = self.intralb_slot
        if not self._tree or slot is None or slot.job is None:
            return False
        return self._tree.get(_REQUEST) == Request(slot, slot.job.started)

    def rawlink(self, callback: Callable[[Any], object]) -> None:
        """Register a callback for the end of this greenlet; the slot then replaces this greenlet after the current
        job."""
        super().rawlink(callback)
        # Ignore the callbacks that gevent itself links: a function for `current_thread()`, and an object for each
        # thread-local.
        modules = {getattr(callback, "__module__", None), type(callback).__module__}
        if self.intralb_slot is not None and modules.isdisjoint(_HOUSEKEEPING):
            self.intralb_slot.linked = True

    def _run(self) -> None:
        slot = self.intralb_slot
        if slot is not None:
            _run_jobs(slot)
        self._drop_locals()

    def _drop_locals(self) -> None:
        """Drop this greenlet's thread-locals and attributes while this greenlet runs: in the hub, their finalizers
        could not wait."""
        self.intralb_slot = None
        for _, values in all_local_dicts_for_greenlet(self):
            with suppress(BaseException):
                values.clear()
        for name in [name for name in vars(self) if not name.startswith(_KEY_OF_LOCAL)]:
            with suppress(BaseException):
                delattr(self, name)
        # Replace the dictionary instead of clearing it: greenlets that the application has spawned may still use it.
        self._tree = {}


@calls_application
def _run_jobs(slot: Slot) -> None:
    # `_run_jobs` is not a method, so that the greenlet is not a local variable: `slot_at` reads the local variables of
    # this frame, and Python keeps a copy of these variables. If the copy contained a reference to the greenlet, the
    # slot would conclude that the request has left an object behind.
    slot.run()


def is_watched(greenlet: SlotGreenlet) -> bool:
    """Return whether the application keeps weak references to a greenlet, such as in a `WeakKeyDictionary`.

    Weak references without a callback are ignored: they all share one object, which gevent's thread-locals also use.
    """
    return any(map(_watches, getweakrefs(greenlet)))


def _watches(reference: Any) -> bool:
    kind = type(reference)
    if not issubclass(kind, ref):
        # The callback of a `weakref.proxy` cannot be read, so assume that the proxy has a callback.
        return True
    return reference.__callback__ is not None and not kind.__module__.startswith("gevent.")


_aborted: Final[deque[SlotGreenlet]] = deque(maxlen=IDENTS_KEPT)


def keep_ident(greenlet: SlotGreenlet) -> None:
    """Prevent the reuse of an aborted request's `threading.get_ident()`, which is the address of its greenlet.

    If a new request got the thread id of an aborted request, an application that looks up connections by thread id
    would find a connection with an unfinished transaction.
    """
    # Do not keep a greenlet to which the application has weak references: the greenlet's entries in a
    # `WeakKeyDictionary` must be freed when the greenlet ends.
    if not is_watched(greenlet):
        _aborted.append(greenlet)


def slot_of(greenlet: Any) -> Slot | None:
    """Return the slot to which a greenlet belongs; None if the greenlet belongs to no slot."""
    slot: Slot | None = getattr(greenlet, "intralb_slot", None)
    return slot


def current_slot() -> Slot | None:
    """Return the slot to which the current greenlet belongs; None if the greenlet belongs to no slot."""
    return slot_of(getcurrent())


def slot_at(frame: Any) -> Slot | None:
    """Return the slot whose job runs at this frame; None if the frame belongs to no job.

    The frame may belong to another thread.
    """
    while frame is not None:
        if frame.f_code is _run_jobs.__code__:
            # Do not use `variables`, because several threads call this function.
            slot: Slot = frame.f_locals["slot"]
            return slot
        frame = frame.f_back
    return None


def request_of(greenlet: Any) -> Request | None:
    """Return the request that a greenlet is running, or that has spawned the greenlet.

    Returns None if there is no such request, or if gevent has no record of the request.
    """
    request: Request | None = (getattr(greenlet, "spawn_tree_locals", None) or {}).get(_REQUEST)
    return request
