"""What can be told about some paths of the application: a route and its settings.

Decides how a path is written, which settings a route has, and that each route of a list can be reached. It must not
know how the route of a request is found (`policy/routetable.py`) or who reads its settings.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import KW_ONLY, MISSING, dataclass
from typing import Any

from .declaring import Declaration, check_fields, declarations_in, option
from .errors import OptionError
from .kinds import Kind, choice, integer, require, seconds, switch, wait
from .priority import PRIORITIES

__all__ = ["Route", "route_declarations", "route_list"]

_ROUTES = "Routes"


def _path() -> Kind:
    allowed = "a path without its query, such as /health, or the beginning of one and a *, such as /reports/*"

    def convert(value: Any) -> str:
        require(isinstance(value, str) and value.isprintable() and not {"?", "#"} & set(value))
        require(value.startswith("/") and "*" not in value[:-1])
        value.encode()
        return str(value)

    return Kind(allowed, "PATH", convert, str, textual=True)


@dataclass(frozen=True)
class Route:
    """The settings of some paths: `Route("/reports/*", request_timeout_seconds=120)`.

    `path` is one path ("/health"), or with a * at its end all that begin so: "/reports/*" is "/reports/" and
    "/reports/2024", but not "/reports", which takes a route of its own (or "/reports*", which is "/reports-old" too).
    It is compared with PATH_INFO: decoded, below SCRIPT_NAME. The first route that matches counts. What is None is as
    in the `Options`. Raises `OptionError` naming the route and the field.
    """

    path: str = option(_ROUTES, MISSING, _path(), "Which requests: one path, or all that begin so.")
    _: KW_ONLY
    request_timeout_seconds: float | None = option(
        _ROUTES,
        None,
        seconds(positive=True),
        "Deadline of a request: its wait and the application together; of a stream, until its first part. "
        "Default: as elsewhere.",
    )
    stream_timeout_seconds: float | None = option(
        _ROUTES,
        None,
        seconds(positive=True),
        "End of a streamed response, counted from its first part. Default: as elsewhere.",
    )
    stream_idle_timeout_seconds: float | None = option(
        _ROUTES,
        None,
        wait(positive=True),
        "How long the handler of a streamed response may be silent. Default: as elsewhere; where nothing is set, 60, "
        "or request_timeout_seconds if that is more.",
    )

    max_wait_seconds: float | None = option(
        _ROUTES,
        None,
        wait(),
        "How long a request may have to wait for its turn; one that would wait longer is refused. "
        "Default: as elsewhere.",
    )
    priority: str | None = option(
        _ROUTES,
        None,
        choice(*PRIORITIES),
        "How much its requests matter while more arrives than can be answered. Default: critical.",
    )
    stream_request_bodies: bool | None = option(
        _ROUTES,
        None,
        switch(),
        "Call the application before a request's body has arrived, which it then reads as it comes. Default: false.",
    )
    max_workers: int | None = option(
        _ROUTES,
        None,
        integer(1),
        "Workers of its own, at most, so that it and all others cannot starve each other. Default: none of its own.",
    )
    max_concurrent_per_router: int | None = option(
        _ROUTES, None, integer(1), "Slots of each of its own workers. Default: as elsewhere."
    )
    queue_size: int | None = option(
        _ROUTES,
        None,
        integer(0),
        "Requests that may wait in the queue of each of its own workers. Default: as elsewhere.",
    )

    def __post_init__(self) -> None:
        """Check every field."""
        with _named(self.path):
            check_fields(self)
            for name in ("max_concurrent_per_router", "queue_size"):
                if getattr(self, name) is not None and not self.apart:
                    raise OptionError(f"{name}: not allowed alone; max_workers must say how many workers it is for")

    @property
    def apart(self) -> bool:
        """Whether its requests have workers of their own."""
        return self.max_workers is not None

    def covers(self, path: str) -> bool:
        """Say whether this route takes all that a later one with `path` would."""
        return path.startswith(self.path[:-1]) if self.path.endswith("*") else path == self.path

    def written(self) -> dict[str, Any]:
        """Return what is set, as a table of a settings file says it."""
        set_here = ((d, getattr(self, d.name)) for d in route_declarations())
        return {d.name: d.kind.write(value) for d, value in set_here if value is not None}


def route_declarations() -> tuple[Declaration, ...]:
    """Every setting of a route, in the order of declaration."""
    return declarations_in(Route)


@contextmanager
def _named(path: object) -> Iterator[None]:
    """Have an error name the route."""
    try:
        yield
    except OptionError as error:
        where = f"{path!r}: " if isinstance(path, str) else ""
        raise OptionError(f"routes: {where}{error}") from None


# Lists of them, as an option has one.


def route_list() -> Kind:
    """Return the kind of lists of routes; in text they are like "/reports/* request_timeout_seconds=120; /health"."""
    allowed = "routes, as a list (in text: PATH NAME=VALUE ..., with semicolons between; in a file: [[routes]])"

    def convert(value: Any) -> tuple[Route, ...]:
        require(isinstance(value, (list, tuple)))
        return _reachable([_route(entry) for entry in value])

    def parse(text: str) -> list[Route]:
        return [_read(piece.split()) for piece in text.split(";") if piece.strip()]

    def write(routes: Iterable[Route]) -> list[dict[str, Any]]:
        return [route.written() for route in routes]

    return Kind(allowed, "ROUTE", convert, parse, textual=True, write=write, joined_by=";")


def _route(entry: Any) -> Route:
    """Return the route that an entry of a list is: one already, or a table of a settings file."""
    if isinstance(entry, Route):
        return entry
    require(isinstance(entry, Mapping))
    return _made(dict(entry))


def _read(words: list[str]) -> Route:
    """Return the route that a text says: a path, then settings."""
    path, *settings = words
    given: dict[str, Any] = {"path": path}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise OptionError(f"routes: {path!r}: {setting!r} is not understood; write NAME=VALUE")
        if name in given:
            raise OptionError(f"routes: {path!r}: {name} is given twice; write it once")
        with _named(path):
            given[name] = _declaration(name).kind.read(name, text)
    return _made(given)


def _made(given: dict[str, Any]) -> Route:
    path = given.pop("path", None)
    with _named(path):
        for name in given:
            _declaration(name)
    return Route(path, **given)


def _declaration(name: str) -> Declaration:
    known = {declaration.name: declaration for declaration in route_declarations()}
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        raise OptionError(f"{name!r} is not a setting of a route{f'; did you mean {close[0]}?' if close else ''}")
    return known[name]


def _reachable(routes: list[Route]) -> tuple[Route, ...]:
    """Return the routes; OptionError if one can never match, because one before it takes all of its paths."""
    for index, route in enumerate(routes):
        before = next((other for other in routes[:index] if other.covers(route.path)), None)
        if before is not None:
            raise OptionError(
                f"routes: {route.path!r} is never reached, because {before.path!r} comes before it; "
                "the first that matches counts, so put it further up"
            )
    return tuple(routes)
