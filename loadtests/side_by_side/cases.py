"""What is measured: the cases, and what the right answer to each is.

Decides requests and answers. It must not know the servers or how they are driven.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

__all__ = ["CASES", "FILE_BYTES", "IDLE", "Case"]

_APPLICATIONS: Final = "loadtests.side_by_side.applications"
_FLASK: Final = "loadtests.side_by_side.flask_application:application"
FILE_BYTES: Final = 10 * 1024 * 1024
_POST_BYTES: Final = 100 * 1024
IDLE: Final = "idle"
"""The case that is not about requests per second."""


@dataclass(frozen=True)
class Case:
    """One request, which is made over and over again, and its right answer."""

    name: str
    title: str
    application: str
    """Where it is, as MODULE:NAME."""
    answer: bytes = b"Hello World"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    package: str = ""
    """What has to be installed for it, beside a server."""

    @property
    def method(self) -> str:
        """The method of the request."""
        return "POST" if self.body else "GET"


CASES: Final = {
    case.name: case
    for case in (
        Case("hello", "Hello, keep-alive", f"{_APPLICATIONS}:hello"),
        Case("close", "Hello, Connection: close", f"{_APPLICATIONS}:hello", headers={"Connection": "close"}),
        Case("flask", "Flask hello", _FLASK, package="flask"),
        Case("large", "64 KB response", f"{_APPLICATIONS}:large", b"x" * 64 * 1024),
        Case("larger", "1 MB response", f"{_APPLICATIONS}:larger", b"x" * 1024 * 1024),
        Case("post", "100 KB POST", f"{_APPLICATIONS}:length", b"%d" % _POST_BYTES, body=b"x" * _POST_BYTES),
        Case("file", "10 MB by wsgi.file_wrapper", f"{_APPLICATIONS}:file", bytes(FILE_BYTES)),
        Case(IDLE, "Idle keep-alive connections", f"{_APPLICATIONS}:hello"),
    )
}
"""The cases, in the order in which they are measured."""
