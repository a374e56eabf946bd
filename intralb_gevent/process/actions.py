"""Reads and restores the kernel's action for a signal, including handlers that Python does not know.

C code, such as gevent's event loop and `faulthandler`, installs signal handlers without informing Python. For a signal
with such a C handler, `signal.getsignal` still returns SIG_DFL, and `signal.signal` would replace the C handler without
returning it.
"""

from __future__ import annotations

import contextlib
import ctypes
import signal
import sys
from typing import Final

__all__ = ["Action"]

_STRUCT_BYTES: Final = 512
"""Size in bytes of a buffer that holds any `struct sigaction`."""

_POINTER: Final = ctypes.sizeof(ctypes.c_void_p)
_FLAGS_AT: Final = _POINTER + 128
"""Offset of the flags in the `struct sigaction` of glibc and musl, where the flags follow the handler and the mask."""

_SA_SIGINFO: Final = 4
_PLAIN: Final = (0, 1)
"""Addresses that are not handlers: SIG_DFL and SIG_IGN."""


class Action:
    """The kernel's action for one signal at the time when this object was created.

    If the C library has no sigaction(), the kernel's action is unknown, and `address` is 0.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self.python = signal.getsignal(number)
        """The signal's action as Python reports it."""
        self._struct = ctypes.create_string_buffer(_STRUCT_BYTES)
        self._known = False
        with contextlib.suppress(OSError, AttributeError):
            self._known = ctypes.CDLL(None).sigaction(number, None, self._struct) == 0

    def __repr__(self) -> str:
        return f"<Action {self.address:#x} for signal {self._number}, which is {self.python!r} to Python>"

    @property
    def address(self) -> int:
        """Address of the signal's handler; 0 is SIG_DFL, and 1 is SIG_IGN."""
        return int.from_bytes(self._struct.raw[:_POINTER], sys.byteorder)

    @property
    def in_c(self) -> bool:
        """True if C code has installed the handler."""
        return self.address not in _PLAIN and not callable(self.python)

    @property
    def is_default(self) -> bool:
        """True if the signal has no handler and is not ignored."""
        return self.python == signal.SIG_DFL and self.address == 0

    def call(self) -> None:
        """Call the C handler, unless it expects information about the sender (SA_SIGINFO)."""
        flags = int.from_bytes(self._struct.raw[_FLAGS_AT : _FLAGS_AT + 4], sys.byteorder)
        if not flags & _SA_SIGINFO:
            ctypes.CFUNCTYPE(None, ctypes.c_int)(self.address)(self._number)

    def restore(self) -> None:
        """Restore this action, both in Python and in the kernel."""
        signal.signal(self._number, signal.SIG_DFL if self.python is None else self.python)
        if self.in_c:
            ctypes.CDLL(None).sigaction(self._number, self._struct, None)
