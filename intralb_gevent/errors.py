"""The errors that this package raises, and the aborts that end a running request.

The message of each error states the problem and the remedy. An `Abort` is not an error of the application: the pool
throws an `Abort` into a slot to end the slot's job. An `Abort` derives from `BaseException`, so that it passes through
the `except Exception` of frameworks and libraries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .policy.cannedresponses import CannedResponse

__all__ = [
    "Abort",
    "ClientDisconnected",
    "DeadlineExceeded",
    "EndedByOperator",
    "IllegalTransition",
    "IntraLBError",
    "LoadError",
    "NoCurrentJob",
    "OptionError",
    "RequestBodyError",
    "RequestKilled",
    "SessionUnavailable",
    "StreamsFull",
    "UpgradesFull",
    "WrongThread",
]


class IntraLBError(Exception):
    """Base class of every error raised by this package."""


class OptionError(IntraLBError, ValueError):
    """A setting has an invalid value; the message contains the setting, its value, and the allowed values."""


class LoadError(IntraLBError):
    """A `MODULE:NAME` reference cannot be resolved; the message states the cause, and what the user should check."""


class NoCurrentJob(IntraLBError, RuntimeError):
    """A function that works only during a request was called elsewhere, or the request has no database session."""


class RequestBodyError(IntraLBError, OSError):
    """The rest of a streamed request body cannot be read.

    The client has disconnected, has sent nothing for too long, or has sent invalid data. If the application does not
    catch this error, the server sends `answer` as the response; `answer` is None if the client has disconnected.
    """

    def __init__(self, message: str, answer: CannedResponse | None = None) -> None:
        super().__init__(message)
        self.answer = answer


class WrongThread(IntraLBError, RuntimeError):
    """A balancer was called in a thread other than the thread in which the balancer runs."""


class IllegalTransition(IntraLBError, RuntimeError):
    """A job was moved to a state that cannot follow the job's current state; this is always a bug in this package."""


class Abort(BaseException):
    """Base class of the exceptions that end a running request; a handler may clean up, but must re-raise an abort."""


class DeadlineExceeded(Abort):
    """The request's deadline passed while the request was running."""


class ClientDisconnected(Abort):
    """The client disconnected while its request was running."""


class RequestKilled(Abort):
    """The server is shutting down, and aborts this request because the time limit for running requests has passed."""


class EndedByOperator(RequestKilled):
    """An operator has ended this request on the status page."""


class SessionUnavailable(Abort):
    """`db_init_func` failed, so the request has no session and is answered 503."""


class StreamsFull(Abort):
    """`max_streams` responses are being streamed, so this response cannot begin; the request is answered 503."""


class UpgradesFull(Abort):
    """Applications have already taken over `max_upgraded` connections, so this upgrade request is answered 503."""
