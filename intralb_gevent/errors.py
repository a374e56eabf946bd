"""Every error this package raises, and the signals that end a running request.

An error says what was wrong and what to do about it. A signal (`Abort`) is not an error of the
application's: it is thrown into a slot to end its job, so it derives from `BaseException` and passes
through the `except Exception` of frameworks and libraries. This module knows nothing else of ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .policy.answers import Answer

__all__ = [
    "Abort",
    "ClientDisconnected",
    "DeadlineExceeded",
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
    """Base of every error raised by this package."""


class OptionError(IntraLBError, ValueError):
    """A setting has a value it cannot have; the message names the field, the value and what is allowed."""


class LoadError(IntraLBError):
    """A `MODULE:NAME` reference could not be turned into an object; the message says why and what to check."""


class NoCurrentJob(IntraLBError, RuntimeError):
    """Something that belongs to a running request was asked for outside of one."""


class RequestBodyError(IntraLBError, OSError):
    """The rest of a streamed request body cannot be read.

    The client has left, has sent nothing for too long, or has sent what cannot be taken. If the application lets it
    pass, `answer` is the response; None if nobody can read one.
    """

    def __init__(self, message: str, answer: Answer | None = None) -> None:
        super().__init__(message)
        self.answer = answer


class WrongThread(IntraLBError, RuntimeError):
    """A balancer was called in another thread than the one in which it runs."""


class IllegalTransition(IntraLBError, RuntimeError):
    """A job was moved to a state that its present state does not lead to: a bug in this package."""


class Abort(BaseException):
    """Base of the signals that end a running request; handlers let it pass, their `finally` blocks run."""


class DeadlineExceeded(Abort):
    """The request's deadline has passed while it was running."""


class ClientDisconnected(Abort):
    """The client left while its request was running."""


class RequestKilled(Abort):
    """The server ends this request because its own time to shut down is over."""


class SessionUnavailable(Abort):
    """`db_init_func` failed, so this request cannot have a session; it is answered 503."""


class StreamsFull(Abort):
    """`max_streams` responses are streamed already, so this one cannot begin; it is answered 503."""


class UpgradesFull(Abort):
    """`max_upgraded` connections are taken over already, so this one cannot be; its request is answered 503."""
