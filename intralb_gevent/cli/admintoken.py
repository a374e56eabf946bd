"""The token that an operator needs to end requests on the status page.

The supervisor of several processes passes the token on to them in a variable, so that all have the same one.
"""

from __future__ import annotations

import secrets
from collections.abc import MutableMapping
from typing import Final

__all__ = ["TOKEN_VARIABLE", "share_token", "take_token", "token_line"]

TOKEN_VARIABLE: Final = "INTRALB_ADMIN_TOKEN"


def share_token(environ: MutableMapping[str, str]) -> str:
    """Return the token of the variable; set the variable to a new token if there is none."""
    return environ.setdefault(TOKEN_VARIABLE, secrets.token_urlsafe(16))


def take_token(environ: MutableMapping[str, str]) -> str:
    """Return the token, and remove it from the environment, which programs that handlers start would inherit."""
    token = share_token(environ)
    del environ[TOKEN_VARIABLE]
    return token


def token_line(token: str) -> str:
    """Return the line that follows the start line."""
    return f"operators end requests on the status page with the token {token}"
