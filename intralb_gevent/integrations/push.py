"""Sends the metrics of a process every ten seconds, to monitoring systems that receive metrics instead of scraping.

A separate greenlet sends the metrics, so a slow receiver delays the next metrics, but never a request.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Protocol
from urllib.parse import urlsplit

import gevent
from gevent.event import Event

from ..config.kinds import metrics_target
from ..errors import OptionError
from ..hub.forks import FORKS
from ..hub.log import HubLog
from ..hub.loghandlers import LOGGER
from ..hub.repeats import Repeats
from ..naming import type_name
from ..observe.metrics.collection import Collection
from ..observe.metrics.readings import Readings
from ..pool.balancer import LoadBalancer
from .statsd import Statsd

__all__ = ["PUSH_SECONDS", "MetricsPush"]

PUSH_SECONDS = 10.0
"""Seconds between two pushes, equal to statsd's default flush interval."""

_LAST_SECONDS = 2.0
"""Maximum number of seconds for the last push, at the end of a shutdown."""

_KIND = metrics_target()


class Sender(Protocol):
    """An object that sends readings to one receiver."""

    def send(self, readings: Readings) -> None:
        """Send the readings; may wait. Raises OSError if the readings cannot be sent."""


class MetricsPush:
    """Sends the metrics of a balancer to `target`, that is, `statsd://HOST:PORT`, `dogstatsd://HOST:PORT` or `otlp`.

    `process` identifies this process among several processes; leave it out if there is only one process. Raises
    `OptionError` if the target is not valid, or if the target needs a package that is not installed.
    """

    def __init__(
        self,
        balancer: LoadBalancer,
        target: str,
        supervisor: Callable[[], Mapping[str, Any]] | None = None,
        process: str | None = None,
    ) -> None:
        self._collection = collection = Collection(balancer, supervisor)
        self._collection.process = process or "0"
        self._target = _KIND.check("push_metrics", target)
        self._sender = _sender(self._target, collection, process)
        self._stopping = Event()
        self._greenlet: gevent.Greenlet[..., None] | None = None
        self._failures = Repeats(HubLog(LOGGER.log))

    def __repr__(self) -> str:
        return f"<MetricsPush to {self._target}>"

    def start(self) -> None:
        """Start the greenlet that sends the metrics."""
        self._stopping.clear()
        self._greenlet = gevent.spawn(self._run)
        FORKS.serving.add(self)

    def stop(self) -> None:
        """Send the metrics once more, which may take two seconds, and stop the greenlet."""
        FORKS.serving.discard(self)
        self._stopping.set()
        if self._greenlet is not None:
            self._greenlet.join(_LAST_SECONDS)
            self._greenlet.kill(block=False)
            self._greenlet = None

    def isolate(self) -> None:
        """Stop sending metrics in a process that a handler has forked, because the parent process sends them."""
        self._greenlet = None

    def _run(self) -> None:
        while not self._stopping.wait(PUSH_SECONDS):
            self._push()
        self._push()

    def _push(self) -> None:
        try:
            self._sender.send(self._collection.read())
        except Exception as error:
            text = f"the metrics cannot be sent to {self._target}: {type_name(error)}: {error}"
            self._failures.record("push", logging.WARNING, lambda: text)


def _sender(target: str, collection: Collection, process: str | None) -> Sender:
    if target == "otlp":
        try:
            from .otlp import Otlp
        except ImportError as error:
            raise OptionError(
                f"push_metrics: {target!r} is not allowed without the package {error.name}; "
                "install intralb-gevent[otel]"
            ) from None
        return Otlp(collection)
    parts = urlsplit(target)
    return Statsd(parts.hostname or "", parts.port or 0, parts.scheme == "dogstatsd", process)
