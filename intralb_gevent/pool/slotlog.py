"""Log records that a slot writes for itself, between the application's end and its own next job.

Decides that nothing which comes meanwhile gets further: a logging handler may wait, and an application may have left a
`gevent.Timeout` that is due then, or a greenlet that kills the one it was started from. It must not know what is told.
"""

from __future__ import annotations

import logging

import gevent

__all__ = ["tell"]

logger = logging.getLogger("intralb_gevent")

TELL_SECONDS = 5.0
"""How long the logging handlers may take before the record is given up."""


def tell(text: str, *args: object, exc_info: BaseException) -> None:
    """Log an error of the application's. Raises nothing."""
    try:
        with gevent.Timeout(TELL_SECONDS):
            logger.error(text, *args, exc_info=exc_info)
    except BaseException as error:
        # Of another greenlet, as this one may be disturbed again.
        gevent.spawn(logger.warning, "%r came while a record was written, which may be incomplete", error)
