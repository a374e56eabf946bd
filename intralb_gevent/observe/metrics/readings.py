"""Readings: the values of many metrics at one moment, as plain data that can be written as JSON and added.

`{"intralb_requests_total": {"default\\ncompleted": 17}}`: the values of a metric are keyed by the values of its labels,
which are joined by line feeds. The value of a counter or gauge is a number. The value of a histogram is a list: the sum
of all durations in seconds, and then the number of durations in each bucket of `Histogram`.
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
    """Return the key for the values of a metric's labels."""
    return _SEPARATOR.join(labels)


def labels_of(key: str) -> list[str]:
    """Return the values of the labels for a key; a metric without labels has the key ""."""
    return key.split(_SEPARATOR) if key else []


def from_histogram(histogram: Histogram) -> Value:
    """Return the reading of a histogram."""
    return [histogram.total, *histogram.counts]


def add(first: Value, second: Value) -> Value:
    """Return the sum of two values of one metric; values of different kinds cannot be added, and the first is kept."""
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
