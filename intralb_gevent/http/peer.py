"""Describe the peer of a connection, a client or a proxy, in environs, the request log and other log lines."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import strftime
from typing import TYPE_CHECKING, Any

from ..policy.cannedresponses import CannedResponse
from ..policy.requestidentity import REQUEST_ID
from ..pool.mounts import enter_root
from ..pool.requestid import new_request_id
from ..process.logline import LogText
from ..stdlib import time_of_day
from .authority import set_server_name
from .proxy.hints import apply_proxy_hints, apply_timing_again
from .request import Request

if TYPE_CHECKING:
    from .context import ServerContext
    from .tls import TlsSocket

__all__ = ["Peer"]


def _log_line(host: str, line: str, status: str, length: int | None) -> Callable[[], str]:
    """Return a function that formats a line in the Common Log Format, with the current time."""
    when, size = strftime("%d/%b/%Y:%H:%M:%S %z"), "-" if length is None else length
    return lambda: f'{host or "-"} - - [{when}] "{line}" {status[:3]} {size}\n'


class Peer:
    """The peer of a connection: its TLS data, and its address from the socket or, if there is one, the PROXY header."""

    __slots__ = ("_shared", "host", "port", "tls")

    def __init__(self, shared: ServerContext, address: Any) -> None:
        self._shared = shared
        self.host: str = address[0] if isinstance(address, tuple) else ""
        """The IP address of the peer; empty for a peer on a unix socket."""
        self.port: str = str(address[1]) if isinstance(address, tuple) else ""
        self.tls: TlsSocket | None = None
        """The socket of the TLS connection, which provides the TLS data for the environ; None for plain HTTP."""

    def __repr__(self) -> str:
        return f"<Peer {self.host or 'a local client'}>"

    @property
    def trusted(self) -> bool:
        """True if the peer is a trusted proxy."""
        return self.host in self._shared.trusted_proxies

    # Requests.

    def describe_head(self, environ: dict[str, Any]) -> None:
        """Add the client's address and TLS data, a request id and the hints of a trusted proxy to the environ."""
        environ["REMOTE_ADDR"] = self.host
        environ["REMOTE_PORT"] = self.port
        environ[REQUEST_ID] = new_request_id()
        shared = self._shared
        if self.tls is not None:
            environ.update(self.tls.environ)
        if shared.trusts_proxies:
            apply_proxy_hints(environ, self.host, shared.trusted_proxies, time_of_day(), shared.priority_key)
        elif shared.strangers.watching and "HTTP_X_FORWARDED_FOR" in environ:
            shared.strangers.see(self.host)

    def describe_placed_head(self, environ: dict[str, Any]) -> None:
        """Do the same as `describe_head`, for a server without a name or with a root path."""
        shared = self._shared
        if shared.nameless:
            set_server_name(environ)
        self.describe_head(environ)
        if shared.root_path:
            enter_root(environ, shared.root_path)

    def describe(self, request: Request) -> None:
        """Record the request line for the request log, and update a trusted proxy's timing if there is a body."""
        environ, shared = request.environ, self._shared
        if shared.request_log is not None:
            target = environ["RAW_URI"].encode("unicode_escape").decode("ascii").replace('"', "%22")
            request.line = f"{environ['REQUEST_METHOD']} {target} {environ['SERVER_PROTOCOL']}"
        if shared.trusts_proxies and request.has_body:
            apply_timing_again(environ, time_of_day())

    # Logs.

    def log_response(self, request: Request, status: str, length: int | None) -> None:
        """Write a line for the response into the request log, if there is one."""
        if self._shared.request_log is not None:
            self._shared.request_log.record(logging.INFO, _log_line(self.host, request.line, status, length))

    def report_bad_header(self, error: ValueError) -> None:
        """Log that a connection is closed because its PROXY header is malformed."""
        self._shared.report("proxy", f"refused a connection from {self.host or 'a local proxy'}: {error}")

    def report_failed_handshake(self) -> bool:
        """Log that the TLS handshake has failed; return False if it has not."""
        failure = "" if self.tls is None else self.tls.handshake_failure
        if failure:
            text = f"closed a connection from {self.host or 'a local client'}: its TLS handshake failed: {failure}"
            fields = {"message": text, "client": self.host, "rule": failure}
            self._shared.report(f"tls: {failure}", LogText(text, fields))
        return bool(failure)

    def report_refused(
        self, answer: CannedResponse, answered: bool, level: int = logging.INFO, request_id: str = ""
    ) -> None:
        """Log a rejected request; `answered` is true if the error is in the body of an already answered request."""
        client = self.host or "a local client"
        what = f"refused a request from {client}"
        if answered:
            what = f"closed a connection from {client} in the body of a request that was answered"
        text = f"{what}: {answer.status}: {answer.explanation}"
        fields = {"message": text, "client": self.host, "status": int(answer.status[:3]), "rule": answer.explanation}
        if request_id:
            text, fields["request_id"] = f"{text} (request {request_id})", request_id
        self._shared.report(answer.explanation, LogText(text, fields), level)
