"""Interfaces between a connection, its input and output, and the objects that move it to other processes."""

from __future__ import annotations

from typing import Any, Final, Protocol

from ..policy.cannedresponses import CannedResponse

__all__ = ["NO_OWNER", "Mover", "Owner", "Rescuer"]


class Owner:
    """The owner of an input and an output: their connection or, once it is closed, an object that does nothing.

    After a connection is closed, its input and output do not refer to the connection: only the garbage collector could
    free such a cycle.
    """

    __slots__ = ()

    @property
    def busy(self) -> bool:
        """True while a request is being answered."""
        return True

    @property
    def answering(self) -> bool:
        """True while a response is pending or unsent, so that no read timeout applies."""
        return True

    def close(self) -> None:
        """Close the connection, because its socket is broken."""

    def fail_output(self, why: str, lost: int) -> None:
        """Log why the rest of a response, with `lost` bytes that are not buffered, is cut; close the connection."""

    def give_up(self) -> None:
        """Close the connection after a bug in this package."""

    # Called by the input.

    def use_socket(self, sock: Any) -> None:
        """Replace the connection's socket object by another object, with or without TLS."""

    def start_next_request(self) -> None:
        """Start the next pending request, if no request is being answered."""

    def admit_or_reject_early(self) -> None:
        """Admit or reject the request with the pending head, if it is the next request."""

    def ask_for_body(self) -> None:
        """Send `100 Continue`, unless the response has begun."""

    def reject(self, answer: CannedResponse) -> None:
        """Reject the request that is being received, and close the connection."""

    def refuse_plain_http(self) -> None:
        """Answer a client that does not use TLS, and close the connection."""

    def input_failed(self) -> None:
        """Close the connection, because the client has closed or reset it; log an incomplete body."""

    def input_ended(self) -> None:
        """Finish the pending requests, because the client has sent EOF but may still read."""

    def resume(self) -> None:
        """Continue with requests and data that have already been received. Never raises."""

    # Called by the output.

    def end_output(self) -> None:
        """Close the connection once all data is sent, because its last response has been flushed."""

    def caught_up(self) -> None:
        """Continue the work that waited for the client, because unsent data is no longer above the high-water mark."""


NO_OWNER: Final = Owner()


class Mover(Protocol):
    """Moves the idle connections of a closing server to other processes."""

    @property
    def hopeful(self) -> bool:
        """True while another process can receive connections, or may soon be able to."""

    def offer(self, connection: Any) -> bool:
        """Move an idle connection as soon as possible; return False if it must be closed instead. Never raises."""


class Rescuer(Protocol):
    """Moves requests that find no free slot to other processes."""

    def possible(self) -> bool:
        """Return whether another process may have a free slot. Never waits or raises."""

    def move(self, connection: Any, environ: dict[str, Any], data: bytes) -> bool:
        """Move a connection with its only request; return False if it must be served here. Never waits or raises."""
