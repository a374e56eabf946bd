"""Turns the text `MODULE:NAME` into the object it names, and says plainly when it cannot.

Decides how a reference is written; it must not know what the object is for.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from typing import Any

from .errors import LoadError

__all__ = ["load_callable"]

_REFERENCE = re.compile(r"(?P<module>[\w.]+):(?P<name>[\w.]+)(?P<call>\(\))?")


def load_callable(reference: str) -> Callable[..., Any]:
    """Import and return the callable that `MODULE:NAME` names.

    `MODULE:NAME()` calls NAME without arguments and returns what it returns (an application factory).
    Raises `LoadError`; an exception from inside the module or the factory is its `__cause__`.
    """
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise LoadError(f"{reference!r} does not name an object; write MODULE:NAME or MODULE:FACTORY()")
    found = _attribute(_module(match["module"]), match["module"], match["name"])
    if match["call"]:
        found = _made_by(found, reference)
    if not callable(found):
        raise LoadError(f"{reference!r} is {type(found).__name__}, which cannot be called; name a callable")
    return found  # type: ignore[no-any-return]  # callable() has just said so


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise LoadError(
                f"there is no module {error.name!r}; check its spelling and that it can be imported from here"
            ) from error
        raise LoadError(f"importing {name!r} failed: {error}; install what it needs") from error
    except Exception as error:
        raise LoadError(f"importing {name!r} failed: {type(error).__name__}: {error}") from error


def _attribute(module: Any, module_name: str, path: str) -> Any:
    found = module
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise LoadError(f"module {module_name!r} has no {path!r}; check the name after the colon") from None
    return found


def _made_by(factory: Any, reference: str) -> Any:
    if not callable(factory):
        raise LoadError(f"{reference!r} cannot be called; leave out the ()")
    try:
        return factory()
    except Exception as error:
        raise LoadError(f"calling {reference!r} failed: {type(error).__name__}: {error}") from error
