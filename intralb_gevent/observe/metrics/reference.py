"""Writes the reference page of the metrics from their declarations.

`python -m intralb_gevent.observe.metrics.reference > docs/reference/metrics.md`
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from .catalogue import METRICS
from .connections import CONNECTIONS
from .exposition import BOUNDS
from .metric import PROCESS, Metric
from .pool import POOL
from .process import PROCESS_METRICS
from .requests import REQUESTS

__all__ = ["document"]

_INTRODUCTION: Final = """\
# Metrics

`/metrics` on the admin address (`--admin-bind`) has all {count} metrics in the Prometheus text format 0.0.4, or as
OpenMetrics 1.0 if the client prefers that format, as Prometheus does. OpenMetrics also has exemplars: each bucket of
`intralb_request_duration_seconds` has the trace id (from `traceparent`), or else the request id, of its latest request
that took at least 100 ms. [Observing](../guides/observing.md) says which metrics to alert on, and why.

- Units are seconds, bytes and ratios. The name of a counter ends with `_total`, and its value never falls while the
  site runs, unless it has the label `process`.
- The label `lane` is the declared path of a route that has separate workers, or of a mounted application; for all other
  requests, it is `default`. No label has a value that a client can choose, such as a path, an address or a method.
- With several processes, the column "Processes" says how the values of all processes are combined: their sum, the
  largest value, or their mean. If the column says `process`, the values are not combined, but each has the label
  `process` with the number of its process. The successor of a process gets the same number, but its counters begin
  again at 0.
- The buckets of all histograms have the upper bounds {bounds} seconds. These bounds include the bounds that
  OpenTelemetry recommends for HTTP. The count of each bucket is exact.
- A metric without values is left out; for example, `intralb_sessions` is left out if there is no `db_init_func`.

The command `python -m intralb_gevent.observe.metrics.reference > docs/reference/metrics.md` generates this page from
the declarations of the metrics.
"""

_HEADING: Final = """
| Metric | Type | Labels | Processes | Meaning |
|---|---|---|---|---|
"""

_SECTIONS: Final = (
    ("Requests", REQUESTS),
    ("Slots, workers, sessions and streams", POOL),
    ("Connections", CONNECTIONS),
    ("Event loop and processes", PROCESS_METRICS),
)

_MERGES: Final = {"sum": "sum", "max": "largest", "mean": "mean", "each": f"`{PROCESS}`"}


def document() -> str:
    """Return the page in Markdown."""
    bounds = ", ".join(f"{bound:g}" for bound in BOUNDS)
    parts = [_wrapped(_INTRODUCTION.format(count=len(METRICS), bounds=bounds))]
    for title, metrics in _SECTIONS:
        parts += [f"\n## {title}\n", _HEADING, *_rows(metrics)]
    return "".join(parts)


def _rows(metrics: Iterable[Metric]) -> Iterator[str]:
    for metric in metrics:
        labels = "; ".join(_label(metric, name) for name in metric.labels) or "-"
        yield f"| `{metric.name}` | {metric.kind} | {labels} | {_MERGES[metric.merge]} | {metric.help}. |\n"


def _label(metric: Metric, name: str) -> str:
    values: Sequence[str] = (metric.values or {}).get(name, ())
    return f"`{name}`{': ' if values else ''}{', '.join(values)}"


def _wrapped(text: str) -> str:
    """Return the text with long lines wrapped; only the line that lists the bounds is long."""
    lines = []
    for line in text.splitlines():
        while len(line) > 120:
            at = line.rindex(" ", 0, 120)
            lines.append(line[:at])
            line = f"  {line[at + 1 :]}"
        lines.append(line)
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    print(document(), end="")
