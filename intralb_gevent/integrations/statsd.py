"""Formats readings as statsd datagrams, for plain statsd or for DogStatsD, which has tags.

The statsd server itself sums up counters, so only the increase of a counter since the last push is sent. A statsd
server has no buckets, so a histogram is sent as its count and sum, and as the median and 99th percentile of the
durations since the last push.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any, Final

from ..observe.metrics.catalogue import METRICS
from ..observe.metrics.metric import PROCESS, Metric
from ..observe.metrics.readings import Readings, Value
from ..observe.stats import Histogram

__all__ = ["Statsd", "datagrams", "lines"]

DATAGRAM_BYTES: Final = 1432
"""Maximum size of a datagram in bytes; a datagram of this size fits into an Ethernet frame, even in an IPv6 tunnel."""

_QUANTILES: Final = (("p50", 0.5), ("p99", 0.99))
_NOT_IN_A_NAME: Final = re.compile(r"[^0-9A-Za-z_-]")
_NOT_IN_A_TAG: Final = re.compile(r"[,|#:\s]")


class Statsd:
    """Sends the readings to one statsd server."""

    def __init__(self, host: str, port: int, tagged: bool, process: str | None) -> None:
        self._address = host, port
        self._tagged = tagged
        self._process = process
        """Name that distinguishes this process from the other processes; None if there is only one process."""
        self._last: Readings = {}

    def __repr__(self) -> str:
        return f"<Statsd {self._address[0]}:{self._address[1]}>"

    def send(self, readings: Readings) -> None:
        """Send the readings; may wait for a name lookup. Raises OSError if the readings cannot be sent."""
        text = lines(readings, self._last, tagged=self._tagged, process=self._process)
        family, kind, protocol, _, address = socket.getaddrinfo(*self._address, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as client:
            client.setblocking(False)
            for datagram in datagrams(text):
                client.sendto(datagram, address)
        # Replace the last readings only after success: after a failure, the next push contains the whole increase.
        self._last = readings


def datagrams(text: Iterable[str]) -> Iterator[bytes]:
    """Pack lines into datagrams of at most `DATAGRAM_BYTES`; a line is never split."""
    batch = b""
    for line in text:
        data = line.encode()
        if batch and len(batch) + 1 + len(data) > DATAGRAM_BYTES:
            yield batch
            batch = b""
        batch = batch + b"\n" + data if batch else data
    if batch:
        yield batch


def lines(readings: Readings, last: Readings, *, tagged: bool, process: str | None = None) -> Iterator[str]:
    """Yield a line for each gauge, and for each counter and histogram that has increased since the last readings.

    If `tagged` is true, the labels become DogStatsD's tags; otherwise, the values of the labels become parts of the
    name. `process` is added to gauges, because the gauges of several processes would overwrite each other.
    """
    for metric in METRICS:
        for key, value in readings.get(metric.name, {}).items():
            before = last.get(metric.name, {}).get(key)
            for suffix, kind, number in _values(metric, value, before):
                labels = metric.label_pairs(key)
                if process is not None and kind == "g" and metric.merge != "each":
                    labels.append((PROCESS, process))
                yield _line(_name(metric) + suffix, labels, f"{_number(number)}|{kind}", tagged)


def _number(number: float) -> str:
    return f"{number:.0f}" if number == int(number) else f"{number:.10g}"


def _name(metric: Metric) -> str:
    space, _, name = metric.name.removesuffix("_total").partition("_")
    return f"{space}.{name}"


def _values(metric: Metric, value: Value, before: Any) -> Iterator[tuple[str, str, float]]:
    if isinstance(value, list):
        increase = _increase(value, before)
        count = sum(increase[1:])
        if count > 0:
            yield ".count", "c", count
            yield ".sum", "c", increase[0]
            for name, share in _QUANTILES:
                yield f".{name}", "g", _quantile(increase[1:], share * count)
    elif metric.kind == "gauge" or metric.merge == "max":
        # Send a counter of the supervisor as a gauge: each process sends it, so the sum over processes would be wrong.
        yield "", "g", value
    else:
        increased = value - (before if isinstance(before, int | float) and before <= value else 0)
        if increased:
            yield "", "c", increased


def _increase(value: Sequence[float], before: Any) -> list[float]:
    known = before if isinstance(before, list) and len(before) == len(value) else [0.0] * len(value)
    return [now - then for now, then in zip(value, known, strict=True)]


def _quantile(counts: Sequence[float], wanted: float) -> float:
    bounds = (*Histogram.BOUNDS, Histogram.BOUNDS[-1])
    return next(bound for bound, reached in zip(bounds, accumulate(counts), strict=True) if reached >= wanted)


def _line(name: str, labels: Iterable[tuple[str, str]], value: str, tagged: bool) -> str:
    if not tagged:
        parts = (_NOT_IN_A_NAME.sub("_", f"process{text}" if label == PROCESS else text) for label, text in labels)
        return f"{'.'.join((name, *parts))}:{value}"
    tags = ",".join(f"{label}:{_NOT_IN_A_TAG.sub('_', text)}" for label, text in labels)
    return f"{name}:{value}{'|#' if tags else ''}{tags}"
