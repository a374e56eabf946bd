"""Writes to a descriptor of the log without ever waiting for it in the thread that has something to write.

A pipe whose reader has stopped takes nothing, and a plain `write()` to it would stop the whole process: its requests,
its probes, and its end. So a record is written at once if the descriptor takes it, and otherwise kept, up to a bound,
for a native thread that waits in place of everybody. What is beyond the bound, or cannot be written at all, is dropped,
counted, and reported in one line when writing is possible again.

A record that is taken at once is written before the caller goes on. The last words of a program that crashes, or that
blocks the interpreter in C, are not lost in a queue.

Nothing here uses gevent, or a lock that is held while something waits.
"""

from __future__ import annotations

import atexit
import contextlib
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

__all__ = ["Outlet", "drain", "outlet_of", "records_dropped"]

MOST_RECORDS: Final = 10_000
"""Records that wait for one descriptor."""

MOST_BYTES: Final = 16 * 1024 * 1024
"""How many bytes they have at most; a single larger record is still taken."""

PIECE_BYTES: Final = 4096
"""Bytes of one `write()` that may block: as much as a pipe that is ready surely takes."""

BATCH_BYTES: Final = 64 * 1024
"""Bytes that the thread joins, of records that wait."""

DRAIN_SECONDS: Final = 1.0
"""How long the end of the process waits for a reader."""

LOOK_SECONDS: Final = 0.1
"""How often it is looked whether the descriptor is of another file meanwhile."""

_STANDARD: Final = (0, 1, 2)
"""Descriptors that programs direct to another file by `dup2()`."""

_rlock: Callable[[], Any] = get_original("_thread", "RLock")
_allocate_lock: Callable[[], Any] = get_original("_thread", "allocate_lock")
_start_thread: Callable[..., int] = get_original("_thread", "start_new_thread")
_sleep: Callable[[float], None] = get_original("time", "sleep")
_poll: Callable[[], Any] = get_original("select", "poll")
_socket: Any = get_original("socket", "socket")


class _File:
    """A descriptor of our own for the file behind another one."""

    def __init__(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        self.identity = (status.st_dev, status.st_ino)
        self.at_once = True
        """Whether `write` never waits: it writes what is taken now, and raises BlockingIOError if that is nothing."""
        self.socket: Any = None
        if stat.S_ISSOCK(status.st_mode):
            self.socket = _socket(fileno=os.dup(descriptor))
            self.descriptor = self.socket.fileno()
        elif stat.S_ISFIFO(status.st_mode) or os.isatty(descriptor):
            self._open_again(descriptor)
        else:
            self.descriptor = os.dup(descriptor)

    def close(self) -> None:
        """Close this descriptor."""
        if self.socket is None:
            os.close(self.descriptor)
        else:
            self.socket.close()

    def _open_again(self, descriptor: int) -> None:
        """Open it with O_NONBLOCK, which must not be set on the one that other processes share."""
        try:
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            self.descriptor = os.open(f"/proc/self/fd/{descriptor}", flags)
        except OSError:
            # No /proc, or it is another user's, as after a change of the user.
            self.descriptor, self.at_once = os.dup(descriptor), False

    def write(self, data: bytes) -> int:
        """Write some of the data, and return how many bytes. Raises OSError."""
        if self.socket is None:
            return os.write(self.descriptor, data)
        sent: int = self.socket.send(data, socket.MSG_DONTWAIT)
        return sent


class Outlet:
    """What is to be written to one descriptor, in its order. Its methods may be called in any thread."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._follows = descriptor in _STANDARD
        self._file: _File | None = None
        self._look_at = 0.0
        """When to look whether the descriptor is of another file by now, in `time.monotonic()` seconds."""
        self._lock = _rlock()
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._full = False
        self._busy = False
        """Whether the thread writes something, which is not among those that wait any more."""
        self._wake: Any = None
        """Held until the thread has something to do; None if there is no thread."""
        self._closed = False
        self._partial = self._torn = False
        """Whether the last record is written in part so far; and whether its rest was dropped."""
        self.dropped = 0
        """Records that were not written, or not whole."""
        self._reported = 0
        self._why = ""
        with contextlib.suppress(OSError):
            self._file = _File(descriptor)
        _OUTLETS.add(self)

    def __repr__(self) -> str:
        return f"<Outlet to {self._descriptor}: {len(self._waiting)} wait, {self.dropped} dropped>"

    @property
    def idle(self) -> bool:
        """Whether all is written."""
        return not (self._waiting or self._busy)

    def write(self, record: bytes) -> None:
        """Write a record, or keep it to be written. Never waits, and raises nothing."""
        with self._lock:
            if not (self._waiting or self._busy):
                record = self._write_at_once(record)
            if record:
                self._keep(record)

    def close(self) -> None:
        """Close the descriptor as soon as all is written."""
        with self._lock:
            self._closed = True
            if self._wake is not None:
                self._awaken()
            elif self.idle:
                self._end()

    def drain(self, until: float) -> None:
        """Wait until all is written, up to this moment in `time.monotonic()` seconds. It blocks the event loop."""
        with self._lock:
            if self._waiting:
                self._awaken()
        while not self.idle and monotonic() < until:
            _sleep(0.002)

    def forget(self) -> None:
        """Leave what waits to the parent, in a process that has just been forked. The thread is the parent's."""
        self._lock = _rlock()
        self._waiting.clear()
        self._bytes, self._busy, self._full, self._wake = 0, False, False, None

    # In the thread of the caller, with the lock.

    def _write_at_once(self, record: bytes) -> bytes:
        """Write what the descriptor takes now, and return the rest."""
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
            self._fail(1, error)
        return b""

    def _keep(self, record: bytes) -> None:
        if self._is_full(len(record)):
            self._drop(1, "the reader is too slow, or has stopped")
            return
        if self.dropped != self._reported:
            self._append(self._preface())
        self._append(record)
        self._awaken()

    def _is_full(self, more: int) -> bool:
        """Return whether a record must be dropped: from the bound on until half of what waits is written."""
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
            # Where the system allows no more threads, this is tried again with the next record.
            with contextlib.suppress(RuntimeError):
                _start_thread(self._deliver_all, (wake,))
                self._wake = wake
        elif self._wake.locked():
            self._wake.release()

    # In any thread.

    def _preface(self) -> bytes:
        """Return what comes before the next record: the end of a torn line, and the number of records dropped."""
        if self.dropped == self._reported:
            return self._new_line()
        self._reported = self.dropped
        text = f"intralb_gevent: records of the log were dropped, {self.dropped} in all: {self._why}\n"
        return self._new_line() + text.encode()

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
        """Return the file behind the descriptor, which is another one after a `dup2()`; None if it is closed."""
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

    # In the native thread.

    def _deliver_all(self, wake: Any) -> None:
        failed = False
        while not (self._closed and self.idle):
            while batch := self._take(failed):
                failed = not self._delivered(*batch)
            if not self._closed:
                wake.acquire()
        self._end()

    def _take(self, failed: bool) -> tuple[bytes, int] | None:
        """Take records that wait, or a line about those that were dropped, unless the last attempt has failed."""
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
        """Write, however long it takes; return False if it fails."""
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
"""How many records were dropped by outlets that are closed."""

_BY_STREAM: Final[weakref.WeakKeyDictionary[Any, Outlet]] = weakref.WeakKeyDictionary()


def outlet_of(stream: Any) -> Outlet | None:
    """Return the outlet for the descriptor of a text file, the same for the same file; None for any other object."""
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
    """Return how many records of the log this process could not write."""
    return sum(outlet.dropped for outlet in list(_OUTLETS)) + sum(_GONE)


def drain(seconds: float) -> None:
    """Wait until all records are written, at most so long. It blocks the event loop: for the end of the process."""
    until = monotonic() + seconds
    for outlet in list(_OUTLETS):
        outlet.drain(until)


def _forget() -> None:
    for outlet in list(_OUTLETS):
        outlet.forget()


# Registered before the functions of the application, and so called after them.
atexit.register(drain, DRAIN_SECONDS)
os.register_at_fork(after_in_child=_forget)
