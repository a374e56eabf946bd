"""Writes readings in the Prometheus text format 0.0.4, or as OpenMetrics 1.0 with exemplars, as the client prefers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Final

from ..stats import Exemplar, Histogram
from .metric import Metric
from .readings import Value

__all__ = ["BOUNDS", "OPENMETRICS", "TEXT", "content_type", "cumulative", "write"]

TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"

BOUNDS: Final = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025),
    *(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(30.0, 60.0),
)
"""The exported bucket bounds in seconds: those that OpenTelemetry recommends, and additional shorter and longer bounds.

Each exported bound is a bound of `Histogram`, so the exported counts are exact."""

_INDEXES: Final = tuple(Histogram.BOUNDS.index(bound) for bound in BOUNDS)

_Exemplars = Mapping[str, Mapping[int, Exemplar]]


def content_type(accept: str) -> str:
    """Return the media type of the response to a request with this Accept field."""
    wanted, other = _quality(accept, "application/openmetrics-text"), _quality(accept, "text/plain")
    return OPENMETRICS if wanted > other else TEXT


def _quality(accept: str, kind: str) -> float:
    qualities = [0.0]
    for part in accept.split(","):
        name, *parameters = (piece.strip().lower() for piece in part.split(";"))
        if name == kind:
            given = [each[2:] for each in parameters if each.startswith("q=")]
            qualities.append(_number(given[0]) if given else 1.0)
    return max(qualities)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def cumulative(value: Value) -> tuple[list[float], float, float]:
    """Return a histogram's reading as cumulative counts of the exported bounds, total count, and sum in seconds."""
    seconds, *counts = value if isinstance(value, list) else [value]
    reached = list(accumulate(counts))
    return [reached[index] for index in _INDEXES], reached[-1], seconds


def write(
    metrics: Iterable[Metric],
    readings: Mapping[str, Mapping[str, Value]],
    kind: str = TEXT,
    exemplars: Mapping[str, _Exemplars] | None = None,
) -> str:
    """Return readings as text of the media type `kind`; `exemplars` maps the name of each histogram to its exemplars.

    A metric without a reading is left out.
    """
    lines: list[str] = []
    for metric in metrics:
        values = readings.get(metric.name)
        if values:
            lines += _head(metric, kind)
            lines += _samples(metric, values, (exemplars or {}).get(metric.name, {}) if kind == OPENMETRICS else {})
    if kind == OPENMETRICS:
        lines.append("# EOF")
    return "\n".join([*lines, ""])


def _head(metric: Metric, kind: str) -> Iterator[str]:
    name = metric.name.removesuffix("_total") if kind == OPENMETRICS else metric.name
    yield f"# HELP {name} {metric.help}."
    yield f"# TYPE {name} {metric.kind}"
    if kind == OPENMETRICS and metric.unit:
        yield f"# UNIT {name} {metric.unit}"


def _samples(metric: Metric, values: Mapping[str, Value], exemplars: _Exemplars) -> Iterator[str]:
    for key, value in values.items():
        labels = ",".join(f'{name}="{_escaped(text)}"' for name, text in metric.label_pairs(key))
        if metric.kind == "histogram":
            yield from _buckets(metric.name, labels, value, exemplars.get(key, {}))
        else:
            yield f"{metric.name}{{{labels}}} {value}" if labels else f"{metric.name} {value}"


def _buckets(name: str, labels: str, value: Value, exemplars: Mapping[int, Exemplar]) -> Iterator[str]:
    counts, count, seconds = cumulative(value)
    prefix = f"{labels}," if labels else ""
    latest = _latest(exemplars)
    for bound, reached in zip((*map(str, BOUNDS), "+Inf"), (*counts, count), strict=True):
        yield f'{name}_bucket{{{prefix}le="{bound}"}} {reached}{latest.get(bound, "")}'
    braces = f"{{{labels}}}" if labels else ""
    yield f"{name}_count{braces} {count}"
    yield f"{name}_sum{braces} {seconds}"


def _latest(exemplars: Mapping[int, Exemplar]) -> dict[str, str]:
    """Return the text of the latest exemplar in each exported bucket, by the text of the bucket's bound."""
    # Copy the dictionary, because a slow request that ends adds an exemplar to the original.
    found: dict[str, Exemplar] = {}
    for exemplar in sorted(dict(exemplars).values(), key=lambda each: each.at):
        found[_bound_of(exemplar.seconds)] = exemplar
    return {
        bound: f' # {{{each.label}="{_escaped(each.value)}"}} {each.seconds:.6f} {each.at:.3f}'
        for bound, each in found.items()
    }


def _bound_of(seconds: float) -> str:
    return next((str(bound) for bound in BOUNDS if seconds <= bound), "+Inf")


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
