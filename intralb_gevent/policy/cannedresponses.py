"""Responses that the server sends instead of the application; each has a status, a reason and an explanation."""

from __future__ import annotations

from typing import Final

__all__ = [
    "DRAINING",
    "ENDED_BY_OPERATOR",
    "EVICTED",
    "EXPIRED",
    "FAILED",
    "KILLED",
    "NOT_FOUND",
    "NO_SESSION",
    "NO_TIME",
    "OVERLOADED",
    "QUEUE_FULL",
    "TIMED_OUT",
    "TOO_MANY_CONNECTIONS",
    "TOO_MANY_OF_CLIENT",
    "TOO_MANY_STREAMS",
    "TOO_MANY_UPGRADED",
    "CannedResponse",
]

LONGEST_RETRY_SECONDS: Final = 3
"""Largest `Retry-After` of a rejection, in seconds."""


class CannedResponse:
    """A complete response with a text body; `X-Intralb-Reason` and `Retry-After` are sent only if they are set.

    Only a few instances exist, so callers can cache data for each instance, which keeps rejections cheap.
    """

    __slots__ = ("_not_executed", "body", "executed", "explanation", "reason", "retry_after_seconds", "status")

    def __init__(
        self,
        status: str,
        explanation: str,
        reason: str = "",
        retry_after_seconds: int | None = None,
        executed: bool = True,
    ) -> None:
        self.status = status
        self.explanation = explanation
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds
        self.executed = executed
        """False if the application has definitely not run the request; a proxy can then safely resend it, even if it is
        a POST."""
        self.body = f"{status}\n\n{explanation}\n".encode()
        """The response body, as human-readable text."""
        self._not_executed: list[CannedResponse] = []

    def __repr__(self) -> str:
        return f"<CannedResponse {self.status}{f' ({self.reason})' if self.reason else ''}>"

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The response headers, as a list of names and values."""
        headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(self.body)))]
        if self.reason:
            headers.append(("X-Intralb-Reason", self.reason))
        if self.retry_after_seconds is not None:
            headers.append(("Retry-After", str(self.retry_after_seconds)))
        if not self.executed:
            headers.append(("X-Intralb-Executed", "0"))
        return headers

    def not_executed(self, count: int) -> CannedResponse:
        """Return a variant of this response for a request that the application has not run.

        `count` is a counter of rejections, which selects a `Retry-After` of 1, 2 or 3 seconds in rotation. Therefore,
        not all rejected clients retry at the same time.
        """
        if not self._not_executed:
            self._not_executed = [
                CannedResponse(self.status, self.explanation, self.reason, seconds, executed=False)
                for seconds in range(1, LONGEST_RETRY_SECONDS + 1)
            ]
        return self._not_executed[count % LONGEST_RETRY_SECONDS]


def _unavailable(reason: str, explanation: str) -> CannedResponse:
    return CannedResponse("503 Service Unavailable", explanation, reason, retry_after_seconds=1)


OVERLOADED: Final = _unavailable("overloaded", "The server cannot handle all requests in time. Please try again.")
NO_TIME: Final = _unavailable("no_time", "Too little time was left to run the request before its deadline.")
EVICTED: Final = _unavailable("evicted", "The request was evicted from the queue by another one. Please try again.")
QUEUE_FULL: Final = _unavailable("queue_full", "Every worker is busy and every queue is full. Please try again.")
DRAINING: Final = _unavailable("draining", "This server is shutting down. Please try again.")
EXPIRED: Final = _unavailable("expired", "The request was not run, because its deadline had passed.")
NO_SESSION: Final = _unavailable("no_session", "The database cannot be reached now. Please try again.")
KILLED: Final = _unavailable("killed", "This server shut down before the request had finished.")
ENDED_BY_OPERATOR: Final = _unavailable("ended", "An operator of this server has ended the request.")
TOO_MANY_CONNECTIONS: Final = _unavailable("connections", "Too many clients are connected. Please try again.")
TOO_MANY_STREAMS: Final = _unavailable("streams", "Too many responses are being streamed. Please try again.")
TOO_MANY_UPGRADED: Final = _unavailable(
    "upgraded", "Too many connections such as WebSockets are open. Please try again."
)
TOO_MANY_OF_CLIENT: Final = CannedResponse(
    "429 Too Many Requests", "Too many requests of this client are in progress. Please try again.", "client", 1
)
TIMED_OUT: Final = CannedResponse(
    "504 Gateway Timeout", "The request took longer than its deadline allows.", "timed_out"
)
NOT_FOUND: Final = CannedResponse("404 Not Found", "No application is mounted at this path.")
FAILED: Final = CannedResponse("500 Internal Server Error", "The application failed while it answered this request.")
