"""Keeps this package's actions for some signals, even if the application sets other actions, for example in a request.

If a request could ignore SIGTERM for a moment, a SIGTERM that arrives in that moment would be lost. If a request could
set SIG_DFL, SIGTERM would end the process immediately. Therefore, an action that the application sets is only recorded:
`signal.getsignal` returns the recorded action, and this package's signal handler calls the recorded handler. This
module replaces two functions of `_signal`, which `signal.signal` and gevent's version of it look up at each call.
Therefore, the replacements also affect code that has already imported `signal.signal`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, Final

__all__ = ["HeldActions", "action_of"]

# Import `_signal` by name, because type checkers do not know this module.
_signal: Any = import_module("_signal")
_set: Final[Callable[[int, Any], Any]] = _signal.signal
_PLAIN: Final = (_signal.SIG_DFL, _signal.SIG_IGN)

action_of: Final[Callable[[int], Any]] = _signal.getsignal
"""Function that returns Python's actual action for a signal, even if `signal.getsignal` returns another action."""


class HeldActions:
    """The signals whose actions are kept, and the actions that the application has set for them."""

    def __init__(self) -> None:
        self._ours: dict[int, Any] = {}
        self._set: dict[int, Any] = {}

    def __repr__(self) -> str:
        return f"<HeldActions of {sorted(self._ours)}, {len(self._set)} of them set by the application>"

    def hold(self, shown: Mapping[int, Any]) -> None:
        """Keep the current actions of the signals in `shown`; the values of `shown` are the actions that the
        application sees."""
        self._ours = dict(shown)
        self._replace(self._signal, self._getsignal)

    def release(self) -> dict[int, Any]:
        """Stop keeping the actions, and return the actions that the application has set."""
        if self._ours:
            self._replace(_set, action_of)
        chosen, self._ours, self._set = self._set, {}, {}
        return chosen

    def seen(self, number: int) -> Any:
        """Return the action that the application sees for a signal whose action is kept."""
        return self._set.get(number, self._ours.get(number))

    @staticmethod
    def _replace(signal: Callable[..., Any], getsignal: Callable[..., Any]) -> None:
        _signal.signal, _signal.getsignal = signal, getsignal

    def _getsignal(self, number: int, /) -> Any:
        return self.seen(number) if number in self._ours else action_of(number)

    def _signal(self, number: int, action: Any, /) -> Any:
        if number not in self._ours or not (callable(action) or action in _PLAIN):
            return _set(number, action)
        # Set the current action again: this has no effect, except that it raises the usual error outside of the main
        # thread.
        _set(number, action_of(number))
        earlier = self.seen(number)
        self._set[number] = action
        if action is self._ours[number]:
            del self._set[number]
        return earlier
