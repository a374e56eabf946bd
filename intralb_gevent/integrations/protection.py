"""Protect an application's database connections without configuration, by detecting the libraries in use.

A library is in use if the application has imported it or imports it later. This module imports none of the libraries
itself. Each library has an adapter module in this package, with a function `protect`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from . import asgiref

__all__ = ["found", "protect"]

logger = logging.getLogger("intralb_gevent")


@dataclass(frozen=True)
class _Library:
    """A library: its name, the package that an application imports, and the adapter module in this package."""

    name: str
    package: str
    adapter: str
    is_configured: Callable[[], bool] = lambda: True

    @property
    def in_use(self) -> bool:
        """True if the application has imported the library and, for Django, configured a database."""
        return self.package in sys.modules and self.is_configured()


def _django_has_databases() -> bool:
    settings: Any = sys.modules["django.conf"].settings
    if not settings.configured:
        return False
    engines = [database.get("ENGINE") for database in settings.DATABASES.values()]
    return any(engine and engine != "django.db.backends.dummy" for engine in engines)


# Django is first: protecting Django imports the drivers that Django's settings name, so these are protected, too.
_LIBRARIES = (
    _Library("Django", "django.db", "django", _django_has_databases),
    _Library("SQLAlchemy", "sqlalchemy", "engines"),
    _Library("psycopg", "psycopg", "psycopg"),
    _Library("psycopg_pool", "psycopg_pool", "psycopg_pool"),
    _Library("psycopg2", "psycopg2", "psycopg2"),
    _Library("PyMySQL", "pymysql", "pymysql"),
    _Library("sqlite3", "sqlite3", "sqlite3_orphans"),
)

_outcomes: dict[_Library, bool] = {}
"""The libraries processed so far, each with True if the library is protected, or False if protecting it failed."""


def found() -> tuple[str, ...]:
    """Return the names of the libraries that `protect` would protect now, without importing or changing anything."""
    return tuple(library.name for library in _in_use())


def protect() -> tuple[str, ...]:
    """Protect the connections of Django, SQLAlchemy, psycopg and its pool, psycopg2, PyMySQL and sqlite3, if in use.

    When a request is interrupted, for example by its deadline, its current statement is cancelled on the server. The
    connections that the request has used are closed, which also ends their transactions and releases their locks. If
    the request runs an async view, the view's coroutine is cancelled, too.

    Call this function once, after importing the application; `intralb-gevent serve` calls it automatically. A library
    that is imported later is protected at its import. Django, however, is protected only if Django was set up before
    this call. Returns the names of the protected libraries; a library that cannot be protected is reported in the log.
    """
    asgiref.protect()
    for library in _in_use():
        _protect(library)
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    return tuple(library.name for library in _LIBRARIES if _outcomes.get(library))


def _in_use() -> Iterator[_Library]:
    for library in _LIBRARIES:
        # Suppress exceptions, because Django itself reports invalid settings.
        with suppress(Exception):
            if library.in_use:
                yield library


def _protect(library: _Library) -> None:
    if library in _outcomes:
        return
    _outcomes[library] = False
    try:
        import_module(f".{library.adapter}", __package__).protect()
        _outcomes[library] = True
    except Exception as error:
        logger.warning("%s is not protected: %s: %s", library.name, type(error).__name__, error)


class _Finder:
    """An import hook that protects libraries imported after the start."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        """Return another finder's spec for a library, extended by the protection; None for any other module."""
        library = _IMPORTED_LATE.get(name)
        if library is None or library in _outcomes:
            return None
        others = [finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec")]
        specs = (finder.find_spec(name, path, target) for finder in others)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            _protect_when_loaded(spec.loader, library)
        return spec


# Leave out Django, because its databases are not yet configured when it is imported.
_IMPORTED_LATE = {library.package: library for library in _LIBRARIES if library.name != "Django"}


def _protect_when_loaded(loader: Any, library: _Library) -> None:
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        execute(module)
        # Check the name, because a loader may load more than one module.
        if module.__name__ == library.package:
            _protect(library)

    # If the loader's `exec_module` cannot be replaced, the library stays unprotected.
    with suppress(AttributeError):
        loader.exec_module = exec_module
