"""Where a job's response goes: what the pool asks of it, and the WSGI call that every kind shares.

Decides how an application is called and when its iterable is closed, as PEP 3333 says. It must not know sockets:
`http/response.py` is the exchange of a connection, `pool/bridge.py` that of an outer WSGI server.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from ..policy.answers import Answer
from .safepoints import calls_application

__all__ = ["Application", "Exchange", "Headers", "Runner", "StartResponse"]

Headers = list[tuple[str, str]]
StartResponse = Callable[..., Callable[[bytes], object]]
Application = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]


class Runner(Protocol):
    """Who runs the application, and for whom others wait meanwhile: a slot."""

    turn_wanted: bool
    """Whether the hub has had no turn for long."""

    def take_turn(self) -> None:
        """Give the hub a turn, or raise what ends the application if its time is over."""

    def begin_stream(self) -> None:
        """The response is streamed from now on; may raise what ends the application."""


class Exchange(ABC):
    """The way back of one response.

    `run` is called in a slot and may wait; `refuse` and `fail` are called in the hub and must not. After `fail`
    whatever the application still writes is dropped. What the application hands over can be of any type; where it
    matters it is looked at, so that the error names it.
    """

    __slots__ = ("_in_parts", "_runner")

    _runner: Runner
    _in_parts: bool
    """Whether all parts of the body are there already, as a list."""
    status: str
    """The status line that was or will be answered, such as "200 OK"; empty before there is one."""

    @calls_application
    def run(self, application: Application, environ: dict[str, Any], runner: Runner) -> None:
        """Call the application and send all that it yields; raises what the application raises.

        The runner is told before the first part of a streamed response: one whose length is not told, and whose parts
        are not there as a list. It is asked before every part, for an application that only sends may never wait.
        """
        self._runner = runner
        self._in_parts = False
        result: Any = application(environ, self.start_response)
        try:
            self._in_parts = isinstance(result, (list, tuple))
            for chunk in result:
                if chunk:
                    self.write(chunk)
            self.finish()
        finally:
            close = getattr(result, "close", None)
            if close is not None:
                close()

    @abstractmethod
    def start_response(self, status: Any, headers: Any, exc_info: Any = None) -> Callable[[Any], object]:
        """Take status and headers as PEP 3333 says; return `write`."""

    @abstractmethod
    def write(self, data: Any) -> None:
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

    def unseen_seconds(self) -> float:
        """Return how long the request was here before anybody saw it, as far as that is known: never more."""
        return 0.0

    @abstractmethod
    def refuse(self, answer: Answer) -> None:
        """Answer in the place of an application that is not run."""

    @abstractmethod
    def fail(self, answer: Answer) -> None:
        """End a response that cannot be finished: with `answer` before headers, by a cut after them."""
