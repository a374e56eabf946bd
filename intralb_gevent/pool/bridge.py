"""Passes requests of an outer WSGI server to the balancer; the server's greenlet waits for the response of a slot."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ..policy.requestidentity import REQUEST_ID
from .channel import Channel
from .exchange import Exchange, StartResponse
from .job import Job
from .outer import bound_input, socket_of
from .requestid import id_header, new_request_id

__all__ = ["serve_through"]


def serve_through(
    submit: Callable[[dict[str, Any], Exchange], Job], environ: dict[str, Any], start_response: StartResponse
) -> Iterable[bytes]:
    """Submit one request of an outer WSGI server, wait for the start of the response, and return the body."""
    offered = "HTTP_UPGRADE" in environ
    if offered:
        bound_input(environ, start_response)
    head_only = environ.get("REQUEST_METHOD") == "HEAD"
    channel = Channel(start_response, environ.get("wsgi.input"), head_only=head_only)
    if offered:
        channel.offer(environ)
    if environ.get("SERVER_PROTOCOL") == "HTTP/1.0":
        channel.outer_socket = socket_of(environ)
    if not environ.get(REQUEST_ID):
        environ[REQUEST_ID] = new_request_id()
    channel.id_header = id_header(environ)
    return channel.wait_for(submit(environ, channel))
