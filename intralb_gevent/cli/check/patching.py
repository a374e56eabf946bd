"""Find modules that still refer to objects that monkey-patching has replaced.

A replaced object is a global variable of a module: either an original function that gevent has saved, or a native lock.
The standard library is left out, because gevent itself patches it.
"""

from __future__ import annotations

import _thread
import os
import sys
from collections.abc import Collection, Iterator
from types import ModuleType

from gevent import monkey

from .findings import Finding, some

__all__ = ["imported_too_early"]

_LEFT_OUT = sys.stdlib_module_names | {"gevent", "greenlet", "intralb_gevent"}
_OPENTELEMETRY = "opentelemetry.instrumentation.auto_instrumentation"
_PATCHES_FIRST = "OTEL_PYTHON_AUTO_INSTRUMENTATION_EXPERIMENTAL_GEVENT_PATCH"
_IN_GENERAL = (
    "import the package after patching: keep it out of sitecustomize, .pth files and start-up hooks, "
    "and in your own program, patch in the first lines"
)
_BROKEN = " The first https request of this module fails with RecursionError."
_HARMLESS = {"subprocess.CompletedProcess", "threading.get_ident", "_thread.get_ident", "_thread.exit"}
"""Original functions that neither wait nor keep per-thread state."""


def imported_too_early(early: Collection[str] | None) -> list[Finding]:
    """Return a warning for each package that refers to unpatched objects.

    `early` contains the names of the modules that were imported before patching. Modules that were imported later are
    not checked: a later module refers to an original object only if it requested the object from gevent. If `early` is
    None, all modules are checked.
    """
    originals = _originals()
    held: dict[str, list[str]] = {}
    for name, module in _modules(early):
        for described in _unpatched(module, originals):
            held.setdefault(name.partition(".")[0], []).append(f"{name}.{described}")
    return [_finding(package, places, early or ()) for package, places in held.items()]


def _remedy(early: Collection[str]) -> str:
    if _OPENTELEMETRY not in early:
        return _IN_GENERAL
    variables = sys.modules.get("opentelemetry.instrumentation.environment_variables")
    if hasattr(variables, _PATCHES_FIRST) and _PATCHES_FIRST not in os.environ:
        return (
            f"set {_PATCHES_FIRST}=patch_all in the environment of opentelemetry-instrument, which then patches first"
        )
    return (
        "start without opentelemetry-instrument, and call initialize() of opentelemetry.instrumentation."
        "auto_instrumentation in the first lines of the application's module"
    )


def _modules(early: Collection[str] | None) -> Iterator[tuple[str, ModuleType]]:
    """Yield each module once, even if it is listed under several names."""
    seen: set[int] = set()
    for name, module in sorted(sys.modules.items()):
        left_out = name.partition(".")[0] in _LEFT_OUT or (early is not None and name not in early)
        if isinstance(module, ModuleType) and not left_out and id(module) not in seen:  # type: ignore[redundant-expr]  # anything may be there
            seen.add(id(module))
            yield _own_name(module, name), module


def _own_name(module: ModuleType, alias: str) -> str:
    """Return the module's `__name__` if `sys.modules` has the module under this name; otherwise, return `alias`."""
    name = str(vars(module).get("__name__"))
    return name if sys.modules.get(name) is module else alias


def _unpatched(module: ModuleType, originals: dict[int, str]) -> Iterator[str]:
    locks = (type(monkey.get_original("_thread", "allocate_lock")()), type(_thread.RLock()))
    for attribute, value in list(vars(module).items()):
        if id(value) in originals:
            yield f"{attribute} is the original {originals[id(value)]}"
        elif isinstance(value, locks):
            yield f"{attribute} is a native lock"


def _originals() -> dict[int, str]:
    """Map the `id()` of each replaced callable to its name; the callable itself may not be hashable."""
    saved = monkey.saved  # type: ignore[attr-defined]  # not in the stubs
    named = [(f"{module}.{name}", original) for module in saved for name, original in saved[module].items()]
    return {id(original): name for name, original in named if callable(original) and name not in _HARMLESS}


def _finding(package: str, places: list[str], early: Collection[str]) -> Finding:
    breaks_https = any(place.endswith("the original ssl.SSLContext") for place in places)
    return Finding(
        "warning",
        f"{package} was imported before monkey-patching",
        f"The module still refers to unpatched objects: {some(places)}. A request that waits in such an object blocks "
        f"all other requests."
        f"{_BROKEN if breaks_https else ''}",
        _remedy(early),
    )
