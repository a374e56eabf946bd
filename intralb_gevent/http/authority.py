"""Parse a Host field: a name and an optional port.

The field also sets SERVER_NAME and SERVER_PORT if the server's address has no name, as on a unix socket.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final, NamedTuple

from .proxy.trusted import read_address

__all__ = ["DEFAULT_PORTS", "Authority", "read_authority", "read_port", "set_server_name"]

DEFAULT_PORTS: Final = {"http": "80", "https": "443"}

_LONGEST: Final = 300
"""Maximum characters of a Host field; the limit bounds the memory of the cache. A host name has at most 255."""

_IS_PORT: Final = re.compile(r"[0-9]{1,5}").fullmatch
_AUTHORITY: Final = re.compile(
    r"(?P<name>[0-9A-Za-z._~-]+|\[(?P<six>[0-9A-Fa-f:.]+)\])(?::(?P<port>[0-9]{1,5}))?"
).fullmatch


class Authority(NamedTuple):
    """The parts of a Host field: the whole text, the name, and the port or ''."""

    text: str
    name: str
    port: str


def read_authority(text: str) -> Authority | None:
    """Return the parts of a Host field, with or without a port; return None for any other text."""
    return _remembered(text) if len(text) <= _LONGEST else None


@lru_cache(maxsize=1024)
def _remembered(text: str) -> Authority | None:
    match = _AUTHORITY(text)
    if match is None or (match["port"] and not read_port(match["port"])):
        return None
    if match["six"]:
        try:
            read_address(match["six"])
        except ValueError:
            return None
    return Authority(text, match["name"], read_port(match["port"] or ""))


def read_port(text: str) -> str:
    """Return a port from 1 to 65535 without leading zeros; return '' for anything else."""
    return str(int(text)) if _IS_PORT(text) and 0 < int(text) <= 65535 else ""


def set_server_name(environ: dict[str, Any]) -> None:
    """Set SERVER_NAME and SERVER_PORT from the Host field, if it is valid."""
    authority = read_authority(environ.get("HTTP_HOST", ""))
    if authority is not None:
        environ["SERVER_NAME"] = authority.name
        environ["SERVER_PORT"] = authority.port or DEFAULT_PORTS[environ["wsgi.url_scheme"]]
