"""Finds coroutines that run on an event loop of asyncio in the middle of a request.

asyncio keeps the running loop for each native thread, and under gevent all requests run in one. So while one of them
runs a coroutine, the same in every other request fails. An async view is certain to do this; a function that only
refers to `asyncio.run` may be a command of its own.
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
    "It runs on an asyncio event loop, of which a native thread has one at a time, and under gevent all requests run "
    "in one native thread. While one request is in such a coroutine, every other one that begins to run any fails."
)
_ONE_LOOP = "start one loop for all, threading.Thread(target=loop.run_forever, daemon=True).start(), and"


def async_views() -> list[Finding]:
    """Return a warning for the async views of each framework."""
    flask, django = list(_flask_views()), list(_django_views())
    return [
        *_views(
            "Flask",
            flask,
            f"make them ordinary; or {_ONE_LOOP} override async_to_sync(self, func) of Flask to "
            "return a function that calls asyncio.run_coroutine_threadsafe(func(*args, **kwargs), loop).result()",
        ),
        *_views("Django", django, "make them ordinary functions, or serve them with an ASGI server"),
    ]


def _views(framework: str, names: list[str], remedy: str) -> Iterator[Finding]:
    if names:
        views = "an async view" if len(names) == 1 else f"{len(names)} async views"
        yield Finding("warning", f"{framework} has {views}: {some(names)}", _FAILS, remedy)


def async_calls() -> list[Finding]:
    """Return a hint for the functions of the application that run a coroutine to its end."""
    names = functions_that(_runs_coroutine)
    if not names:
        return []
    remedy = (
        f"{_ONE_LOOP} call asyncio.run_coroutine_threadsafe(coroutine, loop).result(); or run it in a native thread, "
        "gevent.get_hub().threadpool.apply(asyncio.run, (coroutine,))"
    )
    title = f"{some(names)} run{'s' if len(names) == 1 else ''} a coroutine to its end"
    return [Finding("hint", title, f"If requests do so: {_FAILS}", remedy)]


def _runs_coroutine(function: AppFunction) -> bool:
    names = function.names
    if names & {"threadpool", "ThreadPool", "ThreadPoolExecutor"}:
        # It does so in a native thread, most likely.
        return False
    return (
        "run_until_complete" in names
        or function.refers_to("asyncio", "run")
        or function.refers_to("asgiref.sync", "async_to_sync")
        or ("StreamingHttpResponse" in names and any(map(inspect.isasyncgenfunction, function.globals)))
    )


def _is_async(function: Any) -> bool:
    # asgiref knows how Django marks functions that are not coroutine functions themselves.
    marked = getattr(sys.modules.get("asgiref.sync"), "iscoroutinefunction", None)
    is_coroutine_function: Callable[[Any], bool] = marked or inspect.iscoroutinefunction
    return is_coroutine_function(function)


# Flask.


def _flask_views() -> Iterator[str]:
    flask = getattr(sys.modules.get("flask"), "Flask", None)
    for application in [] if flask is None else gc.get_objects():
        # By type(), for isinstance() also asks the object for its class, and a lazy one would come to life.
        if flask is not None and issubclass(type(application), flask) and not _runs_them_itself(application, flask):
            for endpoint, view in application.view_functions.items():
                if any(map(_is_async, _handlers(view))):
                    yield f"{application.name}:{endpoint}"


def _runs_them_itself(application: Any, flask: Any) -> bool:
    """Say whether its author has replaced how Flask runs async views."""
    kind = type(application)
    return kind.async_to_sync is not flask.async_to_sync or kind.ensure_sync is not flask.ensure_sync


def _handlers(view: Any) -> list[Any]:
    """Return a view function, or the methods of a view class."""
    view_class = getattr(view, "view_class", None)
    if view_class is None:
        return [view]
    methods = ("dispatch_request", "get", "post", "put", "patch", "delete", "head", "options")
    return [getattr(view_class, method, None) for method in methods]


# Django.


def _django_views() -> Iterator[str]:
    """Yield the names of async views in the root URLconf, which is imported if it is not yet."""
    settings = getattr(sys.modules.get("django.conf"), "settings", None)
    if settings is None or not settings.configured or not getattr(settings, "ROOT_URLCONF", None):
        return
    try:
        # Django imports it at the first request; it belongs to the application as much as what has been imported.
        from django.urls import get_resolver

        views = list(_views_below(get_resolver()))
    except (Exception, SystemExit):
        # That the URLconf is wrong is Django's to say.
        return
    yield from dict.fromkeys(views)


def _views_below(resolver: Any) -> Iterator[str]:
    for pattern in resolver.url_patterns:
        if hasattr(pattern, "url_patterns"):
            yield from _views_below(pattern)
        elif _is_async(pattern.callback):
            yield str(pattern.lookup_str)
