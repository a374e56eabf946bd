"""The ids by which a request is found in the logs of the server, of its proxies and of its application."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, Final

from ..policy.requestidentity import REQUEST_ID

__all__ = ["id_header", "new_request_id", "take_request_id"]

_SUFFIXES: Final = tuple(f"{number:02x}" for number in range(256))
_PREFIX_BYTES: Final = 9
"""Number of random bytes at the start of 256 consecutive ids; reading random bytes for each id would be slower."""

_ids: Final[list[str]] = []
"""Ids that are not in use yet."""

_VALID: Final = re.compile(r"[!#-\[\]-~]{1,128}").fullmatch
"""Matches an id that is safe in a header field, and between the quotes of a log line."""

# A forked process must not use the ids of its parent.
os.register_at_fork(after_in_child=_ids.clear)


def new_request_id() -> str:
    """Return a new id, 20 hexadecimal digits; ids are unique, but they can be guessed."""
    if not _ids:
        _refill()
    return _ids.pop()


def _refill() -> None:
    prefix = os.urandom(_PREFIX_BYTES).hex()
    _ids.extend([prefix + suffix for suffix in _SUFFIXES])


def take_request_id(environ: dict[str, Any]) -> None:
    """Read the id of a request from the field X-Request-ID, which a trusted proxy has set; ignore an invalid id."""
    value = environ.get("HTTP_X_REQUEST_ID")
    if isinstance(value, str) and _VALID(value) is not None:
        environ[REQUEST_ID] = value


def id_header(environ: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return a list with the field X-Request-ID for the server's own response; an empty list if there is no id."""
    request_id = environ.get(REQUEST_ID)
    return [("X-Request-ID", str(request_id))] if request_id else []
