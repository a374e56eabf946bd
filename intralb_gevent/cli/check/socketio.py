"""Find Socket.IO servers whose polling clients need all their requests to reach the same process."""

from __future__ import annotations

import gc
import sys
from typing import Any

from .findings import Finding

__all__ = ["scattered_sessions"]


def scattered_sessions(processes: int) -> list[Finding]:
    """Return a hint if clients can poll a Socket.IO server of this application in several processes."""
    if processes == 1 or not any(map(_allows_polling, _servers())):
        return []
    return [
        Finding(
            "hint",
            f"Socket.IO clients that poll need one process, and there are {processes}",
            "Each process has its own Socket.IO sessions. A client that polls sends many requests, on several "
            "connections, and the process that gets a request answers 400 if the session is in another process.",
            "serve with --processes 1; or allow only WebSockets, with transports=['websocket'] in the server and its "
            "clients, and a message_queue if a process sends messages to the clients of another process",
        )
    ]


def _servers() -> list[Any]:
    # python-socketio and Flask-SocketIO use the server of python-engineio.
    kind = getattr(sys.modules.get("engineio.base_server"), "BaseServer", None)
    # Use type(), because isinstance() reads `__class__`, which would evaluate a lazy object.
    return [] if kind is None else [found for found in gc.get_objects() if issubclass(type(found), kind)]


def _allows_polling(server: Any) -> bool:
    return "polling" in getattr(server, "transports", ("polling",))
