"""The Flask application that is measured; apart from the others, so that they are measured without Flask's memory.

Decides what is answered. It must not know which server asks.
"""

from __future__ import annotations

from flask import Flask

__all__ = ["application"]

application = Flask(__name__)


@application.get("/")
def hello() -> str:
    """Answer 11 bytes."""
    return "Hello World"
