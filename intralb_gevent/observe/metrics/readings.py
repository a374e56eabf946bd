"""Readings: the values of many metrics at one moment, as plain data that can be written as JSON and summed.

An example is `{"intralb_requests_total": {"default\\ncompleted": 17}}`. The values of a metric are keyed by the values
of its labels, which are joined by line feeds. The value of a counter or gauge is a number. The value of a histogram is
a list: the sum of all durations in seconds, followed by the number of durations in each bucket of `Histogram`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from ..stats import Histogram

__all__ = ["Readings", "Value", "add", "from_histogram", "key_of", "labels_of", "total"]

Value = float | list[float]
Readings = dict[str, dict[str, Value]]

_SEPARATOR: Final = "\n"


def key_of(labels: Sequence[str]) -> str:
    """Return the key of the value that has these label values."""
    return _SEPARATOR.join(labels)


def labels_of(key: str) -> list[str]:
    """Return the label values of a key; the key "" is that of a metric without labels."""
    return key.split(_SEPARATOR) if key else []


def from_histogram(histogram: Histogram) -> Value:
    """Return the reading of a histogram: the sum of its durations, followed by the count of each bucket."""
    return [histogram.total, *histogram.counts]


def add(first: Value, second: Value) -> Value:
    """Return the sum of two values of one metric; if they are of different kinds, return the first one."""
    if isinstance(first, list) and isinstance(second, list):
        return [a + b for a, b in zip(first, second, strict=True)] if len(first) == len(second) else first
    if isinstance(first, list) or isinstance(second, list):
        return first
    return first + second


def total(readings: Iterable[Mapping[str, Mapping[str, Value]]]) -> Readings:
    """Return the sum of several readings, for example of a process and of the processes that ended before it."""
    both: Readings = {}
    for each in readings:
        for name, values in each.items():
            known = both.setdefault(name, {})
            for key, value in values.items():
                known[key] = add(known[key], value) if key in known else value
    return both
