"""The interface that receives a job's response, and the WSGI call that all its implementations share.

The WSGI call runs the application and closes its iterable as PEP 3333 requires. `http/response.py` is the exchange for
connections of this package's server, and `pool/channel.py` is the exchange for an outer WSGI server.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, Protocol

from ..aborts.safepoints import calls_application
from ..errors import StreamsFull
from ..policy.cannedresponses import CannedResponse

if TYPE_CHECKING:
    from .job import Deadline
    from .upgrades import Upgrade

__all__ = [
    "Application",
    "Exchange",
    "Headers",
    "Runner",
    "StartResponse",
    "as_bytes",
    "declared_length",
    "require_room",
]

_KEPT_BACK_BYTES: Final = 256 * 1024
"""Maximum number of bytes of a response that are held back while it is undecided whether the response may stream."""

Headers = list[tuple[str, str]]
StartResponse = Callable[..., Callable[[bytes], object]]
Application = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]


def as_bytes(data: Any) -> bytes:
    """Return a part of a body as immutable bytes, so that the part cannot change while it waits to be sent."""
    if type(data) is bytes:
        return data
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    raise TypeError(f"a part of the body is {type(data).__name__}; it must be bytes")


def declared_length(headers: Headers) -> int | None:
    """Return the value of Content-Length; None if there is no Content-Length, 0 if its value is not a number."""
    for name, value in headers:
        if name.lower() == "content-length":
            return int(value) if value.strip().isdecimal() else 0
    return None


class Runner(Protocol):
    """The interface through which an exchange uses the object that runs the application, such as a slot."""

    yield_requested: bool
    """True if the runner should yield, because the hub has not run for a long time."""

    def yield_to_hub(self) -> None:
        """Yield to the hub; if the application's time is over, raise the abort instead."""

    def begin_stream(self) -> Deadline | None:
        """Register the first part of a streamed response; return the deadline that each part extends.

        This method may call the exchange's `hold()`.
        """

    def stream_is_whole(self) -> None:
        """Record that a held response has ended, so that it does not count as a stream."""

    def wait_for_client(self, wait: Callable[[float], bool]) -> None:
        """Call `wait` with the write timeout in seconds; the wait does not count towards the handler's deadline.

        If `wait` returns False, the client has read nothing during the timeout, and the response is cut.
        """

    def begin_upgrade(self, take: Callable[[], object] | None = None) -> None:
        """Let the application take over the connection; raises an exception if a takeover is not allowed.

        If `take` is given, it is called for the takeover. If it raises an exception, the request continues as before.
        """


class Exchange(ABC):
    """The interface that receives one response.

    `run` is called in a slot and may wait; `reject` and `fail` may be called in the hub, so they must not wait. After
    `fail`, further output of the application is dropped. The application may pass a value of any type. A method that
    allows only some types checks the value, and states the value's type in the error message.
    """

    __slots__ = ("_in_parts", "_pace", "_runner", "upgrade")

    _runner: Runner
    upgrade: Upgrade | None
    """The connection that the application has taken over; None if it has not taken over the connection."""
    _in_parts: bool
    """True if the body is a list (or tuple), so all its parts already exist."""
    _pace: Deadline | None
    """Deadline that each part of a streamed response extends."""
    status: str
    """Status line of the response, such as "200 OK"; empty until the status is known."""

    @calls_application
    def run(self, application: Application, environ: dict[str, Any], runner: Runner) -> None:
        """Call the application and send all parts that it yields; raises any exception that the application raises.

        A response is streamed if its body is not a list, and its first part is not the whole body. The runner may
        yield to the hub after every part. Otherwise, an application that only sends might block all other greenlets.
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
        """Close the connection that the application had taken over, because the application has ended."""
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
        """Receive status and headers according to PEP 3333; return `write`."""

    @abstractmethod
    def write(self, data: Any) -> None:
        """Send a part of the body, preceded by the headers if these are unsent; wait while too much data is unsent.

        Raises `ClientDisconnected` if the client has disconnected.
        """

    @abstractmethod
    def finish(self) -> None:
        """End the response after the last part of the body."""

    @property
    @abstractmethod
    def client_disconnected(self) -> Callable[[], bool]:
        """A function that returns whether the client is known to have disconnected.

        The function becomes `environ["intralb.client_disconnected"]`. The function must not refer to the environ,
        because every request would then create a reference cycle.
        """

    def socket_wait(self) -> float:
        """Return a lower bound, in seconds, for how long the request waited in the kernel before it was read."""
        return 0.0

    def isolate(self) -> None:  # noqa: B027  # optional, because `http/` closes its connections itself
        """In a process that the application has forked, stop sending, because the parent process sends the response."""

    @property
    @abstractmethod
    def sent(self) -> int | None:
        """Number of bytes of the response that have been sent, as far as known; None before the head is sent."""

    @property
    @abstractmethod
    def body_size(self) -> int:
        """Number of bytes of the response's body so far, for the log, including the chunk framing if there is any."""

    @abstractmethod
    def hold(self) -> None:
        """Hold back further parts until `release` or `fail` is called or the response ends."""

    @abstractmethod
    def release(self) -> None:
        """Send the parts that were held back; also called in the hub."""

    @abstractmethod
    def reject(self, answer: CannedResponse) -> None:
        """Send `answer` without running the application."""

    @abstractmethod
    def fail(self, answer: CannedResponse) -> None:
        """End a response that cannot be finished: send `answer`, or cut the response off if its headers were sent."""


def require_room(kept_back: int) -> None:
    """Raise `StreamsFull` if `kept_back`, the number of held bytes of a response, exceeds `_KEPT_BACK_BYTES`."""
    if kept_back > _KEPT_BACK_BYTES:
        raise StreamsFull("there are as many streamed responses as max_streams allows")
