"""The status page itself: one HTML file with a strict content security policy, and the check that its client is local.

The page shows paths, client addresses, and stacks of the application. Therefore, the page is served only to clients on
the same machine. Such clients connect through a unix socket, or from a loopback address with a local host name. A
client that connects through a forwarded port is local, too.
"""

from __future__ import annotations

import ipaddress
import secrets
from functools import cache
from importlib.resources import files
from typing import Any, Final

__all__ = ["ELSEWHERE", "is_local", "page"]

ELSEWHERE: Final = (
    "The status page is served on this machine only, because it shows paths, clients and stacks.\n"
    "Forward a port (ssh -L 9000:127.0.0.1:9000 HOST, or kubectl port-forward POD 9000), and open "
    "http://127.0.0.1:9000.\n"
)

_POLICY: Final = (
    "default-src 'none'; script-src 'nonce-{0}'; style-src 'nonce-{0}'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@cache
def _template() -> str:
    return (files(__package__) / "page.html").read_text(encoding="utf-8")


def page() -> tuple[bytes, list[tuple[str, str]]]:
    """Return the HTML page and its headers, with a new nonce."""
    nonce = secrets.token_urlsafe(16)
    body = _template().replace("{nonce}", nonce).encode()
    headers = [
        ("Content-Type", "text/html; charset=utf-8"),
        ("Content-Security-Policy", _POLICY.format(nonce)),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
        ("Cross-Origin-Opener-Policy", "same-origin"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
    ]
    return body, headers


def is_local(environ: dict[str, Any]) -> bool:
    """Return whether a request comes from this machine, and its Host field names this machine.

    The check of the Host field protects against DNS rebinding, which would allow any web page in a browser to read the
    feed.
    """
    address = environ.get("REMOTE_ADDR", "")
    if not address:
        # The client of a unix socket has no address; the permissions of the socket's file decide who may connect.
        return True
    return _is_loopback(address) and _is_local_name(environ.get("HTTP_HOST", ""))


def _is_local_name(host: str) -> bool:
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    name = name.strip("[]").lower().rstrip(".")
    return name == "localhost" or name.endswith(".localhost") or _is_loopback(name)


def _is_loopback(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_loopback
