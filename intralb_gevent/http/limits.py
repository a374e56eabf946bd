"""Bounds of the connection layer that no option sets, each with its reason.

Decides the numbers; it must not know who keeps to them. What a client may send and how long it may take are options.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "BODIES_IN_MEMORY_BYTES",
    "BODY_IN_MEMORY_BYTES",
    "BODY_SMALL_BYTES",
    "JOINED_BYTES",
    "LINE_ENDS_BYTES",
    "LINGER_SECONDS",
    "LOOPBACK_FILE_UNSENT_BYTES",
    "PARSED_BYTES",
    "PIPELINED_REQUESTS",
    "PROXY_HEADER_BYTES",
    "READ_AHEAD_BYTES",
    "RECEIVE_BYTES",
    "REFUSED_CONNECTIONS",
    "SHORT_RECEIVE_BYTES",
    "SKIPPED_BODY_BYTES",
    "SPILL_FILE_BYTES",
    "STREAMED_BODY_BYTES",
    "TLS_RECEIVE_BYTES",
    "UNSENT_IN_FILES_BYTES",
    "UNSENT_IN_MEMORY_BYTES",
    "UNSENT_LEAST_BYTES",
    "UNSENT_MOST_BYTES",
]

BODY_SMALL_BYTES: Final = 64 * 1024
"""Of a request's body that is kept in memory in any case."""

BODY_IN_MEMORY_BYTES: Final = 1024 * 1024
"""Of one that is kept in memory while `BODIES_IN_MEMORY_BYTES` has room; a larger one goes to a temporary file."""

BODIES_IN_MEMORY_BYTES: Final = 32 * 1024 * 1024
"""Of the bodies that are not small, of all connections of a server together. A file costs more time than a request."""

JOINED_BYTES: Final = 16 * 1024
"""A body up to this size is copied behind its head and sent with it; a larger one is sent from where it is."""

LINE_ENDS_BYTES: Final = 64
"""Of line ends before a request that are ignored: some clients send one behind a body (RFC 9112, 2.2)."""

LINGER_SECONDS: Final = 2.0
"""How long a refused client's bytes are still read, so that the refusal reaches it before a reset does."""

LOOPBACK_FILE_UNSENT_BYTES: Final = 16 * 1024
"""Of a file, to a client on the same machine, what the system keeps unsent; Linux wakes us when it is less."""

PIPELINED_REQUESTS: Final = 16
"""Requests that may wait behind the one being answered before a connection is read no further."""

PARSED_BYTES: Final = 2048
"""Parsed before these are counted again: the shortest requests take 27 bytes, and kilobytes when they are parsed."""

PROXY_HEADER_BYTES: Final = 64 * 1024
"""Looked at for a PROXY header: its length is two bytes in version 2."""

READ_AHEAD_BYTES: Final = 32 * 1024
"""Of pipelined requests that may wait behind the one being answered; as many as the header fields of one may have."""

RECEIVE_BYTES: Final = 256 * 1024
"""Read from a socket at a time of a body that has so much left, into one buffer for all."""

SHORT_RECEIVE_BYTES: Final = 64 * 1024
"""Read at a time of anything else, as what is not a body's may have to wait in memory."""

TLS_RECEIVE_BYTES: Final = 64 * 1024
"""Read from a socket at a time where it is decrypted."""

REFUSED_CONNECTIONS: Final = 256
"""Connections beyond `max_connections` that are told so; still more are closed without a word."""

SKIPPED_BODY_BYTES: Final = 1024 * 1024
"""Read of the body of a request that was refused by its head, so that its connection stays usable; reading more costs
both sides more than a new connection."""

STREAMED_BODY_BYTES: Final = 256 * 1024
"""The high-water mark of a streamed request body: with more unread, the connection stops reading its socket."""

UNSENT_IN_MEMORY_BYTES: Final = 64 * 1024 * 1024
"""Of the responses that clients have not taken, in all connections of a server; more goes to temporary files."""

UNSENT_MOST_BYTES: Final = 16 * 1024 * 1024
"""Of one response that its client has not taken; beyond it the slot that writes has to wait."""

UNSENT_LEAST_BYTES: Final = 256 * 1024
"""The same once the files of all connections hold `UNSENT_IN_FILES_BYTES`."""

SPILL_FILE_BYTES: Final = 32 * 1024 * 1024
"""Written to one temporary file of a response before the next is begun; a file goes when all of it is sent."""

UNSENT_IN_FILES_BYTES: Final = 4 * 1024**3
"""In temporary files, of all connections of a server together, before slots have to wait much earlier."""
