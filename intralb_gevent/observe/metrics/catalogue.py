"""All metrics, in the order in which the Prometheus text and the reference page list them."""

from __future__ import annotations

from typing import Final

from .connections import CONNECTIONS
from .metric import Metric
from .pool import POOL
from .process import PROCESS_METRICS
from .requests import REQUESTS

__all__ = ["METRICS", "METRICS_BY_NAME"]

METRICS: Final[tuple[Metric, ...]] = (*REQUESTS, *POOL, *CONNECTIONS, *PROCESS_METRICS)

METRICS_BY_NAME: Final = {metric.name: metric for metric in METRICS}
