"""The configurations of nginx, HAProxy and Caddy, with the real programs in front of a server."""

from __future__ import annotations

import http.client
import json
import pathlib
import socket
from collections.abc import Callable
from typing import Any

import pytest
import websocket

PATIENCE = 60.0
TRUSTED = ("--trusted-proxies", "127.0.0.1,unix", "--priority-header", "X-Intralb-Priority")
FORGED = {
    "X-Forwarded-For": "6.6.6.6",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Port": "666",
    "X-Forwarded-Prefix": "/evil",
    "X-Forwarded-Proto": "https",
    "Forwarded": "for=6.6.6.6;host=evil.example",
    "X-Real-IP": "6.6.6.6",
    "X-Intralb-Priority": "critical_plus",
}
NGINX = """
daemon off; master_process off; pid {directory}/nginx.pid; error_log stderr;
events {{ worker_connections 100; }}
http {{
  access_log off; client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi; uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
  include {directory}/myapp.conf;
}}
"""


class Site:
    """A proxy with the server behind it."""

    def __init__(self, port: int, server: Any) -> None:
        self.port, self.server = port, server

    def get(self, path: str = "/", body: bytes | None = None, headers: dict[str, str] | None = None) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        connection.request("GET" if body is None else "POST", path, body, headers or {})
        response = connection.getresponse()
        text = response.read()
        connection.close()
        assert response.status == 200, (response.status, text)
        return dict(json.loads(text))


class Proxies:
    """Writes the configurations of deploy/, with other addresses only, and starts the programs."""

    def __init__(self, directory: pathlib.Path, configured: Callable[..., str], run: Callable[..., Any]) -> None:
        self._directory, self._configured, self._run = directory, configured, run

    def nginx(self, path: str, clients: int, address: str, admin: int) -> None:
        changes = {r"127\.0\.0\.1:8000;$": f"{address};", r"listen 80;": f"listen {clients};"}
        (self._directory / "myapp.conf").write_text(self._configured("nginx.conf", changes))
        (self._directory / "nginx.conf").write_text(NGINX.format(directory=self._directory))
        self._run(path, "-p", str(self._directory), "-c", f"{self._directory}/nginx.conf", port=clients)

    def haproxy(self, path: str, clients: int, address: str, admin: int) -> None:
        changes = {
            r"bind :80$": f"bind 127.0.0.1:{clients}",
            r"server one .*": f"server one {address} check port {admin}",
            r"^ *server two .*": "",
        }
        (self._directory / "haproxy.cfg").write_text(self._configured("haproxy.cfg", changes))
        self._run(path, "-db", "-f", "haproxy.cfg", port=clients)

    def caddy(self, path: str, clients: int, address: str, admin: int) -> None:
        changes = {
            r"^:80 \{": f":{clients} {{",
            r"127\.0\.0\.1:8000 \{": f"{address} {{",
            "health_port 9000": f"health_port {admin}",
        }
        text = self._configured("Caddyfile", changes)
        (self._directory / "Caddyfile").write_text("{\n\tadmin off\n\tauto_https off\n}\n" + text)
        home = dict.fromkeys(("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"), str(self._directory))
        command = ("run", "--adapter", "caddyfile", "--config", "Caddyfile")
        self._run(path, *command, port=clients, env={**home, "PATH": "/usr/bin"})


@pytest.fixture
def proxies(tmp_path: pathlib.Path, configured: Callable[..., str], run: Callable[..., Any]) -> Proxies:
    return Proxies(tmp_path, configured, run)


@pytest.fixture(params=["nginx", "nginx and a unix socket", "haproxy", "caddy"])
def site(
    request: pytest.FixtureRequest,
    tmp_path: pathlib.Path,
    program: Callable[[str], str],
    ports: Callable[[], int],
    server: Callable[..., Any],
    proxies: Proxies,
) -> Site:
    """Start a server, and a proxy with its file of deploy/."""
    kind, _, unix = request.param.partition(" and a unix ")
    path, clients, admin = program(kind), ports(), ports()
    address = f"unix:{tmp_path}/app.socket" if unix else f"127.0.0.1:{ports()}"
    started = server("--bind", address, "--admin-bind", f"127.0.0.1:{admin}", *TRUSTED)
    getattr(proxies, kind)(path, clients, address, admin)
    return Site(clients, started)


def reports_the_client_and_nothing_that_the_client_forges(site: Site) -> None:
    seen = site.get("/", headers={**FORGED, "Host": "shop.example"})
    assert seen["REMOTE_ADDR"] == "127.0.0.1"
    assert seen["HTTP_HOST"] == "shop.example"
    assert (seen["wsgi.url_scheme"], seen["SCRIPT_NAME"], seen["intralb.priority"]) == ("http", "", None)
    allowed = {"HTTP_X_FORWARDED_FOR", "HTTP_X_FORWARDED_PROTO", "HTTP_X_FORWARDED_HOST"}
    assert set(seen["forwarded"]) <= allowed


def passes_large_bodies(site: Site) -> None:
    assert site.get("/", body=b"x" * 3_000_000)["size"] == 3_000_000


def passes_events_as_they_are_sent(site: Site) -> None:
    with socket.create_connection(("127.0.0.1", site.port), timeout=PATIENCE) as client:
        client.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        received = b""
        while b"data: first\n\n" not in received and (part := client.recv(1000)):
            received += part
        assert b"data: second\n\n" not in received
        site.get("/go")
        while part := client.recv(1000):
            received += part
    assert b"data: second\n\n" in received


def passes_websockets(site: Site) -> None:
    client = websocket.create_connection(f"ws://127.0.0.1:{site.port}/ws", timeout=PATIENCE)
    for text in ("one", "two"):
        client.send(text)
        assert client.recv() == text
    client.close()


def test_the_configuration_serves(site: Site) -> None:
    """Check everything with one start of each proxy, because the starts take most of the time."""
    reports_the_client_and_nothing_that_the_client_forges(site)
    passes_large_bodies(site)
    passes_events_as_they_are_sent(site)
    passes_websockets(site)
