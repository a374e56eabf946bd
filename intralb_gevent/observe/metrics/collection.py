"""Reads all metrics of a process, but only when a client requests the metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ...pool.balancer import LoadBalancer
from ..stats import Exemplar
from .catalogue import METRICS
from .exposition import OPENMETRICS, content_type, write
from .metric import read
from .readings import Readings
from .source import Source

__all__ = ["Collection"]


class Collection:
    """The metrics of one balancer; `supervisor` returns the state of the supervisor and its processes."""

    def __init__(self, balancer: LoadBalancer, supervisor: Callable[[], Mapping[str, Any]] | None = None) -> None:
        self._balancer = balancer
        self._supervisor = supervisor
        self.process = "0"
        """Value of the label `process`: the number of this process's row in the site's table."""
        self.site: Callable[[Readings], Readings] | None = None
        """Function that returns the readings of the site from those of this process; None if there is no site."""

    def __repr__(self) -> str:
        return f"<Collection of {self._balancer!r}>"

    @property
    def _source(self) -> Source:
        return Source(self._balancer, {} if self._supervisor is None else self._supervisor())

    def read(self) -> Readings:
        """Return the readings of this process."""
        return read(METRICS, self._source, self.process)

    def exemplars(self) -> dict[str, Mapping[str, Mapping[int, Exemplar]]]:
        """Return the exemplars of the histograms of this process, by the names of the metrics."""
        source = self._source
        return {metric.name: metric.exemplars(source) for metric in METRICS if metric.exemplars is not None}

    def text(self, accept: str = "") -> tuple[str, str]:
        """Return the media type for a client with this Accept field, and the text of all metrics.

        If the site has several processes, the metrics are those of all processes together.
        """
        kind, readings = content_type(accept), self.read()
        if self.site is not None:
            readings = self.site(readings)
        return kind, write(METRICS, readings, kind, self.exemplars() if kind == OPENMETRICS else None)
