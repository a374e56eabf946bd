"""What is answered in the application's place: the status, the reason in a word, and a sentence for people.

Decides the words. It must not know when they are said or how they are written to a client.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "DRAINING",
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
    "Answer",
]

LONGEST_RETRY_SECONDS: Final = 3
"""After which a client that was refused is told to come back at the latest."""


class Answer:
    """A whole response with a text body; `X-Intralb-Reason` and `Retry-After` only where there is one to give.

    Each is one of a few objects, by which what is made of it is found again: refusing many must be cheap.
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
        """Whether the application may have run; if it has not, a proxy may send the request again, whatever it is."""
        self.body = f"{status}\n\n{explanation}\n".encode()
        """The text of the answer, for people."""
        self._not_executed: list[Answer] = []

    def __repr__(self) -> str:
        return f"<Answer {self.status}{f' ({self.reason})' if self.reason else ''}>"

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The headers of the answer, for programs."""
        headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(self.body)))]
        if self.reason:
            headers.append(("X-Intralb-Reason", self.reason))
        if self.retry_after_seconds is not None:
            headers.append(("Retry-After", str(self.retry_after_seconds)))
        if not self.executed:
            headers.append(("X-Intralb-Executed", "0"))
        return headers

    def not_executed(self, turn: int) -> Answer:
        """Return this as the answer to a request that was not run.

        `turn` counts refusals: the clients are told to come back after 1, 2 and 3 seconds in turn, so not all at once.
        """
        if not self._not_executed:
            self._not_executed = [
                Answer(self.status, self.explanation, self.reason, seconds, executed=False)
                for seconds in range(1, LONGEST_RETRY_SECONDS + 1)
            ]
        return self._not_executed[turn % LONGEST_RETRY_SECONDS]


def _unavailable(reason: str, explanation: str) -> Answer:
    return Answer("503 Service Unavailable", explanation, reason, retry_after_seconds=1)


OVERLOADED: Final = _unavailable("overloaded", "More arrives than can be answered in time. Please try again.")
NO_TIME: Final = _unavailable("no_time", "Too little of the request's time was left to answer it.")
EVICTED: Final = _unavailable("evicted", "Its place went to a request that matters more. Please try again.")
QUEUE_FULL: Final = _unavailable("queue_full", "Every worker is busy and every queue is full. Please try again.")
DRAINING: Final = _unavailable("draining", "This server is shutting down. Please try again.")
EXPIRED: Final = _unavailable("expired", "The request waited until its deadline had passed, so it was not run.")
NO_SESSION: Final = _unavailable("no_session", "The database cannot be reached now. Please try again.")
KILLED: Final = _unavailable("killed", "This server shut down before the request had finished.")
TOO_MANY_CONNECTIONS: Final = _unavailable("connections", "Too many clients are connected. Please try again.")
TOO_MANY_STREAMS: Final = _unavailable("streams", "Too many responses are being streamed. Please try again.")
TOO_MANY_UPGRADED: Final = _unavailable(
    "upgraded", "Too many connections such as WebSockets are open. Please try again."
)
TOO_MANY_OF_CLIENT: Final = Answer(
    "429 Too Many Requests", "So many requests of this client are under way already. Please try again.", "client", 1
)
TIMED_OUT: Final = Answer("504 Gateway Timeout", "The request took longer than its deadline allows.", "timed_out")
NOT_FOUND: Final = Answer("404 Not Found", "No application is mounted at this path.")
FAILED: Final = Answer("500 Internal Server Error", "The application failed while it answered this request.")
