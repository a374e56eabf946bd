"""Protection of an application's database connections without an option: it finds the libraries that are in use.

Decides which libraries are in use, by what the application has imported or imports later. It must not import a library
itself, nor know what protects one: the library's own module here does.
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
    """A library, the package that is imported where it is used, and the module here which has its `protect`."""

    name: str
    package: str
    adapter: str
    is_configured: Callable[[], bool] = lambda: True

    @property
    def in_use(self) -> bool:
        """Whether the application uses it."""
        return self.package in sys.modules and self.is_configured()


def _django_has_databases() -> bool:
    settings: Any = sys.modules["django.conf"].settings
    if not settings.configured:
        return False
    engines = [database.get("ENGINE") for database in settings.DATABASES.values()]
    return any(engine and engine != "django.db.backends.dummy" for engine in engines)


# Django is first, as its protection imports the drivers that its settings name.
_LIBRARIES = (
    _Library("Django", "django.db", "django", _django_has_databases),
    _Library("SQLAlchemy", "sqlalchemy", "engines"),
    _Library("psycopg", "psycopg", "psycopg"),
    _Library("psycopg2", "psycopg2", "psycopg2"),
    _Library("PyMySQL", "pymysql", "pymysql"),
    _Library("sqlite3", "sqlite3", "sqlite3_orphans"),
)

_outcomes: dict[_Library, bool] = {}
"""Whether each library that was tried is protected."""


def found() -> tuple[str, ...]:
    """Return the names of the libraries that `protect` would protect at this moment; imports and changes nothing."""
    return tuple(library.name for library in _in_use())


def protect() -> tuple[str, ...]:
    """Protect the connections of Django, SQLAlchemy, psycopg, psycopg2, PyMySQL and sqlite3, as far as they are in use.

    When a request is interrupted, by its deadline for instance, the statement that it waits for is ended on the server,
    and the connections that it has used are closed, with their transactions and locks. Call this once, when the
    application has been imported; `intralb-gevent serve` does so itself. Libraries that are imported later are
    protected then, but Django only if it has been set up by now. Returns the names of the protected libraries. A
    library that cannot be protected is logged. Async views, which have no connections, are cancelled then as well.
    """
    asgiref.protect()
    for library in _in_use():
        _protect(library)
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    return tuple(library.name for library in _LIBRARIES if _outcomes.get(library))


def _in_use() -> Iterator[_Library]:
    for library in _LIBRARIES:
        # Settings that are not as they should be are reported by the library itself.
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
    """An import hook that protects a library when the application imports it after the start."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        """Return the spec that the other finders have for a library, with its protection added; else None."""
        library = _IMPORTED_LATE.get(name)
        if library is None or library in _outcomes:
            return None
        others = [finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec")]
        specs = (finder.find_spec(name, path, target) for finder in others)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            _protect_when_loaded(spec.loader, library)
        return spec


# When Django is imported nothing is known of its databases yet.
_IMPORTED_LATE = {library.package: library for library in _LIBRARIES if library.name != "Django"}


def _protect_when_loaded(loader: Any, library: _Library) -> None:
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        execute(module)
        # A loader may have more than one module to load.
        if module.__name__ == library.package:
            _protect(library)

    # Where a loader does not let itself be changed, the library stays as it is.
    with suppress(AttributeError):
        loader.exec_module = exec_module
