"""The servers that are measured, and how each is started.

Decides their command lines: one process, and the defaults of each server, save what a case cannot do without. It must
not know how they are driven.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import pathlib
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ..installed import COMMAND, ROOT, is_compiled
from .cases import CASES, IDLE

__all__ = [
    "LIMIT",
    "OURS",
    "SERVERS",
    "Server",
    "clean_environment",
    "missing",
    "missing_package",
    "start_command",
    "versions",
]

OURS: Final = "intralb"
LIMIT: Final = "limit"
_SPARE_CONNECTIONS: Final = 200
_SETTINGS_OF_SERVERS: Final = ("INTRALB_", "GUNICORN_", "GRANIAN_", "UWSGI_", "WEB_CONCURRENCY")
"""How environment variables begin that would change a server's defaults."""


@dataclass(frozen=True)
class Server:
    """One server, and how it is started."""

    name: str
    title: str
    package: str
    """The distribution that it comes with; for what is missing, and for its version."""
    command: Callable[[str, int], Sequence[str]]
    """Takes MODULE:NAME of an application and a port."""
    many_connections: Callable[[int], Sequence[str]] = lambda connections: ()
    """The flags without which it would not keep so many connections, or would close them while they are idle."""
    lacks: frozenset[str] = frozenset()
    """The cases that it cannot do."""
    flags_at: int = 3
    """Where in the command further flags belong: behind the interpreter, -m and the module."""
    slots: Callable[[int], Sequence[str]] = lambda number: ()
    """The flags that let it run so many requests at the same time, of a server that can be told."""
    slots_below: Callable[[int, str], Sequence[str]] = lambda number, path: ()
    """The same for the requests of one path only."""


def _python(*arguments: object) -> list[str]:
    return [sys.executable, *map(str, arguments)]


def _ours(application: str, port: int) -> Sequence[str]:
    return [*COMMAND, "serve", application, "--bind", f"127.0.0.1:{port}"]


def _gunicorn(application: str, port: int) -> Sequence[str]:
    return _python("-m", "gunicorn", "-k", "gevent", "-w", 1, "--bind", f"127.0.0.1:{port}", application)


def _pywsgi(application: str, port: int) -> Sequence[str]:
    return _python("-m", "loadtests.side_by_side.pywsgi_server", application, port)


def _waitress(application: str, port: int) -> Sequence[str]:
    return _python("-m", "waitress", f"--listen=127.0.0.1:{port}", application)


def _granian(application: str, port: int) -> Sequence[str]:
    flags = ("--interface", "wsgi", "--workers", 1, "--host", "127.0.0.1", "--port", port)
    return _python("-m", "granian", *flags, application)


def _uwsgi(application: str, port: int) -> Sequence[str]:
    # Not --http11-socket, which would keep connections: with --gevent it ends in a crash (seen with uWSGI 2.0.31).
    flags = ["--http-socket", f"127.0.0.1:{port}", "--gevent", "100", "--gevent-monkey-patch", "--disable-logging"]
    place = ["--virtualenv", sys.prefix, "--pythonpath", str(ROOT)]
    return [_uwsgi_program() or "uwsgi", *flags, *place, "--need-app", "--die-on-term", "--module", application]


def _limit(application: str, port: int) -> Sequence[str]:
    return _python("-m", "loadtests.side_by_side.hub_limit", port)


def _uwsgi_program() -> str | None:
    places = os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ.get("PATH", "")])
    return shutil.which("uwsgi", path=places) or shutil.which("pyuwsgi", path=places)


SERVERS: Final = {
    server.name: server
    for server in (
        Server(
            OURS,
            "intralb_gevent",
            "intralb-gevent",
            _ours,
            # Behind the command's name.
            flags_at=len(COMMAND) + 1,
            slots=lambda number: ("--max-workers", "1", "--max-concurrent-per-router", str(number)),
            slots_below=lambda number, path: (
                "--routes",
                f"{path} max_workers=1 max_concurrent_per_router={number}",
            ),
        ),
        Server(
            "gunicorn",
            "gunicorn -k gevent",
            "gunicorn",
            _gunicorn,
            lambda connections: ("--worker-connections", str(connections), "--keep-alive", "75"),
        ),
        Server("pywsgi", "gevent.pywsgi", "gevent", _pywsgi),
        Server(
            "pywsgi-nodelay",
            "gevent.pywsgi, NODELAY",
            "gevent",
            lambda application, port: (*_pywsgi(application, port), "--nodelay"),
        ),
        Server(
            "waitress",
            "waitress",
            "waitress",
            _waitress,
            lambda connections: (f"--connection-limit={connections}", "--asyncore-use-poll"),
            slots=lambda number: (f"--threads={number}",),
        ),
        Server(
            "granian",
            "granian, WSGI",
            "granian",
            _granian,
            # 512 is what it comes to by default; it would grow with the other.
            lambda connections: ("--backpressure", str(connections), "--blocking-threads", "512"),
            slots=lambda number: ("--blocking-threads", str(number)),
        ),
        # It closes every connection after its first answer.
        Server("uwsgi", "uwsgi --gevent", "uwsgi", _uwsgi, lacks=frozenset({IDLE})),
        # It has but one answer.
        Server(
            LIMIT,
            "limit: fixed-answer hub-callback",
            "gevent",
            _limit,
            lacks=frozenset(CASES) - {"hello", IDLE},
        ),
    )
}
"""The servers, in the order in which they are measured."""


def start_command(
    server: Server, application: str, port: int, idle_connections: int = 0, flags: Sequence[str] = ()
) -> list[str]:
    """Return the command that starts the server; with idle connections, so that it keeps them; with further flags."""
    command = list(server.command(application, port))
    many = server.many_connections(idle_connections + _SPARE_CONNECTIONS) if idle_connections else ()
    return [*command[: server.flags_at], *many, *flags, *command[server.flags_at :]]


def missing(server: Server) -> str | None:
    """Return what has to be installed before the server can be started, or None."""
    if server.name == "uwsgi":
        return None if _uwsgi_program() else "uwsgi (or pyuwsgi)"
    return missing_package(server.package)


def missing_package(package: str) -> str | None:
    """Return the package's name if it is not installed, or None."""
    found = not package or importlib.util.find_spec(package.replace("-", "_"))
    return None if found else package


def versions() -> dict[str, str]:
    """Return the versions of everything installed that takes part."""
    packages = {server.package for server in SERVERS.values()} | {"flask", "httptools", "greenlet", "pyuwsgi"}
    found = {}
    for package in sorted(packages):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    if SERVERS[OURS].package in found:
        found[SERVERS[OURS].package] += " (compiled)" if is_compiled() else " (not compiled)"
    return found


def clean_environment(additions: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a server: ours, without what would change its defaults."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS_OF_SERVERS)}
    return {**kept, "PYTHONPATH": str(ROOT), **additions}
