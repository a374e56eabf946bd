"""Creates the fields of log records that describe a request, from the request's environ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..policy.requestidentity import REQUEST_ID, identity

__all__ = ["as_utf8", "of_request", "request_fields"]


def as_utf8(text: Any) -> str:
    """Decode a string of an environ as UTF-8; each character of the string stands for a byte (PEP 3333)."""
    return str(text).encode("latin-1", "backslashreplace").decode("utf-8", "backslashreplace")


def of_request(environ: Mapping[str, Any]) -> str:
    """Return a suffix with the request's id, for a log line; '' if the request has no id."""
    request_id = environ.get(REQUEST_ID)
    return f" (request {request_id})" if request_id else ""


def request_fields(environ: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that identify a request in a JSON line: its id, `traceparent`, client, method and path."""
    path = f"{environ.get('SCRIPT_NAME') or ''}{environ.get('PATH_INFO') or ''}"
    return {
        **identity(environ),
        "client": str(environ.get("REMOTE_ADDR") or ""),
        "method": str(environ.get("REQUEST_METHOD") or ""),
        "path": as_utf8(path),
    }
