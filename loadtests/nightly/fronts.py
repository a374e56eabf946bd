"""What stands between a client and our server: nothing, nginx or HAProxy, whose connections all clients share.

Decides how the proxies are started and set up. It must not know what is sent through them.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ..interruption import uninterrupted
from ..side_by_side.starting import free_port
from ..side_by_side.surroundings import say
from ..target import LoadTestError, last_lines
from .serving import wait_for
from .witness import MARK

__all__ = ["PATH", "Front", "fronts"]

PATH: Final = f"{os.environ.get('PATH', '')}:/usr/sbin"
"""Where programs are looked for: Debian keeps servers where users do not look."""
_START_SECONDS: Final = 10.0
_STOP_SECONDS: Final = 5.0
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
    """Where clients connect."""

    title: str
    port: int
    marks: bool
    """Whether each request that it has read itself carries the mark."""


@contextlib.contextmanager
def fronts(directory: pathlib.Path, server: int, secret: str, path: str = PATH) -> Iterator[list[Front]]:
    """Start what is installed in `path`; yield our server alone and each proxy. Raises `LoadTestError`."""
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
    with _running([program, *flags[name]], own / "log"):
        if not wait_for(lambda: all(map(_listens, ports)), _START_SECONDS):
            raise LoadTestError(f"{name} has not started; its last words:\n{last_lines(own / 'log')}")
        yield ports


@contextlib.contextmanager
def _running(command: list[str], log: pathlib.Path) -> Iterator[None]:
    process = None
    try:
        with uninterrupted(), log.open("wb") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        yield
    finally:
        if process is not None:
            with uninterrupted():
                _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
