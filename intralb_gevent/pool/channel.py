"""The exchange of a job that arrived through an outer WSGI server, such as gunicorn or gevent.pywsgi.

The application runs in a slot, and the outer server in another greenlet, so the parts of a response pass through a
channel with a bounded buffer. The channel is transparent: the application's `start_response` calls that of the outer
server. An exception that the outer `start_response` raises reaches the application. An exception that the application
does not catch reaches the outer server. The outer server frames the responses.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from gevent.event import Event

from ..aborts.safepoints import calls_application
from ..errors import ClientDisconnected, IntraLBError
from ..policy.cannedresponses import FAILED, CannedResponse
from .exchange import Application, Exchange, Headers, Runner, StartResponse, as_bytes, declared_length, require_room
from .outer import Offers, close_afterwards, offers_in
from .outercalls import call, raised_by, start_answer
from .socketends import reset_now
from .upgrades import SWITCHING, FirstUse, made_of

if TYPE_CHECKING:
    from .job import Job

__all__ = ["Channel", "ResponseCut"]

HIGH_WATER = 256 * 1024
"""High-water mark, in bytes: the slot waits while more bytes are buffered for the outer server."""


class ResponseCut(IntraLBError):
    """Raised in the outer server's greenlet if a response was cut off; the outer server then closes the connection."""


class Channel(Exchange):
    """A response that a slot writes, and that the outer server's greenlet iterates over and closes."""

    __slots__ = (
        "_answer",
        "_chunks",
        "_ended",
        "_error",
        "_head_only",
        "_headers",
        "_held",
        "_in_hand",
        "_input",
        "_job",
        "_left",
        "_offers",
        "_outer",
        "_passed",
        "_readable",
        "_refusal",
        "_size",
        "_tried",
        "_whole",
        "_writable",
        "id_header",
        "outer_socket",
        "started",
        "status",
    )

    def __init__(self, outer: StartResponse, body: object = None, *, head_only: bool = False) -> None:
        self.status = ""
        self._head_only = head_only
        self._headers: Headers = []
        self._outer: StartResponse | None = outer
        """The outer server's `start_response`; None once `wait_for` has returned."""
        self._tried = False
        """True once the outer `start_response` has been called."""
        self._refusal: BaseException | None = None
        """The exception that the outer `start_response` raised."""
        self._input = body
        """The outer server's `wsgi.input`."""
        self._job: Job | None = None
        self.started = False
        """True once status and headers can no longer change."""
        self._whole: list[bytes] | None = None
        """Parts of a body that the application returned as a list; the outer server may use the list's length."""
        self._answer: CannedResponse | None = None
        """The balancer's own response, if it replaces the application's response; otherwise None."""
        self._error: BaseException | None = None
        """Exception that is raised in the outer server's greenlet instead of the end of the body."""
        self.upgrade = None
        self._offers: Offers | None = None
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._ended = False
        self._left = False
        self._held = False
        """True while written parts are held back from the outer server."""
        self._passed = self._in_hand = 0
        """Bytes of the body written by the application, and bytes of the part that the outer server is sending."""
        self.outer_socket: Any = None
        """The outer server's socket if the request is HTTP/1.0, where closing the connection may end the body."""
        self.id_header: Headers = []
        """The header field X-Request-ID, which is added only to the balancer's own responses."""
        self._readable = Event()
        self._writable = Event()

    def __repr__(self) -> str:
        return f"<Channel {self.status or 'no status yet'} {self._size} bytes waiting>"

    # Methods that the slot and the hub call.

    @calls_application
    def run(self, application: Application, environ: dict[str, Any], runner: Runner) -> None:
        """Call the application and pass on all parts that it yields; raises any exception that the application raises.

        An exception that the outer server raises and the application does not catch is passed back to that server.
        """
        try:
            super().run(application, environ, runner)
        except Exception as error:
            self._return_error(error)
            raise
        finally:
            self._refusal = None
            if self.started and self.status[:3] == "101":
                # The slot has counted the job as completed when the 101 response began, so it does not call `fail`.
                self.fail(FAILED)

    def _return_error(self, error: Exception) -> None:
        """If the outer server has raised an exception, pass the exception back to the outer server.

        If `wsgi.input` has raised the exception, this method raises `ClientDisconnected`, because the client has
        failed. But a TypeError or a ValueError counts as a mistake of the application.
        """
        of_input = self._input is not None and raised_by(error, self._input)
        if self._ended or not (of_input or error is self._refusal):
            return
        self._error = error
        self._end()
        if of_input and not isinstance(error, (TypeError, ValueError)):
            raise ClientDisconnected("the outer server could not read the request's body") from None

    def start_response(self, status: Any, headers: Any, exc_info: Any = None) -> Callable[[Any], object]:
        """Pass status and headers to the outer server, which may reject them with an exception."""
        if exc_info is not None and self.started:
            try:
                if exc_info[1] is not None:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        if self._ended or self._left or self.upgrade is not None:
            return self.write
        if self._outer is None:
            raise RuntimeError("start_response was called twice; the second time needs exc_info")
        self._tried = True
        try:
            call(self._outer, status, headers, *(() if exc_info is None else (exc_info,)))
        except BaseException as error:
            self._refusal = error
            raise
        finally:
            exc_info = None
        self.status, self._headers = status, headers
        return self.write

    @calls_application
    def send(self, result: Any) -> None:
        """Pass on all parts of a body; pass a list on as a list, because the outer server may use its length."""
        if self._in_parts and not self.started and self.status[:3] != "101":
            self._whole = [as_bytes(part) for part in result]
        else:
            super().send(result)

    def write(self, data: Any) -> None:
        """Pass on a part of the body; wait while more than `HIGH_WATER` bytes are buffered."""
        if self._runner.yield_requested:
            self._runner.yield_to_hub()
        data = as_bytes(data)
        self._check_open()
        if self.upgrade is not None:
            # Ignore the data: after an upgrade, the application's return value is not a response.
            return
        self._need_status()
        if not self.started and self.status[:3] == "101":
            self._runner.begin_upgrade()
        elif not self.started and self._pace is None and self._is_stream(len(data)):
            self._pace = self._runner.begin_stream()
        if data:
            self._chunks.append(data)
            self._size += len(data)
            self._passed += len(data)
        if self._held:
            require_room(self._size)
            return
        self.started = True
        self._readable.set()
        if data and self._pace is not None:
            self._pace.part_sent()
        if self._size > HIGH_WATER:
            self._runner.wait_for_client(self._wait_until_taken)
            self._check_open()

    def _is_stream(self, size: int) -> bool:
        """Return whether a response is a stream: whether more parts may follow the first part of `size` bytes."""
        if self._in_parts:
            return False
        length = declared_length(self._headers)
        return length is None or size < length

    def _wait_until_taken(self, seconds: float) -> bool:
        """Wait while the buffer is above the high-water mark; return False if the outer server reads nothing in time.

        While the outer server sends a part larger than the high-water mark, the timeout is longer than `seconds`.
        """
        while self._is_far_behind():
            before = self._size
            self._writable.clear()
            self._writable.wait(seconds * max(1.0, self._in_hand / HIGH_WATER))
            if self._size == before and self._is_far_behind():
                return False
        return True

    def _is_far_behind(self) -> bool:
        return self._size > HIGH_WATER and not (self._left or self._ended)

    def hold(self) -> None:
        """Hold back all parts that the application writes from now on."""
        self._held = True

    def release(self) -> None:
        """Pass the parts that were held back to the outer server."""
        self._held = False
        if self._size and not self._ended:
            self.started = True
            self._readable.set()

    @property
    def sent(self) -> int | None:
        """Number of bytes of the body that the outer server has received; None before the response has started."""
        return self._passed - self._size if self.started else None

    @property
    def body_size(self) -> int:
        """Number of bytes of the response's body that were written, for the log."""
        if self._answer is not None:
            return 0 if self._head_only else len(self._answer.body)
        return self._passed if self._whole is None else sum([len(part) for part in self._whole])

    def finish(self) -> None:
        """Report the end of the response to the outer server."""
        if self._held:
            self._runner.stream_is_whole()
            self.release()
        if self._ended:
            return
        if not self._left:
            self._need_status()
        self._end()

    @property
    def client_disconnected(self) -> Callable[[], bool]:
        """A function that returns whether the outer server has closed the response."""
        return lambda: self._left

    def _check_open(self) -> None:
        if self._left or self._ended:
            raise ClientDisconnected("the outer server has closed the response")

    def reject(self, answer: CannedResponse) -> None:
        """Send `answer` without running the application."""
        self.status, self._answer = answer.status, answer
        self._chunks.clear()
        self._end()

    def fail(self, answer: CannedResponse) -> None:
        """Send `answer` if the outer server has received no part of the response; otherwise cut the response off."""
        if self._ended:
            return
        if self.started:
            self._error = ResponseCut("the response was cut: its deadline passed or its application failed")
            self._end()
        else:
            self.reject(answer)

    def isolate(self) -> None:
        """In a process that the application has forked, stop passing on data."""
        self._left = True

    # Upgrades.

    def offer(self, environ: dict[str, Any]) -> None:
        """Wrap each object that the outer server offers in a `FirstUse`, whose first use takes over the connection."""
        self._offers = offers = offers_in(environ)
        for key, outer in offers.by_key.items():
            environ[key] = FirstUse(partial(self._take_over, key, offers), outer)

    def _take_over(self, key: str, offers: Offers) -> Any:
        """Return the object that the outer server offered under `key`; the application then owns the connection."""
        if self.upgrade is not None:
            return made_of(offers.by_key[key])
        if self._ended or self._left:
            raise ClientDisconnected("the response has ended, and its connection cannot be taken over")
        if self.started or self._held:
            raise RuntimeError("the response has begun, so its connection cannot be taken over any more")
        self._runner.begin_upgrade(partial(self._take_over_now, key, offers))
        return made_of(offers.by_key[key])

    def _take_over_now(self, key: str, offers: Offers) -> None:
        self.upgrade = offers.upgrade(key)
        self.status = SWITCHING
        close_afterwards(self._outer)

    def end_upgrade(self) -> None:
        """Close the connection and let the outer server end the request, because the application has ended."""
        try:
            super().end_upgrade()
        finally:
            self._end()

    def _need_status(self) -> None:
        if not self.status:
            raise RuntimeError("the application sent a body without having called start_response")

    def _end(self) -> None:
        self.started = self._ended = True
        self._job = None
        self._readable.set()
        self._writable.set()

    # Methods that the outer server's greenlet calls.

    def wait_for(self, job: Job) -> Iterable[bytes]:
        """Wait until status and headers are final, and return the body: a list if the application returned one."""
        if not self._ended:
            self._job = job
        try:
            self._readable.wait()
            if self.upgrade is None:
                return self._body()
        except BaseException:
            # The outer server has killed this greenlet, or rejected the balancer's own response.
            self.close()
            if self.upgrade is not None:
                self.upgrade.shut_down()
            raise
        finally:
            # Break a reference cycle: `_outer` may refer to the environ, which refers to this channel.
            self._outer = None
        return iter(()) if self._offers is None else self._offers.end_silently()

    def _body(self) -> Iterable[bytes]:
        if self._answer is not None:
            self._start_answer(self._answer)
            return [] if self._head_only else [self._answer.body]
        if self._error is not None and not self._chunks:
            self._raise_error()
        return self if self._whole is None else self._whole

    def _start_answer(self, answer: CannedResponse) -> None:
        """Start the balancer's own response, even if the application has already called the outer `start_response`."""
        if self._outer is not None:
            replaced = ResponseCut("the balancer replaced the response") if self._tried else None
            start_answer(self._outer, answer.status, [*answer.headers, *self.id_header], replaced)

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is None:
            return
        if isinstance(error, ResponseCut) and self.outer_socket is not None and declared_length(self._headers) is None:
            reset_now(self.outer_socket)
        raise error

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        while not self._chunks:
            self._raise_error()
            if self._ended:
                raise StopIteration
            self._readable.clear()
            self._readable.wait()
        data = self._chunks.popleft()
        self._size -= len(data)
        self._in_hand = len(data)
        if self._size <= HIGH_WATER:
            self._writable.set()
        return data

    def close(self) -> None:
        """End the response, because the outer server will not read the rest (PEP 3333).

        Later writes by the application raise `ClientDisconnected`; the lane treats the client as disconnected.
        """
        self._left = True
        self._writable.set()
        if self._job is not None:
            self._job.abandon(gone=True)
