"""The greenlet that a slot's jobs run in, and the frame by which an abort finds it.

Decides nothing. It is not among the compiled modules, as compiled functions have no frames: where all others of ours
are compiled, this one's tells that the code above it is the application's. It must not know jobs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gevent import Greenlet

from .safepoints import calls_application

if TYPE_CHECKING:
    from .slot import Slot

__all__ = ["SlotGreenlet"]


class SlotGreenlet(Greenlet):  # type: ignore[type-arg]  # generic in its stubs only
    """What runs in it finds the slot by it."""

    def __init__(self, slot: Slot) -> None:
        super().__init__()
        self.intralb_slot = slot

    @calls_application
    def _run(self) -> None:
        self.intralb_slot.run()
