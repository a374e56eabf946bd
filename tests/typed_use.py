"""What a program with types writes: checked by mypy (`tox -e types`), never run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from intralb_gevent import LoadBalancer, Options, Route, SessionSource, WSGIServer, current_session, graceful_shutdown

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer as any application does."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [bytes(current_session())]


class Sessions(SessionSource):
    """Sessions of a driver of one's own."""

    def open(self, worker_id: int) -> bytes:
        """Open one."""
        return b"session"


def main() -> WSGIApplication:
    """Give options as the documentation writes them."""
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
