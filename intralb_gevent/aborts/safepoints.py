"""Determines in which frame of a CPU-bound handler the watchdog can safely raise an abort.

A signal handler can raise an abort between any two bytecode instructions of the application. But some functions must
return before an abort. A function of this package that the application has called, such as `start_response`, does not
expect an abort. Some modules of Python and gevent hold state of the whole process, and do not expect an exception at
arbitrary points: the modules for locks, logging, process creation and imports. A function that acquires or releases a
lock must not be interrupted halfway.

Python and C libraries discard the exceptions of some functions: finalizers, callbacks of weak references and of ctypes,
and SQLite collations. An abort in a finalizer or a callback would end only the called function, and not the handler. An
abort in a collation would also corrupt an SQLite index.
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

from ..framevariables import variables
from .blocks import calls_enter, calls_exit
from .callsites import arguments, call_site, callee, first_argument, is_a
from .places import line_of

__all__ = [
    "DELICATE",
    "RELEASES",
    "application_frames",
    "called_by_library",
    "calls_application",
    "drops_an_abort",
    "has_just_acquired",
    "in_application",
    "is_acquiring",
    "is_ours",
    "landing_frame",
    "lands_outside",
    "outside",
    "package_of",
]

_Function = TypeVar("_Function", bound=Callable[..., Any])

_OURS: Final = __name__.partition(".")[0] + "."
_APPLICATIONS: Final = (_OURS + "demo.", _OURS + "integrations.", _OURS + "sessionsource")
"""Subpackages and modules of this package that count as application code, because they run as part of an
application."""

_CLEANS_UP: Final = _OURS + "integrations.drivers"
"""A module within one of `_APPLICATIONS` that does not count as application code: this module must not be aborted while
it cancels a statement on the database server."""

DELICATE: Final = frozenset(
    {
        *("gevent", "greenlet", "threading", "queue", "selectors", "socket", "ssl", "weakref", "_weakrefset"),
        *("logging", "subprocess", "multiprocessing", "concurrent"),
        *("importlib", "_frozen_importlib", "_frozen_importlib_external", "tempfile"),
    }
)
"""Packages in which an unexpected exception may leave a lock held, a program running, a module half imported, or a
temporary file in place."""

_CLIENTS: Final = frozenset(
    {"http", "urllib3", "redis", "valkey", "memcache", "pymemcache", "bmemcached", "pymongo", "amqp", "kafka"}
)
"""Client packages that reuse connections. After an exception between a command and its response, the next command on
the connection would receive this response."""

_DRIVERS: Final = frozenset(
    {
        *("pymysql", "mysql", "pg8000", "ldap3", "pika", "thrift", "thriftpy2"),
        *("smtplib", "imaplib", "ftplib", "poplib"),
    }
)
"""Client packages that reuse connections, and may compute for a long time while they read a large response. Therefore,
an abort is postponed for a limited time only."""

_POOLS: Final = ("psycopg2.pool", "psycopg_pool", "sqlalchemy.pool", "dbutils")
"""Connection pools that lose a connection if an exception interrupts the update of their counts."""

_OF_LOCKS: Final = ("", "_lock", "_read", "_read_lock", "_write", "_write_lock", "_shared", "_exclusive")
"""Endings of the names of functions that acquire or release a lock."""

_TAKES: Final = frozenset(f"{prefix}acquire{ending}" for prefix in ("", "_") for ending in _OF_LOCKS)
"""Names of functions that acquire a lock before the start of the `try` block that releases the lock."""

RELEASES: Final = frozenset(f"{prefix}release{ending}" for prefix in ("", "_") for ending in _OF_LOCKS)
"""Names of functions that release a lock."""

_TAKES_OR_GIVES_BACK: Final = frozenset(
    {
        *_TAKES,
        *RELEASES,
        *("__enter__", "__exit__", "__aenter__", "__aexit__"),
        # Methods of contextlib.ExitStack.
        *("enter_context", "enter_async_context", "_push_cm_exit", "_push_async_cm_exit", "_push_exit_callback"),
    }
)
"""Names of functions that acquire a lock for a following `with` or `try` block, or that release such a lock."""

_REGISTERS: Final = frozenset({"callback", "push", "_create_cb_wrapper"})
"""Methods of contextlib.ExitStack that register a clean-up function."""

_DROPS_REFERENCES: Final = frozenset({"clear", "discard", "pop", "popitem", "popleft", "remove"})
"""Methods of built-in containers that call Python functions only to compare values or to finalize freed objects."""

_COMPARES: Final = frozenset({"__eq__", "__hash__", "__lt__", "__index__"})

_ITERATES: Final = frozenset({"__iter__", "__next__", "__getitem__", "__len__", "__length_hint__", "keys"})
"""Methods of the object `values` that Python calls for `function(*values)` before it calls `function`."""

_FORKS: Final = frozenset({"fork", "forkpty", "fork_exec"})
"""Built-in functions that call the functions registered with `os.register_at_fork`, and discard exceptions that these
functions raise."""

_DROPPING_LIBRARIES: Final = (
    ("_ctypes", ("CFuncPtr",)),
    ("sqlite3", ("Connection", "Cursor")),
    ("apsw", ("Connection", "Cursor")),
    ("_cffi_backend", ("_CDataBase",)),
)
"""Each pair is the name of a module, and the names of its types that call Python callbacks and discard the exceptions
of these callbacks."""

_CALLERS: set[CodeType] = set()
_CALLED_BY_LIBRARIES: set[CodeType] = set()


def calls_application(function: _Function) -> _Function:
    """Mark a function of this package that calls application code, and that an abort may unwind at any point.

    A compiled function has no Python frame, so its nearest interpreted caller must be marked instead.
    """
    if isinstance(function, FunctionType):
        _CALLERS.add(function.__code__)
    return function


def called_by_library(function: _Function) -> _Function:
    """Mark a function of this package that a C library calls as a callback, and whose exceptions the library
    discards."""
    if isinstance(function, FunctionType):
        _CALLED_BY_LIBRARIES.add(function.__code__)
    return function


def application_frames(frame: FrameType | None) -> Iterator[tuple[FrameType, int]]:
    """Yield a greenlet's frames and their line numbers, from the innermost outwards, except frames of this package."""
    while frame is not None:
        if not is_ours(frame):
            yield frame, line_of(frame)
        frame = frame.f_back


def in_application(frame: FrameType | None) -> bool:
    """Return whether the innermost frame is application code, outside of finalizers and the packages in `DELICATE`.

    The search through the callers ends at the innermost frame of this package. The result is False if the application
    has called the function of this frame, because this package must not be aborted.
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
    """Return the application's frame in which an abort can be raised; None if there is no such frame now.

    The result is the innermost frame, unless a function must return before the abort; in that case, the result is the
    caller of that function. If `patient` is true, functions that acquire or release a lock must also return before the
    abort, although these functions may block for a long time.
    """
    place, inner, of_others = frame, None, False
    while frame is not None:
        if is_ours(frame):
            in_order = frame.f_code in _CALLERS and place is not frame and place is not None
            return place if in_order else None
        if inner is not None and (_drops_errors(inner, frame, patient) or (patient and _enters_or_exits(frame))):
            place = frame
        is_client = package_of(frame) in _CLIENTS
        # Allow an abort in a callback that a client package calls: the callback may be CPU-bound, and client packages
        # handle the exceptions of callbacks.
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
    if package_of(frame) in _DRIVERS or module.startswith(_POOLS):
        return True
    return name in _TAKES_OR_GIVES_BACK or (module == "contextlib" and name in _REGISTERS)


def is_acquiring(frame: FrameType) -> bool:
    """Return whether a function of the application acquires a lock, even if the function waits.

    Functions of `DELICATE` packages are excluded: they hold no lock while they wait for it. `__enter__` is excluded,
    too, because handlers often wait there for a connection of an exhausted pool, and would keep their slots for longer.
    """
    return frame.f_code.co_name in _TAKES and package_of(frame) not in DELICATE


def _enters_or_exits(frame: FrameType) -> bool:
    return calls_enter(frame.f_code, frame.f_lasti) or calls_exit(frame.f_code, frame.f_lasti)


def lands_outside(frame: FrameType | None, package: str, patient: bool) -> bool:
    """Return whether an abort in the innermost frames, which belong to `package`, can safely propagate to their
    caller."""
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


def drops_an_abort(frame: FrameType | None) -> bool:
    """Return whether Python or a C library would certainly discard an abort at the point where a greenlet waits."""
    inner = None
    while frame is not None and not is_ours(frame):
        if _is_finalizer(frame) or (inner is not None and _drops_errors(inner, frame, patient=True, guess=False)):
            return True
        inner, frame = frame, frame.f_back
    return False


def has_just_acquired(frame: FrameType) -> bool:
    """Return whether the last instruction that a frame executed was a call that acquires a lock or starts a program."""
    path = call_site(frame.f_code, frame.f_lasti).path
    return bool(path) and (path[-1] in _TAKES or path[-1] in ("__enter__", "Popen"))


def _is_finalizer(frame: FrameType) -> bool:
    code = frame.f_code
    return code.co_name == "__del__" or any(_code_of(called) is code for called in gc.callbacks)


def _code_of(called: Any) -> CodeType | None:
    function = called.__func__ if type(called) is MethodType else called
    return function.__code__ if type(function) is FunctionType else None


def _drops_errors(frame: FrameType, caller: FrameType, patient: bool, guess: bool = True) -> bool:
    """Return whether Python or a C library has called `frame` and discards its exceptions, as far as that is known.

    The result may be wrong: the function that `caller` calls is read from a variable, which may have been reassigned
    during the call. Therefore, if `caller` calls a plain function, the result is True only if `patient` is true. If the
    called function is unknown, and `guess` is true, the name and the arguments of the call determine the result.
    """
    site = call_site(caller.f_code, caller.f_lasti)
    if site.silent or frame.f_code in _CALLED_BY_LIBRARIES:
        return True
    called, owner = callee(caller)
    if type(called) is FunctionType:
        # If `frame` is not the called function, that function has returned, and `frame` finalizes a freed object.
        return patient and called.__code__ is not frame.f_code and not (site.spreads and _iterates(frame))
    if type(called) in (MethodDescriptorType, BuiltinMethodType) and called.__name__ in _DROPS_REFERENCES:
        return is_a(owner, (list, dict, set, deque)) and frame.f_code.co_name not in _COMPARES
    if type(called) is BuiltinMethodType and called.__name__ in _FORKS:
        return True
    if called is None:
        return guess and _is_probably_of_dropping_library(frame, caller, site.name)
    types = _dropping_types()
    of_class = called.__objclass__ if type(called) is MethodDescriptorType else None
    return is_a(called, types) or is_a(owner, types) or of_class in types


def _iterates(frame: FrameType) -> bool:
    return bool(frame.f_code.co_flags & inspect.CO_GENERATOR) or frame.f_code.co_name in _ITERATES


def _is_probably_of_dropping_library(frame: FrameType, caller: FrameType, name: str) -> bool:
    """Return whether an unknown callable probably belongs to a library that discards exceptions.

    The name and the arguments of the call in `caller` determine the result. Most unknown callables are plain Python
    functions, and an abort must not be postponed until these functions return.
    """
    types = _dropping_types()
    if _is_method(frame, name):
        return False
    if name in _method_names(types):
        return True
    # Check whether the call passes an object of a library that discards exceptions, for example a callback of ctypes.
    # If `frame` has received this object, `frame` is the called function itself, and not a callback.
    passes = any(is_a(each, types) or _is_subclass(each, types) for each in arguments(caller))
    return passes and not any(is_a(each, types) for each in _received(frame))


def _is_subclass(value: Any, types: tuple[type, ...]) -> bool:
    return is_a(value, type) and issubclass(value, types)


def _received(frame: FrameType) -> Iterator[Any]:
    """Yield the arguments with which a frame's function was called."""
    names, positional, named = inspect.getargs(frame.f_code)
    values = variables(frame)
    yield from (values.get(name) for name in names)
    yield from values.get(positional or "", ())
    yield from values.get(named or "", {}).values()


def _is_method(frame: FrameType, name: str) -> bool:
    """Return whether a frame belongs to a generator, or to a method of the given name, even if the method is
    decorated."""
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
    """Return whether none of a greenlet's frames belongs to this package."""
    while frame is not None:
        if is_ours(frame):
            return False
        frame = frame.f_back
    return True


def package_of(frame: FrameType) -> str:
    """Return the name of the top-level package or module to which a frame belongs."""
    return _module_of(frame).partition(".")[0]


def _module_of(frame: FrameType) -> str:
    return frame.f_globals.get("__name__") or ""


def is_ours(frame: FrameType) -> bool:
    """Return whether a frame belongs to this package, and does not count as application code."""
    module = _module_of(frame)
    return module.startswith(_OURS) and (not module.startswith(_APPLICATIONS) or module == _CLEANS_UP)
