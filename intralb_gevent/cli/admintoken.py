"""The token that an operator needs to end requests on the status page.

A supervisor passes the token to its processes in an environment variable, so that all processes accept the same token.
"""

from __future__ import annotations

import secrets
from collections.abc import MutableMapping
from typing import Final

__all__ = ["TOKEN_VARIABLE", "share_token", "take_token", "token_line"]

TOKEN_VARIABLE: Final = "INTRALB_ADMIN_TOKEN"


def share_token(environ: MutableMapping[str, str]) -> str:
    """Return the token in `TOKEN_VARIABLE`; if the variable is not set, first set it to a new token."""
    return environ.setdefault(TOKEN_VARIABLE, secrets.token_urlsafe(16))


def take_token(environ: MutableMapping[str, str]) -> str:
    """Return the token, and remove it from `environ`, so that programs that handlers start do not inherit the token."""
    token = share_token(environ)
    del environ[TOKEN_VARIABLE]
    return token


def token_line(token: str) -> str:
    """Return the log line with the token, which follows the start line."""
    return f"operators end requests on the status page with the token {token}"
