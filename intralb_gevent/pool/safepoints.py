"""Where an abort may land in a handler that computes.

An abort that comes by a signal can land between any two steps of the application. It must not land in code of ours that
the application has called, such as `start_response` or the opening of a session: it would leave a half-done step
behind. Nor in modules of Python and gevent that keep the state of the whole process and do not expect an exception
anywhere: locks, logging, starting a process, importing. Nor in functions that take or give back a lock. Nor where
Python or a library in C drops what is raised: in finalizers, in callbacks of weak references and of ctypes, in SQLite's
collations. There an abort would end the callback halfway, and not the application: an SQLite index would be corrupted.
"""

from __future__ import annotations

import gc
import inspect
import sys
from collections import deque
from collections.abc import Callable, Iterator
from functools import lru_cache
from inspect import getattr_static
from types import BuiltinMethodType, CodeType, FrameType, FunctionType, MethodDescriptorType, MethodType
from typing import Any, Final, TypeVar

from .blocks import calls_enter, calls_exit
from .callsites import arguments, call_site, callee, first_argument, is_a

__all__ = [
    "DELICATE",
    "application_frames",
    "called_by_library",
    "calls_application",
    "has_just_acquired",
    "in_application",
    "is_ours",
    "landing_frame",
    "lands_outside",
    "outside",
    "package_of",
]

_Function = TypeVar("_Function", bound=Callable[..., Any])

_OURS: Final = __name__.partition(".")[0] + "."
_APPLICATIONS: Final = (_OURS + "demo.", _OURS + "integrations.", _OURS + "sessionsource")
"""What of ours is an application, or runs on behalf of one."""

_CLEANS_UP: Final = _OURS + "integrations.drivers"
"""But this ends what an aborted statement does on its server."""

DELICATE: Final = frozenset(
    {
        *("gevent", "greenlet", "threading", "queue", "selectors", "socket", "ssl", "weakref", "_weakrefset"),
        *("logging", "subprocess", "multiprocessing", "concurrent"),
        *("importlib", "_frozen_importlib", "_frozen_importlib_external", "tempfile"),
    }
)
"""Packages in which an exception out of nowhere leaves a lock held, a program running, a module half imported, or a
file that nobody knows of."""

_CLIENTS: Final = frozenset(
    {"http", "urllib3", "redis", "valkey", "memcache", "pymemcache", "bmemcached", "pymongo", "amqp", "kafka"}
)
"""Packages that keep connections for many requests: after an exception between a command and its answer, the next
request would receive that answer."""

_POOLS: Final = ("psycopg2.pool", "psycopg_pool", "sqlalchemy.pool", "dbutils")
"""Modules that count the connections that are taken from them, and lose one by an exception while they do."""

_TAKES: Final = frozenset({"acquire", "_acquire"})
"""Names of functions that take a lock, before the `try` block that gives it back."""

_TAKES_OR_GIVES_BACK: Final = frozenset(
    {
        *_TAKES,
        *("__enter__", "__exit__", "__aenter__", "__aexit__", "release", "_release"),
        # Those of contextlib.ExitStack.
        *("enter_context", "enter_async_context", "_push_cm_exit", "_push_async_cm_exit", "_push_exit_callback"),
    }
)
"""Names of functions that take a lock, which a `with` or `try` block after them gives back, or that give it back."""

_REGISTERS: Final = frozenset({"callback", "push", "_create_cb_wrapper"})
"""Methods of contextlib.ExitStack that take over what gives something back."""

_DROPS_REFERENCES: Final = frozenset({"clear", "discard", "pop", "popitem", "popleft", "remove"})
"""Methods of built-in containers that call Python functions for comparisons only, or because an object is freed."""

_COMPARES: Final = frozenset({"__eq__", "__hash__", "__lt__", "__index__"})

_ITERATES: Final = frozenset({"__iter__", "__next__", "__getitem__", "__len__", "__length_hint__", "keys"})
"""Methods that `function(*values)` calls before it calls the function."""

_DROPPING_LIBRARIES: Final = (
    ("_ctypes", ("CFuncPtr",)),
    ("sqlite3", ("Connection", "Cursor")),
    ("apsw", ("Connection", "Cursor")),
    ("_cffi_backend", ("_CDataBase",)),
)
"""Modules and their types whose callbacks cannot report an exception to their caller."""

_CALLERS: set[CodeType] = set()
_CALLED_BY_LIBRARIES: set[CodeType] = set()


def calls_application(function: _Function) -> _Function:
    """Mark a function of ours that calls the application, and is in order wherever that is ended.

    One that is compiled has no frame and needs none: its nearest caller that is not compiled stands for it.
    """
    if isinstance(function, FunctionType):
        _CALLERS.add(function.__code__)
    return function


def called_by_library(function: _Function) -> _Function:
    """Mark a function of ours that a library in C calls, which drops what it raises."""
    if isinstance(function, FunctionType):
        _CALLED_BY_LIBRARIES.add(function.__code__)
    return function


def application_frames(frame: FrameType | None) -> Iterator[tuple[FrameType, int]]:
    """Yield the frames of a greenlet from its innermost one outwards, each with its line, without ours."""
    while frame is not None:
        if not is_ours(frame):
            yield frame, frame.f_lineno
        frame = frame.f_back


def in_application(frame: FrameType | None) -> bool:
    """Say whether the application has control at the innermost frame, and not a delicate module or a finalizer.

    The first frame of ours on the way outwards tells: it is one that calls the application, or one that it has called.
    """
    innermost = frame
    while frame is not None:
        if is_ours(frame):
            return frame is not innermost and frame.f_code in _CALLERS
        if package_of(frame) in DELICATE or _is_finalizer(frame):
            return False
        frame = frame.f_back
    return False


def landing_frame(frame: FrameType | None, patient: bool) -> FrameType | None:
    """Return the frame of the application that an abort may be raised in; None if there is none now.

    That is the innermost one, unless something on the way outwards must return first: then it is what has called that.
    `patient` also waits for functions that take or give back a lock, which may block for long.
    """
    place, inner, of_others = frame, None, False
    while frame is not None:
        if is_ours(frame):
            in_order = frame.f_code in _CALLERS and place is not frame and place is not None
            return place if in_order else None
        if inner is not None and (_drops_errors(inner, frame, patient) or (patient and _enters_or_exits(frame))):
            place = frame
        is_client = package_of(frame) in _CLIENTS
        # What a client calls back may compute for long, and its exceptions are nothing new to the client.
        if _must_return(frame, patient) or (is_client and (patient or not of_others)):
            place = frame.f_back
        of_others = of_others or not is_client
        inner, frame = frame, frame.f_back
    return None


def _must_return(frame: FrameType, patient: bool) -> bool:
    if package_of(frame) in DELICATE or _is_finalizer(frame):
        return True
    if not patient:
        return False
    name, module = frame.f_code.co_name, _module_of(frame)
    return name in _TAKES_OR_GIVES_BACK or module.startswith(_POOLS) or (module == "contextlib" and name in _REGISTERS)


def _enters_or_exits(frame: FrameType) -> bool:
    return calls_enter(frame.f_code, frame.f_lasti) or calls_exit(frame.f_code, frame.f_lasti)


def lands_outside(frame: FrameType | None, package: str, patient: bool) -> bool:
    """Say whether an abort that leaves the innermost frames, those of a package, arrives where it may be raised."""
    inner = None
    while frame is not None:
        if inner is not None and _drops_errors(inner, frame, patient):
            return False
        if package_of(frame) != package:
            return landing_frame(frame, patient) is frame
        if _is_finalizer(frame):
            return False
        inner, frame = frame, frame.f_back
    return False


def has_just_acquired(frame: FrameType) -> bool:
    """Say whether a frame has just called what takes a lock or starts a program, and has not gone on since."""
    path = call_site(frame.f_code, frame.f_lasti).path
    return bool(path) and (path[-1] in _TAKES or path[-1] in ("__enter__", "Popen"))


def _is_finalizer(frame: FrameType) -> bool:
    code = frame.f_code
    return code.co_name == "__del__" or any(_code_of(called) is code for called in gc.callbacks)


def _code_of(called: Any) -> CodeType | None:
    function = called.__func__ if type(called) is MethodType else called
    return function.__code__ if type(function) is FunctionType else None


def _drops_errors(frame: FrameType, caller: FrameType, patient: bool) -> bool:
    """Say whether what `frame` raises is known not to reach `caller`, as Python or a library in C called it.

    It may look so where a variable has got another value during the call; that is not waited for without an end.
    """
    site = call_site(caller.f_code, caller.f_lasti)
    if site.silent or frame.f_code in _CALLED_BY_LIBRARIES:
        return True
    called, owner = callee(caller)
    if type(called) is FunctionType:
        # If not that, it has returned, and an object of its own was freed.
        return patient and called.__code__ is not frame.f_code and not (site.spreads and _iterates(frame))
    if type(called) in (MethodDescriptorType, BuiltinMethodType) and called.__name__ in _DROPS_REFERENCES:
        return is_a(owner, (list, dict, set, deque)) and frame.f_code.co_name not in _COMPARES
    if called is None:
        return _is_probably_of_dropping_library(frame, caller, site.name)
    types = _dropping_types()
    of_class = called.__objclass__ if type(called) is MethodDescriptorType else None
    return is_a(called, types) or is_a(owner, types) or of_class in types


def _iterates(frame: FrameType) -> bool:
    return bool(frame.f_code.co_flags & inspect.CO_GENERATOR) or frame.f_code.co_name in _ITERATES


def _is_probably_of_dropping_library(frame: FrameType, caller: FrameType, name: str) -> bool:
    """Judge a call of something unknown in `caller` by its name and its arguments.

    Most such calls are of plain Python functions, and an abort must not wait for their end.
    """
    types = _dropping_types()
    if _is_method(frame, name):
        return False
    if name in _method_names(types):
        return True
    # What is passed to it may be a callback. A function of Python would have received it itself.
    passes = any(is_a(each, types) or _is_subclass(each, types) for each in arguments(caller))
    return passes and not any(is_a(each, types) for each in _received(frame))


def _is_subclass(value: Any, types: tuple[type, ...]) -> bool:
    return is_a(value, type) and issubclass(value, types)


def _received(frame: FrameType) -> Iterator[Any]:
    """Yield the arguments that the function at a frame was called with."""
    names, positional, named, values = inspect.getargvalues(frame)
    yield from (values.get(name) for name in names)
    yield from values.get(positional or "", ())
    yield from values.get(named or "", {}).values()


def _is_method(frame: FrameType, name: str) -> bool:
    """Say whether a frame belongs to a method of that name, also to one with a decorator, or to a generator."""
    code = frame.f_code
    if name == code.co_name or _iterates(frame):
        return True
    return _code_of(getattr_static(type(first_argument(frame)), name, None)) is code


@lru_cache(maxsize=4)
def _method_names(types: tuple[type, ...]) -> frozenset[str]:
    return frozenset(name for each in types for name in dir(each) if not name.startswith("_"))


def _dropping_types() -> tuple[type, ...]:
    found = ((sys.modules.get(module), names) for module, names in _DROPPING_LIBRARIES)
    return tuple(getattr(module, name) for module, names in found for name in names if hasattr(module, name))


def outside(frame: FrameType | None) -> bool:
    """Say whether none of our functions is being called at the innermost frame of a greenlet."""
    while frame is not None:
        if is_ours(frame):
            return False
        frame = frame.f_back
    return True


def package_of(frame: FrameType) -> str:
    """Return the name of the top-level package or module that a frame belongs to."""
    return _module_of(frame).partition(".")[0]


def _module_of(frame: FrameType) -> str:
    return frame.f_globals.get("__name__") or ""


def is_ours(frame: FrameType) -> bool:
    """Say whether a frame is of this package, and not on behalf of an application."""
    module = _module_of(frame)
    return module.startswith(_OURS) and (not module.startswith(_APPLICATIONS) or module == _CLEANS_UP)
