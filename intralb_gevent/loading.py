"""Turns the text `MODULE:NAME` into the object it names, and says plainly when it cannot.

Decides how a reference is written and what can be a WSGI application; it must not know what comes of either.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
import sysconfig
import traceback
from collections.abc import Callable
from typing import Any

from .errors import LoadError

__all__ = ["load_application", "load_callable"]

_REFERENCE = re.compile(r"(?P<module>[\w.-]+):(?P<name>[\w.]+)(?P<call>\(\))?")
_LIBRARIES = tuple(sysconfig.get_paths()[place] for place in ("stdlib", "platstdlib", "purelib", "platlib"))


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
        raise LoadError(f"{reference!r} is {_kind(found)}, which cannot be called; name a callable")
    return found  # type: ignore[no-any-return]  # callable() has just said so


def load_application(reference: str) -> Callable[..., Any]:
    """Import and return the WSGI application that the reference names, or raise `LoadError`.

    What cannot be one is refused here, not at the first request: ASGI applications, and callables that do
    not take (environ, start_response).
    """
    application = load_callable(reference)
    if _is_asgi(application):
        raise LoadError(
            f"{reference!r} is an ASGI application and this server speaks WSGI; "
            "name the WSGI application of its framework, or serve it with an ASGI server"
        )
    if not _accepts(application, "environ", "start_response"):
        remedy = f"write {reference}() if it makes the application" if _accepts(application) else "name another"
        raise LoadError(
            f"{reference!r} does not take (environ, start_response), so it is no WSGI application; {remedy}"
        )
    return application


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise LoadError(_no_module(name, error.name)) from error
        raise LoadError(f"importing {name!r} failed: {_told(error)}; install what it needs") from error
    except (Exception, SystemExit) as error:
        raise LoadError(f"importing {name!r} failed: {_told(error)}") from error


def _no_module(name: str, missing: str) -> str:
    if name.endswith(".py"):
        return f"there is no module {name!r}; leave out the .py"
    return f"there is no module {missing!r}; check its spelling and that it can be imported from here"


def _attribute(module: Any, module_name: str, path: str) -> Any:
    found = module
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise LoadError(f"module {module_name!r} has no {path!r}; {_other_name(part, found)}") from None
        except (Exception, SystemExit) as error:
            # A property, or a module's own __getattr__.
            raise LoadError(f"looking up {path!r} in module {module_name!r} failed: {_told(error)}") from error
    return found


def _other_name(name: str, owner: Any) -> str:
    close = difflib.get_close_matches(name, dir(owner), n=1)
    return f"did you mean {close[0]!r}?" if close else "check the name after the colon"


def _made_by(factory: Any, reference: str) -> Any:
    if not callable(factory):
        raise LoadError(f"{reference!r} cannot be called; leave out the ()")
    try:
        made = factory()
    except (Exception, SystemExit) as error:
        raise LoadError(f"calling {reference!r} failed: {_told(error)}") from error
    if not callable(made):
        raise LoadError(f"{reference!r} returned {_kind(made)}, which cannot be called; return an application")
    return made


def _kind(found: Any) -> str:
    return "None" if found is None else f"of type {type(found).__name__}"


def _told(error: BaseException) -> str:
    """Tell in one line the exception's type, its message, and where it was raised."""
    message = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())
    told = f"{type(error).__name__}: {message}" if message else type(error).__name__
    place = _place(error)
    return f"{told} ({place})" if place else told


def _place(error: BaseException) -> str | None:
    """Return the innermost line outside of libraries, for that is the one its author can change."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f"{error.filename}:{error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    own = [frame for frame in frames if not frame.filename.startswith((*_LIBRARIES, "<frozen"))]
    if not frames:
        return None
    where = (own or frames)[-1]
    return f"{where.filename}:{where.lineno}"


def _is_asgi(application: Callable[..., Any]) -> bool:
    called = (application, getattr(application, "__call__", None))  # noqa: B004  # an instance's own, which may be async
    if any(inspect.iscoroutinefunction(function) for function in called):
        return True
    signature = _signature(application)
    return signature is not None and [*signature.parameters][:3] == ["scope", "receive", "send"]


def _accepts(function: Callable[..., Any], *arguments: str) -> bool:
    signature = _signature(function)
    if signature is None:
        return True
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True


def _signature(function: Callable[..., Any]) -> inspect.Signature | None:
    """Return the signature, or None when the callable does not tell it (as many written in C do not).

    What a decorator wraps is not looked at: it may take something else, as under Werkzeug's `Request.application`.
    """
    try:
        return inspect.signature(function, follow_wrapped=False)
    except (TypeError, ValueError):
        return None
