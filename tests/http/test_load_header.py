"""With the option `orca`, every response reports the load of the server."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from intralb_gevent import WSGIServer
from intralb_gevent.policy.saturation import Mean

REPORT = re.compile(r"TEXT application_utilization=(\d\.\d{4}),rps_fractional=(\d+\.\d{3}),eps=(\d+\.\d{3})")


def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    if environ["PATH_INFO"] == "/fails":
        raise ValueError("no")
    return [b"some ", b"parts"] if environ["PATH_INFO"] == "/parts" else [b"hello"]


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        (b"GET /parts HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        (b"GET / HTTP/1.0\r\n\r\n", 200),
        (b"GET /fails HTTP/1.1\r\nHost: x\r\n\r\n", 500),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
    ],
    ids=["whole", "parts", "HTTP/1.0", "failed", "malformed"],
)
def test_every_response_has_one(
    serve: Callable[..., WSGIServer], connect: Callable[..., Any], request_bytes: bytes, status: int
) -> None:
    client = connect(serve(application, orca=True))
    client.send(request_bytes)
    reply = client.reply()
    assert reply.status == status
    assert REPORT.fullmatch(reply.headers["endpoint-load-metrics"])


def test_a_rejected_request_is_answered_with_it(serve: Callable[..., WSGIServer], connect: Callable[..., Any]) -> None:
    server = serve(application, orca=True)
    server.balancer.intake.condition = "stopped"
    client = connect(server)
    for _ in range(2):
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        reply = client.reply()
        assert reply.status == 503
        assert REPORT.fullmatch(reply.headers["endpoint-load-metrics"])


def test_it_reports_the_rate_of_requests_and_errors(
    monkeypatch: pytest.MonkeyPatch,
    serve: Callable[..., WSGIServer],
    connect: Callable[..., Any],
    eventually: Callable[[Callable[[], Any]], Any],
) -> None:
    monkeypatch.setattr(Mean, "AGE_SECONDS", 0.5)
    client = connect(serve(application, orca=True))

    def rates() -> tuple[float, float]:
        for path in (b"/", b"/fails"):
            client.send(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
            reply = client.reply()
        match = REPORT.fullmatch(reply.headers["endpoint-load-metrics"])
        assert match
        return float(match[2]), float(match[3])

    eventually(lambda: rates()[1] > 1)
    requests, errors = rates()
    assert errors < requests < 3 * errors


def test_by_default_there_is_none(serve: Callable[..., WSGIServer], connect: Callable[..., Any]) -> None:
    client = connect(serve(application))
    client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert "endpoint-load-metrics" not in client.reply().headers
