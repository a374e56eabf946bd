"""Handlers that compute in Python and never wait.

Decides how they meet what interrupts them. It must not know of deadlines.
"""

from __future__ import annotations

from . import handler

__all__ = ["except_exception", "loop", "swallow_twice"]


def _compute() -> None:
    count = 0
    while True:
        count += sum(range(10))


@handler
def loop() -> None:
    """Compute for ever."""
    _compute()


@handler
def except_exception() -> None:
    """Compute for ever, whatever `Exception` there is."""
    while True:
        try:  # noqa: SIM105  # as applications have it
            _compute()
        except Exception:
            pass


@handler
def swallow_twice() -> None:
    """Compute for ever, and swallow the first two exceptions of any kind."""
    for _ in range(2):
        try:  # noqa: SIM105
            _compute()
        except:  # noqa: E722
            pass
    _compute()
