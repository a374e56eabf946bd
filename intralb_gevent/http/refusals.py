"""The responses to requests that are rejected before an application is called: a status and a fixed text for each rule.

The texts also cover the errors of httptools. No text contains data of a client, so all texts may be logged.
"""

from __future__ import annotations

from typing import Final

from ..policy.cannedresponses import CannedResponse

__all__ = [
    "BAD_AUTHORITY",
    "BAD_CODING",
    "BAD_FORM_OF_TARGET",
    "BAD_HOST",
    "BODY_TOO_LARGE",
    "BODY_TOO_SHORT",
    "CHUNKED_HTTP_1_0",
    "CHUNKS_TOO_SMALL",
    "CONNECT_REFUSED",
    "EMPTY_HOST",
    "ENCRYPTED",
    "FIELDS_TOO_LARGE",
    "FRAGMENT",
    "LENGTH_TOO_LONG",
    "METHOD_TOO_LONG",
    "NO_HOST",
    "NO_ROOM_FOR_BODY",
    "PLAIN_HTTP",
    "REPEATED",
    "TARGET_TOO_LONG",
    "TOO_MANY_LINE_ENDS",
    "TOO_SLOW",
    "UNKNOWN_CODING",
    "UNKNOWN_EXPECTATION",
    "UNKNOWN_VERSION",
    "Refused",
    "refusal_of",
]


class Refused(Exception):
    """Raised in a callback of the parser to reject the request; its argument is the response."""


def _bad(words: str) -> CannedResponse:
    return CannedResponse("400 Bad Request", words)


TOO_SLOW: Final = CannedResponse("408 Request Timeout", "The request did not arrive in time.")
BODY_TOO_LARGE: Final = CannedResponse(
    "413 Content Too Large", "The request's body is larger than this server accepts."
)
TARGET_TOO_LONG: Final = CannedResponse("414 URI Too Long", "The request's target is longer than this server accepts.")
UNKNOWN_EXPECTATION: Final = CannedResponse("417 Expectation Failed", "This server does not support this Expect field.")
FIELDS_TOO_LARGE: Final = CannedResponse(
    "431 Request Header Fields Too Large", "The request's header fields are more or larger than this server accepts."
)
CONNECT_REFUSED: Final = CannedResponse("501 Not Implemented", "This server does not support CONNECT (tunnels).")
METHOD_TOO_LONG: Final = CannedResponse(
    "501 Not Implemented", "The request's method is longer than this server accepts."
)
UNKNOWN_CODING: Final = CannedResponse("501 Not Implemented", "This server supports no transfer coding except chunked.")
UNKNOWN_VERSION: Final = CannedResponse("505 HTTP Version Not Supported", "This server speaks HTTP/1.0 and HTTP/1.1.")
NO_ROOM_FOR_BODY: Final = CannedResponse(
    "507 Insufficient Storage", "This server cannot store the request's body in a temporary file."
)

BODY_TOO_SHORT: Final = _bad("The client ended its data before the end of the request's body.")
PLAIN_HTTP: Final = _bad("This port speaks HTTPS, and the request is plain HTTP.")
ENCRYPTED: Final = _bad("This port speaks plain HTTP, and the request is HTTPS.")
NO_HOST: Final = _bad("The request has no Host field.")
EMPTY_HOST: Final = _bad("The request's Host field is empty.")
BAD_CODING: Final = _bad("The request's Transfer-Encoding is empty, or has a value after chunked.")
LENGTH_TOO_LONG: Final = _bad("The request's Content-Length has more than 20 digits.")
BAD_HOST: Final = _bad(
    "The request's Host field has a character that is not allowed in a host, or a port of more than five digits."
)
FRAGMENT: Final = _bad("The request's target has a #, which a client must not send; in a path it is written %23.")
BAD_FORM_OF_TARGET: Final = _bad("The request's target is neither a path nor an http or https URI.")
BAD_AUTHORITY: Final = _bad(
    "The host of the request's target is missing, or has a character that is not allowed, or a port of more than five "
    "digits."
)
CHUNKED_HTTP_1_0: Final = _bad("The request has a Transfer-Encoding, which HTTP/1.0 does not support.")
TOO_MANY_LINE_ENDS: Final = _bad("There are too many line ends before the request.")
CHUNKS_TOO_SMALL: Final = _bad("The chunks of the request's body are too small, or their extensions too large.")

REPEATED: Final = {
    "HTTP_HOST": _bad("The request has two Host fields."),
    "CONTENT_LENGTH": _bad("The request has two Content-Length fields."),
    "CONTENT_TYPE": _bad("The request has two Content-Type fields."),
    "HTTP_AUTHORIZATION": _bad("The request has two Authorization fields."),
    "HTTP_EXPECT": _bad("The request has two Expect fields."),
}
"""Responses to repeated header fields, by environ key. A repetition is an error or attempted request smuggling."""

_MALFORMED: Final = _bad("The request is not well-formed HTTP.")
_METHOD: Final = _bad("The request does not begin with a method and a space.")
_TARGET: Final = _bad("The request's target has a character that must be percent-encoded.")
_VERSION: Final = _bad("The request line has a space in its target, or no version such as HTTP/1.1 at its end.")
_LINE_END: Final = _bad("The request line does not end with CR LF right after its version.")
_NAME: Final = _bad(
    "A header field has no colon, an empty name, or a name with a space or another character that is not allowed."
)
_NAME_END: Final = _bad("A header field has a space before its colon, or the head ends with LF without CR.")
_FIRST_FIELD: Final = _bad("A header field begins with a space, right after the request line.")
_FOLDED: Final = _bad("A header field is folded over two lines, which is obsolete.")
_VALUE: Final = _bad("A header field's value has a control character, or is folded over two lines.")
_NO_CR: Final = _bad("A header field ends with LF without CR.")
_NO_LF: Final = _bad("A header field or the head has CR without LF.")
_LENGTH: Final = _bad("The request's Content-Length is not a whole number.")
_LENGTH_AND_CODING: Final = _bad("The request has both a Content-Length and a Transfer-Encoding.")
_FRAMING_IN_TRAILER: Final = _bad(
    "A Content-Length or Transfer-Encoding field follows the chunks of the request's body, but belongs in the head."
)
_CHUNK_SIZE: Final = _bad("A chunk of the request's body has a size that is no hexadecimal number followed by CR LF.")
_CHUNK_EXTENSION: Final = _bad("A chunk of the request's body has a malformed extension.")
_CHUNK_END: Final = _bad("A chunk of the request's body does not end with CR LF after as many bytes as its size says.")

_REFUSALS: Final = {
    "Invalid method encountered": _METHOD,
    "Expected space after method": _METHOD,
    "Invalid characters in url": BAD_FORM_OF_TARGET,
    "Unexpected start char in url": BAD_FORM_OF_TARGET,
    "Unexpected char in url schema": BAD_FORM_OF_TARGET,
    "Unexpected char in url server": BAD_AUTHORITY,
    "Double @ in url": BAD_AUTHORITY,
    "Invalid char in url path": _TARGET,
    "Invalid char in url query": _TARGET,
    "Invalid char in url fragment start": _TARGET,
    "Expected CRLF": _LINE_END,
    "Expected HTTP/": _VERSION,
    "Expected HTTP/, RTSP/ or ICE/": _VERSION,
    "Invalid method for RTSP/x.x request": _VERSION,
    "Expected SOURCE method for ICE/x.x request": _VERSION,
    "Invalid major version": _VERSION,
    "Invalid minor version": _VERSION,
    "Expected dot": _VERSION,
    "Invalid HTTP version": UNKNOWN_VERSION,
    "Pause on PRI/Upgrade": UNKNOWN_VERSION,
    "Expected HTTP/2 Connection Preface": UNKNOWN_VERSION,
    "Expected CRLF after version": _LINE_END,
    "Missing expected CR after request line": _LINE_END,
    "Unexpected space after start line": _FIRST_FIELD,
    "Invalid header token": _NAME,
    "Invalid header field char": _NAME_END,
    "Invalid header value char": _VALUE,
    "Unexpected whitespace after header value": _FOLDED,
    "Missing expected CR after header value": _NO_CR,
    "Missing expected LF after header value": _NO_LF,
    "Expected LF after CR": _NO_LF,
    "Expected LF after headers": _NO_LF,
    "Invalid character in Content-Length": _LENGTH,
    "Empty Content-Length": _LENGTH,
    "Content-Length overflow": _LENGTH,
    "Duplicate Content-Length": REPEATED["CONTENT_LENGTH"],
    "Transfer-Encoding can't be present with Content-Length": _LENGTH_AND_CODING,
    "Content-Length can't be present with Transfer-Encoding": _LENGTH_AND_CODING,
    "Invalid `Transfer-Encoding` header value": BAD_CODING,
    "Request has invalid `Transfer-Encoding`": BAD_CODING,
    "Empty Transfer-Encoding": BAD_CODING,
    "Invalid character in chunk size": _CHUNK_SIZE,
    "Chunk size overflow": _CHUNK_SIZE,
    "Missing expected CR after chunk size": _CHUNK_SIZE,
    "Expected LF after chunk size": _CHUNK_SIZE,
    "Missing expected CR after chunk data": _CHUNK_END,
    "Expected LF after chunk data": _CHUNK_END,
}
"""Responses for the error messages of httptools; any other message, as from another version, gets `_MALFORMED`."""


def refusal_of(error: Exception, in_body: bool) -> CannedResponse:
    """Return the response to a request that httptools cannot parse; `in_body`: true if its head is complete."""
    said = str(error)
    if "chunk extension" in said:
        return _CHUNK_EXTENSION
    answer = _REFUSALS.get(said, _MALFORMED)
    return _FRAMING_IN_TRAILER if in_body and answer in (_LENGTH_AND_CODING, BAD_CODING) else answer
