"""The exchange of a job that came through an outer WSGI server, such as gunicorn or gevent.pywsgi.

The slot that runs the application and the outer server's greenlet are two, so the parts of a response cross a channel.
The application and the outer server meet as if nothing were in between: the application's call of `start_response`
calls the outer one, and what that raises reaches the application, and then the outer server again. This module decides
how much of a response may wait in the channel. Framing is the outer server's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from gevent.event import Event

from ..errors import ClientDisconnected, IntraLBError
from ..policy.answers import Answer
from .exchange import Application, Exchange, Headers, Runner, StartResponse, as_bytes, require_room
from .outer import Offers, bound_input, close_afterwards, offers_in, socket_of, upgrade_of
from .outercalls import call, forget_headers, raised_by
from .safepoints import calls_application
from .socketends import reset_when_closed
from .upgrades import SWITCHING, FirstUse, made_of

if TYPE_CHECKING:
    from .balancer import LoadBalancer
    from .job import Job

__all__ = ["ResponseCut", "serve_through"]

HIGH_WATER = 256 * 1024
"""Bytes of a response that may wait for the outer server before the slot has to."""


class ResponseCut(IntraLBError):
    """A response ended before its end; raised to the outer server, which then closes the connection."""


class Channel(Exchange):
    """A response between a slot, which writes, and the outer server's greenlet, which iterates and closes."""

    __slots__ = (
        "_answer",
        "_balancer",
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
        "outer_socket",
        "started",
        "status",
    )

    def __init__(self, outer: StartResponse, body: object = None, *, head_only: bool = False) -> None:
        self.status = ""
        self._head_only = head_only
        self._headers: Headers = []
        self._outer: StartResponse | None = outer
        """The outer server's `start_response`, as long as it may be called."""
        self._tried = False
        """Whether the outer `start_response` has been called."""
        self._refusal: BaseException | None = None
        """The exception that the outer `start_response` raised."""
        self._input = body
        """The outer server's `wsgi.input`."""
        self._balancer: LoadBalancer | None = None
        self._job: Job | None = None
        self.started = False
        """Whether status and headers are settled."""
        self._whole: list[bytes] | None = None
        """The parts of a body that the application returned as a list; the outer server may want its length."""
        self._answer: Answer | None = None
        """The answer that replaces the application's response."""
        self._error: BaseException | None = None
        """The exception that the outer server receives instead of the end of the body."""
        self.upgrade = None
        self._offers: Offers | None = None
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._ended = False
        self._left = False
        self._held = False
        """Whether what is written is kept back."""
        self._passed = self._in_hand = 0
        """Bytes of the body that were written; and those of the part that the outer server has taken last."""
        self.outer_socket: Any = None
        """The socket of the outer server's connection, if a body without a length ends with its close (HTTP/1.0)."""
        self._readable = Event()
        self._writable = Event()

    def __repr__(self) -> str:
        return f"<Channel {self.status or 'no status yet'} {self._size} bytes waiting>"

    # The slot's side, and the hub's.

    @calls_application
    def run(self, application: Application, environ: dict[str, Any], runner: Runner) -> None:
        """Call the application and pass on all that it yields; raises what the application raises.

        An error of the outer server's own that the application lets pass goes back to that server.
        """
        try:
            super().run(application, environ, runner)
        except Exception as error:
            self._return_error(error)
            raise
        finally:
            self._refusal = None

    def _return_error(self, error: Exception) -> None:
        """Let the outer server judge an error of its own; where its client is at fault, the application is not.

        A TypeError or a ValueError of `wsgi.input` is about how the application has called it.
        """
        of_input = self._input is not None and raised_by(error, self._input)
        if self._ended or not (of_input or error is self._refusal):
            return
        self._error = error
        self._end()
        if of_input and not isinstance(error, (TypeError, ValueError)):
            raise ClientDisconnected("the outer server could not read the request's body") from None

    def start_response(self, status: Any, headers: Any, exc_info: Any = None) -> Callable[[Any], object]:
        """Pass status and headers to the outer server, which may raise what it has against them."""
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
        """Pass on all parts of a body: as a whole if they are there as a list, as a server without us would see it."""
        if self._in_parts and not self.started and self.status[:3] != "101":
            self._whole = [as_bytes(part) for part in result]
        else:
            super().send(result)

    def write(self, data: Any) -> None:
        """Pass a part of the body on; waits while the outer server is more than `HIGH_WATER` behind."""
        if self._runner.turn_wanted:
            self._runner.take_turn()
        data = as_bytes(data)
        self._check_open()
        if self.upgrade is not None:
            # Nothing that the application returns is a response to anything.
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
        """Say whether more may come behind the first part, which has so many bytes, and is not there yet."""
        if self._in_parts:
            return False
        length = self._length()
        return length is None or size < length

    def _length(self) -> int | None:
        for name, value in self._headers:
            if name.lower() == "content-length":
                return int(value) if value.strip().isdecimal() else 0
        return None

    def _wait_until_taken(self, seconds: float) -> bool:
        """Wait while the outer server is far behind; return False if it takes nothing for too long.

        A part counts as taken when the next one is asked for, so a large one has more time.
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
        """Keep back what is written from now on."""
        self._held = True

    def release(self) -> None:
        """Let the outer server see what has been kept back."""
        self._held = False
        if self._size and not self._ended:
            self.started = True
            self._readable.set()

    @property
    def sent(self) -> int | None:
        """Bytes of the body that the outer server has taken; None if it has not seen status and headers."""
        return self._passed - self._size if self.started else None

    def finish(self) -> None:
        """Let the outer server see the end."""
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
        """What says whether the outer server has closed the response."""
        return self._has_left

    def _has_left(self) -> bool:
        return self._left

    def _check_open(self) -> None:
        if self._left or self._ended:
            raise ClientDisconnected("the outer server has closed the response")

    def refuse(self, answer: Answer) -> None:
        """Answer in the place of an application that is not run."""
        self.status, self._answer = answer.status, answer
        self._chunks.clear()
        self._end()

    def fail(self, answer: Answer) -> None:
        """Answer with an error if nothing was passed on yet; else cut the response."""
        if self._ended:
            return
        if self.started:
            self._error = ResponseCut("the response was cut: its deadline passed or its application failed")
            self._end()
        else:
            self.refuse(answer)

    def isolate(self) -> None:
        """Pass nothing on from now on, in a process that the application has forked."""
        self._left = True

    # An offer to upgrade.

    def offer(self, environ: dict[str, Any]) -> None:
        """Let the application take the connection over by using what the outer server offers in the environ."""
        self._offers = offers = offers_in(environ)
        for key, outer in offers.by_key.items():
            environ[key] = FirstUse(partial(self._take_over, key, outer, environ))

    def _take_over(self, key: str, outer: Any, environ: dict[str, Any]) -> Any:
        """Return what the outer server has offered under a key, which is the application's from now on."""
        if self.upgrade is None:
            if self._ended or self._left:
                raise ClientDisconnected("the response has ended, and its connection cannot be taken over")
            if self.started or self._held:
                raise RuntimeError("the response has begun, so its connection cannot be taken over any more")
            self.status = SWITCHING
            self._runner.begin_upgrade()
            self.upgrade = upgrade_of(key, outer, environ)
            close_afterwards(self._outer)
        return made_of(outer)

    def end_upgrade(self) -> None:
        """The application has ended; let the outer server end the request."""
        super().end_upgrade()
        self._end()

    def end_silently(self) -> Iterator[bytes]:
        """Have the outer server answer nothing, after the application has ended: raise, or return an empty response."""
        if self._offers is not None and self._offers.end is not None:
            raise self._offers.end
        return iter(())

    def _need_status(self) -> None:
        if not self.status:
            raise RuntimeError("the application sent a body without having called start_response")

    def _end(self) -> None:
        self.started = self._ended = True
        self._balancer = self._job = None
        self._readable.set()
        self._writable.set()

    # The outer server's side.

    def wait_for(self, balancer: LoadBalancer, job: Job) -> Iterable[bytes]:
        """Wait until status and headers are settled, and return the body: a list if all of it is there as one."""
        if not self._ended:
            self._balancer, self._job = balancer, job
        try:
            self._readable.wait()
            if self.upgrade is None:
                return self._body()
        except BaseException:
            # The outer server ends this greenlet, or rejects the answer.
            self.close()
            if self.upgrade is not None:
                self.upgrade.shut_down()
            raise
        finally:
            # It may refer to the environ, which refers to this object.
            self._outer = None
        return self.end_silently()

    def _body(self) -> Iterable[bytes]:
        if self._answer is not None:
            self._start_answer(self._answer)
            return [] if self._head_only else [self._answer.body]
        if self._error is not None and not self._chunks:
            self._raise_error()
        return self if self._whole is None else self._whole

    def _start_answer(self, answer: Answer) -> None:
        """Start the response that takes the place of the application's, which may have been started."""
        outer = self._outer
        if outer is None:
            return
        if self._tried:
            forget_headers(outer)
            replaced = ResponseCut("the response was replaced by an answer of the balancer's")
            outer(answer.status, answer.headers, (ResponseCut, replaced, None))
        else:
            outer(answer.status, answer.headers)

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is None:
            return
        if isinstance(error, ResponseCut) and self.outer_socket is not None and self._length() is None:
            _reset(self.outer_socket)
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
        """The outer server is done with the response: an application that still writes is ended, whatever it does."""
        self._left = True
        self._writable.set()
        if self._balancer is not None and self._job is not None:
            self._balancer.abandon(self._job, gone=True)


def serve_through(balancer: LoadBalancer, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    """Answer one request of an outer WSGI server through the balancer."""
    offered = "HTTP_UPGRADE" in environ
    if offered:
        bound_input(environ, start_response)
    head_only = environ.get("REQUEST_METHOD") == "HEAD"
    channel = Channel(start_response, environ.get("wsgi.input"), head_only=head_only)
    if offered:
        channel.offer(environ)
    if environ.get("SERVER_PROTOCOL") == "HTTP/1.0":
        channel.outer_socket = socket_of(environ)
    return channel.wait_for(balancer, balancer.submit(environ, channel))


def _reset(sock: Any) -> None:
    """Have the end of an outer server's connection be a reset, as it would look like the end of the response."""
    reset_when_closed(sock)
    # gunicorn ends it in the regular way before it closes it; pywsgi's socket stays open until that closes it.
    sock.close()
