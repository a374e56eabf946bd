"""The header fields by which a proxy tells of the client: X-Forwarded-For and its kin, and Forwarded (RFC 7239).

Decides which of them are believed, and what they change in the environ. Pure; it must not know sockets.

A proxy adds to the right end of such a field what it knows itself; all to the left of that came from the client, who
may have made it up. So a field is read from the right, for as long as what it names is a trusted proxy; the first other
address is the client. What is further left is not even parsed, and cannot spoil the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final, NamedTuple

from .authority import DEFAULT_PORTS, Authority, read_authority, read_port
from .proxies import TrustedNetworks, read_address

__all__ = ["forwarded"]

_FOR: Final = "HTTP_X_FORWARDED_FOR"
_PROTO: Final = "HTTP_X_FORWARDED_PROTO"
_HOST: Final = "HTTP_X_FORWARDED_HOST"
_PORT: Final = "HTTP_X_FORWARDED_PORT"
_PREFIX: Final = "HTTP_X_FORWARDED_PREFIX"
_X_FORWARDED: Final = frozenset({_FOR, _PROTO, _HOST, _PORT, _PREFIX})
_FORWARDED: Final = "HTTP_FORWARDED"

_CLAIMS: Final = (_FORWARDED, "HTTP_X_FORWARDED", "HTTP_X_REAL_IP")
"""How the names of fields begin that an untrusted peer may not send. X-Real-IP is nginx's; applications read it."""

_NODE: Final = re.compile(
    r"(?:\[(?P<bracketed>[0-9A-Fa-f]*:[0-9A-Fa-f:.]*)\]|(?P<four>[0-9.]+))(?::(?P<port>[0-9]{1,5}|_[0-9A-Za-z._-]+))?"
    r"|(?P<bare>[0-9A-Fa-f:.]+)"
).fullmatch
_SANE_PREFIX: Final = re.compile(r"(?:/(?!\.{1,2}(?:/|\Z))[0-9A-Za-z._~-]+)+/?").fullmatch
_QUOTED_OR_COMMA: Final = re.compile(r'"[^"]*"|,')
_PAIR: Final = re.compile(
    r"""(?P<name>[!#$%&'*+.^_`|~0-9A-Za-z-]+)=(?:"(?P<quoted>[^"\\]*)"|(?P<plain>[^\s",;\\]+))[ \t]*(?:;[ \t;]*|\Z)"""
).match


class _Node(NamedTuple):
    """An address, and a port or ''."""

    address: str
    port: str


class _Told(NamedTuple):
    """What trusted proxies say of a request; None or '' is what they do not say, or not in a way that is understood."""

    client: _Node | None = None
    scheme: str = ""
    host: Authority | None = None
    port: str = ""
    prefix: str = ""


def forwarded(environ: dict[str, Any], host: str, trusted: TrustedNetworks) -> None:
    """Put the client in the place of the proxy, where the peer `host` is trusted; else remove what it claims.

    With nobody trusted, nothing is touched. Fields that are believed stay as they are. Never raises: what cannot be
    understood is as if it were not there. X-Forwarded-* counts before Forwarded: a proxy that sends both says the same
    in both, but most know X-Forwarded-* only, and pass on a Forwarded that a client made up.
    """
    if not trusted:
        return
    if host not in trusted:
        _remove_claims(environ)
    elif not environ.keys().isdisjoint(_X_FORWARDED):
        _apply(_told_by_x_forwarded(environ, trusted), environ)
    elif _FORWARDED in environ:
        _apply(_told_by_forwarded(environ[_FORWARDED], trusted), environ)


def _remove_claims(environ: dict[str, Any]) -> None:
    for name in [name for name in environ if name.startswith(_CLAIMS)]:
        del environ[name]


def _apply(told: _Told, environ: dict[str, Any]) -> None:
    if told.client is not None:
        environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = told.client
    if told.scheme:
        environ["wsgi.url_scheme"] = told.scheme
        environ.pop("HTTPS", None)
        if told.scheme == "https":
            environ["HTTPS"] = "on"
    if told.host is not None:
        environ["HTTP_HOST"], environ["SERVER_NAME"] = told.host.text, told.host.name
    if told.scheme or told.host or told.port:
        environ["SERVER_PORT"] = told.port or _port_asked_for(environ)
    if told.prefix:
        environ["SCRIPT_NAME"] = told.prefix


def _port_asked_for(environ: dict[str, Any]) -> str:
    """Return the port that the client connected to: it is in the Host field, unless it is the usual one."""
    authority = read_authority(environ.get("HTTP_HOST", ""))
    return (authority and authority.port) or DEFAULT_PORTS[environ["wsgi.url_scheme"]]


# X-Forwarded-*


def _told_by_x_forwarded(environ: dict[str, Any], trusted: TrustedNetworks) -> _Told:
    prefix = environ.get(_PREFIX, "")
    return _Told(
        client=_first_untrusted(environ.get(_FOR, ""), trusted),
        scheme=_scheme(_nearest(environ, _PROTO)),
        host=read_authority(_nearest(environ, _HOST)),
        port=read_port(_nearest(environ, _PORT)),
        prefix=prefix.rstrip("/") if _SANE_PREFIX(prefix) else "",
    )


def _first_untrusted(value: str, trusted: TrustedNetworks) -> _Node | None:
    """Return the first node that is not a trusted proxy, or the last one if all are; None if that is no address."""
    node = None
    for element in _elements_from_the_right(value):
        node = _node(element)
        if node is None or node.address not in trusted:
            break
    return node


def _nearest(environ: dict[str, Any], name: str) -> str:
    """Return the last value of a field, which is the one that the nearest proxy has set."""
    value: str = environ.get(name, "")
    return value.rpartition(",")[2].strip(" \t")


# Forwarded


def _told_by_forwarded(value: str, trusted: TrustedNetworks) -> _Told:
    """Return what the outermost trusted proxy has said; it is the one that the client has spoken to."""
    told = _Told()
    for element in _elements_from_the_right(value):
        pairs = _pairs(element)
        if pairs is None:
            return _Told()
        client = _node(pairs.get("for", ""))
        told = _Told(client, _scheme(pairs.get("proto", "")), read_authority(pairs.get("host", "")))
        if client is None or client.address not in trusted:
            break
    return told


def _elements_from_the_right(value: str) -> Iterator[str]:
    parts = _parts_outside_quotes(value) if '"' in value else reversed(value.split(","))
    return (element for part in parts if (element := part.strip(" \t")))


def _parts_outside_quotes(value: str) -> Iterator[str]:
    # Quotes are paired from the right too: one that a client has left open must not swallow what a proxy has added.
    backwards = value[::-1] + ","
    start = 0
    for match in _QUOTED_OR_COMMA.finditer(backwards):
        if match[0] == ",":
            yield backwards[start : match.start()][::-1]
            start = match.end()


def _pairs(element: str) -> dict[str, str] | None:
    """Return the parameters of an element by name in lower case, or None when it is malformed."""
    pairs: dict[str, str] = {}
    position = 0
    while position < len(element):
        match = _PAIR(element, position)
        if match is None or match["name"].lower() in pairs:
            return None
        pairs[match["name"].lower()] = match["plain"] or match["quoted"] or ""
        position = match.end()
    return pairs


# What a value may be. Nodes come again with each request of a client, so what they say is remembered.

_LONGEST: Final = 300
"""Of a node, in characters: long ones must not fill the memory."""


def _node(text: str) -> _Node | None:
    """Return what an address with or without a port says; None for anything else, such as `unknown` and made-up names.

    A port may be a made-up name too, with an underscore (RFC 7239, section 6).
    """
    return _read_node(text) if len(text) <= _LONGEST else None


@lru_cache(maxsize=1024)
def _read_node(text: str) -> _Node | None:
    match = _NODE(text)
    if match is None:
        return None
    try:
        address = read_address(match["bracketed"] or match["four"] or match["bare"])
    except ValueError:
        return None
    return _Node(str(address), read_port(match["port"] or ""))


def _scheme(text: str) -> str:
    scheme = text.lower()
    return scheme if scheme in DEFAULT_PORTS else ""
