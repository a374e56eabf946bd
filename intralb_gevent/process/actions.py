"""What the kernel does with a signal: the part of it that Python does not know.

Code in C, such as gevent's event loop and `faulthandler`, installs handlers without Python. `signal.getsignal` still
says SIG_DFL then, and `signal.signal` would replace the handler without a trace.
"""

from __future__ import annotations

import contextlib
import ctypes
import signal
import sys
from typing import Final

__all__ = ["Action"]

_STRUCT_BYTES: Final = 512
"""More than a `struct sigaction` has."""

_POINTER: Final = ctypes.sizeof(ctypes.c_void_p)
_FLAGS_AT: Final = _POINTER + 128
"""Behind the handler and the mask, in glibc and musl."""

_SA_SIGINFO: Final = 4
_PLAIN: Final = (0, 1)
"""SIG_DFL and SIG_IGN."""


class Action:
    """The action for one signal as it was when this was made; unknown where the C library has no sigaction()."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.python = signal.getsignal(number)
        """What Python says about it."""
        self._struct = ctypes.create_string_buffer(_STRUCT_BYTES)
        self._known = False
        with contextlib.suppress(OSError, AttributeError):
            self._known = ctypes.CDLL(None).sigaction(number, None, self._struct) == 0

    def __repr__(self) -> str:
        return f"<Action {self.address:#x} for signal {self._number}, which is {self.python!r} to Python>"

    @property
    def address(self) -> int:
        """Where the handler is; SIG_DFL is 0, and SIG_IGN is 1."""
        return int.from_bytes(self._struct.raw[:_POINTER], sys.byteorder)

    @property
    def in_c(self) -> bool:
        """Whether code in C has installed the handler."""
        return self.address not in _PLAIN and not callable(self.python)

    @property
    def is_default(self) -> bool:
        """Whether the signal has neither a handler nor is ignored."""
        return self.python == signal.SIG_DFL and self.address == 0

    def call(self) -> None:
        """Call a handler in C, unless it wants to know about the sender."""
        flags = int.from_bytes(self._struct.raw[_FLAGS_AT : _FLAGS_AT + 4], sys.byteorder)
        if not flags & _SA_SIGINFO:
            ctypes.CFUNCTYPE(None, ctypes.c_int)(self.address)(self._number)

    def restore(self) -> None:
        """Make this the action again, for Python and for the kernel."""
        signal.signal(self._number, signal.SIG_DFL if self.python is None else self.python)
        if self.in_c:
            ctypes.CDLL(None).sigaction(self._number, self._struct, None)
