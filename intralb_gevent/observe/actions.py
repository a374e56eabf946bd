"""The status page's action that ends a running request; it is available only with `--admin-actions`.

A request for the action must be a POST from the page itself, and must contain the token that the server's start line
shows.
"""

from __future__ import annotations

import hmac
import logging
from typing import TYPE_CHECKING, Any, Final

from ..hub.log import HubLog
from ..hub.loghandlers import LOGGER
from .requests import slot_with

if TYPE_CHECKING:
    from ..pool.balancer import LoadBalancer

__all__ = ["Actions"]

_TOKEN_KEY: Final = "HTTP_X_INTRALB_TOKEN"
_FROM_THE_PAGE: Final = ("", "same-origin", "none")
"""Allowed values of Sec-Fetch-Site; "" means that the field is missing, because the client is not a browser."""


class Actions:
    """Ends running requests of one balancer for an operator."""

    def __init__(self, balancer: LoadBalancer, token: str) -> None:
        self._balancer = balancer
        self._token = token
        self._log = HubLog(LOGGER.log)

    def __repr__(self) -> str:
        return f"<Actions on {self._balancer!r}>"

    def refusal(self, environ: dict[str, Any]) -> tuple[str, str] | None:
        """Return the status and text of the rejection if a request may not perform the action; None if it may."""
        if environ["REQUEST_METHOD"] != "POST":
            return "405 Method Not Allowed", "An action requires the method POST.\n"
        if not _is_same_origin(environ):
            return "403 Forbidden", "An action must come from the status page itself, not from another page.\n"
        if not hmac.compare_digest(environ.get(_TOKEN_KEY, "").encode(), self._token.encode()):
            return "403 Forbidden", "The token is wrong; the start line of the server shows the right token.\n"
        return None

    def end(self, key: str) -> bool:
        """End the request with this key; return whether the request was running."""
        slot = slot_with(self._balancer, key)
        if slot is None or slot.job is None:
            return False
        name = slot.job.name
        ended = self._balancer.intake.end_request(slot)
        if ended:
            self._log.record(logging.WARNING, lambda: f"{name} was ended by an operator, on the status page")
        return ended


def _is_same_origin(environ: dict[str, Any]) -> bool:
    if environ.get("HTTP_SEC_FETCH_SITE", "") not in _FROM_THE_PAGE:
        return False
    origin = environ.get("HTTP_ORIGIN", "")
    return not origin or origin.partition("://")[2] == environ.get("HTTP_HOST", "")
