"""Makes `_thread.interrupt_main()` interrupt the request that calls this function, instead of the server.

Common recipes for timeouts call `_thread.interrupt_main()` in a `threading.Timer` and catch KeyboardInterrupt. Without
this module, Python would behave exactly as if SIGINT had arrived: Python even writes a byte to the wakeup pipe, so a
signal handler cannot distinguish a call of `_thread.interrupt_main()` from a signal. With this module, a timer that
fires after its request has ended interrupts nothing.
"""

from __future__ import annotations

import _thread
import functools
import logging
import signal
from typing import Final

from gevent import getcurrent

from ..aborts.slotgreenlet import request_of
from .signals import SIGNALS

__all__ = ["keep_interrupts_in_requests"]

_simulate_signal: Final = _thread.interrupt_main

_NOBODY: Final = "_thread.interrupt_main() was called outside of a running request, and interrupts nothing"


def keep_interrupts_in_requests() -> None:
    """Replace `_thread.interrupt_main`; while no server is serving, the new function behaves like the original."""
    _thread.interrupt_main = _interrupt_main


@functools.wraps(_simulate_signal)
def _interrupt_main(signum: signal.Signals = signal.SIGINT, /) -> None:
    if signum != signal.SIGINT or not SIGNALS.serving or not SIGNALS.owns(signal.SIGINT):
        _simulate_signal(signum)
        return
    current = getcurrent()
    request = request_of(current)
    if request is None:
        SIGNALS.say(logging.WARNING, _NOBODY)
    elif request.slot.greenlet is current:
        raise KeyboardInterrupt
    else:
        request.slot.worker.loop.run_callback(request.slot.interrupt_request, request.started)
