"""Writes log records to a descriptor without ever blocking the thread that logs.

A pipe whose reader has stalled accepts no data. A plain `write()` to a stalled pipe would block the whole process,
including its responses to probes and its exit. Therefore, a record is written immediately only if the descriptor
accepts it. A record that the descriptor does not accept is queued, up to a limit, and written by a native thread, which
is allowed to block. Records beyond the limit, and records that cannot be written, are dropped and counted. Once writing
is possible again, one line reports the number of dropped records.

A record that the descriptor accepts immediately is written before the caller continues. Therefore, the last records of
a program that crashes, or that blocks the interpreter in C, are not lost in a queue.

This code does not use gevent, and never waits while it holds a lock.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import io
import os
import select
import socket
import stat
import weakref
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from gevent.monkey import get_original

from .logline import LINES

__all__ = ["Outlet", "drain", "outlet_of", "records_dropped"]

MOST_RECORDS: Final = 10_000
"""Maximum number of records queued for one descriptor."""

MOST_BYTES: Final = 16 * 1024 * 1024
"""Maximum size in bytes of all queued records; a larger record is accepted only if the queue is empty."""

PIECE_BYTES: Final = 4096
"""Maximum size in bytes of a `write()` to a blocking descriptor; a pipe that is reported as writable accepts this many
bytes."""

BATCH_BYTES: Final = 64 * 1024
"""Size in bytes up to which the native thread joins queued records into one write."""

DRAIN_SECONDS: Final = 1.0
"""Maximum number of seconds for which the process waits at its exit until all queued records are written."""

LOOK_SECONDS: Final = 0.1
"""Seconds between two checks of whether the descriptor now refers to another file."""

_STANDARD: Final = (0, 1, 2)
"""Standard descriptors, which programs may redirect with `dup2()`."""

_rlock: Callable[[], Any] = get_original("_thread", "RLock")
_allocate_lock: Callable[[], Any] = get_original("_thread", "allocate_lock")
_start_thread: Callable[..., int] = get_original("_thread", "start_new_thread")
_sleep: Callable[[float], None] = get_original("time", "sleep")
_poll: Callable[[], Any] = get_original("select", "poll")
_socket: Any = get_original("socket", "socket")


class _File:
    """A private descriptor for the file to which another descriptor refers."""

    def __init__(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        self.identity = (status.st_dev, status.st_ino)
        self.at_once = True
        """True if `write` never blocks: it then writes as much as the file accepts, or raises BlockingIOError."""
        self.socket: Any = None
        if stat.S_ISSOCK(status.st_mode):
            self.socket = _socket(fileno=os.dup(descriptor))
            self.descriptor = self.socket.fileno()
        elif stat.S_ISFIFO(status.st_mode) or os.isatty(descriptor):
            self._open_again(descriptor)
        else:
            self.descriptor = os.dup(descriptor)

    def close(self) -> None:
        """Close the private descriptor."""
        if self.socket is None:
            os.close(self.descriptor)
        else:
            self.socket.close()

    def _open_again(self, descriptor: int) -> None:
        """Open the file again with O_NONBLOCK; the original descriptor stays blocking, because other processes share
        it."""
        try:
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            self.descriptor = os.open(f"/proc/self/fd/{descriptor}", flags)
        except OSError:
            # The file cannot be opened again: there is no /proc, or the process has changed its user.
            self.descriptor, self.at_once = os.dup(descriptor), False

    def write(self, data: bytes) -> int:
        """Write some of the data, and return the number of written bytes. Raises OSError."""
        if self.socket is None:
            return os.write(self.descriptor, data)
        sent: int = self.socket.send(data, socket.MSG_DONTWAIT)
        return sent


class Outlet:
    """A queue of records for one descriptor. All methods can be called in any thread."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._follows = descriptor in _STANDARD
        self._file: _File | None = None
        self._look_at = 0.0
        """Time of the next check of whether the descriptor refers to another file, in `time.monotonic()` seconds."""
        self._lock = _rlock()
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._full = False
        self._busy = False
        """True while the native thread writes records that it has removed from the queue."""
        self._wake: Any = None
        """A lock that is released when the native thread has work to do; None if there is no native thread."""
        self._closed = False
        self._partial = self._torn = False
        """`_partial` is True if the last record is only partly written, and `_torn` is True if the rest of that record
        was dropped."""
        self.dropped = 0
        """Number of records that were not written, or were only partly written."""
        self._reported = 0
        self._why = ""
        with contextlib.suppress(OSError):
            self._file = _File(descriptor)
        _OUTLETS.add(self)

    def __repr__(self) -> str:
        return f"<Outlet to {self._descriptor}: {len(self._waiting)} wait, {self.dropped} dropped>"

    @property
    def idle(self) -> bool:
        """True if all records are written or dropped."""
        return not (self._waiting or self._busy)

    def write(self, record: bytes) -> None:
        """Write a record, or queue it; this method never waits or raises an exception."""
        with self._lock:
            if not (self._waiting or self._busy):
                record = self._write_at_once(record)
            if record:
                self._keep(record)

    def close(self) -> None:
        """Close the descriptor as soon as all records are written."""
        with self._lock:
            self._closed = True
            if self._wake is not None:
                self._awaken()
            elif self.idle:
                self._end()

    def drain(self, until: float) -> None:
        """Wait until all records are written, or until the `time.monotonic()` time `until`. Blocks the event loop."""
        with self._lock:
            if self._waiting:
                self._awaken()
        while not self.idle and monotonic() < until:
            _sleep(0.002)

    def forget(self) -> None:
        """Drop the queue in a process that has just been forked; the parent's native thread writes the queued
        records."""
        self._lock = _rlock()
        self._waiting.clear()
        self._bytes, self._busy, self._full, self._wake = 0, False, False, None

    # The methods below run in the caller's thread, with the lock held.

    def _write_at_once(self, record: bytes) -> bytes:
        """Write the part of the record that the descriptor accepts now, and return the rest."""
        file = self._file if monotonic() < self._look_at else self._present_file()
        if file is None:
            self._drop(1, "the descriptor is closed")
            return b""
        if not file.at_once:
            return record
        rest = self._preface() + record if self._torn or self.dropped != self._reported else record
        try:
            while rest:
                rest = self._written(rest, file.write(rest))
        except BlockingIOError:
            return rest
        except OSError as error:
            if self._has_lost_file(error):
                return self._write_at_once(rest)
            self._fail(1, error)
        return b""

    def _has_lost_file(self, error: OSError) -> bool:
        """Return whether the application has closed the private descriptor, while the standard descriptor is open."""
        if error.errno != errno.EBADF or not self._follows:
            return False
        # Do not close the descriptor, because its number may already belong to another file.
        self._file, self._look_at = None, 0.0
        return self._present_file() is not None

    def _keep(self, record: bytes) -> None:
        if self._is_full(len(record)):
            self._drop(1, "the reader is too slow, or has stopped")
            return
        if self.dropped != self._reported:
            self._append(self._preface())
        self._append(record)
        self._awaken()

    def _is_full(self, more: int) -> bool:
        """Return whether to drop a record; once the queue is full, records are dropped until half of the queue is
        written."""
        share = 0.5 if self._full else 1.0
        few = len(self._waiting) < share * MOST_RECORDS and self._bytes + more <= share * MOST_BYTES
        self._full = not few and bool(self._waiting)
        return self._full

    def _append(self, data: bytes) -> None:
        self._waiting.append(data)
        self._bytes += len(data)

    def _awaken(self) -> None:
        if self._wake is None:
            wake = _allocate_lock()
            # If no more threads can be started, the next record tries again.
            with contextlib.suppress(RuntimeError):
                _start_thread(self._deliver_all, (wake,))
                self._wake = wake
        elif self._wake.locked():
            self._wake.release()

    # The methods below run in any thread.

    def _preface(self) -> bytes:
        """Return the text to write before the next record: the end of a torn line, and a note on dropped records."""
        if self.dropped == self._reported:
            return self._new_line()
        self._reported = self.dropped
        text = f"records of the log were dropped, {self.dropped} in all: {self._why}"
        return self._new_line() + f"{LINES.line('WARNING', text)}\n".encode()

    def _new_line(self) -> bytes:
        torn, self._torn = self._torn, False
        return b"\n" if torn else b""

    def _written(self, data: bytes, count: int) -> bytes:
        self._partial = count < len(data)
        return data[count:]

    def _fail(self, count: int, error: OSError) -> None:
        self._torn = self._partial
        self._drop(count, error.strerror or str(error))

    def _drop(self, count: int, why: str) -> None:
        self.dropped += count
        self._why = why

    def _present_file(self) -> _File | None:
        """Return the file to which the descriptor refers now, after any `dup2()`; None if the descriptor is closed."""
        self._look_at = monotonic() + LOOK_SECONDS
        if not self._follows:
            return self._file
        try:
            status = os.fstat(self._descriptor)
            if self._file is None or self._file.identity != (status.st_dev, status.st_ino):
                self._let_go()
                self._file = _File(self._descriptor)
        except OSError:
            self._let_go()
        return self._file

    def _let_go(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _end(self) -> None:
        self._let_go()
        if self.dropped:
            _GONE.append(self.dropped)

    # The methods below run in the native thread.

    def _deliver_all(self, wake: Any) -> None:
        failed = False
        while not (self._closed and self.idle):
            while batch := self._take(failed):
                failed = not self._delivered(*batch)
            if not self._closed:
                wake.acquire()
        self._end()

    def _take(self, failed: bool) -> tuple[bytes, int] | None:
        """Return queued records and their number; None if there is nothing to write.

        If no records are queued, return a line about dropped records instead, unless the last write has failed.
        """
        with self._lock:
            self._busy = False
            if not self._waiting and self.dropped != self._reported and not failed:
                self._append(self._preface())
            taken: list[bytes] = []
            size = 0
            while self._waiting and size < BATCH_BYTES:
                taken.append(self._waiting.popleft())
                size += len(taken[-1])
            self._bytes -= size
            self._busy = bool(taken)
            return (b"".join(taken), len(taken)) if taken else None

    def _delivered(self, data: bytes, records: int) -> bool:
        """Write the data, however long that takes; return False if writing fails."""
        try:
            with self._lock:
                data = self._new_line() + data
            while data:
                data = self._written(data, self._write_some(data))
        except OSError as error:
            with self._lock:
                self._fail(records, error)
            return False
        return True

    def _write_some(self, data: bytes) -> int:
        file = self._present_file()
        if file is None:
            raise OSError("the descriptor is closed")
        poll = _poll()
        poll.register(file.descriptor, select.POLLOUT)
        if not poll.poll(LOOK_SECONDS * 1000):
            return 0
        try:
            return file.write(data if file.at_once else data[:PIECE_BYTES])
        except BlockingIOError:
            return 0


_OUTLETS: Final[weakref.WeakSet[Outlet]] = weakref.WeakSet()
_GONE: Final[list[int]] = []
"""Number of records that each closed outlet has dropped."""

_BY_STREAM: Final[weakref.WeakKeyDictionary[Any, Outlet]] = weakref.WeakKeyDictionary()


def outlet_of(stream: Any) -> Outlet | None:
    """Return the outlet for a text file's descriptor; None for any other object.

    All calls with the same file return the same outlet.
    """
    outlet = getattr(stream, "intralb_outlet", None)
    if outlet is not None:
        return outlet if isinstance(outlet, Outlet) else None
    if type(stream) is not io.TextIOWrapper or stream.closed:
        return None
    outlet = _BY_STREAM.get(stream)
    if outlet is None:
        with contextlib.suppress(OSError, ValueError):
            outlet = _BY_STREAM[stream] = Outlet(stream.fileno())
            weakref.finalize(stream, outlet.close).atexit = False
    return outlet


def records_dropped() -> int:
    """Return how many log records this process could not write."""
    return sum(outlet.dropped for outlet in list(_OUTLETS)) + sum(_GONE)


def drain(seconds: float) -> None:
    """Wait up to `seconds` until all records are written. This call blocks the event loop, so use it only at exit."""
    until = monotonic() + seconds
    for outlet in list(_OUTLETS):
        outlet.drain(until)


def _forget() -> None:
    for outlet in list(_OUTLETS):
        outlet.forget()


# Register `drain` before the application registers its functions: `atexit` calls the functions in reverse order, so it
# calls `drain` last.
atexit.register(drain, DRAIN_SECONDS)
os.register_at_fork(after_in_child=_forget)
