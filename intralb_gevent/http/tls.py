"""TLS without a greenlet for each connection: a socket that encrypts, for callers that never wait.

Decides how ciphertext and plaintext stand for each other on a non-blocking socket, and which context a server's TLS
arguments make. It must not know HTTP, nor when a socket can be read or written to.
"""

from __future__ import annotations

import errno
import os
import ssl
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from socket import SHUT_RD, SHUT_RDWR
from typing import Any, Final

from ..errors import OptionError
from ..pool.forks import FORKS
from .certificates import client_certificate

__all__ = ["NotTls", "TlsSocket", "tls_context"]

RECORD_BYTES: Final = 16 * 1024
"""What one TLS record holds at most. A memory BIO keeps the room it once needed, so it is given no more at a time."""

CHUNK_BYTES: Final = 64 * 1024
"""Encrypted before it is known whether the socket takes it: what a client that does not read costs us."""

TURN_BYTES: Final = 256 * 1024
"""Encrypted in one call, so that the hub can look after others."""

KEPT_BYTES: Final = 2 * CHUNK_BYTES
"""Of ciphertext that the socket did not take; a client that makes us keep more only asks and never reads."""

Data = bytes | bytearray | memoryview


class NotTls(ConnectionAbortedError):
    """A client has begun with a letter, and so with text: no TLS record begins with one. HTTP most likely."""


class TlsSocket:
    """The server's side of a TLS connection over a raw non-blocking socket, to be used like that socket.

    Never waits, and raises OSErrors only: BlockingIOError where the socket has to become readable or writable first, a
    ConnectionError where TLS has failed. (A callback of the context's may raise what it likes.) What cannot be sent at
    once is kept, and goes out with the next call. `send` never counts all bytes while ciphertext is left, so a caller
    that offers the uncounted ones again, as with any socket, needs to know nothing of this.
    """

    __slots__ = (
        "_asks_for_certificate",
        "_environ",
        "_established",
        "_failure",
        "_first",
        "_incoming",
        "_input_ended",
        "_outgoing",
        "_output_ended",
        "_socket",
        "_tls",
        "_uncounted",
        "_unsent",
    )

    def __init__(self, sock: Any, context: ssl.SSLContext) -> None:
        self._socket = sock
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._asks_for_certificate = context.verify_mode != ssl.CERT_NONE
        self._environ: dict[str, str] = {}
        self._first = b""
        """What a client has begun with."""
        self._established = False
        self._input_ended = False
        self._output_ended = False
        self._failure: str | None = None
        self._unsent = b""
        """Ciphertext."""
        self._uncounted = 0
        """Bytes of plaintext that are encrypted, and that `send` has not counted yet."""

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
        """Return the descriptor to watch, or -1 when the socket is closed."""
        return int(self._socket.fileno())

    @property
    def _sock(self) -> Any:
        """The plain socket, under the name that it has in gevent's sockets."""
        return self._socket

    def getsockopt(self, *option: int) -> int | bytes:
        """Return an option of the socket beneath."""
        return self._socket.getsockopt(*option)  # type: ignore[no-any-return]  # the socket may be of any kind

    def version(self) -> str | None:
        """Return the protocol, such as `TLSv1.3`, or None before the handshake is over."""
        return self._tls.version()

    @property
    def plain(self) -> Any:
        """The socket beneath, for a client that does not speak TLS."""
        return self._socket

    @property
    def environ(self) -> dict[str, str]:
        """What the environ of each request over this socket has besides; the names are those of Apache's mod_ssl."""
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
        """Return OpenSSL's name of the cipher, or None before the handshake is over."""
        cipher = self._tls.cipher()
        return cipher[0] if cipher else None

    # Reading.

    def recv(self, size: int) -> bytes:
        """Read `size` bytes of ciphertext at most and return all their plaintext, b"" when the client has ended it."""
        if self._input_ended:
            self._raise_failure()
            return b""
        if self._unsent:
            self._reply()
        received = self._socket.recv(size)
        self._first = self._first or received[:1]
        plaintext = self._decrypt(received)
        if self._failure is not None and not self._established and self._first.isalpha():
            raise NotTls(errno.ECONNABORTED, "TLS failed: the client does not speak it")
        self._reply()
        if plaintext:
            if self._input_ended:
                self._stay_readable()  # type: ignore[unreachable]  # decrypting may have come upon the end
            return plaintext
        self._raise_failure()
        if self._input_ended:
            return b""  # type: ignore[unreachable]  # as above
        raise BlockingIOError(errno.EAGAIN, "no whole TLS record of the client's is there yet")

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
        """Shake hands, and give what can be decrypted of the ciphertext that is there."""
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
        """Send what TLS itself had to answer; that it cannot be sent will show when the next bytes are read."""
        with suppress(OSError):
            self._flush()
        if len(self._unsent) > KEPT_BYTES:
            self._input_ended = True
            self._failure = "the client makes TLS answer and does not read"

    def _stay_readable(self) -> None:
        """See to it that the hub calls for another `recv`, which then tells that the input has ended."""
        with suppress(OSError):
            self._socket.shutdown(SHUT_RD)

    # Writing.

    def send(self, data: Data) -> int:
        """Encrypt and send; return how much is gone, which is less than all when the socket is full."""
        self._require_output()
        view = memoryview(data)
        self._flush()
        gone = self._count(len(view))
        enough = min(len(view), TURN_BYTES)
        while gone < enough and not self._unsent:
            self._encrypt(view[gone : gone + CHUNK_BYTES])
            self._flush()
            gone += self._count(len(view) - gone)
        if view and not gone:
            raise BlockingIOError(errno.EAGAIN, "the socket is full")
        return gone

    def sendmsg(self, parts: Iterable[Data]) -> int:
        """Send the parts one after the other; return how much is gone of all."""
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
            # No BlockingIOError: the socket may well be writable, and its watcher would spin.
            raise ConnectionAbortedError(errno.ECONNABORTED, "the client has not finished its TLS handshake")

    def _encrypt(self, plaintext: memoryview) -> None:
        """Encrypt all of it; the records are as long as the client has asked for."""
        records: list[bytes] = []
        done = 0
        try:
            while done < len(plaintext):
                done += self._tls.write(plaintext[done : done + RECORD_BYTES])
                records.append(self._outgoing.read())
        except ssl.SSLError as error:
            self._fail(error)
            self._raise_failure()
        self._unsent = b"".join(records)
        self._uncounted += done

    def _count(self, most: int) -> int:
        """Count plaintext as gone, but never all of it while some ciphertext is left."""
        gone = min(self._uncounted - min(self._uncounted, len(self._unsent)), most)
        self._uncounted -= gone
        return gone

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._unsent += self._outgoing.read()
        if self._unsent:
            try:
                sent = self._socket.send(self._unsent)
            except (BlockingIOError, InterruptedError):
                return
            self._unsent = self._unsent[sent:]

    # Ending.

    def shutdown(self, how: int) -> None:
        """End the output with a close_notify, the input, or both, as `socket.shutdown` does."""
        if how != SHUT_RD:
            self._end_output()
            self._flush()
        if how == SHUT_RD or not self._unsent:
            self._socket.shutdown(how)

    def close(self) -> None:
        """Close the socket, with a close_notify unless something is left unsent: then the client shall notice."""
        if self.fileno() >= 0:
            with suppress(OSError):
                if not self._uncounted:
                    self._end_output()
                self._flush()
                if FORKS.made:
                    # Another process may have a copy of the socket.
                    self._socket.shutdown(SHUT_RDWR)
        self._socket.close()

    def leave_unfinished(self) -> None:
        """Send nothing more, and no close_notify: so the client sees that what it was sent is not complete."""
        self._output_ended = True

    def _end_output(self) -> None:
        if self._established and not self._output_ended and self._failure is None:
            # It says that it wants the client's close_notify too; ours is out by then.
            with suppress(ssl.SSLError):
                self._tls.unwrap()
        self._output_ended = True

    def _fail(self, error: ssl.SSLError) -> None:
        self._input_ended = True
        self._failure = error.reason or str(error)

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise ConnectionAbortedError(errno.ECONNABORTED, f"TLS failed: {self._failure}")


_FILES = ("certfile", "keyfile", "ca_certs")
_MAKING = (*_FILES, "cert_reqs", "ciphers", "ssl_version")
_WITHOUT_EFFECT = ("server_side", "do_handshake_on_connect", "suppress_ragged_eofs")
"""Arguments of gevent's servers that are about blocking sockets; a server can leave them at their defaults."""


class _CalledBack(ssl.SSLObject):
    """What a context's callbacks are given: those of gevent's contexts first ask it for the socket it stands for."""

    def _sslsock(self) -> _CalledBack:
        return self


def tls_context(ssl_args: Mapping[str, Any]) -> ssl.SSLContext:
    """Return the context that the TLS arguments of a gevent server ask for.

    These are `ssl_context`, which is used as it is, or `certfile` (PEM), `keyfile` (default: the key is in `certfile`),
    `ca_certs` and `cert_reqs` (whether clients need a certificate, and whose), `ciphers` and `ssl_version`. Raises
    `OptionError` for others, and for values that no client could be served with.
    """
    given = {name: value for name, value in ssl_args.items() if value is not None}
    _require_allowed(ssl_args, given)
    context = _usable(given["ssl_context"]) if "ssl_context" in given else _made(given)
    if context.sslobject_class is ssl.SSLObject:
        context.sslobject_class = _CalledBack
    return context


def _require_allowed(named: Iterable[str], given: Mapping[str, Any]) -> None:
    known = ("ssl_context", *_MAKING, *_WITHOUT_EFFECT)
    for name in named:
        if name not in known:
            raise OptionError(f"{name}: there is no such argument; those for TLS are {', '.join(known)}")
        if name in _MAKING and name in given and "ssl_context" in given:
            raise OptionError(f"{name}: is not allowed beside ssl_context; set it on that context instead")
    if given.get("server_side", True) is not True:
        raise OptionError(
            f"server_side: {given['server_side']!r} is not allowed; leave it out, a server is always that"
        )


def _usable(context: Any) -> ssl.SSLContext:
    try:
        context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)
    except (AttributeError, TypeError, ValueError, ssl.SSLError):
        raise OptionError(
            f"ssl_context: {context!r} is not allowed; it must be an ssl.SSLContext for servers, such as "
            "ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) after load_cert_chain(certfile, keyfile)"
        ) from None
    return context  # type: ignore[no-any-return]  # it has just made a connection's object


def _made(given: Mapping[str, Any]) -> ssl.SSLContext:
    if "certfile" not in given:
        raise OptionError("certfile: is missing; give the PEM file of the server's certificate, or ssl_context")
    for name in _FILES:
        _require_readable(name, given.get(name))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    _set_version(context, given.get("ssl_version", ssl.PROTOCOL_TLS_SERVER))
    _load_certificate(context, given["certfile"], given.get("keyfile"))
    _set_clients(context, given)
    if "ciphers" in given:
        _set_ciphers(context, given["ciphers"])
    return context


def _require_readable(name: str, path: Any) -> None:
    if path is None:
        return
    try:
        with open(os.fspath(path), "rb"):
            return
    except (OSError, TypeError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is no path"
        raise OptionError(
            f"{name}: {path!r} cannot be read ({why}); name a PEM file that the server's user may read"
        ) from None


def _set_version(context: ssl.SSLContext, version: Any) -> None:
    if version == ssl.PROTOCOL_TLSv1_2:
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    elif version not in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS):
        raise OptionError(
            f"ssl_version: {version!r} is not allowed; it must be PROTOCOL_TLS_SERVER, PROTOCOL_TLS or "
            "PROTOCOL_TLSv1_2; where older clients must be served, give an ssl_context that allows it"
        )


def _load_certificate(context: ssl.SSLContext, certfile: Any, keyfile: Any) -> None:
    def refuse_encrypted_key() -> str:
        raise OptionError(
            f"keyfile: the key in {keyfile or certfile!r} is encrypted; "
            "store it unencrypted, or give an ssl_context that has loaded it with its password"
        )

    try:
        context.load_cert_chain(certfile, keyfile, password=refuse_encrypted_key)
    except ssl.SSLError as error:
        raise OptionError(
            f"certfile, keyfile: {certfile!r} and {keyfile or certfile!r} are no certificate in PEM form and its key "
            f"({error.reason or 'no PEM'}); the certificate comes first, then those that lead to its authority"
        ) from None


def _set_clients(context: ssl.SSLContext, given: Mapping[str, Any]) -> None:
    wanted = given.get("cert_reqs", ssl.CERT_NONE)
    try:
        context.verify_mode = wanted
    except (TypeError, ValueError):
        raise OptionError(
            f"cert_reqs: {wanted!r} is not allowed; it must be ssl.CERT_NONE, CERT_OPTIONAL or CERT_REQUIRED"
        ) from None
    if wanted != ssl.CERT_NONE and "ca_certs" not in given:
        raise OptionError("ca_certs: is missing; with cert_reqs, give the PEM file of the authorities to trust")
    if "ca_certs" in given:
        try:
            context.load_verify_locations(given["ca_certs"])
        except ssl.SSLError as error:
            raise OptionError(
                f"ca_certs: {given['ca_certs']!r} holds no certificates in PEM form ({error.reason or 'no PEM'})"
            ) from None


def _set_ciphers(context: ssl.SSLContext, ciphers: Any) -> None:
    try:
        context.set_ciphers(ciphers)
    except (TypeError, ssl.SSLError):
        raise OptionError(
            f"ciphers: {ciphers!r} is not allowed; it must be a list that `openssl ciphers` understands"
        ) from None
