"""Ambiguous requests, for which two parsers can find different ends; the cases follow RFC 9112.

Each contains a second request, `/inner`, in bytes that at least one parser treats as the body. `/inner` must never
run.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_INNER: Final = b"GET /inner/%b HTTP/1.1\r\nHost: x\r\n\r\n"
_LAST_CHUNK: Final = b"0\r\n\r\n"


@dataclass(frozen=True)
class Ambiguous:
    """An ambiguous request, with the data that follows it."""

    title: str
    data: bytes
    method: str = "POST"
    is_body: bool = True
    """True if the inner request is part of the body by every reading of the standard."""


_LENGTHS: Final = (
    "+{}", "-{}", "0x{:x}", "{0}, {0}", "{0},{0}", "{}, 5", "5, {}", "{};", "{}.0", "{}e0", '"{}"', "{} {}",
    "00000000000000000000000{}", "{}\x0b", "\x0b{}", "{}\x0c", "{}\x00", "\xb9{}", "{}_0", "_{}",
    "1844674407370955161{}", "", " ", "a", "{}\r", "\r{}", "{}\t5",
)  # fmt: skip
"""Format strings for header fields with a length; the first {} is the correct length."""
_LENGTH_NAMES: Final = (
    "Content-Length ", "Content-Length\t", " Content-Length", "\tContent-Length", "Content_Length",
    "Content-Length\x00", "Content-Length\x0b", "\x00Content-Length", "Content Length", "\xa0Content-Length",
    "X: y\nContent-Length", "X: y\rContent-Length", "X:\r\n Content-Length",
)  # fmt: skip
_CODINGS: Final = (
    "chunked", "Chunked", "CHUNKED", "xchunked", "chunkedx", "chunked, identity", "identity, chunked",
    "identity", "gzip, chunked", "chunked, chunked", "chunked,chunked", ",chunked", "chunked,", ", chunked ,",
    "chunked;q=1", "chunked ; x", '"chunked"', "'chunked'", "\x0bchunked", "chunked\x0b", "\x0cchunked",
    "chunked\x00", "\x00chunked", "chun\x00ked", "\tchunked", "chunked\t", " chunked ", "\r\n chunked",
    "\r\n\tchunked", "identity\r\n , chunked", "chunked\r\n ", "\n chunked", "chunked\r", "\rchunked",
    "\xa0chunked", "chunk", "chunk ed", "", "chunked\r\nTransfer-Encoding: identity",
    "identity\r\nTransfer-Encoding: chunked", "x\r\nTransfer-Encoding: chunked",
    "chunked\r\nTransfer-Encoding: chunked", "chun\xe2\x84\xaaed", "latin-1",
)  # fmt: skip
_CODING_NAMES: Final = (
    "Transfer-Encoding ", "Transfer-Encoding\t", " Transfer-Encoding", "\tTransfer-Encoding",
    "Transfer_Encoding", "TRANSFER-ENCODING", "Transfer-Encoding\x00", "Transfer-Encoding\x0b",
    "Transfer Encoding", "\x00Transfer-Encoding", "X: y\nTransfer-Encoding", "X: y\rTransfer-Encoding",
    "X:\r\n Transfer-Encoding", "X: y\r\n\rTransfer-Encoding", "\xa0Transfer-Encoding", "Transfer-Encoding:",
    "X\r\nTransfer-Encoding", ":\r\nTransfer-Encoding",
)  # fmt: skip
_CHUNK_HEADS: Final = (
    b"0x%x\r\n", b"+%x\r\n", b"-%x\r\n", b"%x\n", b"%x\r", b"%x \r\n", b" %x\r\n", b"\t%x\r\n", b"%x\t\r\n",
    b"%x;\n", b"%x;a\n", b"%x;a=b\nc\r\n", b'%x;a="\n"\r\n', b'%x;a="\r\n"\r\n', b"%x;\r\r\n", b"%x\x00\r\n",
    b"%x,\r\n", b"%x.\r\n", b"%x_0\r\n", b"1000000000000000%02x\r\n", b"10000000000000000%02x\r\n", b"%xh\r\n",
    b"\r\n%x\r\n", b"\n%x\r\n", b";%x\r\n", b"\r\n", b"%x\r\n\n",
)  # fmt: skip
_LAST_CHUNKS: Final = (
    b"0\n\n", b"0\r\n\n", b"0\n\r\n", b"0\r\r", b"0x0\r\n\r\n", b"-0\r\n\r\n", b"0 \n\r\n", b"0;\n\r\n",
    b"0\r\nX\r\n\r\n", b"0\r\nX y\r\n\r\n", b"0\r\n X: y\r\n\r\n", b"0\r\nX: y\n\r\n", b"0\r\nX: y\r\n\n",
    b"0\r\nX : y\r\n\r\n", b"0\r\n: y\r\n\r\n", b"0\r\nX: \x00\r\n\r\n", b"\r\n\r\n", b"g\r\n\r\n",
)  # fmt: skip
_CHUNK_ENDS: Final = (b"", b"\n", b"\r", b"XX", b"\n\n", b"\r\r", b"\n\r", b" \r\n", b"\r\n\r\n", b"\x00\r\n")
_TRAILERS: Final = (
    b"", b"Content-Length: 40\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: y\r\n", b"Connection: close\r\n",
    b"Upgrade: h2c\r\n",
)  # fmt: skip
_PLAIN: Final = "POST {} HTTP/1.1\r\nHost: x\r\n"
_HEADS: Final = {
    "two hosts": "POST {} HTTP/1.1\r\nHost: x\r\nHost: y\r\n",
    "a host in the target": "POST http://y{} HTTP/1.1\r\nHost: x\r\n",
    "another scheme": "POST https://x{} HTTP/1.1\r\nHost: x\r\n",
    "an authority with a user": "POST http://u@x{} HTTP/1.1\r\nHost: x\r\n",
    "a path like an authority": "POST //y{} HTTP/1.1\r\nHost: x\r\n",
    "a fragment": "POST {}#/inner HTTP/1.1\r\nHost: x\r\n",
    "a line feed in the request line": "POST {} HTTP/1.1\nHost: x\r\n",
    "only line feeds": "POST {} HTTP/1.1\nHost: x\n",
    "only carriage returns": "POST {} HTTP/1.1\rHost: x\r",
    "two spaces": "POST  {}  HTTP/1.1\r\nHost: x\r\n",
    "tabs": "POST\t{}\tHTTP/1.1\r\nHost: x\r\n",
    "a space in the target": "POST {} /inner HTTP/1.1\r\nHost: x\r\n",
    "line ends first": "\r\n\r\nPOST {} HTTP/1.1\r\nHost: x\r\n",
    "line feeds first": "\n\nPOST {} HTTP/1.1\r\nHost: x\r\n",
    "a space first": " POST {} HTTP/1.1\r\nHost: x\r\n",
    "a first field that is folded": "POST {} HTTP/1.1\r\n X: y\r\nHost: x\r\n",
    "HTTP/1.0": "POST {} HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n",
    "HTTP/1.2": "POST {} HTTP/1.2\r\nHost: x\r\n",
    "HTTP/01.1": "POST {} HTTP/01.1\r\nHost: x\r\n",
    "HTTP/1.1 in small letters": "POST {} http/1.1\r\nHost: x\r\n",
    "a connection field that names the length": _PLAIN + "Connection: keep-alive, Content-Length\r\n",
    "a connection field that names the coding": _PLAIN + "Connection: keep-alive, Transfer-Encoding\r\n",
    "an offer of h2c": _PLAIN + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
    "an offer of a WebSocket": _PLAIN + "Connection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    "expect": "POST {} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n",
    "expect something else": "POST {} HTTP/1.1\r\nHost: x\r\nExpect: y 100-continue\r\n",
    "GET": "GET {} HTTP/1.1\r\nHost: x\r\n",
    "HEAD": "HEAD {} HTTP/1.1\r\nHost: x\r\n",
    "OPTIONS": "OPTIONS {} HTTP/1.1\r\nHost: x\r\n",
    "DELETE": "DELETE {} HTTP/1.1\r\nHost: x\r\n",
    "TRACE": "TRACE {} HTTP/1.1\r\nHost: x\r\n",
    "CONNECT": "CONNECT {} HTTP/1.1\r\nHost: x\r\n",
    "post in small letters": "post {} HTTP/1.1\r\nHost: x\r\n",
    "a field without a colon": "POST {} HTTP/1.1\r\nHost: x\r\nX\r\n",
    "a field without a name": "POST {} HTTP/1.1\r\nHost: x\r\n: y\r\n",
    "an override of the method": "POST {} HTTP/1.1\r\nHost: x\r\nX-HTTP-Method-Override: GET\r\n",
}


def corpus(name: str) -> Iterator[Ambiguous]:
    """Yield all requests of the corpus, with `name` in their paths."""
    inner = _INNER % name.encode()
    yield from _lengths(name, inner)
    yield from _codings(name, inner)
    yield from _chunks(name, inner)
    for title, written in _HEADS.items():
        method = written.split()[0]
        yield Ambiguous(f"{title}, with a length", _head(written, name, _length(len(inner))) + inner, method)
        fields = "Transfer-Encoding: chunked\r\n"
        yield Ambiguous(f"{title}, in chunks", _head(written, name, fields) + _chunk(inner) + _LAST_CHUNK, method)


def mutated(ambiguous: Ambiguous, chance: random.Random) -> Ambiguous:
    """Return a copy with a few bytes changed, in which `/inner` need not be part of the body."""
    data = bytearray(ambiguous.data)
    for _ in range(chance.randint(1, 3)):
        place = chance.randrange(len(data))
        special = chance.choice([b"\r", b"\n", b"\r\n", b" ", b"\t", b":", b";", b",", b"0", b"\x00", b"\x0b", b"\xff"])
        end = place + chance.choice([0, 0, 1, 1, 2])
        data[place:end] = chance.choice([special, special, b""])
    return Ambiguous(f"{ambiguous.title}, mutated", bytes(data), ambiguous.method, is_body=False)


def _lengths(name: str, inner: bytes) -> Iterator[Ambiguous]:
    for written in _LENGTHS:
        fields = f"Content-Length: {written.format(len(inner), len(inner))}\r\n"
        yield Ambiguous(f"Content-Length {written!r}", _head(_PLAIN, name, fields) + inner)
        for other in ("Content-Length: 0\r\n", _length(len(inner))):
            both = fields + other, other + fields
            for each in both:
                yield Ambiguous(f"{each!r}", _head(_PLAIN, name, each) + inner)
    for written in _LENGTH_NAMES:
        for other in ("", "Content-Length: 0\r\n"):
            fields = other + f"{written}: {len(inner)}\r\n"
            yield Ambiguous(f"{fields!r}", _head(_PLAIN, name, fields) + inner, is_body=not _is_another(written))


def _is_another(written: str) -> bool:
    """Return whether a field has an unknown name; the data after the head is then a separate request."""
    return written in ("Content_Length", "Transfer_Encoding")


def _codings(name: str, inner: bytes) -> Iterator[Ambiguous]:
    fields = [(f"Transfer-Encoding: {coding}\r\n", True) for coding in _CODINGS]
    fields += [(f"{field}: chunked\r\n", not _is_another(field)) for field in _CODING_NAMES]
    for coding, is_body in fields:
        # In `behind`, only a parser that uses the length takes `/inner` as body; in `data`, only one that uses chunks.
        behind = _LAST_CHUNK + inner
        begun = b"%x\r\n" % len(inner)
        for length in (_length(len(behind)), f"content-length: {len(behind)}\r\n"):
            for both in (coding + length, length + coding):
                yield Ambiguous(f"{both!r}, behind the last chunk", _head(_PLAIN, name, both) + behind)
        for both in (coding + _length(len(begun)), _length(len(begun)) + coding):
            data = _head(_PLAIN, name, both) + _chunk(inner) + _LAST_CHUNK
            yield Ambiguous(f"{both!r}, in a chunk", data, is_body=is_body)
        yield Ambiguous(f"{coding!r} alone", _head(_PLAIN, name, coding) + _chunk(inner) + _LAST_CHUNK)


def _chunks(name: str, inner: bytes) -> Iterator[Ambiguous]:
    head = _head(_PLAIN, name, "Transfer-Encoding: chunked\r\n")
    for written in _CHUNK_HEADS:
        size = _sized(written, len(inner))
        yield Ambiguous(f"chunk {written!r}", head + size + inner + b"\r\n" + _LAST_CHUNK)
        # A parser might count the chunk's size from a different line end, or ignore the size.
        yield Ambiguous(f"chunk of two, {written!r}", head + _sized(written, 2) + b"xx\r\n" + _LAST_CHUNK + inner)
    for written in _LAST_CHUNKS:
        yield Ambiguous(f"last chunk {written!r}", head + b"2\r\nxx\r\n" + written + inner)
    for written in _CHUNK_ENDS:
        yield Ambiguous(f"chunk that ends {written!r}", head + b"2\r\nxx" + written + _LAST_CHUNK + inner)
    for written in _TRAILERS:
        # The trailer section has not ended, so the inner request is part of the trailer.
        yield Ambiguous(f"trailer {written!r}", head + b"2\r\nxx\r\n0\r\n" + written + inner)


def _sized(written: bytes, size: int) -> bytes:
    return written % (size,) if b"%" in written else written


def _head(written: str, name: str, fields: str) -> bytes:
    line_end = "\n" if written.endswith("Host: x\n") else "\r" if written.endswith("Host: x\r") else "\r\n"
    return (written.format(f"/outer/{name}") + fields + line_end).encode("latin-1")


def _length(number: int) -> str:
    return f"Content-Length: {number}\r\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
