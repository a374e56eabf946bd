"""Find coroutines that run on an asyncio event loop during a request.

asyncio allows one running loop per native thread, and under gevent, all requests run in one native thread. Therefore,
while one request runs a coroutine, every other request that starts a coroutine fails. An async view certainly runs a
coroutine in a request, so it causes a warning. A function that refers to `asyncio.run` causes only a hint, because the
function may belong to a separate command.
"""

from __future__ import annotations

import gc
import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any

from .appcode import AppFunction, functions_that
from .findings import Finding, some

__all__ = ["async_calls", "async_views"]

_FAILS = (
    "asyncio allows one running event loop per native thread, and under gevent, all requests run in one native thread. "
    "While one request runs a coroutine, every other request that starts a coroutine fails."
)
_ONE_LOOP = "start one loop for all requests, threading.Thread(target=loop.run_forever, daemon=True).start(), and"


def async_views() -> list[Finding]:
    """Return a warning for the async views of each framework."""
    flask, django = list(_flask_views()), list(_django_views())
    return [
        *_views(
            "Flask",
            flask,
            f"make them ordinary functions; or {_ONE_LOOP} override async_to_sync(self, func) of Flask to "
            "return a function that calls asyncio.run_coroutine_threadsafe(func(*args, **kwargs), loop).result()",
        ),
        *_views("Django", django, "make them ordinary functions, or serve them with an ASGI server"),
    ]


def _views(framework: str, names: list[str], remedy: str) -> Iterator[Finding]:
    if names:
        views = "an async view" if len(names) == 1 else f"{len(names)} async views"
        yield Finding("warning", f"{framework} has {views}: {some(names)}", _FAILS, remedy)


def async_calls() -> list[Finding]:
    """Return a hint for the application's functions that start a coroutine and wait until it returns."""
    names = functions_that(_runs_coroutine)
    if not names:
        return []
    remedy = (
        f"{_ONE_LOOP} call asyncio.run_coroutine_threadsafe(coroutine, loop).result(); or run it in a native thread, "
        "gevent.get_hub().threadpool.apply(asyncio.run, (coroutine,))"
    )
    title = f"{some(names)} run{'s' if len(names) == 1 else ''} a coroutine to its end"
    return [Finding("hint", title, f"This is a problem if a request runs the coroutine. {_FAILS}", remedy)]


def _runs_coroutine(function: AppFunction) -> bool:
    names = function.names
    if names & {"threadpool", "ThreadPool", "ThreadPoolExecutor"}:
        # The function most likely runs the coroutine in a separate native thread, where no other loop runs.
        return False
    return (
        "run_until_complete" in names
        or function.refers_to("asyncio", "run")
        or function.refers_to("asgiref.sync", "async_to_sync")
        or ("StreamingHttpResponse" in names and any(map(inspect.isasyncgenfunction, function.globals)))
    )


def _is_async(function: Any) -> bool:
    # Prefer asgiref's function: it also detects plain functions that Django marks as coroutine functions.
    marked = getattr(sys.modules.get("asgiref.sync"), "iscoroutinefunction", None)
    is_coroutine_function: Callable[[Any], bool] = marked or inspect.iscoroutinefunction
    return is_coroutine_function(function)


# Async views of Flask.


def _flask_views() -> Iterator[str]:
    flask = getattr(sys.modules.get("flask"), "Flask", None)
    for application in [] if flask is None else gc.get_objects():
        # Use type(), because isinstance() reads `__class__`, which would evaluate a lazy object.
        if flask is not None and issubclass(type(application), flask) and not _runs_them_itself(application, flask):
            for endpoint, view in application.view_functions.items():
                if any(map(_is_async, _handlers(view))):
                    yield f"{application.name}:{endpoint}"


def _runs_them_itself(application: Any, flask: Any) -> bool:
    """Return True if the application has replaced Flask's method for running async views."""
    kind = type(application)
    return kind.async_to_sync is not flask.async_to_sync or kind.ensure_sync is not flask.ensure_sync


def _handlers(view: Any) -> list[Any]:
    """Return a view function, or the methods of a view class."""
    view_class = getattr(view, "view_class", None)
    if view_class is None:
        return [view]
    methods = ("dispatch_request", "get", "post", "put", "patch", "delete", "head", "options")
    return [getattr(view_class, method, None) for method in methods]


# Async views of Django.


def _django_views() -> Iterator[str]:
    """Yield the names of async views in the root URLconf, which is imported if necessary."""
    settings = getattr(sys.modules.get("django.conf"), "settings", None)
    if settings is None or not settings.configured or not getattr(settings, "ROOT_URLCONF", None):
        return
    try:
        # Import the URLconf: it is part of the application, and Django imports it at the first request.
        from django.urls import get_resolver

        views = list(_views_below(get_resolver()))
    except (Exception, SystemExit):
        # Django itself reports a broken URLconf.
        return
    yield from dict.fromkeys(views)


def _views_below(resolver: Any) -> Iterator[str]:
    for pattern in resolver.url_patterns:
        if hasattr(pattern, "url_patterns"):
            yield from _views_below(pattern)
        elif _is_async(pattern.callback):
            yield str(pattern.lookup_str)
