"""Where a job's response goes: what the pool asks of it, and the WSGI call that every kind shares.

Decides how an application is called and when its iterable is closed, as PEP 3333 says. It must not know sockets:
`http/response.py` is the exchange of a connection, `pool/bridge.py` that of an outer WSGI server.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

from ..policy.answers import Answer

__all__ = ["Application", "ExceptionInfo", "Exchange", "Headers", "StartResponse"]

Headers = list[tuple[str, str]]
ExceptionInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]
StartResponse = Callable[..., Callable[[bytes], object]]
Application = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]


class Exchange(ABC):
    """The way back of one response.

    `run` is called in a slot and may wait; `refuse` and `fail` are called in the hub and must not. After `fail`
    whatever the application still writes is dropped.
    """

    __slots__ = ()

    status: str
    """The status line that was or will be answered, such as "200 OK"; empty before there is one."""

    def run(self, application: Application, environ: dict[str, Any]) -> None:
        """Call the application and send all that it yields; raises what the application raises."""
        result = application(environ, self.start_response)
        try:
            for chunk in result:
                if chunk:
                    self.write(chunk)
            self.finish()
        finally:
            close = getattr(result, "close", None)
            if close is not None:
                close()

    @abstractmethod
    def start_response(
        self, status: str, headers: Headers, exc_info: ExceptionInfo | None = None
    ) -> Callable[[bytes], object]:
        """Take status and headers as PEP 3333 says; return `write`."""

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Send a part of the body, headers first; waits while too much is unsent.

        Raises `ClientDisconnected` when nobody is there to read it.
        """

    @abstractmethod
    def finish(self) -> None:
        """Send what is left after the last part of the body."""

    @property
    @abstractmethod
    def client_disconnected(self) -> Callable[[], bool]:
        """What says whether the client is known to have left.

        `environ["intralb.client_disconnected"]` is this; so it must not refer back to the environ, or every request
        would be left to the garbage collector.
        """

    @abstractmethod
    def refuse(self, answer: Answer) -> None:
        """Answer in the place of an application that is not run."""

    @abstractmethod
    def fail(self, answer: Answer) -> None:
        """End a response that cannot be finished: with `answer` before headers, by a cut after them."""
