"""Keeps the actions of some signals ours while an application sets others, as a request may do at any time.

A request that ignores SIGTERM for a moment would lose the one that arrives meanwhile, and SIG_DFL would end the process
at once. So what an application sets is only remembered: `signal.getsignal` returns it, and the owner of the actions
calls it. `signal.signal` and gevent's look up the functions that are replaced here at each call, so copies of them
behave the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, Final

__all__ = ["HeldActions", "action_of"]

# Type checkers do not know it.
_signal: Any = import_module("_signal")
_set: Final[Callable[[int, Any], Any]] = _signal.signal
_PLAIN: Final = (_signal.SIG_DFL, _signal.SIG_IGN)

action_of: Final[Callable[[int], Any]] = _signal.getsignal
"""What Python really does with a signal."""


class HeldActions:
    """The signals whose actions are kept, and what the application has set for them since."""

    def __init__(self) -> None:
        self._ours: dict[int, Any] = {}
        self._set: dict[int, Any] = {}

    def __repr__(self) -> str:
        return f"<HeldActions of {sorted(self._ours)}, {len(self._set)} of them set by the application>"

    def hold(self, shown: Mapping[int, Any]) -> None:
        """Keep the present actions of these signals; `shown` is what an application sees in their place."""
        self._ours = dict(shown)
        self._replace(self._signal, self._getsignal)

    def release(self) -> dict[int, Any]:
        """Keep them no more; return what the application has set for each of them that it has set."""
        if self._ours:
            self._replace(_set, action_of)
        chosen, self._ours, self._set = self._set, {}, {}
        return chosen

    def seen(self, number: int) -> Any:
        """Return the action of a kept signal as the application sees it."""
        return self._set.get(number, self._ours.get(number))

    @staticmethod
    def _replace(signal: Callable[..., Any], getsignal: Callable[..., Any]) -> None:
        _signal.signal, _signal.getsignal = signal, getsignal

    def _getsignal(self, number: int, /) -> Any:
        return self.seen(number) if number in self._ours else action_of(number)

    def _signal(self, number: int, action: Any, /) -> Any:
        if number not in self._ours or not (callable(action) or action in _PLAIN):
            return _set(number, action)
        # Changes nothing, but raises what the application expects in a thread that may not set it.
        _set(number, action_of(number))
        earlier = self.seen(number)
        self._set[number] = action
        if action is self._ours[number]:
            del self._set[number]
        return earlier
