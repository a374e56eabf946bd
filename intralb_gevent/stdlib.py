"""Names of the standard library that every request needs.

Compiled code finds a Final of another compiled module at its address; any other imported name it looks up in the
dictionary of its module, which takes about a quarter of a percent of a short request each time.
"""

from __future__ import annotations

import bisect
import contextvars
import io
import sys
import time
import weakref
from typing import Final

__all__ = ["BytesIO", "Context", "bisect_left", "getrefcount", "getweakrefcount", "monotonic", "time_of_day"]

bisect_left: Final = bisect.bisect_left
BytesIO: Final = io.BytesIO
Context: Final = contextvars.Context
getrefcount: Final = sys.getrefcount
getweakrefcount: Final = weakref.getweakrefcount
monotonic: Final = time.monotonic
time_of_day: Final = time.time
