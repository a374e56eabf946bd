"""Sends readings to an OpenTelemetry collector by OTLP over HTTP (extra `otel`).

Updating the SDK's instruments would take longer than a whole request, so this module fills the SDK's data classes from
the balancer's totals instead. The SDK reads the endpoint and its headers from the `OTEL_EXPORTER_OTLP_` variables, and
the service's name from `OTEL_SERVICE_NAME`.

All names begin with `intralb.` or `process.`. The balancer reports no metric with the name
`http.server.request.duration`. OpenTelemetry's instrumentation of the application already reports this metric, so each
request would be counted twice. `http.server.request.duration` also requires attributes that the balancer does not
record.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from time import time_ns
from typing import Any, Final

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import Exemplar as OtelExemplar
from opentelemetry.sdk.metrics import export
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from .. import __version__
from ..observe.metrics.catalogue import METRICS
from ..observe.metrics.collection import Collection
from ..observe.metrics.exposition import BOUNDS, cumulative
from ..observe.metrics.metric import Metric
from ..observe.metrics.readings import Readings, Value
from ..observe.stats import Exemplar

__all__ = ["Otlp", "metrics_data"]

_UNITS: Final = {"seconds": "s", "bytes": "By", "ratio": "1", "": "1"}
_SECOND: Final = 1_000_000_000
_CUMULATIVE: Final = export.AggregationTemporality.CUMULATIVE

_Exemplars = Mapping[str, Mapping[int, Exemplar]]


class Otlp:
    """Sends the readings to the collector that the environment variables name."""

    def __init__(self, collection: Collection) -> None:
        self._collection = collection
        self._exporter = OTLPMetricExporter()
        self._resource = Resource.create({"service.instance.id": f"{socket.gethostname()}:{os.getpid()}"})
        self._started = time_ns()

    def __repr__(self) -> str:
        return f"<Otlp since {self._started}>"

    def send(self, readings: Readings) -> None:
        """Send the readings, and wait for the collector; raises OSError if the collector does not accept them."""
        exemplars = self._collection.exemplars()
        data = metrics_data(readings, exemplars, self._resource, self._started, time_ns())
        if self._exporter.export(data) is not export.MetricExportResult.SUCCESS:
            raise OSError("the collector has not accepted the metrics")


def metrics_data(readings: Readings, exemplars: Mapping[str, _Exemplars], resource: Any, started: int, now: int) -> Any:
    """Return readings as the SDK's `MetricsData`; times are in nanoseconds since the epoch."""
    metrics = [
        export.Metric(
            name=metric.name.removesuffix("_total").replace("_", ".", 1),
            description=metric.help,
            unit=_UNITS[metric.unit],
            data=_data(metric, readings[metric.name], exemplars.get(metric.name, {}), started, now),
        )
        for metric in METRICS
        if readings.get(metric.name)
    ]
    scope = export.ScopeMetrics(InstrumentationScope("intralb_gevent", __version__), metrics, schema_url="")
    return export.MetricsData([export.ResourceMetrics(resource, [scope], schema_url="")])


def _data(metric: Metric, values: Mapping[str, Value], exemplars: _Exemplars, started: int, now: int) -> Any:
    if metric.kind == "histogram":
        points = [
            _histogram(dict(metric.label_pairs(key)), value, exemplars.get(key, {}), started, now)
            for key, value in values.items()
        ]
        return export.Histogram(points, _CUMULATIVE)
    numbers = [
        export.NumberDataPoint(dict(metric.label_pairs(key)), started, now, 0 if isinstance(value, list) else value)
        for key, value in values.items()
    ]
    return export.Gauge(numbers) if metric.kind == "gauge" else export.Sum(numbers, _CUMULATIVE, is_monotonic=True)


def _histogram(attributes: Any, value: Value, exemplars: Mapping[int, Exemplar], started: int, now: int) -> Any:
    reached, count, seconds = cumulative(value)
    counts = [int(upper - lower) for lower, upper in zip((0, *reached), (*reached, count), strict=True)]
    return export.HistogramDataPoint(
        attributes=attributes,
        start_time_unix_nano=started,
        time_unix_nano=now,
        count=int(count),
        sum=seconds,
        bucket_counts=counts,
        explicit_bounds=BOUNDS,
        # The balancer does not record minimum and maximum, which are optional in OTLP.
        min=None,
        max=None,
        exemplars=[_exemplar(each) for each in dict(exemplars).values() if each.label == "trace_id"],
    )


def _exemplar(exemplar: Exemplar) -> Any:
    return OtelExemplar({}, exemplar.seconds, int(exemplar.at * _SECOND), trace_id=int(exemplar.value, 16))
