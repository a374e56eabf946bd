"""A collector for applications that already have a registry of `prometheus_client` (extra `prometheus`).

The collector reads the same totals as `/metrics`, and reads them only when the registry is collected. Metrics whose
names begin with `process_` are left out, because `prometheus_client` itself reports them. In the multiprocess mode of
`prometheus_client`, no custom collector can be used; let Prometheus scrape `/metrics` on the admin address instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prometheus_client.core import Metric as Family

from ..errors import OptionError
from ..observe.metrics.catalogue import METRICS
from ..observe.metrics.collection import Collection
from ..observe.metrics.exposition import BOUNDS, cumulative
from ..observe.metrics.metric import Metric
from ..observe.metrics.readings import Value
from ..pool.balancer import LoadBalancer

__all__ = ["Collector"]


class Collector:
    """The metrics of a balancer, for `REGISTRY.register(Collector(balancer))`.

    Raises `OptionError` if `balancer` is not a `LoadBalancer`.
    """

    def __init__(self, balancer: Any) -> None:
        if not isinstance(balancer, LoadBalancer):
            raise OptionError(f"balancer: {balancer!r} is not allowed; it must be a LoadBalancer")
        self._collection = Collection(balancer)

    def __repr__(self) -> str:
        return f"<Collector {self._collection!r}>"

    def collect(self) -> Iterator[Any]:
        """Yield all metrics; the registry calls this method."""
        readings = self._collection.read()
        for metric in METRICS:
            values = readings.get(metric.name)
            if values and not metric.name.startswith("process_"):
                yield _family(metric, values)


def _family(metric: Metric, values: Mapping[str, Value]) -> Any:
    family = Family(metric.name.removesuffix("_total"), f"{metric.help}.", metric.kind, metric.unit)
    for key, value in values.items():
        for suffix, more, number in _samples(metric, value):
            family.add_sample(f"{family.name}{suffix}", {**dict(metric.label_pairs(key)), **more}, number)
    return family


def _samples(metric: Metric, value: Value) -> Iterable[tuple[str, dict[str, str], float]]:
    if metric.kind != "histogram":
        yield ("_total" if metric.kind == "counter" else ""), {}, value if not isinstance(value, list) else 0.0
        return
    counts, count, seconds = cumulative(value)
    for bound, reached in zip((*map(str, BOUNDS), "+Inf"), (*counts, count), strict=True):
        yield "_bucket", {"le": bound}, reached
    yield "_count", {}, count
    yield "_sum", {}, seconds
