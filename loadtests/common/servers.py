"""Defines the measured servers and their command lines, starts the servers, and checks their responses.

Our server is the installed package, compiled or not. Every server runs in one process with its defaults, except
for flags that a measurement requires.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.metadata
import importlib.util
import os
import pathlib
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from . import LoadTestError
from .processes import ROOT, Process, free_port, running, uninterrupted
from .report import say

# Python runs in isolated mode, because otherwise it would search the working directory and PYTHONPATH first. The
# repository contains the applications to serve, so it is appended to the path.
_START: Final = (
    f"import sys; sys.path.append({str(ROOT)!r}); from intralb_gevent.__main__ import main; sys.exit(main())"
)
COMMAND: Final = (sys.executable, "-I", "-c", _START)
"""The command line of our server, without its flags."""


def is_compiled() -> bool:
    """Return whether our installed server is compiled; this runs the server to find out."""
    with uninterrupted():
        shown = subprocess.run([*COMMAND, "--version"], capture_output=True, text=True, timeout=10)
    return "(compiled" in shown.stdout


OURS: Final = "intralb"
LIMIT: Final = "limit"
ANSWER_SECONDS: Final = 10.0
"""Seconds within which an otherwise idle server must respond."""
_START_SECONDS: Final = 15.0
_SPARE_CONNECTIONS: Final = 200
_SETTINGS_OF_SERVERS: Final = ("INTRALB_", "GUNICORN_", "GRANIAN_", "UWSGI_", "WEB_CONCURRENCY")
"""Prefixes of environment variables that would change a server's defaults."""


FLAGS: Final = "FLAGS"
"""Placeholder for additional flags in a command."""


@dataclass(frozen=True)
class Server:
    """One server and its command line, whose words are format strings with fields such as `application` and `port`."""

    name: str
    title: str
    package: str
    """The server's distribution package, whose version the report shows."""
    command: Sequence[str]
    many_connections: Sequence[str] = ()
    """Flags that the server needs to keep `number` connections open, even while they are idle."""
    lacks: Sequence[str] = ()
    """Cases that this server cannot run."""
    slots: Sequence[str] = ()
    """Flags that limit concurrent requests to `number`; empty if the server has no such limit."""
    slots_below: Sequence[str] = ()
    """Flags that limit the concurrent requests of one `path`."""


def _python(module: str, *words: str) -> Sequence[str]:
    return (sys.executable, "-m", module, FLAGS, *words)


def _uwsgi_program() -> str | None:
    places = os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ.get("PATH", "")])
    return shutil.which("uwsgi", path=places) or shutil.which("pyuwsgi", path=places)


_ADDRESS: Final = "127.0.0.1:{port}"
_PYWSGI: Final = _python("loadtests.peers.pywsgi_server", "{application}", "{port}")
_GRANIAN: Final = ("--interface", "wsgi", "--workers", "1", "--host", "127.0.0.1", "--port", "{port}", "{application}")
# Do not use --http11-socket: it keeps connections alive, but crashes with --gevent (seen with uWSGI 2.0.31).
_UWSGI: Final = (
    *(_uwsgi_program() or "uwsgi", FLAGS, "--http-socket", _ADDRESS, "--gevent", "100", "--gevent-monkey-patch"),
    *("--disable-logging", "--virtualenv", sys.prefix, "--pythonpath", str(ROOT), "--need-app", "--die-on-term"),
    *("--module", "{application}"),
)
SERVERS: Final = {
    server.name: server
    for server in (
        Server(
            OURS,
            "intralb_gevent",
            "intralb-gevent",
            (*COMMAND, "serve", FLAGS, "{application}", "--bind", _ADDRESS),
            slots=("--max-workers", "1", "--max-concurrent-per-router", "{number}"),
            slots_below=("--routes", "{path} max_workers=1 max_concurrent_per_router={number}"),
        ),
        Server(
            "gunicorn",
            "gunicorn -k gevent",
            "gunicorn",
            _python("gunicorn", "-k", "gevent", "-w", "1", "--bind", _ADDRESS, "{application}"),
            ("--worker-connections", "{number}", "--keep-alive", "75"),
        ),
        Server("pywsgi", "gevent.pywsgi", "gevent", _PYWSGI),
        Server("pywsgi-nodelay", "gevent.pywsgi, NODELAY", "gevent", (*_PYWSGI, "--nodelay")),
        Server(
            "waitress",
            "waitress",
            "waitress",
            _python("waitress", f"--listen={_ADDRESS}", "{application}"),
            ("--connection-limit={number}", "--asyncore-use-poll"),
            slots=("--threads={number}",),
        ),
        Server(
            "granian",
            "granian, WSGI",
            "granian",
            _python("granian", *_GRANIAN),
            # Set the default, 512 threads; otherwise --backpressure would raise the number of threads.
            ("--backpressure", "{number}", "--blocking-threads", "512"),
            slots=("--blocking-threads", "{number}"),
        ),
        # uWSGI closes every connection after the first response.
        Server("uwsgi", "uwsgi --gevent", "uwsgi", _UWSGI, lacks=("idle",)),
        # This server sends the same response to every request.
        Server(
            LIMIT,
            "limit: fixed-answer hub-callback",
            "gevent",
            _python("loadtests.peers.hub_limit", "{port}"),
            lacks=("close", "flask", "large", "larger", "post", "file"),
        ),
    )
}
"""The servers by name, in the order of measurement."""


def filled(words: Sequence[str], **values: object) -> list[str]:
    """Fill these values into the words of a command line."""
    return [word.format(**values) if "{" in word else word for word in words]


def start_command(
    server: Server, application: str, port: int, idle_connections: int = 0, flags: Sequence[str] = ()
) -> list[str]:
    """Return the server's start command with `flags`, and with the flags for idle connections if any are needed."""
    many = filled(server.many_connections, number=idle_connections + _SPARE_CONNECTIONS) if idle_connections else []
    command = filled(server.command, application=application, port=port)
    place = command.index(FLAGS)
    return [*command[:place], *many, *flags, *command[place + 1 :]]


def missing(server: Server) -> str | None:
    """Return the name of a package that the server needs but is not installed, or None."""
    if server.name == "uwsgi":
        return None if _uwsgi_program() else "uwsgi (or pyuwsgi)"
    return missing_package(server.package)


def missing_package(package: str) -> str | None:
    """Return the package's name if it is not installed, or None."""
    found = not package or importlib.util.find_spec(package.replace("-", "_"))
    return None if found else package


def left_out(servers: Mapping[str, Server], packages: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return and print the missing package for each server or package name that must be left out."""
    needs = {name: missing(server) for name, server in servers.items()}
    needs |= {name: missing_package(package) for name, package in (packages or {}).items()}
    found = {name: package for name, package in needs.items() if package}
    for name, package in found.items():
        say(f"{name} is left out: {package} is not installed")
    return found


def versions(more: Sequence[str] = ()) -> str:
    """Return the versions of Python, of all installed packages of the servers, and of the packages in `more`."""
    packages = {server.package for server in SERVERS.values()} | {"flask", "httptools", "greenlet", "pyuwsgi", *more}
    found = {}
    for package in sorted(packages):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    if SERVERS[OURS].package in found:
        found[SERVERS[OURS].package] += " (compiled)" if is_compiled() else " (not compiled)"
    return ", ".join([f"Python {platform.python_version()}", *(f"{name} {number}" for name, number in found.items())])


def titled(server: Server) -> str:
    """Return a server's title; our server's title is bold."""
    return f"**{server.title}**" if server.name == OURS else server.title


def clean_environment(additions: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment with `additions`, without variables that would change a server's defaults."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS_OF_SERVERS)}
    return {**kept, "PYTHONPATH": str(ROOT), **additions}


@contextlib.contextmanager
def serving(
    server: Server,
    application: str,
    core: int,
    directory: pathlib.Path,
    flags: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    idle_connections: int = 0,
) -> Iterator[tuple[Process, int]]:
    """Start a server with an application on a free port; yield the process and the port once it listens.

    Raises `LoadTestError` if the server does not start, or has exited before the context ends.
    """
    port = free_port()
    command = start_command(server, application, port, idle_connections, flags)
    with running(command, core, directory / f"{server.name}.log", clean_environment(environ or {})) as process:
        process.wait_for(lambda: listens(port), _START_SECONDS, "the server")
        yield process, port
        if process.exit_code is not None:
            raise LoadTestError(f"the server ended by itself; its last words: {process.last_words()}")


def listens(port: int) -> bool:
    """Return whether a connection to a port of this machine can be opened."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), ANSWER_SECONDS):
        return True
    return False


def check_answer(
    port: int, expected: bytes, path: str = "/", body: bytes = b"", headers: Mapping[str, str] | None = None
) -> None:
    """Send one request. Raises `LoadTestError` unless the response has status 200 and the expected body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)
    try:
        connection.request("POST" if body else "GET", path, body or None, dict(headers or {}))
        response = connection.getresponse()
        received = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise LoadTestError(f"the server gave no whole answer: {error!r}") from None
    finally:
        connection.close()
    if response.status != 200:
        raise LoadTestError(f"the server answered {response.status} instead of 200")
    if received != expected:
        raise LoadTestError(
            f"the server's answer is wrong: {len(received)} bytes that begin with {received[:20]!r}, "
            f"instead of {len(expected)} that begin with {expected[:20]!r}"
        )
