"""Maps a request's path to its application, route and lane."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from ..config.options import Options
from ..config.route import Route
from ..errors import OptionError
from ..policy.cannedresponses import NOT_FOUND
from ..policy.deadline import time_limits
from ..policy.routetable import RouteTable
from ..priority import PRIORITIES, Priority
from .context import LaneContext
from .exchange import Application, StartResponse
from .job import RouteStats
from .lane import Lane
from .requestid import id_header

__all__ = ["Mounts", "enter_root"]

_Table = RouteTable[RouteStats]


def enter_root(environ: dict[str, Any], root_path: str) -> None:
    """Move `root_path` from the start of PATH_INFO to SCRIPT_NAME; leave a path without this prefix unchanged.

    `root_path` is the prefix under which a proxy mounts the server. If the proxy has sent the prefix as
    X-Forwarded-Prefix, SCRIPT_NAME already equals the prefix, which is then not added again.
    """
    path: str = environ.get("PATH_INFO", "")
    if path.startswith(root_path) and path[len(root_path) : len(root_path) + 1] in ("", "/"):
        environ["PATH_INFO"] = path[len(root_path) :]
        before: str = environ.get("SCRIPT_NAME", "")
        environ["SCRIPT_NAME"] = root_path if before == root_path else before + root_path


class Mounts:
    """The applications by the paths at which they are mounted; a single application is mounted at every path."""

    def __init__(self, application: Application | Mapping[Any, Any], options: Options, context: LaneContext) -> None:
        self._options = options
        self._context = context
        self._apart: dict[str, Lane] = {}
        self.lanes: list[Lane] = []
        """All lanes; the first lane serves the requests that have no dedicated lane."""
        mapping = application if isinstance(application, Mapping) else {"": application}
        applications = {_path(path): _callable(path, mapping[path]) for path in mapping}
        if not applications:
            raise OptionError(f"application: {application!r} is not allowed; it must name one application or more")
        if len(applications) < len(mapping):
            raise OptionError('application: "" and "/" are not allowed together: both mean every path; leave one out')
        main = self._lane("", options)
        self._otherwise = self._table(_nothing_here, main)
        # Put the longest path first, so that "/shop/admin" is found before "/shop".
        self._tables = [
            (path, self._table(applications[path], self._lane(path, options) if path else main))
            for path in sorted(applications, key=len, reverse=True)
        ]
        self._single = self._tables[0][1] if set(applications) == {""} else None
        self.only = None if self._single is None or self._options.routes else self._single.otherwise
        """The `RouteStats` of every request, if there is a single application and no route; otherwise None."""
        self.below_paths = self._single is None
        """True if applications are mounted at paths, so that `enter` must be called for each request."""

    def __repr__(self) -> str:
        return f"<Mounts of {len(self._tables)} applications in {len(self.lanes)} lanes>"

    def _lane(self, name: str, options: Options) -> Lane:
        lane = Lane(name, options, self._context, self)
        self.lanes.append(lane)
        return lane

    def _table(self, application: Application, lane: Lane) -> _Table:
        """Return the `RouteStats` of one application, by path."""

        def state(route: Route | None) -> RouteStats:
            limits = time_limits(self._options, route)
            priority = PRIORITIES[route.priority] if route and route.priority else Priority.CRITICAL
            max_wait = self._options.max_wait_seconds
            if route and route.max_wait_seconds is not None:
                max_wait = route.max_wait_seconds
            streams_body = route is not None and bool(route.stream_request_bodies)
            lane_of_route = (route and self._lane_of(route)) or lane
            name = route.path if route else ""
            return RouteStats(application, limits, priority, lane_of_route, max_wait, streams_body, name)

        return RouteTable([(route.path, state(route)) for route in self._options.routes], otherwise=state(None))

    def _lane_of(self, route: Route) -> Lane | None:
        """Return the dedicated lane of a route, one lane for all applications; None if `max_workers` is unset."""
        if route.max_workers is None:
            return None
        if route.path not in self._apart:
            self._apart[route.path] = self._lane(route.path, _options_of(route, self._options))
        return self._apart[route.path]

    def find(self, environ: dict[str, Any]) -> RouteStats:
        """Return the `RouteStats` of a request; the whole path must still be in PATH_INFO."""
        if self.only is not None:
            return self.only
        path, table = environ.get("PATH_INFO", ""), self._single
        if table is None:
            _, table = self._below(path)
        return table.find(path)

    def enter(self, environ: dict[str, Any]) -> None:
        """Move the application's mount path to SCRIPT_NAME (PEP 3333), just before the application is called.

        Do not call this method earlier, because functions such as `priority_func` read the whole path from PATH_INFO.
        """
        path = environ.get("PATH_INFO", "")
        mount, _ = self._below(path)
        environ["SCRIPT_NAME"] = environ.get("SCRIPT_NAME", "") + mount
        environ["PATH_INFO"] = path[len(mount) :]

    def _below(self, path: str) -> tuple[str, _Table]:
        """Return the mount path that contains `path`, and the routes of its application."""
        for mount, table in self._tables:
            if path.startswith(mount) and path[len(mount) : len(mount) + 1] in ("", "/"):
                return mount, table
        return "", self._otherwise


def _options_of(route: Route, options: Options) -> Options:
    """Return the options for a route's lane: the server's options, overridden by those that the route sets."""
    most = route.max_workers or options.max_workers
    slots, queue_size = route.max_concurrent_per_router, route.queue_size
    return replace(
        options,
        max_workers=most,
        min_workers=None if options.min_workers is None else min(options.min_workers, most),
        max_concurrent_per_router=options.max_concurrent_per_router if slots is None else slots,
        queue_size=options.queue_size if queue_size is None else queue_size,
    )


def _callable(path: str, application: Any) -> Application:
    if not callable(application):
        where = f"application of {path!r}" if path else "application"
        raise OptionError(f"{where}: {application!r} is not allowed; it must be a WSGI callable")
    return application  # type: ignore[no-any-return]  # checked by callable()


def _path(path: Any) -> str:
    """Return a valid mount path, encoded as in an environ; "/" becomes "", which means every path."""
    if isinstance(path, str) and (path in ("", "/") or (path.startswith("/") and not path.endswith("/"))):
        return path.rstrip("/").encode().decode("latin-1")
    raise OptionError(f"application: {path!r} is not allowed; a path must begin with / and not end with it: /users")


def _nothing_here(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    """Answer 404 to a request outside all mount paths."""
    start_response(NOT_FOUND.status, [*NOT_FOUND.headers, *id_header(environ)])
    return [NOT_FOUND.body]
