"""A handler that waits for the answer of another server, with requests.

Decides what it asks. It must not know of deadlines.
"""

from __future__ import annotations

import os

import requests

from . import ADDRESS_VARIABLE, handler

__all__ = ["get"]


@handler
def get() -> None:
    """Ask a server that accepts and never answers."""
    requests.get(f"http://{os.environ[ADDRESS_VARIABLE]}/")
