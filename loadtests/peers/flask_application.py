"""The Flask application of the benchmark. It has its own module, so that other cases need not load Flask."""

from __future__ import annotations

from flask import Flask

application = Flask(__name__)


@application.get("/")
def hello() -> str:
    """Return 11 bytes."""
    return "Hello World"
