"""A parsed request: its environ, and the facts that its response needs."""

from __future__ import annotations

from typing import Any

from ..policy.cannedresponses import CannedResponse
from ..policy.requestidentity import REQUEST_ID
from .body import Body
from .bodystream import StreamedBody

__all__ = ["Refusal", "Request"]


class Request:
    """One request: its environ, and the facts that its response needs even if the application changes the environ."""

    __slots__ = (
        "_body",
        "arrived",
        "environ",
        "has_body",
        "head_only",
        "http_1_1",
        "id",
        "keep_alive",
        "line",
        "offers_upgrade",
    )

    arrived: float
    """The time, in `time.monotonic()` seconds, at which middleware in front of the balancer received the request."""

    def __init__(
        self, environ: dict[str, Any], body: Body | StreamedBody | None, http_1_1: bool, keep_alive: bool
    ) -> None:
        self.environ = environ
        self._body = body
        self.has_body = body is not None
        self.http_1_1 = http_1_1
        self.keep_alive = keep_alive
        self.head_only = environ["REQUEST_METHOD"] == "HEAD"
        """True if the response must not have a body."""
        self.id: str = environ.get(REQUEST_ID) or ""
        """The request's id, which the server's own responses contain; empty if the request has no id."""
        self.line = ""
        """The request line for log lines; empty if no log line needs it."""
        self.offers_upgrade = False
        """True if the application may take over the connection after an upgrade offer (in HTTP/1.1, without a body)."""

    def __repr__(self) -> str:
        return f"<Request {self.environ['REQUEST_METHOD']} {self.environ['PATH_INFO']}>"

    def settle(self) -> None:
        """Disable keep-alive if the rest of a streamed body cannot be skipped. Call this when the response begins."""
        if isinstance(self._body, StreamedBody) and not self._body.can_be_skipped:
            self.keep_alive = False

    def release(self) -> None:
        """Release the memory and the file of the request's body."""
        if self._body is not None:
            self._body.release()


class Refusal:
    """The response to a request that could not be parsed or was not read, and the request's id."""

    __slots__ = ("answer", "request_id")

    def __init__(self, answer: CannedResponse, request_id: str) -> None:
        self.answer = answer
        self.request_id = request_id

    def __repr__(self) -> str:
        return f"<Refusal {self.answer!r}>"
