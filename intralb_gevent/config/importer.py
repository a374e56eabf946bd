"""Import the object to which a reference such as `MODULE:NAME` refers, and raise a clear error if that fails.

`load_application` also checks that the object looks like a WSGI application.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import inspect
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ..errors import LoadError

__all__ = ["load_application", "load_callable"]

_REFERENCE = re.compile(r"(?P<module>[\w.-]+):(?P<name>[\w.]+)(?P<call>\(.*\))?")
_LIBRARIES = tuple(sysconfig.get_paths()[place] for place in ("stdlib", "platstdlib", "purelib", "platlib"))


def load_callable(reference: str) -> Callable[..., Any]:
    """Import and return the callable that `MODULE:NAME` refers to.

    For `MODULE:NAME()`, where NAME is an application factory, call NAME and return its result. Arguments between the
    parentheses must be literals, as in `MODULE:NAME("production", debug=False)`. Raises `LoadError`; an exception that
    the module or the factory raised is the error's `__cause__`.
    """
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise LoadError(f"{reference!r} does not name an object; write MODULE:NAME or MODULE:FACTORY()")
    found = _attribute(_module(match["module"]), match["module"], match["name"])
    if match["call"]:
        found = _made_by(found, reference, match["call"])
    if not callable(found):
        raise LoadError(f"{reference!r} is {_kind(found)}, which cannot be called; name a callable")
    return found  # type: ignore[no-any-return]  # callable() has just checked it


def load_application(reference: str) -> Callable[..., Any]:
    """Import and return the WSGI application that the reference names, or raise `LoadError`.

    ASGI applications, and callables that do not accept (environ, start_response), are rejected immediately, because
    they would fail at the first request.
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
        raise LoadError(f"importing {name!r} failed: {_described(error)}; install what it needs") from error
    except (Exception, SystemExit) as error:
        raise LoadError(f"importing {name!r} failed: {_described(error)}") from error


def _no_module(name: str, missing: str) -> str:
    if name.endswith(".py"):
        return f"there is no module {name!r}; leave out the .py"
    package, _, last = name.rpartition(".")
    if hasattr(sys.modules.get(package), last):
        return f"there is no module {name!r}; did you mean {package}:{last}?"
    return f"there is no module {missing!r}; check its spelling and that it can be imported from here"


def _attribute(module: Any, module_name: str, path: str) -> Any:
    found = module
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise LoadError(
                f"module {module_name!r} has no {path!r}; {_other_name(part, found, module_name)}"
            ) from None
        except (Exception, SystemExit) as error:
            # A property, or the module's own `__getattr__`, raised an exception.
            raise LoadError(f"looking up {path!r} in module {module_name!r} failed: {_described(error)}") from error
    return found


def _other_name(name: str, owner: Any, module: str) -> str:
    close = difflib.get_close_matches(name, dir(owner), n=1)
    return f"did you mean {close[0]!r}?" if close else f"name its application, as {module}:NAME"


def _made_by(factory: Any, reference: str, call: str) -> Any:
    if not callable(factory):
        raise LoadError(f"{reference!r} cannot be called; leave out the ()")
    arguments, keywords = _literals(call, reference)
    try:
        made = factory(*arguments, **keywords)
    except (Exception, SystemExit) as error:
        raise LoadError(f"calling {reference!r} failed: {_described(error)}") from error
    if not callable(made):
        raise LoadError(f"{reference!r} returned {_kind(made)}, which cannot be called; return an application")
    return made


def _literals(call: str, reference: str) -> tuple[list[Any], dict[str, Any]]:
    """Parse a call in Python's syntax, such as `("production", debug=False)`; return its arguments and keywords."""
    with suppress(SyntaxError, ValueError):
        parsed = ast.parse(f"f{call}", mode="eval").body
        if isinstance(parsed, ast.Call) and _is_plain(parsed):
            keywords = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in parsed.keywords}
            return [ast.literal_eval(argument) for argument in parsed.args], keywords
    raise LoadError(
        f"{reference!r} does not call a factory with literals; write them as in MODULE:FACTORY('production')"
    )


def _is_plain(call: ast.Call) -> bool:
    """Return whether the expression is a single call without `**`."""
    return isinstance(call.func, ast.Name) and all(keyword.arg is not None for keyword in call.keywords)


def _kind(found: Any) -> str:
    return "None" if found is None else f"of type {type(found).__name__}"


def _described(error: BaseException) -> str:
    """Describe an exception in one line: its type, its message, and where it was raised."""
    message = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())
    described = f"{type(error).__name__}: {message}" if message else type(error).__name__
    place = _place(error)
    return f"{described} ({place})" if place else described


def _place(error: BaseException) -> str | None:
    """Return the file and line of the innermost frame outside of libraries, where the author can fix the error.

    If all frames are in libraries, return the innermost frame. Return None if the traceback has no frame.
    """
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f"{error.filename}:{error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    own = [frame for frame in frames if not frame.filename.startswith((*_LIBRARIES, "<frozen"))]
    if not frames:
        return None
    where = (own or frames)[-1]
    return f"{where.filename}:{where.lineno}"


def _is_asgi(application: Callable[..., Any]) -> bool:
    called = (application, getattr(application, "__call__", None))  # noqa: B004  # may be async
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
    """Return the signature of a function; None if Python knows no signature, as for many callables written in C.

    `__wrapped__` is ignored, because a decorator may change the arguments of the function that it decorates, as
    Werkzeug's `Request.application` does.
    """
    try:
        return inspect.signature(function, follow_wrapped=False)
    except (TypeError, ValueError):
        return None
