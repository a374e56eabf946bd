"""The declaration of a metric, and the functions that combine the readings of processes into those of their site."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from ..stats import Exemplar
from .readings import Readings, Value, key_of, labels_of, total

__all__ = ["PROCESS", "Kind", "Metric", "growing", "of_site", "read"]

Kind = Literal["counter", "gauge", "histogram"]
Merge = Literal["sum", "max", "mean", "each"]

PROCESS: Final = "process"
"""Label of the metrics that are reported for each process: the number of the process's row in the site's table."""

_UNITS: Final = ("seconds", "bytes", "ratio")


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric: its name, its labels, and how its values are read."""

    name: str
    """Name in the Prometheus text; the name of a counter ends with `_total`."""
    kind: Kind
    help: str
    """Description of the measured quantity, as one sentence without a period."""
    labels: tuple[str, ...] = ()
    values: Mapping[str, Sequence[str]] | None = None
    """Possible values of labels, for the reference page; labels without a fixed set of values, such as `lane`, are left
    out."""
    read: Callable[[Any], Iterable[tuple[tuple[str, ...], Value]]]
    """Function that reads the metric from a `Source`: it yields pairs of label values and the metric's value."""
    exemplars: Callable[[Any], Mapping[str, Mapping[int, Exemplar]]] | None = None
    """Function that returns the exemplars of a histogram's buckets, by the key of the label values."""
    merge: Merge = "sum"
    """Operation that combines the values of several processes; with "each", the values get the label `process`."""

    @property
    def unit(self) -> str:
        """Unit of the values: seconds, bytes or ratio; "" for a count."""
        name = self.name.removesuffix("_total")
        return next((unit for unit in _UNITS if name.endswith(f"_{unit}")), "")

    @property
    def all_labels(self) -> tuple[str, ...]:
        """Names of all labels, including `process` if the metric is reported for each process."""
        return (*self.labels, PROCESS) if self.merge == "each" else self.labels

    def label_pairs(self, key: str) -> list[tuple[str, str]]:
        """Return pairs of label names and label values for a key of the readings."""
        return list(zip(self.all_labels, labels_of(key), strict=False))


def read(metrics: Iterable[Metric], source: Any, process: str = "0") -> Readings:
    """Return the readings of some metrics from a source; `process` is the value of the label `process`."""
    readings: Readings = {}
    for metric in metrics:
        extra = (process,) if metric.merge == "each" else ()
        readings[metric.name] = {
            key_of([_one_line(label) for label in (*labels, *extra)]): value for labels, value in metric.read(source)
        }
    return readings


def _one_line(label: str) -> str:
    return label.replace("\n", " ")


def growing(metrics: Iterable[Metric], readings: Mapping[str, Mapping[str, Value]]) -> Readings:
    """Return the readings that only grow; they stay in the site's totals after their process has ended."""
    kept = {metric.name for metric in metrics if metric.kind != "gauge" and metric.merge == "sum"}
    return {name: dict(values) for name, values in readings.items() if name in kept}


def of_site(
    metrics: Iterable[Metric],
    running: Iterable[Mapping[str, Mapping[str, Value]]],
    ended: Iterable[Mapping[str, Mapping[str, Value]]] = (),
) -> Readings:
    """Combine the readings of running processes, and the totals of ended processes, into the readings of their site."""
    running = list(running)
    site = total([*running, *ended])
    for metric in metrics:
        if metric.merge == "max":
            site[metric.name] = _largest(each.get(metric.name, {}) for each in running)
        elif metric.merge == "mean":
            site[metric.name] = _means([each.get(metric.name, {}) for each in running])
    return site


def _largest(readings: Iterable[Mapping[str, Value]]) -> dict[str, Value]:
    return {key: max(values) for key, values in _by_key(readings).items()}


def _means(readings: Sequence[Mapping[str, Value]]) -> dict[str, Value]:
    return {key: sum(values) / len(readings) for key, values in _by_key(readings).items()}


def _by_key(readings: Iterable[Mapping[str, Value]]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for values in readings:
        for key, value in values.items():
            if not isinstance(value, list):
                found.setdefault(key, []).append(value)
    return found
