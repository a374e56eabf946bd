"""Apply the header fields X-Forwarded-* and Forwarded (RFC 7239), in which a proxy describes its client.

A proxy appends its entry at the right end of a field. The entries further left come from the proxy's peer, and may be
forged. So a field is read from right to left while the addresses belong to trusted proxies. The first address that does
not belong to a trusted proxy is the client's. The entries to the left of the client's address are not parsed, so they
cannot make the field invalid.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final, NamedTuple

from ..authority import DEFAULT_PORTS, Authority, read_authority, read_port
from .trusted import TrustedNetworks, read_address

__all__ = ["forwarded", "remove_claims"]

_FOR: Final = "HTTP_X_FORWARDED_FOR"
_PROTO: Final = "HTTP_X_FORWARDED_PROTO"
_HOST: Final = "HTTP_X_FORWARDED_HOST"
_PORT: Final = "HTTP_X_FORWARDED_PORT"
_PREFIX: Final = "HTTP_X_FORWARDED_PREFIX"
_X_FORWARDED: Final = frozenset({_FOR, _PROTO, _HOST, _PORT, _PREFIX})
_FORWARDED: Final = "HTTP_FORWARDED"

_CLAIMS: Final = (_FORWARDED, "HTTP_X_FORWARDED", "HTTP_X_REAL_IP")
"""Prefixes of the environ keys that are removed from an untrusted peer's request.

X-Real-IP is included, because applications behind nginx read this field.
"""

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
    """A node of a forwarding field: an address, and a port or ''."""

    address: str
    port: str


class _Reported(NamedTuple):
    """The values that trusted proxies have set for a request; None or '' if a value is missing or invalid."""

    client: _Node | None = None
    scheme: str = ""
    host: Authority | None = None
    port: str = ""
    prefix: str = ""


def forwarded(environ: dict[str, Any], trusted: TrustedNetworks) -> None:
    """Replace the proxy's address, scheme and host by the client's.

    The forwarding fields stay in the environ. Never raises: an invalid value is ignored. X-Forwarded-* takes precedence
    over Forwarded, because most proxies know only X-Forwarded-*, and pass on a Forwarded field that a client has
    forged. A proxy that sends both kinds of field sends the same values in both.
    """
    if not environ.keys().isdisjoint(_X_FORWARDED):
        _apply(_told_by_x_forwarded(environ, trusted), environ)
    elif _FORWARDED in environ:
        _apply(_told_by_forwarded(environ[_FORWARDED], trusted), environ)


def remove_claims(environ: dict[str, Any]) -> None:
    """Remove the forwarding fields of a peer that is not trusted."""
    for name in [name for name in environ if name.startswith(_CLAIMS)]:
        del environ[name]


def _apply(reported: _Reported, environ: dict[str, Any]) -> None:
    if reported.client is not None:
        environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = reported.client
    if reported.scheme:
        environ["wsgi.url_scheme"] = reported.scheme
        environ.pop("HTTPS", None)
        if reported.scheme == "https":
            environ["HTTPS"] = "on"
    if reported.host is not None:
        environ["HTTP_HOST"], environ["SERVER_NAME"] = reported.host.text, reported.host.name
    if reported.scheme or reported.host or reported.port:
        environ["SERVER_PORT"] = reported.port or _port_asked_for(environ)
    if reported.prefix:
        environ["SCRIPT_NAME"] = reported.prefix


def _port_asked_for(environ: dict[str, Any]) -> str:
    """Return the port that the client connected to: the port in the Host field, or the default of the scheme."""
    authority = read_authority(environ.get("HTTP_HOST", ""))
    return (authority and authority.port) or DEFAULT_PORTS[environ["wsgi.url_scheme"]]


# X-Forwarded-*


def _told_by_x_forwarded(environ: dict[str, Any], trusted: TrustedNetworks) -> _Reported:
    prefix = environ.get(_PREFIX, "")
    return _Reported(
        client=_first_untrusted(environ.get(_FOR, ""), trusted),
        scheme=_scheme(_nearest(environ, _PROTO)),
        host=read_authority(_nearest(environ, _HOST)),
        port=read_port(_nearest(environ, _PORT)),
        prefix=prefix.rstrip("/") if _SANE_PREFIX(prefix) else "",
    )


def _first_untrusted(value: str, trusted: TrustedNetworks) -> _Node | None:
    """Return the rightmost node that is no trusted proxy, else the leftmost node; None if that node is invalid."""
    node = None
    for element in _elements_from_the_right(value):
        node = _node(element)
        if node is None or node.address not in trusted:
            break
    return node


def _nearest(environ: dict[str, Any], name: str) -> str:
    """Return the last value of a field, which the nearest proxy has set."""
    value: str = environ.get(name, "")
    return value.rpartition(",")[2].strip(" \t")


# Forwarded


def _told_by_forwarded(value: str, trusted: TrustedNetworks) -> _Reported:
    """Return the values set by the outermost trusted proxy, to which the client has connected."""
    reported = _Reported()
    for element in _elements_from_the_right(value):
        pairs = _pairs(element)
        if pairs is None:
            return _Reported()
        client = _node(pairs.get("for", ""))
        reported = _Reported(client, _scheme(pairs.get("proto", "")), read_authority(pairs.get("host", "")))
        if client is None or client.address not in trusted:
            break
    return reported


def _elements_from_the_right(value: str) -> Iterator[str]:
    parts = _parts_outside_quotes(value) if '"' in value else reversed(value.split(","))
    return (element for part in parts if (element := part.strip(" \t")))


def _parts_outside_quotes(value: str) -> Iterator[str]:
    # Pair quotes from the right: a quote that a client has left open must not hide the entry of a proxy.
    backwards = value[::-1] + ","
    start = 0
    for match in _QUOTED_OR_COMMA.finditer(backwards):
        if match[0] == ",":
            yield backwards[start : match.start()][::-1]
            start = match.end()


def _pairs(element: str) -> dict[str, str] | None:
    """Return the parameters of an element by lower-case name, or None if the element is malformed."""
    pairs: dict[str, str] = {}
    position = 0
    while position < len(element):
        match = _PAIR(element, position)
        if match is None or match["name"].lower() in pairs:
            return None
        pairs[match["name"].lower()] = match["plain"] or match["quoted"] or ""
        position = match.end()
    return pairs


# Parsers of single values. All requests of a client contain the same node, so parsed nodes are cached.

_LONGEST: Final = 300
"""Maximum length of a node in characters; the limit bounds the memory of the cache."""


def _node(text: str) -> _Node | None:
    """Return an address with or without a port; return None for other nodes, such as `unknown` and obfuscated names.

    A port may be obfuscated; such a port begins with an underscore (RFC 7239, section 6).
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
