"""Sends ambiguous requests to our server, directly and through proxies, each followed by canary requests."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import pathlib
import random
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from ..common.processes import free_port, running
from ..common.report import say
from ..common.servers import listens
from .client import CutError, Line, MalformedError
from .corpus import Ambiguous, corpus, mutated
from .runs import Faults, LongTest, WatchedServer, run
from .witness import MARK

PATH: Final = f"{os.environ.get('PATH', '')}:/usr/sbin"
"""The search path for proxies. Debian installs servers in /usr/sbin, which is not in the PATH of users."""
_START_SECONDS: Final = 10.0
_HAPROXY: Final = """
defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
  http-reuse always
listen strict
  bind 127.0.0.1:{port}
  http-request set-header {mark} {secret}
  server one 127.0.0.1:{server} maxconn 2
listen lenient
  bind 127.0.0.1:{second}
  option accept-invalid-http-request
  http-request set-header {mark} {secret}
  server one 127.0.0.1:{server} maxconn 2
"""
_NGINX: Final = """
daemon off; master_process off; pid {directory}/nginx.pid; error_log stderr crit;
events {{ worker_connections 400; }}
http {{
  access_log off; client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi; uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
  proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header {mark} {secret};
  upstream one {{ server 127.0.0.1:{server}; keepalive 2; }}
  upstream two {{ server 127.0.0.1:{server}; keepalive 2; }}
  server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://one; }} }}
  server {{
    listen 127.0.0.1:{second}; underscores_in_headers on; ignore_invalid_headers off; proxy_request_buffering off;
    location / {{ proxy_pass http://two; }}
  }}
}}
"""
_CONFIGURED: Final = {
    "nginx": ("through nginx", "through nginx without buffers"),
    "haproxy": ("through HAProxy", "through lenient HAProxy"),
}


@dataclass(frozen=True)
class Front:
    """An address to which clients connect: our server's or a proxy's."""

    title: str
    port: int
    marks: bool
    """True if this front adds the mark to each request that it parses."""


@contextlib.contextmanager
def fronts(directory: pathlib.Path, server: int, secret: str, path: str = PATH) -> Iterator[list[Front]]:
    """Start the proxies that are installed in `path`; yield a front for our server and for each proxy.

    Raises `LoadTestError` if a proxy does not start.
    """
    with contextlib.ExitStack() as stack:
        found = [Front("alone", server, marks=False)]
        for name, titles in _CONFIGURED.items():
            program = shutil.which(name, path=path)
            if program is None:
                say(f"{name} is not installed, so nothing is sent through it; its package in Debian has the same name")
                continue
            ports = stack.enter_context(_proxy(name, program, directory, server, secret))
            found += [Front(title, port, marks=True) for title, port in zip(titles, ports, strict=True)]
        yield found


@contextlib.contextmanager
def _proxy(name: str, program: str, directory: pathlib.Path, server: int, secret: str) -> Iterator[tuple[int, int]]:
    own = directory / name
    own.mkdir()
    ports = free_port(), free_port()
    written = {"nginx": _NGINX, "haproxy": _HAPROXY}[name].format(
        directory=own, server=server, port=ports[0], second=ports[1], mark=MARK, secret=secret
    )
    (own / "proxy.conf").write_text(written)
    flags = {"nginx": ["-p", str(own), "-c", f"{own}/proxy.conf"], "haproxy": ["-db", "-f", f"{own}/proxy.conf"]}
    with running([program, *flags[name]], None, own / "log") as process:
        process.wait_for(lambda: all(map(listens, ports)), _START_SECONDS, name)
        yield ports


_ABOUT: Final = """\
Send requests that two parsers may interpret differently to our server, directly and through
nginx and HAProxy. Check that canary requests of other clients behind them get their own responses,
and that no request inside a body ever runs. First the whole corpus, then mutations of it."""
_WAIT_SECONDS: Final = 0.25
"""Seconds to wait for the response to an ambiguous request, which a parser might consider incomplete."""
_CANARY_SECONDS: Final = 20.0
_TITLES_BYTES: Final = 120


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the smuggling test; return the exit code."""
    clients = (3, "other clients that send a request behind each ambiguous one")
    return run(LongTest("smuggling", _ABOUT, 300, clients, "witness", (), _play), arguments)


def _play(parsed: argparse.Namespace, server: WatchedServer, faults: Faults) -> None:
    chance = random.Random(parsed.seed)
    secret = f"{chance.getrandbits(64):016x}"
    end = time.monotonic() + parsed.seconds
    with (
        tempfile.TemporaryDirectory(prefix="intralb-fronts-") as name,
        fronts(pathlib.Path(name), server.port, secret) as found,
    ):
        lanes = [_Lane(front, parsed.clients, secret, server.port, faults) for front in found]
        sent = _send_all(lanes, chance, end)
    print(f"{sent} ambiguous requests sent, each " + ", ".join(front.title for front in found))


def _send_all(lanes: Sequence[_Lane], chance: random.Random, end: float) -> int:
    sent = 0
    for ambiguous in _in_order(chance):
        if time.monotonic() > end:
            break
        for lane in lanes:
            lane.try_out(ambiguous)
        sent += 1
    for lane in lanes:
        lane.close()
    return sent


def _in_order(chance: random.Random) -> Iterator[Ambiguous]:
    """Yield the whole corpus in random order, then endless mutations of it."""
    known = [*corpus("name")]
    chance.shuffle(known)
    yield from known
    while True:
        yield mutated(chance.choice(known), chance)


class _Lane:
    """One front, with the connections of the other clients that use it."""

    def __init__(self, front: Front, clients: int, secret: str, server: int, faults: Faults) -> None:
        self._front = front
        self._secret = secret
        self._faults = faults
        self._kept = [
            http.client.HTTPConnection("127.0.0.1", front.port, timeout=_CANARY_SECONDS) for _ in range(clients)
        ]
        self._server = http.client.HTTPConnection("127.0.0.1", server, timeout=_CANARY_SECONDS)
        self._number = 0

    def try_out(self, ambiguous: Ambiguous) -> None:
        """Send an ambiguous request, then canaries, both on the same connection and on those of other clients."""
        self._number += 1
        own = f"own-{self._number}"
        before = self._faults.total
        self._send(ambiguous, own)
        for connection in self._kept:
            self._ask(connection, ambiguous)
        self._look_at_runs(ambiguous)
        if self._faults.total > before:
            self._faults.add(f"{self._front.title}: {ambiguous.title[:_TITLES_BYTES]}: sent was {ambiguous.data!r}")

    def close(self) -> None:
        """Close the connections."""
        for connection in (*self._kept, self._server):
            connection.close()

    def _send(self, ambiguous: Ambiguous, own: str) -> None:
        canary = f"GET /canary/{own} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        with contextlib.suppress(OSError, CutError, MalformedError), contextlib.closing(Line(self._front.port)) as line:
            line.socket.settimeout(_WAIT_SECONDS)
            line.socket.sendall(ambiguous.data + canary)
            method = ambiguous.method
            while (answer := line.reader.answer(method)) is not None:
                method = "GET"
                if answer.status == 200:
                    self._require_own(ambiguous, answer.body, own)
                if answer.closes or answer.body == own.encode():
                    break

    def _require_own(self, ambiguous: Ambiguous, body: bytes, own: str) -> None:
        # The body must name this request or the canary on its connection, because this client requested no other name.
        is_own = body in (b"name", own.encode(), b"") or not ambiguous.is_body
        self._faults.require(is_own, f"{self._front.title}: {ambiguous.title[:_TITLES_BYTES]}: answered {body[:80]!r}")

    def _ask(self, connection: http.client.HTTPConnection, ambiguous: Ambiguous) -> None:
        self._number += 1
        name = f"other-{self._number}"
        try:
            connection.request("GET", f"/canary/{name}")
            answer = connection.getresponse()
            said = f"{answer.status} {answer.read().decode('latin-1')}"
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            said = f"{type(error).__name__}: {error}"
        title = f"{self._front.title}: {ambiguous.title[:_TITLES_BYTES]}"
        self._faults.require(said == f"200 {name}", f"{title}: another client was answered {said!r}, not 200 {name!r}")

    def _look_at_runs(self, ambiguous: Ambiguous) -> None:
        self._server.request("GET", "/run")
        for path, mark in json.loads(self._server.getresponse().read()):
            title = f"{self._front.title}: {ambiguous.title[:_TITLES_BYTES]}"
            if self._front.marks:
                self._faults.require(mark == self._secret, f"{title}: {path} was smuggled past the proxy, and run")
            elif ambiguous.is_body:
                self._faults.require("/inner/" not in path, f"{title}: {path} was run, which is in a body")
