"""Where a job's response goes: what the pool asks of it, and the WSGI call that every kind shares.

Decides how an application is called and when its iterable is closed, as PEP 3333 says. It must not know sockets:
`http/response.py` is the exchange of a connection, `pool/bridge.py` that of an outer WSGI server.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, Protocol

from ..errors import StreamsFull
from ..policy.answers import Answer
from .safepoints import calls_application

if TYPE_CHECKING:
    from .job import Deadline
    from .upgrades import Upgrade

__all__ = ["Application", "Exchange", "Headers", "Runner", "StartResponse", "as_bytes", "require_room"]

_KEPT_BACK_BYTES: Final = 256 * 1024
"""The most of a response that is kept back until it is decided whether it is one stream too many."""

Headers = list[tuple[str, str]]
StartResponse = Callable[..., Callable[[bytes], object]]
Application = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]


def as_bytes(data: Any) -> bytes:
    """Return a part of a body as bytes, which nobody changes while they wait to be sent."""
    if type(data) is bytes:
        return data
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    raise TypeError(f"a part of the body is {type(data).__name__}; it must be bytes")


class Runner(Protocol):
    """Who runs the application, and for whom others wait meanwhile: a slot."""

    turn_wanted: bool
    """Whether the hub has had no turn for long."""

    def take_turn(self) -> None:
        """Give the hub a turn, or raise what ends the application if its time is over."""

    def begin_stream(self) -> Deadline | None:
        """Take note of the first part of a streamed response; return the deadline that each part moves on.

        It may call the exchange's `hold()`.
        """

    def stream_is_whole(self) -> None:
        """Take note that a response that is kept back has come to its end, and so is no stream."""

    def wait_for_client(self, wait: Callable[[float], bool]) -> None:
        """Call `wait` with the seconds that a client may take nothing, which then do not count for the handler.

        `wait` returns False if the client has taken nothing for as long; then the response is cut.
        """

    def begin_upgrade(self) -> None:
        """The application takes the connection over; may raise what ends the application instead."""


class Exchange(ABC):
    """The way back of one response.

    `run` is called in a slot and may wait; `refuse` and `fail` are called in the hub and must not. After `fail`
    whatever the application still writes is dropped. What the application hands over can be of any type; where it
    matters it is looked at, so that the error names it.
    """

    __slots__ = ("_in_parts", "_pace", "_runner", "upgrade")

    _runner: Runner
    upgrade: Upgrade | None
    """The connection, once the application has taken it over."""
    _in_parts: bool
    """Whether all parts of the body are there already, as a list."""
    _pace: Deadline | None
    """The deadline that each part of a streamed response moves on."""
    status: str
    """The status line that was or will be answered, such as "200 OK"; empty before there is one."""

    @calls_application
    def run(self, application: Application, environ: dict[str, Any], runner: Runner) -> None:
        """Call the application and send all that it yields; raises what the application raises.

        A response is streamed if its parts are not there as a list, and the first is not all of it. The runner is asked
        before every part, for an application that only sends may never wait.
        """
        self._runner = runner
        self._in_parts = False
        self._pace = None
        try:
            result: Any = application(environ, self.start_response)
            try:
                self._in_parts = isinstance(result, (list, tuple))
                self.send(result)
                self.finish()
            finally:
                close = getattr(result, "close", None)
                if close is not None:
                    close()
        finally:
            if self.upgrade is not None:
                self.end_upgrade()

    def end_upgrade(self) -> None:
        """The application has ended, and so does the connection that it has taken over."""
        if self.upgrade is not None:
            self.upgrade.close()

    @calls_application
    def send(self, result: Any) -> None:
        """Send all parts of a body."""
        for chunk in result:
            if chunk:
                self.write(chunk)

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

    def isolate(self) -> None:  # noqa: B027  # a connection's exchange finds its connection closed
        """Send nothing from now on, in a process that the application has forked: the parent sends the response."""

    @property
    @abstractmethod
    def sent(self) -> int | None:
        """Bytes of the response that have been sent, as far as that is known; None if not even its head has been."""

    @abstractmethod
    def hold(self) -> None:
        """Keep the parts back that come from now on, until `release`, the end of the response, or an answer."""

    @abstractmethod
    def release(self) -> None:
        """Send what has been kept back; called in the hub, too."""

    @abstractmethod
    def refuse(self, answer: Answer) -> None:
        """Answer in the place of an application that is not run."""

    @abstractmethod
    def fail(self, answer: Answer) -> None:
        """End a response that cannot be finished: with `answer` before headers, by a cut after them."""


def require_room(kept_back: int) -> None:
    """Raise `StreamsFull` if a response of so many bytes cannot be kept back any longer."""
    if kept_back > _KEPT_BACK_BYTES:
        raise StreamsFull("there are as many streamed responses as max_streams allows")
