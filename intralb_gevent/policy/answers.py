"""What is answered in the application's place: the status, the reason in a word, and a sentence for people.

Decides the words. It must not know when they are said or how they are written to a client.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = [
    "DRAINING",
    "EXPIRED",
    "FAILED",
    "KILLED",
    "NO_SESSION",
    "QUEUE_FULL",
    "TIMED_OUT",
    "TOO_MANY_CONNECTIONS",
    "Answer",
]


@dataclass(frozen=True)
class Answer:
    """A whole response with a text body; `X-Intralb-Reason` and `Retry-After` only where there is one to give."""

    status: str
    explanation: str
    reason: str = ""
    retry_after_seconds: int | None = None

    @property
    def body(self) -> bytes:
        """The text of the answer, for people."""
        return f"{self.status}\n\n{self.explanation}\n".encode()

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The headers of the answer, for programs."""
        headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(self.body)))]
        if self.reason:
            headers.append(("X-Intralb-Reason", self.reason))
        if self.retry_after_seconds is not None:
            headers.append(("Retry-After", str(self.retry_after_seconds)))
        return headers


def _unavailable(reason: str, explanation: str) -> Answer:
    return Answer("503 Service Unavailable", explanation, reason, retry_after_seconds=1)


QUEUE_FULL: Final = _unavailable("queue_full", "Every worker is busy and every queue is full. Please try again.")
DRAINING: Final = _unavailable("draining", "This server is shutting down. Please try again.")
EXPIRED: Final = _unavailable("expired", "The request waited until its deadline had passed, so it was not run.")
NO_SESSION: Final = _unavailable("no_session", "The database cannot be reached now. Please try again.")
KILLED: Final = _unavailable("killed", "This server shut down before the request had finished.")
TOO_MANY_CONNECTIONS: Final = _unavailable("connections", "Too many clients are connected. Please try again.")
TIMED_OUT: Final = Answer("504 Gateway Timeout", "The request took longer than its deadline allows.", "timed_out")
FAILED: Final = Answer("500 Internal Server Error", "The application failed while it answered this request.")
