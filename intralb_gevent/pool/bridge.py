"""The exchange of a job that came through an outer WSGI server, such as gunicorn or gevent.pywsgi.

The slot that runs the application and the outer server's greenlet are two, so the response crosses a channel.
Decides how much of it may wait there. It must not know sockets; framing is the outer server's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from gevent.event import Event

from ..errors import ClientDisconnected, IntraLBError
from ..policy.answers import Answer
from .exchange import Exchange, Headers, StartResponse

if TYPE_CHECKING:
    from .balancer import LoadBalancer

__all__ = ["ResponseCut", "serve_through"]

HIGH_WATER = 256 * 1024
"""Bytes of a response that may wait for the outer server before the slot has to."""


class ResponseCut(IntraLBError):
    """A response ended before its end; raised to the outer server, which then closes the connection."""


class Channel(Exchange):
    """A response between a slot, which writes, and the outer server's greenlet, which iterates and closes."""

    __slots__ = (
        "_chunks",
        "_cut",
        "_ended",
        "_left",
        "_readable",
        "_size",
        "_writable",
        "headers",
        "started",
        "status",
    )

    def __init__(self) -> None:
        self.status = ""
        self.headers: Headers = []
        self.started = False
        """Whether status and headers are settled."""
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._ended = False
        self._cut = False
        self._left = False
        self._readable = Event()
        self._writable = Event()

    def __repr__(self) -> str:
        return f"<Channel {self.status or 'no status yet'} {self._size} bytes waiting>"

    # The slot's side, and the hub's.

    def start_response(self, status: Any, headers: Any, exc_info: Any = None) -> Callable[[Any], object]:
        """Keep status and headers until the first part of the body."""
        if exc_info is not None:
            try:
                if self.started and exc_info[1] is not None:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self.status:
            raise RuntimeError("start_response was called twice; the second time needs exc_info")
        if not self._ended:
            self.status, self.headers = status, headers
        return self.write

    def write(self, data: Any) -> None:
        """Pass a part of the body on; waits while the outer server is more than `HIGH_WATER` behind."""
        if self._runner.turn_wanted:
            self._runner.take_turn()
        if self._left or self._ended:
            raise ClientDisconnected("the outer server has closed the response")
        self._need_status()
        if not (self.started or self._in_parts or any(name.lower() == "content-length" for name, _ in self.headers)):
            self._runner.begin_stream()
        if data:
            self._chunks.append(data)
            self._size += len(data)
        self.started = True
        self._readable.set()
        if self._size > HIGH_WATER:
            self._writable.clear()
            self._writable.wait()

    def finish(self) -> None:
        """Let the outer server see the end."""
        if not self._ended:
            self._need_status()
            self._end()

    @property
    def client_disconnected(self) -> Callable[[], bool]:
        """What says whether the outer server has closed the response."""
        return self._has_left

    def _has_left(self) -> bool:
        return self._left

    def refuse(self, answer: Answer) -> None:
        """Answer in the place of an application that is not run."""
        self.status, self.headers = answer.status, answer.headers
        self._chunks.append(answer.body)
        self._end()

    def fail(self, answer: Answer) -> None:
        """Answer with an error if nothing was passed on yet; else cut the response."""
        if self._ended:
            return
        if self.started:
            self._cut = True
            self._end()
        else:
            self.refuse(answer)

    def _need_status(self) -> None:
        if not self.status:
            raise RuntimeError("the application sent a body without having called start_response")

    def _end(self) -> None:
        self.started = self._ended = True
        self._readable.set()
        self._writable.set()

    # The outer server's side.

    def wait_for_start(self) -> None:
        """Wait until status and headers are settled."""
        self._readable.wait()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        while not self._chunks:
            if self._cut:
                raise ResponseCut("the response was cut: its deadline passed or its application failed")
            if self._ended:
                raise StopIteration
            self._readable.clear()
            self._readable.wait()
        data = self._chunks.popleft()
        self._size -= len(data)
        if self._size <= HIGH_WATER:
            self._writable.set()
        return data

    def close(self) -> None:
        """The outer server is done with the response; an application that still writes is told so."""
        self._left = True
        self._writable.set()


def serve_through(balancer: LoadBalancer, environ: dict[str, Any], start_response: StartResponse) -> Iterator[bytes]:
    """Answer one request of an outer WSGI server through the balancer."""
    channel = Channel()
    job = balancer.submit(environ, channel)
    try:
        channel.wait_for_start()
    except BaseException:
        # The outer server ends this greenlet: nobody is left to answer.
        channel.close()
        balancer.abandon(job)
        raise
    start_response(channel.status, channel.headers)
    return channel
