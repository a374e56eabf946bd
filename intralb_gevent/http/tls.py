"""Serve TLS without a greenlet per connection, through a non-blocking socket that encrypts and decrypts."""

from __future__ import annotations

import errno
import ssl
from collections.abc import Iterable, Iterator
from contextlib import suppress
from socket import MSG_PEEK, SHUT_RD, SHUT_RDWR
from typing import Any, Final

from ..hub.forks import FORKS
from .certificates import client_certificate
from .outbox import OutputBudget

__all__ = ["TLS_RECEIVE_BYTES", "NotTls", "TlsSocket"]

TLS_RECEIVE_BYTES: Final = 64 * 1024
"""Maximum bytes of ciphertext per read from a TLS socket."""

RECORD_BYTES: Final = 16 * 1024
"""Maximum bytes of a TLS record. As a memory BIO never shrinks, a write to a BIO has at most this size."""

_RECORD_HEADER_BYTES: Final = 5
"""Size of a record's type, version and length; the length is in the last two bytes."""

CHUNK_BYTES: Final = 64 * 1024
"""Maximum bytes encrypted before the socket accepts any of them; bounds the cost of a client that does not read. Once
the budget for unsent data is used up, `RECORD_BYTES` are the maximum."""

MAX_BYTES_PER_CALL: Final = 256 * 1024
"""Maximum bytes encrypted in one call, so that the hub can handle other connections."""

KEPT_BYTES: Final = 2 * CHUNK_BYTES
"""Maximum unsent bytes of ciphertext after a reply of the TLS protocol; above this limit, the connection fails."""

Data = bytes | bytearray | memoryview


class NotTls(ConnectionAbortedError):
    """Raised if the client's first byte is a letter, which no TLS record begins with; the data is probably HTTP."""


class TlsSocket:
    """The server's side of a TLS connection over a raw non-blocking socket, with the methods of that socket.

    No method waits. Methods raise BlockingIOError if the socket must first become readable or writable, and
    ConnectionError if TLS has failed. Methods pass on all other errors of the socket, and any exception from a callback
    of the SSL context. Ciphertext that the socket does not accept is buffered and sent by the next call. `send` never
    reports all bytes as sent while ciphertext is unsent. So a caller that sends the remaining bytes again, as with any
    socket, need not know about the buffered ciphertext.
    """

    __slots__ = (
        "_asks_for_certificate",
        "_budget",
        "_byte_left",
        "_environ",
        "_established",
        "_failure",
        "_first",
        "_head",
        "_incoming",
        "_input_ended",
        "_missing",
        "_outgoing",
        "_output_ended",
        "_socket",
        "_tls",
        "_uncounted",
        "_unsent",
    )

    def __init__(self, sock: Any, context: ssl.SSLContext, budget: OutputBudget) -> None:
        self._socket = sock
        self._budget = budget
        """Counts the ciphertext that the socket has not accepted."""
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._asks_for_certificate = context.verify_mode != ssl.CERT_NONE
        self._environ: dict[str, str] = {}
        self._first = b""
        """The first byte that the client has sent; empty until it arrives."""
        self._established = False
        self._head = b""
        """The first bytes of the last received record, if its header is incomplete."""
        self._missing = 0
        """Number of bytes of the last received record that have not arrived yet, if its header is complete."""
        self._input_ended = False
        self._output_ended = False
        self._failure: str | None = None
        self._unsent = b""
        """Ciphertext that the socket has not accepted yet."""
        self._byte_left = False
        """True while the last byte that was received is still in the socket's buffer, too."""
        self._uncounted = 0
        """Number of bytes of plaintext that are encrypted but not yet reported as sent by `send`."""

    def __repr__(self) -> str:
        return f"<TlsSocket {self.fileno()}: {self._state()}, {len(self._unsent)} bytes of ciphertext unsent>"

    def _state(self) -> str:
        if self.fileno() < 0:
            return "closed"
        if self._failure is not None:
            return f"failed ({self._failure})"
        if not self._established:
            return "in its handshake"
        ended = [name for name, over in (("input", self._input_ended), ("output", self._output_ended)) if over]
        return " ".join([self.version() or "", *ended, "ended" if ended else "open"])

    def fileno(self) -> int:
        """Return the file descriptor, or -1 if the socket is closed."""
        return int(self._socket.fileno())

    @property
    def _sock(self) -> Any:
        """The plain socket; the attribute has the same name as in gevent's sockets."""
        return self._socket

    def getsockopt(self, *option: int) -> int | bytes:
        """Return an option of the underlying socket."""
        return self._socket.getsockopt(*option)  # type: ignore[no-any-return]  # the socket may be of any kind

    def version(self) -> str | None:
        """Return the protocol, such as `TLSv1.3`, or None before the handshake is complete."""
        return self._tls.version()

    @property
    def plain(self) -> Any:
        """The underlying socket, for a client that does not speak TLS."""
        return self._socket

    @property
    def handshake_failure(self) -> str:
        """OpenSSL's reason why the handshake has failed; empty if it has not, or if the client does not use TLS."""
        if self._established or self._failure is None or self._first.isalpha():
            return ""
        return self._failure.lower().replace("_", " ")

    @property
    def environ(self) -> dict[str, str]:
        """The TLS data for the environ of each request, with the names of Apache's mod_ssl."""
        if not self._environ:
            self._environ = {
                "wsgi.url_scheme": "https",
                "HTTPS": "on",
                "SSL_PROTOCOL": self.version() or "",
                "SSL_CIPHER": self.cipher() or "",
            }
            if self._asks_for_certificate:
                self._environ.update(client_certificate(self._tls))
        return self._environ

    def cipher(self) -> str | None:
        """Return OpenSSL's name for the cipher, or None before the handshake is complete."""
        cipher = self._tls.cipher()
        return cipher[0] if cipher else None

    # Reading.

    @property
    def in_record(self) -> bool:
        """True after the handshake while a part of a record has arrived, and perhaps the rest is on its way."""
        # A hello of SSL 2 has another form, so the ends of the records behind it are not known.
        return self._established and self._first < b"\x80" and bool(self._head or self._missing)

    def _find_end(self, received: bytes) -> None:
        """Determine how much of the last record in the ciphertext is missing."""
        at = self._missing
        while at < len(received):
            wanted = _RECORD_HEADER_BYTES - len(self._head)
            self._head += received[at : at + wanted]
            if len(self._head) < _RECORD_HEADER_BYTES:
                at = len(received)
                break
            at += wanted + int.from_bytes(self._head[-2:], "big")
            self._head = b""
        self._missing = at - len(received)

    def recv(self, size: int, stays_readable: bool = False) -> bytes:
        """Read up to `size` bytes of ciphertext; return the plaintext, or b"" at the end of the input.

        With `stays_readable`, the socket is readable until `take_left_byte` is called after plaintext was returned.
        """
        if self._input_ended:
            self._raise_failure()
            return b""
        if self._unsent:
            self._reply()
        received = self._receive(size, stays_readable)
        self._first = self._first or received[:1]
        self._find_end(received)
        plaintext = self._decrypt(received)
        if self._failure is not None and not self._established and self._first.isalpha():
            raise NotTls(errno.ECONNABORTED, "TLS failed: the client does not speak it")
        self._reply()
        if plaintext:
            if self._input_ended:
                self._stay_readable()  # type: ignore[unreachable]  # decrypting may have reached the end of the input
            return plaintext
        self._raise_failure()
        if self._input_ended:
            return b""  # type: ignore[unreachable]  # decrypting may have reached the end of the input
        self.take_left_byte()
        raise BlockingIOError(errno.EAGAIN, "no complete TLS record has arrived yet")

    def _receive(self, size: int, leaves_byte: bool) -> bytes:
        """Receive ciphertext; with `leaves_byte`, leave its last byte in the socket's buffer, too."""
        if not leaves_byte:
            return self._socket.recv(size)  # type: ignore[no-any-return]  # the socket may be of any kind
        received: bytes = self._socket.recv(size, MSG_PEEK)
        self._byte_left = len(received) > 0
        if len(received) > 1:
            self._socket.recv(len(received) - 1)
        return received

    def take_left_byte(self) -> None:
        """Remove the byte that `recv` has left, so that the socket is readable only if further data has arrived."""
        if self._byte_left:
            self._byte_left = False
            with suppress(OSError):
                self._socket.recv(1)

    def _decrypt(self, received: bytes) -> bytes:
        if not received:
            self._input_ended = True
        plaintext: list[bytes] = []
        view = memoryview(received)
        for start in range(0, len(view), RECORD_BYTES):
            if not self._input_ended:
                self._incoming.write(view[start : start + RECORD_BYTES])
                plaintext.extend(self._records())
        return b"".join(plaintext)

    def _records(self) -> Iterator[bytes]:
        """Continue the handshake, and yield the plaintext of all complete records."""
        try:
            if not self._established:
                self._tls.do_handshake()
                self._established = True
            while record := self._tls.read(RECORD_BYTES):
                yield record
            self._input_ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self._input_ended = True
        except ssl.SSLError as error:
            self._fail(error)

    def _reply(self) -> None:
        """Send the replies of the TLS protocol itself. Ignore errors, because the next read reports them."""
        with suppress(OSError):
            self._flush()
        if len(self._unsent) > KEPT_BYTES:
            self._input_ended = True
            self._failure = "the client causes TLS replies and does not read them"

    def _stay_readable(self) -> None:
        """Keep the socket readable, so that the hub calls `recv` again and sees the end of the input."""
        with suppress(OSError):
            self._socket.shutdown(SHUT_RD)

    # Writing.

    def send(self, data: Data) -> int:
        """Encrypt and send bytes; return how many were sent, fewer than all if the socket is full."""
        self._require_output()
        view = memoryview(data)
        self._flush()
        gone = self._count(len(view))
        enough = min(len(view), MAX_BYTES_PER_CALL)
        chunk = CHUNK_BYTES if self._budget.in_memory < self._budget.memory_limit else RECORD_BYTES
        while gone < enough and not self._unsent:
            self._encrypt(view[gone : gone + chunk])
            self._flush()
            gone += self._count(len(view) - gone)
        if view and not gone:
            raise BlockingIOError(errno.EAGAIN, "the socket is full")
        return gone

    def sendmsg(self, parts: Iterable[Data]) -> int:
        """Send the parts in order; return the total number of bytes sent."""
        gone = 0
        for part in parts:
            try:
                sent = self.send(part)
            except BlockingIOError:
                if gone:
                    break
                raise
            gone += sent
            if sent < len(part):
                break
        return gone

    def _require_output(self) -> None:
        self._raise_failure()
        if self._output_ended:
            raise BrokenPipeError(errno.EPIPE, "this side has ended its output")
        if not self._established:
            # Do not raise BlockingIOError: if the socket is writable, its watcher would spin.
            raise ConnectionAbortedError(errno.ECONNABORTED, "the client has not finished its TLS handshake")

    def _encrypt(self, plaintext: memoryview) -> None:
        """Encrypt all bytes in records no larger than the client has requested."""
        records: list[bytes] = []
        done = 0
        try:
            while done < len(plaintext):
                done += self._tls.write(plaintext[done : done + RECORD_BYTES])
                records.append(self._outgoing.read())
        except ssl.SSLError as error:
            self._fail(error)
            self._raise_failure()
        self._keep(b"".join(records))
        self._uncounted += done

    def _keep(self, ciphertext: bytes) -> None:
        """Replace the unsent ciphertext, and count its memory."""
        self._budget.in_memory += len(ciphertext) - len(self._unsent)
        self._unsent = ciphertext

    def _count(self, most: int) -> int:
        """Return how many bytes of plaintext to report as sent: never all of them while ciphertext is unsent."""
        gone = min(self._uncounted - min(self._uncounted, len(self._unsent)), most)
        self._uncounted -= gone
        return gone

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._keep(self._unsent + self._outgoing.read())
        if self._unsent:
            try:
                sent = self._socket.send(self._unsent)
            except (BlockingIOError, InterruptedError):
                return
            self._keep(self._unsent[sent:])

    # Ending.

    def shutdown(self, how: int) -> None:
        """End the input, the output, or both, as `socket.shutdown` does; the output ends with a close_notify."""
        if how != SHUT_RD:
            self._end_output()
            self._flush()
        if how == SHUT_RD or not self._unsent:
            self._socket.shutdown(how)

    def close(self) -> None:
        """Close the socket. A close_notify is sent only after all data; its absence shows that data is missing."""
        self._finish()
        self._keep(b"")
        self._socket.close()

    def detach(self) -> int:
        """Send what `close` sends; return the descriptor, which the caller must close."""
        self._finish()
        self._keep(b"")
        return int(self._socket.detach())

    def _finish(self) -> None:
        if self.fileno() >= 0:
            with suppress(OSError):
                if not self._uncounted:
                    self._end_output()
                self._flush()
                if FORKS.made:
                    # A forked process may have a copy of the socket, so close() alone would not end the connection.
                    self._socket.shutdown(SHUT_RDWR)
            # With unread data in the socket, close() would reset the connection.
            self.take_left_byte()

    def leave_unfinished(self) -> None:
        """Send no more data and no close_notify, so that the client sees that the data is incomplete."""
        self._output_ended = True

    def _end_output(self) -> None:
        if self._established and not self._output_ended and self._failure is None:
            # unwrap() writes the server's close_notify to the BIO, then raises, as the client's has not arrived.
            with suppress(ssl.SSLError):
                self._tls.unwrap()
        self._output_ended = True

    def _fail(self, error: ssl.SSLError) -> None:
        self._input_ended = True
        # Only the error of an invalid certificate has a message that states what is wrong with the certificate.
        why = getattr(error, "verify_message", "")
        self._failure = f"{error.reason or error}{f' ({why})' if why else ''}"

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise ConnectionAbortedError(errno.ECONNABORTED, f"TLS failed: {self._failure}")
