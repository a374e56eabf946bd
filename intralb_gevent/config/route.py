"""Routes: settings for some paths of the application.

`route_list` checks that each route of a list is reachable. `policy/routetable.py` finds the route of a request.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import KW_ONLY, MISSING, dataclass
from typing import Any

from ..errors import OptionError
from ..priority import PRIORITIES
from .fields import Declaration, check_fields, declarations_in, option
from .kinds import Kind, choice, integer, require, seconds, switch, wait

__all__ = ["Route", "route_declarations", "route_list"]

_ROUTES = "Routes"


def _path() -> Kind:
    allowed = "a path without a query, such as /health, or a prefix of paths and a *, such as /reports/*"

    def convert(value: Any) -> str:
        require(isinstance(value, str) and value.isprintable() and not {"?", "#"} & set(value))
        require(value.startswith("/") and "*" not in value[:-1])
        value.encode()
        return str(value)

    return Kind(allowed, "PATH", convert, str, textual=True)


@dataclass(frozen=True)
class Route:
    """The settings of some paths: `Route("/reports/*", request_timeout_seconds=120)`.

    `path` is one path ("/health"), or a prefix followed by *. "/reports/*" matches "/reports/" and "/reports/2024", but
    not "/reports"; "/reports*" matches all of these, but also "/reports-old". The path is compared with PATH_INFO,
    which is decoded and excludes SCRIPT_NAME. The first route that matches applies. If a setting is None, the value in
    `Options` applies. Raises `OptionError`, which names the route and the field.
    """

    path: str = option(_ROUTES, MISSING, _path(), "Paths of the route: one path, or a prefix followed by *.")
    _: KW_ONLY
    request_timeout_seconds: float | None = option(
        _ROUTES,
        None,
        seconds(positive=True),
        "Time from a request's arrival to its deadline, including its time in the queue. Of a streamed response, only "
        "the first chunk must be sent before the deadline. Default: the general setting.",
    )
    stream_timeout_seconds: float | None = option(
        _ROUTES,
        None,
        seconds(positive=True),
        "Time limit of a streamed response, counted from its first chunk. Default: the general setting.",
    )
    stream_idle_timeout_seconds: float | None = option(
        _ROUTES,
        None,
        wait(positive=True),
        "Maximum time between two chunks from a streamed response's handler. Default: the general setting; if that is "
        "not set, the higher of 60 and request_timeout_seconds.",
    )

    max_wait_seconds: float | None = option(
        _ROUTES,
        None,
        wait(),
        "Maximum wait in the queue; a request that would wait longer is rejected. Default: the general setting.",
    )
    priority: str | None = option(
        _ROUTES,
        None,
        choice(*PRIORITIES),
        "Priority of the route's requests under overload. Default: critical.",
    )
    stream_request_bodies: bool | None = option(
        _ROUTES,
        None,
        switch(),
        "Call the application before a request's body has arrived; the application reads the body as it arrives. "
        "Default: false.",
    )
    max_workers: int | None = option(
        _ROUTES,
        None,
        integer(1),
        "Maximum number of workers in a dedicated lane. With a dedicated lane, this route and the other routes cannot "
        "starve each other. Default: no dedicated lane.",
    )
    max_concurrent_per_router: int | None = option(
        _ROUTES, None, integer(1), "Slots of each worker of the route's lane. Default: the general setting."
    )
    queue_size: int | None = option(
        _ROUTES,
        None,
        integer(0),
        "Maximum number of requests in the queue of each worker of the route's lane. Default: the general setting.",
    )

    def __post_init__(self) -> None:
        """Check every field of the route, and that the settings of a lane are not set without `max_workers`."""
        with _named(self.path):
            check_fields(self)
            for name in ("max_concurrent_per_router", "queue_size"):
                if getattr(self, name) is not None and not self.apart:
                    raise OptionError(f"{name}: not allowed alone; max_workers must set the number of workers")

    @property
    def apart(self) -> bool:
        """True if this route has a dedicated lane, that is, its own workers."""
        return self.max_workers is not None

    def covers(self, path: str) -> bool:
        """Return whether this route matches every path that a route with `path` matches."""
        return path.startswith(self.path[:-1]) if self.path.endswith("*") else path == self.path

    def written(self) -> dict[str, Any]:
        """Return the settings that are not None, as a table of a settings file."""
        set_here = ((d, getattr(self, d.name)) for d in route_declarations())
        return {d.name: d.kind.write(value) for d, value in set_here if value is not None}


def route_declarations() -> tuple[Declaration, ...]:
    """Return the declarations of the settings of a route, in their order in the class."""
    return declarations_in(Route)


@contextmanager
def _named(path: object) -> Iterator[None]:
    """Add the route's path to the message of an OptionError that is raised in the block."""
    try:
        yield
    except OptionError as error:
        where = f"{path!r}: " if isinstance(path, str) else ""
        raise OptionError(f"routes: {where}{error}") from None


# Lists of routes, the value of the option `routes`.


def route_list() -> Kind:
    """Return a `Kind` for lists of routes; an example in text is "/reports/* request_timeout_seconds=120; /health"."""
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
    """Return the route for a list entry, which is a Route or a table of a settings file."""
    if isinstance(entry, Route):
        return entry
    require(isinstance(entry, Mapping))
    return _made(dict(entry))


def _read(words: list[str]) -> Route:
    """Parse the words of a route: its path, and then its settings."""
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
    """Return the routes; raise OptionError if an earlier route matches every path of a later route."""
    for index, route in enumerate(routes):
        before = next((other for other in routes[:index] if other.covers(route.path)), None)
        if before is not None:
            raise OptionError(
                f"routes: {route.path!r} is never reached, because {before.path!r} comes before it; "
                "the first route that matches applies, so move this route up"
            )
    return tuple(routes)
