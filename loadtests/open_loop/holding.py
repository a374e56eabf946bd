"""A request that is not answered while it is needed that way: it holds what the application gives it.

Decides how to tell that it is being run: it has not been answered. It must not know what for.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Iterator
from typing import Final

from ..side_by_side import BenchmarkError
from ..side_by_side.starting import ANSWER_SECONDS

__all__ = ["held"]

_REFUSED_SECONDS: Final = 0.5
"""After what time a request that is not answered has not been refused."""


@contextlib.contextmanager
def held(path: str, port: int) -> Iterator[socket.socket]:
    """Have a request for this path run meanwhile; ask again if it is refused. Raises `BenchmarkError`."""
    give_up = time.monotonic() + ANSWER_SECONDS
    while time.monotonic() < give_up:
        with socket.create_connection(("127.0.0.1", port), ANSWER_SECONDS) as holder:
            holder.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
            # It is answered only if it is refused: somebody else may have been quicker.
            if not select.select((holder,), (), (), _REFUSED_SECONDS)[0]:
                yield holder
                return
    raise BenchmarkError(f"no request for {path} could be held")
