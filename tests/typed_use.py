"""Typed example code, which mypy checks (`tox -e types`) and which is never run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from intralb_gevent import LoadBalancer, Options, Route, SessionSource, WSGIServer, current_session, graceful_shutdown

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """A WSGI application."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [bytes(current_session())]


class Sessions(SessionSource):
    """A session source that a user defines."""

    def open(self, worker_id: int) -> bytes:
        """Open a session."""
        return b"session"


def main() -> WSGIApplication:
    """Create a balancer with options, as in the documentation."""
    options = Options(
        routes=[Route("/reports/*", request_timeout_seconds=120, priority="sheddable")],
        trusted_proxies=["127.0.0.1", "unix"],
        interrupt_signal="off",
        priority_func=lambda environ: "critical_plus" if environ["PATH_INFO"] == "/checkout" else None,
        db_init_func=Sessions(),
    )
    balancer = LoadBalancer({"/users": application}, options)
    server = WSGIServer(("127.0.0.1", 8000), balancer, environ={"example": 1})
    graceful_shutdown(server, WSGIServer(("127.0.0.1", 8001), application), timeout=10)
    return balancer.balance_load()
