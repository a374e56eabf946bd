"""Each request has an id, in the environ, in the log and in every response of the server's own."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent import socket

PATIENCE = 10.0
MADE = re.compile("[0-9a-f]{20}").fullmatch


def application(environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
    path = environ["PATH_INFO"]
    if path == "/fail":
        raise ValueError
    if path == "/late":
        gevent.sleep(PATIENCE)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["intralb.request_id"].encode()]


def exchange(server: Any, head: str) -> tuple[str, str, str]:
    """Send a request; return the status, the field X-Request-ID ('' without one), and the body."""
    with socket.create_connection(("127.0.0.1", server.server_port), PATIENCE) as client:
        client.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n")
        client.shutdown(socket.SHUT_WR)
        data = b""
        while part := client.recv(65536):
            data += part
    top, _, body = data.decode().partition("\r\n\r\n")
    found = re.search(r"^X-Request-ID: (.*)\r?$", top, re.MULTILINE)
    return top.split(" ", 1)[1].split("\r\n")[0][:3], found[1].strip() if found else "", body


def get(path: str, *fields: str) -> str:
    return "\n".join([f"GET {path} HTTP/1.1", "Host: here", "Connection: close", *fields])


def test_an_id_is_made_for_each_request(serve: Callable[..., Any]) -> None:
    server = serve(application)
    ids = {exchange(server, get("/"))[2] for _ in range(300)}
    assert len(ids) == 300
    assert all(map(MADE, ids))


def test_only_a_trusted_proxy_chooses_it(serve: Callable[..., Any]) -> None:
    field = "X-Request-ID: of-the-proxy"
    assert exchange(serve(application, trusted_proxies=["127.0.0.1"]), get("/", field))[2] == "of-the-proxy"
    assert MADE(exchange(serve(application, trusted_proxies=["192.0.2.1"]), get("/", field))[2])
    assert MADE(exchange(serve(application), get("/", field))[2])


@pytest.mark.parametrize("value", ["", 'a"b', "a b", "x" * 129, "a\\b", "é"])
def test_an_id_that_could_forge_a_log_line_is_not_taken(serve: Callable[..., Any], value: str) -> None:
    server = serve(application, trusted_proxies=["127.0.0.1"])
    assert MADE(exchange(server, get("/", f"X-Request-ID: {value}"))[2])


def test_responses_of_the_server_have_it_and_the_log_too(
    serve: Callable[..., Any], caplog: pytest.LogCaptureFixture, eventually: Callable[..., Any]
) -> None:
    caplog.set_level(logging.INFO)
    server = serve(application, trusted_proxies=["127.0.0.1"], request_timeout_seconds=0.1, enable_logging=True)
    for status, name, head in [
        ("500", "five", get("/fail", "X-Request-ID: five")),
        ("504", "late", get("/late", "X-Request-ID: late")),
        ("400", "", "GET / HTTP/1.1"),
        ("413", "", get("/", f"Content-Length: {2 * 1024**3}")),
    ]:
        found = exchange(server, head)
        assert found[0] == status
        assert found[1] == name or (not name and MADE(found[1]))
        eventually(lambda found=found: caplog.text.count(f"request {found[1]})") == 1)
        eventually(lambda found=found: f" id={found[1]} " in caplog.text)


def test_rejections_have_it(serve: Callable[..., Any], eventually: Callable[..., Any]) -> None:
    server = serve(application, max_workers=1, max_concurrent_per_router=1, queue_size=0)
    running = gevent.spawn(exchange, server, get("/late"))
    eventually(lambda: server.balancer.snapshot().running)
    rejected = [exchange(server, get("/")) for _ in range(3)]
    assert [each[0] for each in rejected] == ["503"] * 3
    assert len({each[1] for each in rejected}) == 3
    assert all(MADE(each[1]) for each in rejected)
    running.kill()


def test_a_path_without_an_application(serve: Callable[..., Any]) -> None:
    status, found, _ = exchange(serve({"/shop": application}), get("/"))
    assert status == "404"
    assert MADE(found)


def test_behind_an_outer_server_it_is_made_by_the_balancer(balance: Callable[..., Any]) -> None:
    started: list[Any] = []

    def answer(environ: dict[str, Any]) -> bytes:
        started.clear()
        body = balance(application)(environ, lambda *head: started.extend(head))
        return b"".join(body)

    base = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "HTTP_X_REQUEST_ID": "of-a-client"}
    assert MADE(answer(dict(base)).decode())
    assert answer({**base, "intralb.request_id": "of-the-outer-server"}) == b"of-the-outer-server"
    answer({**base, "PATH_INFO": "/fail", "intralb.request_id": "outer"})
    assert ("X-Request-ID", "outer") in started[1]
