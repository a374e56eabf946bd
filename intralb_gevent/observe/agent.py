"""HAProxy's agent check: each connection is answered with one line, from which HAProxy sets the weight of this server.

While the server serves, the line is `ready` and a percentage: the share of the usual number of requests that HAProxy
should send. As soon as a signal begins a shutdown, the line is `drain`, and HAProxy sends no new requests. HAProxy
sends no requests until it reads `ready` again, so every line except `drain` begins with `ready`.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Any, Final

from ..http.server import WSGIServer
from ..hub.forks import FORKS
from ..policy.saturation import weight_percent
from ..pool.balancer import LoadBalancer

__all__ = ["AgentServer", "agent_line"]

_IGNORED_BYTES: Final = 4096


def agent_line(*, serving: bool, saturation: float) -> bytes:
    """Return the line that answers an agent check."""
    return b"ready %d%%\n" % weight_percent(saturation) if serving else b"drain\n"


def _no_application(environ: object, start_response: object) -> list[bytes]:
    """Placeholder for an application; it is never called, because no connection is read as HTTP."""
    return []


class AgentServer(WSGIServer):
    """Answers each connection with one line and closes the connection, without using a slot."""

    max_accept = 8
    """Maximum number of connections answered in one iteration of the event loop."""

    def __init__(self, listener: Any, balancer: LoadBalancer) -> None:
        self._observed = balancer
        super().__init__(listener, _no_application, log=None)

    def __repr__(self) -> str:
        return f"<AgentServer at {self.address} of {self._observed!r}>"

    def close(self) -> None:
        """Stop answering, and close the listener."""
        super().close()
        FORKS.serving.discard(self)

    def _open(self) -> None:
        """Do nothing: agent checks may use reserved file descriptors, and this server's balancer is not started."""

    def do_handle(self, *args: Any) -> None:
        """Answer a connection. This method never waits, because the line always fits into the kernel's buffer."""
        client: socket.socket = args[0]
        saturation = self._observed.intake.context.load.whole.saturation
        line = agent_line(serving=self._observed.condition == "serving", saturation=saturation)
        with contextlib.suppress(OSError):
            client.send(line)
            client.shutdown(socket.SHUT_WR)
            # HAProxy may send data first (`agent-send`). Closing a socket with unread data would reset the connection.
            client.recv(_IGNORED_BYTES)
        client.close()
